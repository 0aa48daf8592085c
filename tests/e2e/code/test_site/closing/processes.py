"""Processes of a tree that succeeds or fails by what its context says."""

import logging

logger = logging.getLogger(__name__)


def fetch(month: str) -> int:
    """Return how many invoices a month has."""
    logger.info("Fetching the invoices of %s", month)
    if month.endswith("-13"):
        raise ValueError(f"There is no month {month}.")
    return 7


def close(month: str, fetch: int) -> str:
    """Close the month."""
    return f"{month} is closed with {fetch} invoices"
