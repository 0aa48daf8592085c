"""The daemons of a home: each records in Dagster's storage that it is alive.

Dagster stores one heartbeat for each part of its daemon, whichever daemon wrote it last, so two
daemons that run side by side look like one most of the time.
"""

import datetime as dt
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
"""Seconds between two records of a daemon."""

GONE_AFTER = 3 * NOTE_SECONDS
"""Seconds without a record after which a daemon counts as ended."""


class Presence:
    """The record of a daemon."""

    def __init__(self) -> None:
        self._name = f"pid {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
        self._noted_at = float("-inf")
        self._logged: frozenset[str] = frozenset()

    def note(self, instance: DagsterInstance) -> None:
        """Record that this daemon is alive, unless it has just done so; log the other daemons."""
        if time.monotonic() - self._noted_at < NOTE_SECONDS:
            return
        self._noted_at = time.monotonic()
        try:
            self._note(instance)
        except Exception:  # an error of the storage must not stop the queue
            logger.exception("That this daemon is alive can't be noted.")

    def _note(self, instance: DagsterInstance) -> None:
        others = {name: at for name, at in alive(instance).items() if name != self._name}
        # Two concurrent writers overwrite each other; the next record repairs that.
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
    """Return the daemons that have recorded that they are alive, with the times of that.

    Only those whose run coordinator is ours do so.
    """
    text = instance.daemon_cursor_storage.get_cursor_values({KEY}).get(KEY, "{}")
    noted: dict[str, float] = json.loads(text)
    return {name: at for name, at in noted.items() if time.time() - at < GONE_AFTER}


def last_seen(instance: DagsterInstance) -> dt.datetime | None:
    """Return when a daemon gave its last sign of life, in UTC; ``None`` if none ever has."""
    beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    return dt.datetime.fromtimestamp(max(beats), dt.UTC) if beats else None
