"""Ticks in the daemon, many at once: the code server evaluates those that are due together.

Dagster's scheduler evaluates each schedule in a thread of a pool: some ten queries, three calls to
the code server and eight commits for each. Here the ticks of process trees wait, while others are
evaluated, in one list; whoever is free takes up to ``MOST`` of them. Their rows in Dagster's
storage are those that Dagster writes, in the same order: the tick is recorded as started, then the
runs, then the tick's outcome. So a process that is killed leaves what Dagster's scheduler leaves,
and that continues from there.

What is not simple is left to Dagster's own function, schedule by schedule: a tick that was
interrupted or has failed, and whatever fails here.
"""

import inspect
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
    deserialize_value,
    serialize_value,
)

from ..domain import run_tags
from . import dagster_internals as internals
from .dagster_features import (
    RUN_RECORDS,
    TICKS_EVALUATE,
    TICKS_EXECUTOR,
    TICKS_TOGETHER,
    is_on,
    scheduler_module,
)
from .launcher import is_own_server
from .launching import releases
from .tick_messages import Answer, Made, Request, Tick
from .tick_records import Call, Due, begin, record

if TYPE_CHECKING:
    from .dagster_internals import (
        BaseWorkspaceRequestContext,
        GrpcServerCodeLocation,
        InstigatorTick,
    )

logger = logging.getLogger(__name__)

MOST = 100
"""Most ticks in one request to the code server."""

PASSES = 2
"""Passes at the same time: the runs of one are queued while the code server works on the next.

The code server has one at a time: two would take turns there, and then both be queued here.
"""

_asking = threading.Lock()


class Coordinator(Protocol):
    """The part of ``StraightRunCoordinator`` that is needed here."""

    def submit_together(
        self, runs: Sequence[DagsterRun], workspace: "BaseWorkspaceRequestContext"
    ) -> None:
        """Launch or queue runs."""


def install() -> bool:
    """Evaluate ticks together in this process, if it is Dagster's daemon.

    Returns
    -------
    bool
        Whether it does; if this Dagster does not allow it, the log says why.
    """
    is_daemon = internals.NAMES["execute_scheduler_iteration_loop"] in sys.modules
    if not (is_daemon and is_on(TICKS_TOGETHER) and is_on(RUN_RECORDS)):
        return False
    module = scheduler_module()
    found = getattr(module, TICKS_EXECUTOR)
    if found is not _executor:
        _dagsters.append(found)
        setattr(module, TICKS_EXECUTOR, _executor)
    return True


_dagsters: list[Callable[..., ThreadPoolExecutor]] = []
"""Dagster's own executor, once it is replaced."""


def _executor(*args: Any, **options: Any) -> "TicksExecutor":
    return TicksExecutor(_dagsters[-1](*args, **options))


class TicksExecutor:
    """The scheduler's pool of threads, which evaluates the ticks of process trees together."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()
        self._passes = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Wait for what was submitted, and end the threads."""
        return self._pool.__exit__(kind, error, trace)

    def map(self, function: Callable[..., Any], *iterables: Any) -> Iterator[Any]:
        """Do as the pool does."""
        return self._pool.map(function, *iterables)

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> "Future[Any]":
        """Let a tick wait for the next pass; anything else is done as the pool does it."""
        if function is not getattr(scheduler_module(), TICKS_EVALUATE):
            return self._pool.submit(function, *args, **options)
        call = Call(function, inspect.signature(function).bind(*args, **options))
        if not call.is_ours:
            return self._pool.submit(function, *args, **options)
        with self._lock:
            self._waiting.append(call)
            is_another_needed = self._passes < PASSES
            self._passes += is_another_needed
        if is_another_needed:
            self._pool.submit(self._work)
        return call.future

    def _work(self) -> None:
        while True:
            with self._lock:
                count = min(MOST, len(self._waiting))
                calls = [self._waiting.popleft() for _ in range(count)]
                if not calls:
                    self._passes -= 1
                    return
            evaluate(calls)


def evaluate(calls: Sequence[Call]) -> None:
    """Evaluate the ticks of schedules, and give each call its result."""
    try:
        done = _evaluate_together(calls)
    except Exception:  # Dagster's own function finds what was recorded, and continues
        logger.exception("%s schedules can't be evaluated together.", len(calls))
        done = {}
    for call in calls:
        if call.selector_id in done:
            call.future.set_result(done[call.selector_id])
        else:
            call.make_alone()


def _evaluate_together(calls: Sequence[Call]) -> dict[str, Any]:
    """Return the result of Dagster's function for the schedules that were evaluated."""
    workspace = calls[0].workspace_process_context.create_request_context()
    instance = calls[0].workspace_process_context.instance
    location = workspace.get_code_location(run_tags.LOCATION)
    if not isinstance(location, internals.GrpcServerCodeLocation) or _is_one_by_one(location):
        return {}
    latest = instance.get_batch_ticks([call.selector_id for call in calls], limit=1)
    found = (_due(call, next(iter(latest.get(call.selector_id, [])), None)) for call in calls)
    due = [each for each in found if each is not None]
    if not due:
        return {}
    begin(instance, due)
    with _asking:
        answer = _ask(instance, location, due)
    _submit(instance, workspace, answer.made)
    done = [each for each in due if _finish(each, answer)]
    record(instance, done)
    return {each.call.selector_id: _times(instance, each) for each in done}


