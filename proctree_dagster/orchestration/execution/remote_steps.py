"""Steps that are executed outside of the run's own process, as by Celery's workers.

Dagster's executors for them wait for an answer without a timeout, and a function that has started
continues after its run is terminated. So the two ends watch each other, over any broker:

- the step's process (``elsewhere``) takes the step once, gives signs of life, checks whether its
  run still continues, and stops the function if it does not;
- the run's process (``watched``) fails the run when a step's process is lost, and is canceled only
  after the steps have ended.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRunStatus,
    ExecutorDefinition,
    Failure,
    OpExecutionContext,
)
from django.db import DatabaseError, connections, router

from ... import conf
from ...exceptions import StepLost
from ...models import StepWorker
from ...process.cancellation import Stop, stoppable
from ...services import run_workers, step_workers
from ...support import project
from ...support.connections import fresh_connections, own_connections
from ...support.os_processes import STARTED_BY_RUN
from ..dagster_internals import EngineEventData, PlanOrchestrationContext
from ..launching.workers import Worker

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Seconds between two checks of a step on its run, and of a run on its steps."""

ANSWER_SECONDS = 5.0
"""How long after its end elsewhere a step's answer may take to come."""

GONE_SECONDS = 10.0
"""Grace period in which the executor itself may notice that a step's process has ended."""

_here: set[str] = set()
"""The runs that this process executes."""

_imported: dict[str, Path] = {}
"""From where this process has imported a code location, with symbolic links followed."""

_ANSWERS = (
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_UP_FOR_RETRY,
)


def grace_seconds() -> float:
    """Return the seconds that a function has to stop when its run was terminated.

    Then its process is killed, if it may be. The rest of the run's grace period is for the run's
    own process, which waits for it.
    """
    return conf.current().TERMINATE_GRACE / 2


def _wait_seconds() -> float:
    """Return the seconds that a terminated run waits for its steps: less than its grace period."""
    return max(grace_seconds() + 2 * POLL_SECONDS, 0.9 * conf.current().TERMINATE_GRACE)


def stay_here(executor: ExecutorDefinition) -> bool:
    """Return whether the steps of an executor are known to stay with the run's own process."""
    module = getattr(executor.executor_creation_fn, "__module__", None) or ""
    return module.split(".")[0] in ("dagster", "proctree_dagster")


@contextmanager
def own_process(run_id: str) -> Iterator[None]:
    """Mark this process, and those that it starts, as the run's own, for its steps."""
    before = os.environ.get(STARTED_BY_RUN)
    os.environ[STARTED_BY_RUN] = run_id
    _here.add(run_id)
    try:
        yield
    finally:
        _here.discard(run_id)
        if before is None:
            os.environ.pop(STARTED_BY_RUN, None)
        else:
            os.environ[STARTED_BY_RUN] = before


# --- In the step's process ------------------------------------------------------------------------


class _RunEnded(BaseException):
    """Raised in a function whose run has ended, or is being terminated."""


@contextmanager
def elsewhere(context: OpExecutionContext) -> Iterator[None]:
    """Watch over a step that is executed outside its run's own process; else do nothing.

    Raises
    ------
    Failure
        The step was taken before, or its run has ended.
    """
    if not is_elsewhere(context):
        yield
        return
    if _has_ended(context.instance, context.run_id):
        raise Failure("Its run has ended: the function is not called.", allow_retries=False)
    step = context.get_step_execution_context()
    problem = _other_release(step.job)
    if problem is not None:
        raise Failure(problem, allow_retries=False)
    step_key = step.step.key
    worker = Worker.of_process(context.run_id, os.getpid())
    with fresh_connections():
        row = step_workers.take(context.run_id, step_key, context.retry_number, worker.as_text())
    if row is None:
        _wait_for_other(context, step_key)
        raise Failure(
            "Another process executes this step, or has done so: the executor has handed it out "
            "twice. The function is not called.",
            allow_retries=False,
        )
    stop = Stop(_RunEnded)
    watch = _StepWatch(context.instance, row, stop)
    watch.start()
    try:
        with stop.heeded():
            yield
    except _RunEnded as error:
        raise Failure(
            "Its run has ended: the function was stopped.", allow_retries=False
        ) from error
    finally:
        watch.end()


def _wait_for_other(context: OpExecutionContext, step_key: str) -> None:
    """Wait until the process that has taken a step has ended it, or the run has.

    What its own process answers counts. An answer from here would come first, and let the run fail
    while the function still works.
    """
    ended_at: float | None = None
    while ended_at is None or time.monotonic() - ended_at < ANSWER_SECONDS:
        try:
            if _has_ended(context.instance, context.run_id):
                return
            with fresh_connections():
                taken = step_workers.taken(context.run_id, step_key, context.retry_number)
            if ended_at is None and (taken is None or not _goes_on(taken)):
                ended_at = time.monotonic()
        except Exception:  # the database is away, or Dagster's: there is a next time
            logger.warning("Who executes step %s can't be read.", step_key, exc_info=True)
        time.sleep(POLL_SECONDS)


