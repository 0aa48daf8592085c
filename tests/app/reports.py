"""Functions that say what they do."""

import logging
import threading
from typing import Any

from proctree_dagster.process import log_image, log_table, progress

logger = logging.getLogger(__name__)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def says(**kwargs: Any) -> int:
    """Log at every level, and so do libraries."""
    logger.debug("a detail")
    logger.info("fetching %s", "invoices")
    logger.warning("a warning")
    logging.getLogger("urllib3.connectionpool").info("a library's detail")
    logging.getLogger("urllib3.connectionpool").warning("a library's warning")
    return 1


def says_from_a_thread(**kwargs: Any) -> int:
    """Log from a thread of its own, which belongs to no process."""
    thread = threading.Thread(target=logger.warning, args=("from a thread",))
    thread.start()
    thread.join()
    return 1


def says_with_a_trace(**kwargs: Any) -> int:
    """Log an error that it has met."""
    try:
        raise ValueError("the rate is gone")
    except ValueError:
        logger.exception("no rate")
    return 1


def says_by_dagster(**kwargs: Any) -> int:
    """Log by the logger that Dagster offers."""
    from dagster import get_dagster_logger

    get_dagster_logger("fetch").warning("by Dagster's")
    return 1


def says_badly(**kwargs: Any) -> int:
    """Log what can't be stored."""
    logger.info("a \x00")
    return 1


def works_through(count: int = 3) -> int:
    """Say how far it is."""
    return sum(progress.track(range(count), "numbers"))


def shows(**kwargs: Any) -> int:
    """Give a table and a picture for its output."""
    log_table([{"n": 1, "name": "a"}, {"n": None, "more": 2**70}], "invoices")
    log_image(PNG, "chart")
    return 1
