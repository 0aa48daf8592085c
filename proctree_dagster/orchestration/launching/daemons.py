"""Which daemons work for a home: each notes in Dagster's storage that it is alive.

Dagster keeps one heartbeat for each part of its daemon, whichever daemon wrote it last, so two
daemons that run side by side look like one most of the time.
"""

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping

from dagster import DagsterInstance

logger = logging.getLogger(__name__)

KEY = "proctree/daemons"
"""The entry of Dagster's storage that holds the daemons."""

NOTE_SECONDS = 10.0
"""Seconds from one note of a daemon to its next."""

GONE_AFTER = 3 * NOTE_SECONDS
"""Seconds without a note after which a daemon has ended."""


class Presence:
    """What a daemon notes of itself."""

    def __init__(self) -> None:
        self._name = f"pid {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
        self._noted_at = float("-inf")
        self._logged: frozenset[str] = frozenset()

    def note(self, instance: DagsterInstance) -> None:
        """Note that this daemon is alive, unless it has just done so; log the others."""
        if time.monotonic() - self._noted_at < NOTE_SECONDS:
            return
        self._noted_at = time.monotonic()
        try:
            self._note(instance)
        except Exception:  # whatever is wrong with the storage, the queue is the daemon's work
            logger.exception("That this daemon is alive can't be noted.")

    def _note(self, instance: DagsterInstance) -> None:
        others = {name: at for name, at in alive(instance).items() if name != self._name}
        # Two that write at the same moment overwrite each other; the next note mends it.
        noted = json.dumps({**others, self._name: time.time()})
        instance.daemon_cursor_storage.set_cursor_values({KEY: noted})
        if frozenset(others) != self._logged:
            self._logged = frozenset(others)
            if others:
                logger.error(
                    "Another daemon works for this home: %s. End all but one: Dagster knows one "
                    "only, and starts runs and schedules twice. (After a restart the old one is "
                    "named for half a minute more.)",
                    ", ".join(sorted(others)),
                )


def alive(instance: DagsterInstance) -> Mapping[str, float]:
    """Return the daemons that have noted that they are alive, with the time of their last note.

    Only those whose run coordinator is ours do so.
    """
    text = instance.daemon_cursor_storage.get_cursor_values({KEY}).get(KEY, "{}")
    noted: dict[str, float] = json.loads(text)
    return {name: at for name, at in noted.items() if time.time() - at < GONE_AFTER}
