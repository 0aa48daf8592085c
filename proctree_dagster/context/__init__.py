"""What a run is given: encoded as JSON, looked up, tagged, and what of it must not be shown.

Public: ``encode``, ``decode``, ``Secret``. ``functions``, ``process`` and whatever is above may
import it; it imports ``domain`` and ``support``.
"""

from .encoding import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_SAFE_INTEGER,
    RESERVED,
    decode,
    encode,
    parse_json,
    refuse_kept_keys,
    restore_empty,
    shown_in_launchpad,
)
from .references import Secret, is_reference

__all__ = [
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_SAFE_INTEGER",
    "RESERVED",
    "Secret",
    "decode",
    "encode",
    "is_reference",
    "parse_json",
    "refuse_kept_keys",
    "restore_empty",
    "shown_in_launchpad",
]