def is_elsewhere(context: OpExecutionContext) -> bool:
    """Return whether a step is executed outside its run's own process."""
    run_id = context.run_id
    if (
        run_id in _here
        or os.environ.get(STARTED_BY_RUN) == run_id
        or not context.instance.is_persistent
    ):
        return False
    return not _is_in_transaction()


def _is_in_transaction() -> bool:
    """Return whether another thread would not see the rows: a job executed in a test."""
    return connections[router.db_for_write(StepWorker)].in_atomic_block


def _has_ended(instance: DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished or run.status == DagsterRunStatus.CANCELING


def note_release() -> None:
    """Record from where this process imports the code location, before a link is switched."""
    name = project.definitions()
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None:
        _imported[name] = Path(file).resolve()


def _other_release(job: object) -> str | None:
    """Return why this process has other code than a job's: it has imported another release.

    A worker imports the code location once, from the path of that time. A folder that does not
    exist here belongs to another machine, so nothing is known.
    """
    pointer = getattr(getattr(job, "repository", None), "pointer", None)
    name, folder = getattr(pointer, "module", None), getattr(pointer, "working_directory", None)
    if name not in _imported or folder is None:
        return None
    imported, path = _imported[name], Path(folder, *name.split("."))
    found = [file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()]
    if not found or found[0].resolve() == imported:
        return None
    return (
        f"This worker has imported the code location from {str(imported)!r}, and the run is of "
        f"{str(found[0].resolve())!r}: restart the workers when you deploy. The function is not "
        "called."
    )


class _StepWatch:
    """A thread beside a step: it gives signs of life, and stops the function with its run."""

    def __init__(self, instance: DagsterInstance, row: StepWorker, stop: Stop) -> None:
        self._instance = instance
        self._row = row
        self._stop = stop
        self._ended = threading.Event()
        self._may_kill = _is_pool_child()
        self._thread = threading.Thread(
            target=self._watch, name=f"watch of step {row.step_key}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        try:
            with fresh_connections():
                step_workers.end(self._row)
        except DatabaseError:  # the run's process waits for the answer, not for this
            logger.warning("The end of %s can't be written down.", self._row, exc_info=True)

    def _watch(self) -> None:
        beat_at = time.monotonic()
        kill_at: float | None = None
        while not self._ended.wait(POLL_SECONDS):
            now = time.monotonic()
            if now - beat_at >= run_workers.beat_seconds():
                beat_at = now
                self._beat()
            if kill_at is None and self._run_has_ended():
                self._stop.ask()
                kill_at = now + grace_seconds()
            if kill_at is not None and now >= kill_at and self._may_kill:
                logger.error("%s does not stop, and its run has ended: it is killed.", self._row)
                os.kill(os.getpid(), signal.SIGKILL)  # Celery starts another in its place

    def _beat(self) -> None:
        try:
            with own_connections():
                step_workers.beat(self._row)
        except DatabaseError:  # tried again next time
            logger.warning("A sign of life of %s can't be given.", self._row, exc_info=True)

    def _run_has_ended(self) -> bool:
        try:
            return _has_ended(self._instance, self._row.run_id)
        except Exception:  # any error of Dagster's storage: tried again next time
            logger.warning("Whether the run of %s goes on can't be read.", self._row, exc_info=True)
            return False


def _is_pool_child() -> bool:
    """Return whether this process is one of a Celery worker's, which starts another if it ends."""
    billiard = sys.modules.get("billiard")
    return billiard is not None and bool(billiard.current_process().daemon)


# --- In the run's process -------------------------------------------------------------------------


class _NoAnswer(BaseException):
    """Raised in an executor whose answer can't come any more."""


def watched(
    events: Iterator[DagsterEvent], plan_context: PlanOrchestrationContext
) -> Iterator[DagsterEvent]:
    """Yield an executor's events while an answer of its steps can still come.

    Raises
    ------
    StepLost
        The process that executed a step is gone, or silent.
    """
    if _is_in_transaction():
        yield from events
        return
    stop = Stop(_NoAnswer)
    before = plan_context.execution_plan.known_state.previous_retry_attempts
    watch = _RunWatch(plan_context.instance, plan_context.run_id, stop, before)
    watch.start()
    try:
        while (event := _next(events, stop)) is not None:
            watch.see(event)
            yield event
    except (_NoAnswer, KeyboardInterrupt, DagsterExecutionInterruptedError) as error:
        if isinstance(error, _NoAnswer) and not watch.is_terminated:
            raise StepLost(watch.lost) from error
        for left in watch.wait_until_ended():
            yield DagsterEvent.engine_event(
                plan_context,
                f"Step {left.step_key!r} has not stopped: {_worker(left)} still executes it.",
                EngineEventData(),
            )
        if isinstance(error, _NoAnswer):
            raise DagsterExecutionInterruptedError from error
        raise
    finally:
        watch.end()


def _next(events: Iterator[DagsterEvent], stop: Stop) -> DagsterEvent | None:
    with stop.heeded(), stoppable():
        return next(events, None)


class _RunWatch:
    """A thread beside an executor: it checks the signs of life of the run's steps."""

    def __init__(
        self, instance: DagsterInstance, run_id: str, stop: Stop, before: Mapping[str, int]
    ) -> None:
        self.lost = ""
        """The lost step and the reason, once there is one."""
        self.is_terminated = False
        """Whether the run was terminated and its executor still waits, as no worker answers."""
        self._instance = instance
        self._run_id = run_id
        self._stop = stop
        self._ended = threading.Event()
        self._terminated_at: float | None = None
        """When it was seen that the run is being terminated, by ``time.monotonic``."""
        self._answers = Counter(before)
        """The tries of each step that have answered; some before the run was resumed."""
        self._changed: dict[int, tuple[tuple[object, ...], float]] = {}
        self._thread = threading.Thread(
            target=self._watch, name=f"watch of the steps of run {run_id[:8]}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def see(self, event: DagsterEvent) -> None:
        """Record that a step has answered."""
        if event.event_type in _ANSWERS and event.step_key is not None:
            self._answers[event.step_key] += 1

    def end(self) -> None:
        """End the watch, and forget the steps."""
        self._ended.set()
        self._thread.join()
        try:
            with fresh_connections():
                step_workers.forget(self._run_id)
        except DatabaseError:  # they are forgotten with those of a later run
            logger.warning("The steps of run %s stay noted.", self._run_id, exc_info=True)

    def wait_until_ended(self) -> list[StepWorker]:
        """Wait until the steps of a terminated run have ended; return those that still run.

        They learn within a second that the run is being terminated, and stop by themselves.
        """
        if not _has_ended(self._instance, self._run_id):
            return []  # the run's process was asked to end, not the run: they learn of it later
        deadline = (self._terminated_at or time.monotonic()) + _wait_seconds()
        while True:
            with fresh_connections():
                left = [row for row in step_workers.of_run(self._run_id) if _goes_on(row)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(POLL_SECONDS / 4)

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            try:
                with own_connections():
                    rows = step_workers.of_run(self._run_id)
                if self._terminated_at is None and _has_ended(self._instance, self._run_id):
                    self._terminated_at = time.monotonic()
            except Exception:  # the database is away, or Dagster's: there is a next time
                # Nobody could give signs of life: the silence counts from when they can again.
                self._changed.clear()
                logger.warning("The steps of run %s can't be read.", self._run_id, exc_info=True)
                continue
            if self._terminated_at is None:
                self.lost = self._problem(rows) or ""
            else:
                waited = time.monotonic() - self._terminated_at
                self.is_terminated = waited >= grace_seconds()
            if self.is_terminated or self.lost:
                self._stop.ask()
                return

    def _problem(self, rows: list[StepWorker]) -> str | None:
        """Return which step is lost, if one is."""
        lost_after = conf.current().LOST_AFTER
        for row in rows:
            if row.attempt < self._answers[row.step_key]:
                continue
            gone = _has_died(row)
            silent = self._silence_of(row, gone)
            lost = f"Step {row.step_key!r} is lost: {_worker(row)}"
            if gone and silent >= GONE_SECONDS:
                return f"{lost} has ended, and no answer came."
            if silent >= lost_after and row.ended_at is not None:
                return f"{lost} has ended the step, and no answer came for {silent:.0f} seconds."
            if silent >= lost_after:
                return f"{lost} has given no sign of life for {silent:.0f} seconds."
        return None

    def _silence_of(self, row: StepWorker, gone: bool) -> float:
        """Return for how long nothing of a row has changed, by this process's own clock."""
        now = time.monotonic()
        state = (row.beats, row.ended_at, gone)
        before, since = self._changed.get(row.pk, (None, now))
        if before != state:
            since = now
        self._changed[row.pk] = (state, since)
        return now - since


def _goes_on(row: StepWorker) -> bool:
    return row.ended_at is None and not _has_died(row)


def _has_died(row: StepWorker) -> bool:
    """Return whether a step's process is known to have ended; unknown on another machine."""
    worker = Worker.from_text(row.worker)
    return worker is not None and worker.has_died


def _worker(row: StepWorker) -> str:
    """Return the name of a step's process, for messages."""
    return str(Worker.from_text(row.worker) or row.worker)
