"""What the passes of sensors share."""

import logging
from collections.abc import Callable

from ...domain.texts import explain

logger = logging.getLogger(__name__)


def tried(work: Callable[[], object], problem: str) -> str:
    """Do one part of a pass, and return its report; an error does not prevent the other parts."""
    try:
        return str(work() or "")
    except Exception as error:  # the other parts concern something else
        logger.exception("%s.", problem)
        return f"{problem}: {explain(error)}"
