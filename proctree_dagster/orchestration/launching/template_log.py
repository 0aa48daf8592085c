"""The log of the templates that Django processes start: a bounded file in Dagster's home.

Templates and workers share the file and append to it, so it is cut in place, not renamed: whoever
has it open goes on writing to the file that is there.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

MAX_BYTES = 5 * 1024 * 1024
"""Size from which the log is cut, in bytes: what it held is the only older one then."""


def path(home: str) -> Path:
    """Return where the log is."""
    return Path(home) / "proctree_template.log"


def open_to_append(home: str) -> IO[bytes]:
    """Open the log of a Dagster home, cut if it has grown long."""
    cut(home)
    return path(home).open("ab")


def cut(home: str) -> None:
    """Keep what the log holds as ``….log.1`` and empty it, if it is longer than ``MAX_BYTES``.

    What is written between the two steps is lost.
    """
    log = path(home)
    with (
        suppress(FileNotFoundError, Timeout),
        FileLock(log.with_name(f".{log.name}.lock"), timeout=0),
    ):
        if log.stat().st_size > MAX_BYTES:
            with log.open("rb+") as file, Path(f"{log}.1").open("wb") as older:
                file.seek(-MAX_BYTES, 2)  # all but the newest part of one that grew out of hand
                shutil.copyfileobj(file, older)
                file.truncate(0)