def _is_one_by_one(location: "GrpcServerCodeLocation") -> bool:
    """Return whether a translator of the project's own changes what a tick does."""
    known = location.get_repository(run_tags.REPOSITORY).repository_snap.metadata or {}
    apart = known.get(run_tags.TICKS_APART)
    return apart is not None and bool(apart.value)


def _due(call: Call, latest: "InstigatorTick | None") -> Due | None:
    """Return the tick that a schedule has, as Dagster's function finds it; ``None`` leaves it."""
    status, since = internals.TickStatus, [call.data.start_timestamp or 0.0]
    if latest is not None:
        if latest.status in (status.STARTED, status.FAILURE):
            return None
        since.append(latest.timestamp + 1)
    since.append(call.data.last_iteration_timestamp or 0.0)
    since.append(call.in_memory_last_iteration_timestamp or 0.0)
    now, last = call.end_datetime_utc.timestamp(), None
    for moment in call.remote_schedule.execution_time_iterator(max(since)):
        if moment.timestamp() > now:
            return None if last is None else Due(call, last, moment.timestamp())
        last = moment
    return None


def _ask(
    instance: DagsterInstance, location: "GrpcServerCodeLocation", due: Sequence[Due]
) -> Answer:
    """Let the code server evaluate ticks, and record their runs."""
    repository = due[0].call.remote_schedule.get_remote_origin().repository_origin
    code = location.get_repository(run_tags.REPOSITORY).get_python_origin()
    if not is_own_server(repository.code_location_origin):
        code = releases.pinned(code)  # as the coordinator does
    request = Request(
        instance=serialize_value(instance.get_ref()),
        repository=serialize_value(repository),
        code=serialize_value(code),
        ticks=[
            Tick(each.call.remote_schedule.name, each.at.timestamp(), _tick_id(each))
            for each in due
        ],
    )
    text = location.client.external_schedule_execution(
        internals.ExternalScheduleExecutionArgs(
            repository_origin=repository,
            instance_ref=None,  # else Dagster opens it for this call
            schedule_name=run_tags.DUE_TOGETHER,
            scheduled_execution_timestamp=due[0].at.timestamp(),
            scheduled_execution_timezone="UTC",
            log_key=[request.as_text()],
            timeout=None,
        )
    )
    found: Any = deserialize_value(text)
    if getattr(found, "error", None) is not None:
        raise internals.DagsterUserCodeProcessError.from_error_info(found.error)
    return Answer.from_text(found.skip_message)


def _tick_id(due: Due) -> str:
    assert due.tick is not None
    return str(due.tick.tick_id)


def _submit(
    instance: DagsterInstance,
    workspace: "BaseWorkspaceRequestContext",
    made: Mapping[str, Made],
) -> None:
    """Launch or queue the runs that are not yet."""
    if not made:
        return
    coordinator: Coordinator = instance.run_coordinator  # type: ignore[assignment]
    runs = instance.get_runs(RunsFilter(run_ids=[each.run_id for each in made.values()]))
    waiting = [run for run in runs if run.status == DagsterRunStatus.NOT_STARTED]
    try:
        coordinator.submit_together(waiting, workspace)
    except Exception:  # each by itself, as Dagster's function does it
        logger.exception("%s runs can't be submitted together.", len(waiting))
        for run in waiting:
            try:
                instance.submit_run(run.run_id, workspace)
            except Exception:  # Dagster has recorded the failure of this run
                logger.exception("Run %s can't be submitted.", run.run_id)


def _finish(due: Due, answer: Answer) -> bool:
    """Set the outcome of a tick; return False if it has none."""
    name, status = due.call.remote_schedule.name, internals.TickStatus
    assert due.tick is not None
    repository = due.call.remote_schedule.handle.repository_name
    tick = due.tick.with_log_key([repository, name, _tick_id(due)])
    counts = {"failure_count": 0, "consecutive_failure_count": 0}
    if name in answer.skipped:
        reason = answer.skipped[name]
        due.tick = tick.with_status(status.SKIPPED, **counts).with_reason(reason)
        due.call.logger.info("Schedule %s skipped: %s", name, reason)
        return True
    if name not in answer.made:
        return False
    made = answer.made[name]
    tick = tick.with_run_info(made.run_id, made.run_key)
    due.tick = tick.with_status(status.SUCCESS, **counts)
    due.call.logger.info("Completed scheduled launch of run %s for %s", made.run_id, name)
    return True


def _times(instance: DagsterInstance, due: Due) -> Any:
    """Return when Dagster is to evaluate a schedule next."""
    scheduler, call = scheduler_module(), due.call
    now = call.end_datetime_utc.timestamp()
    checkpoint = scheduler._write_and_get_next_checkpoint_timestamp(
        instance, call.schedule_state, call.data, now
    )
    return scheduler.ScheduleIterationTimes(
        cron_schedule=call.remote_schedule.cron_schedule,
        next_iteration_timestamp=min(due.following, checkpoint),
        last_iteration_timestamp=now,
    )
