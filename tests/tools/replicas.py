"""A router as in Django's documentation: it reads from a replica, and writes to the primary."""

from typing import Any


class Replicated:
    """Reads from ``north``, which may be stale, and writes to ``default``."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        """Return the replica."""
        return "north"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        """Return the primary."""
        return "default"

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        """Return True: both have the same rows."""
        return True
