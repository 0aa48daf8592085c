"""Sensors that rest: the daemon does not call them while nothing can have happened for them.

Dagster's daemon calls a sensor at its interval, and each call takes it, the code server and its
proxy some 0.04 s. Our sensors say in their cursor that there is nothing to do for them, unless
Dagster records another event; the daemon believes it for some seconds. A daemon that does not know
this calls them at their interval, and so does ours whenever it can't read what they said.

Only the daemon's clock counts: a code server may be on another machine.
"""

import datetime as dt
import inspect
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import update_wrapper
from typing import Any, Self

from dagster import DagsterInstance

from ..domain import run_tags
from .dagster_features import IDLE_SENSORS, is_on, sensor_module

logger = logging.getLogger(__name__)

SECONDS: Mapping[str, float] = {
    run_tags.OUTBOX_SENSOR: 20.0,
    run_tags.ALERTS_SENSOR: 25.0,
    run_tags.RETENTION_SENSOR: 300.0,
}
"""By the name of a sensor, for how many seconds it rests, from the beginning of its last tick."""

LOOP_SECONDS = 10.0
"""Seconds by which a call may come later: Dagster goes through its sensors every five."""


def longest_rest(sensor: str) -> dt.timedelta:
    """Return after how long at most a sensor is called again that rests from now on."""
    return dt.timedelta(seconds=SECONDS[sensor] + LOOP_SECONDS)


@dataclass(frozen=True)
class Rest:
    """What a sensor has said: its cursor, or a part of it."""

    is_idle: bool = False
    """Whether there was nothing to do, nor anything that will have to be done during its rest."""

    last_event: int | None = None
    """The newest event that it knows: another one ends the rest. ``None``: no event does."""

    @classmethod
    def read(cls, text: str | None) -> Self:
        """Return what a cursor says; no rest for any other text."""
        try:
            found = json.loads(text or "{}")
            idle, event = found.get("is_idle"), found.get("last_event")
        except (ValueError, AttributeError, RecursionError):  # somebody has set it in Dagster's UI
            return cls()
        if event is not None and type(event) is not int:
            return cls()
        return cls(idle is True, event)

    def write(self) -> str:
        """Return it as a cursor."""
        return json.dumps(asdict(self))


def newest_event(instance: DagsterInstance) -> int | None:
    """Return the id of the newest event that Dagster's sensors can see.

    Each change of a run's status is one. ``None`` if there is none yet, or if a storage of the
    project's own can't say.
    """
    ask = getattr(instance.event_log_storage, "get_maximum_record_id", None)
    if ask is None:
        return None
    try:
        newest: int | None = ask()
    except NotImplementedError:
        return None
    return newest


def install(instance: DagsterInstance) -> None:
    """Let this process, which is Dagster's daemon, leave resting sensors alone.

    What a sensor said before counts no longer: whoever restarts the daemon has changed something.
    If this Dagster does not allow it, the log says why, and they are called at their interval.

    Parameters
    ----------
    instance:
        The daemon's.
    """
    if not is_on(IDLE_SENSORS):
        return
    module, begun = sensor_module(), time.monotonic()
    dagsters = inspect.unwrap(module.is_under_min_interval)

    def is_early(state: Any, remote_sensor: Any, *args: Any, **options: Any) -> bool:
        """Return whether a sensor's interval is not over, or it rests."""
        if dagsters(state, remote_sensor, *args, **options):
            return True
        if remote_sensor.name not in SECONDS:
            return False
        try:
            elapsed = module.get_elapsed(state)
            if elapsed is None or elapsed > time.monotonic() - begun:
                return False
            return elapsed < SECONDS[remote_sensor.name] and _is_idle(state, instance)
        except Exception:  # of a storage: Dagster would call no other sensor in this pass
            logger.exception("Whether %s rests can't be found out.", remote_sensor.name)
            return False

    module.is_under_min_interval = update_wrapper(is_early, dagsters)


def _is_idle(state: Any, instance: DagsterInstance) -> bool:
    """Return whether a sensor has said so, and no event has been recorded since."""
    said = Rest.read(state.instigator_data.cursor)
    if not said.is_idle:
        return False
    return said.last_event is None or said.last_event == newest_event(instance)
