"""When the daemon polls its queue: whenever it is woken, and in any case as often as configured.

Dagster's daemon polls every few seconds, so a run waits for that although nothing holds it back.
Here it polls more often, so a poll that finds nothing queued asks for nothing else.
"""

import inspect
import logging
import time
from collections.abc import Iterator
from functools import cache, update_wrapper
from threading import Event
from typing import Any

import sqlalchemy
from dagster import DagsterInstance, DagsterRunStatus

from . import dagster_internals as internals
from .dagster_features import QUEUE_POLLS, is_on
from .launching.wakeups import Wakeups

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.5
"""Most seconds after which a daemon that waits sees that it is to end; as Dagster's own."""

SHARE = 5
"""Times a poll's duration for which no wake-up is heeded then: a long queue keeps no core busy."""


def install() -> None:
    """Let the queue's part of the daemon be woken, and ask little; only the daemon calls this.

    If this Dagster does not allow it, the log says why, and the daemon polls as Dagster's does.
    """
    if not is_on(QUEUE_POLLS):
        return
    daemon: Any = internals.QueuedRunCoordinatorDaemon
    if daemon.core_loop is not _core_loop:
        daemon.core_loop = update_wrapper(_core_loop, daemon.core_loop)
    if daemon._get_runs_to_dequeue is not _runs_to_launch:
        daemon._get_runs_to_dequeue = update_wrapper(_runs_to_launch, daemon._get_runs_to_dequeue)


def _runs_to_launch(daemon: Any, instance: DagsterInstance, *args: Any, **options: Any) -> Any:
    """Return what Dagster's method returns, which is not asked while no run is queued.

    It reads the runs under way first: most polls need neither them nor the limits.
    """
    if not _is_any_queued(instance):
        return []
    return inspect.unwrap(_runs_to_launch)(daemon, instance, *args, **options)


def _is_any_queued(instance: DagsterInstance) -> bool:
    storage = instance.run_storage
    if not isinstance(storage, internals.SqlRunStorage):  # a project's own
        return True
    return storage.fetchone(_any_queued()) is not None


@cache
def _any_queued() -> Any:
    """Return the query; it is made once, as making it takes longer than its answer."""
    status = internals.RunsTable.c.status
    queued = DagsterRunStatus.QUEUED.value
    return sqlalchemy.select(internals.RunsTable.c.id).where(status == queued).limit(1)


def _core_loop(daemon: Any, workspace_process_context: Any, shutdown_event: Event) -> Iterator[Any]:
    """Yield what Dagster's loop yields, and wait between two polls."""
    dagsters: Any = inspect.unwrap(_core_loop)
    polls = dagsters(daemon, workspace_process_context, shutdown_event)
    try:
        wakeups = Wakeups(workspace_process_context.instance.root_directory)
    except OSError:
        logger.warning("The daemon can't be woken when a run is queued.", exc_info=True)
        yield from polls
        return
    seconds, daemon.interval_seconds = daemon.interval_seconds, 0
    try:
        with wakeups:
            yield from _woken(polls, wakeups, seconds)
    finally:
        daemon.interval_seconds = seconds


def _woken(polls: Iterator[Any], wakeups: Wakeups, seconds: float) -> Iterator[Any]:
    begun = time.monotonic()
    for each in polls:
        yield each
        if each is internals.SpanMarker.START_SPAN:
            begun = time.monotonic()
        elif each is internals.SpanMarker.END_SPAN:
            ended = time.monotonic()
            yield from _pause(min(begun + seconds, ended + SHARE * (ended - begun)))
            yield from _pause(begun + seconds, wakeups)


def _pause(until: float, wakeups: Wakeups | None = None) -> Iterator[None]:
    """Wait until a time of the monotonic clock, or to be woken; yield to see whether to end."""
    while (left := until - time.monotonic()) > 0:
        step = min(left, STEP_SECONDS)
        if wakeups is None:
            time.sleep(step)
        elif wakeups.wait(step):
            return
        yield None
