"""Sensors that rest: the daemon does not call them while nothing can have happened for them.

Dagster's daemon calls a sensor at its interval, and each call takes it, the code server and its
proxy some 0.04 s. Our sensors say in their cursor until when there is nothing to do for them,
unless Dagster records another event of a run; the daemon believes it. A daemon that does not know
this calls them at their interval, and so does ours whenever it can't read what they said.
"""

import inspect
import json
import time
from dataclasses import asdict, dataclass
from functools import update_wrapper
from typing import Any, Self

from dagster import DagsterInstance

from ..domain import run_tags
from .dagster_features import IDLE_SENSORS, is_on, sensor_module

SENSORS = frozenset({run_tags.OUTBOX_SENSOR, run_tags.ALERTS_SENSOR, run_tags.RETENTION_SENSOR})
"""The names of the sensors that say when there is nothing to do for them."""

MAX_SECONDS = 600.0
"""Longest rest: what says more was said by another clock, or by somebody in Dagster's UI."""


@dataclass(frozen=True)
class Rest:
    """What a sensor has said: its cursor, or a part of it."""

    idle_until: float = 0.0
    """When it is to be called again, in seconds since 1970."""

    last_event: int | None = None
    """The newest event that it knows: with another one, it rests no longer. ``None``: with none."""

    @classmethod
    def read(cls, text: str | None) -> Self:
        """Return what a cursor says; no rest for any other text."""
        try:
            found = json.loads(text or "{}")
            until, event = found.get("idle_until", 0.0), found.get("last_event")
            return cls(float(until), None if event is None else int(event))
        except (ValueError, TypeError, AttributeError):  # somebody has set it in Dagster's UI
            return cls()

    def write(self) -> str:
        """Return it as a cursor."""
        return json.dumps(asdict(self))

    def lasts(self, instance: DagsterInstance) -> bool:
        """Return whether there is still nothing to do."""
        now = time.time()
        if not now < self.idle_until <= now + MAX_SECONDS:
            return False
        return self.last_event is None or self.last_event == newest_event(instance)


def newest_event(instance: DagsterInstance) -> int | None:
    """Return the id of the newest event that Dagster's sensors can see, 0 if there is none yet.

    Each change of a run's status is one. ``None`` if the storage, a project's own, can't say.
    """
    ask = getattr(instance.event_log_storage, "get_maximum_record_id", None)
    if ask is None or not is_on(IDLE_SENSORS):
        return None
    try:
        return ask() or 0
    except NotImplementedError:
        return None


def install(instance: DagsterInstance) -> None:
    """Let this process, which is Dagster's daemon, leave resting sensors alone.

    If this Dagster does not allow it, the log says why, and they are called at their interval.

    Parameters
    ----------
    instance:
        The daemon's.
    """
    if not is_on(IDLE_SENSORS):
        return
    module = sensor_module()
    dagsters = inspect.unwrap(module.is_under_min_interval)

    def is_early(state: Any, remote_sensor: Any, *args: Any, **options: Any) -> bool:
        """Return whether a sensor's interval is not over, or it rests."""
        if dagsters(state, remote_sensor, *args, **options):
            return True
        if remote_sensor.name not in SENSORS or state.instigator_data is None:
            return False
        return Rest.read(state.instigator_data.cursor).lasts(instance)

    module.is_under_min_interval = update_wrapper(is_early, dagsters)
