"""The loop of a run whose steps run in threads: starts what is ready, passes events on."""

import asyncio
import contextvars
import logging
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    closing,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from dagster import DagsterEvent, DagsterExecutionInterruptedError, StepExecutionContext

from ...domain import run_tags
from ...process import cancellation
from ...process.cancellation import Stop, stoppable
from ...support.call_context import carried
from ...support.connections import own_connections
from ...support.helper_threads import HelperThread
from ..dagster_internals import (
    EngineEventData,
    ErrorSource,
    KnownExecutionState,
    SerializableErrorInfo,
    StepFailureData,
    _trigger_hook,
    dagster_event_sequence_for_step,
    serializable_error_info_from_exc_info,
)
from ..runs.in_process import in_main_thread

if TYPE_CHECKING:
    from ..dagster_internals import ActiveExecution, ExecutionStep, PlanExecutionContext

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
"""Grace period of steps when their run is interrupted, in seconds."""

LOOK_AGAIN_SECONDS = 1.0
"""Seconds between two checks of a step that waits for a pool without a known end."""

_ENDINGS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTS = frozenset([DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__])


@dataclass(eq=False)
class Attempt:
    """One try of a step, in a thread."""

    step: "ExecutionStep"
    known_state: KnownExecutionState
    stop: Stop = field(default_factory=lambda: Stop(DagsterExecutionInterruptedError))
    settled: bool = False
    """Whether the loop knows its outcome; only its hooks may still run."""


_attempt: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar("attempt", default=None)


class _News(NamedTuple):
    """A thread's message to the loop."""

    attempt: Attempt
    event: DagsterEvent | None
    ended: bool = False
    error: BaseException | None = None
    """An error of Dagster's code around the step; an error of its function is an event."""


class Loop:
    """Executes the steps of one run. Only its thread touches Dagster's state of the execution."""

    def __init__(
        self, context: "PlanExecutionContext", active: "ActiveExecution", limit: int
    ) -> None:
        self._context = context
        self._active = active
        self._limit = limit
        self._running: set[Attempt] = set()
        self._threads = _Threads(f"run {context.run_id[:8]}")
        # SimpleQueue: a signal's handler may put an item there at any point to wake the loop.
        self._news: queue.SimpleQueue[_News | None] = queue.SimpleQueue()
        self._stop = cancellation.current()

    def events(self) -> Iterator[DagsterEvent]:
        """Execute everything.

        Raises
        ------
        DagsterExecutionInterruptedError
            The run was interrupted; no step is running any more.
        """
        try:
            with _woken_by_signals(self._news), self._woken_by_stop():
                while self._running or not self._active.is_complete:
                    if self._is_interrupted():
                        keys = [attempt.step.key for attempt in self._running]
                        yield DagsterEvent.engine_event(
                            self._context,
                            "Threads executor: received termination signal - stopping the "
                            f"running steps {keys}",
                            EngineEventData.interrupted(keys),
                        )
                        raise DagsterExecutionInterruptedError
                    steps = self._ready()
                    yield from self._active.concurrency_event_iterator(self._context)
                    if self._is_alone(steps):
                        yield from self._run_here(steps[0])
                    elif steps:
                        for step in steps:
                            self._start(step)
                    else:
                        yield from self._wait()
                    yield from self._active.plan_events_iterator(self._context)
        finally:
            try:
                self._stop_running()
            finally:
                self._threads.end(wait=not self._running)

    def _is_interrupted(self) -> bool:
        if self._stop is not None and self._stop.asked:
            return True
        # Signals belong to the main thread: they are not for a run in another one.
        return in_main_thread() and self._active.check_for_interrupts()

    def _woken_by_stop(self) -> AbstractContextManager[None]:
        """Wake the loop when the cancellation of an in-process run is requested."""
        if self._stop is None:
            return nullcontext()
        return self._stop.reachable(self._wake)

    def _wake(self) -> None:
        self._news.put(None)

    def _ready(self) -> "list[ExecutionStep]":
        """Return the steps that may start now; they count as started."""
        free = self._limit - len(self._running)
        return list(self._active.get_steps_to_execute(limit=free)) if free > 0 else []

    def _is_alone(self, steps: "list[ExecutionStep]") -> bool:
        """Return whether nothing else can happen while this step runs."""
        if len(steps) != 1 or self._running:
            return False
        if self._limit == 1:
            return True
        hooks = self._context.job_def.get_all_hooks_for_handle(steps[0].node_handle)
        return not hooks and self._active.sleep_interval() == 0

    def _run_here(self, step: "ExecutionStep") -> Iterator[DagsterEvent]:
        """Run a step in the loop's own thread, as Dagster's in-process executor does."""
        interrupted = settled = False
        for event in _step_events(self._context.for_step(step, self._known_state())):
            yield event
            self._active.handle_event(event)
            settled = settled or _settles(event)
            interrupted = interrupted or _was_interrupted(event)
        if not settled:
            self._active.verify_complete(self._context, step.key)
        if interrupted:
            raise DagsterExecutionInterruptedError

    def _start(self, step: "ExecutionStep") -> None:
        attempt = Attempt(step, self._known_state())
        self._running.add(attempt)
        work = carried(partial(self._work, attempt))
        self._threads.start(work, busy=len(self._running))

    def _known_state(self) -> KnownExecutionState:
        known = self._active.get_known_state()
        # A copy: the loop still changes Dagster's set.
        return known._replace(ready_outputs=set(known.ready_outputs))

    def _work(self, attempt: Attempt) -> None:
        """Run a step, in a thread of its own."""
        last: DagsterEvent | None = None
        error: BaseException | None = None
        try:
            _attempt.set(attempt)
            with closing(asyncio.new_event_loop()) as event_loop, attempt.stop.heeded():
                context = self._context.for_step(attempt.step, attempt.known_state)
                context._event_loop = event_loop  # Dagster's is one for the whole process
                _keep_to_own_logs(context, attempt)
                hooks = context.job_def.get_all_hooks_for_handle(context.node_handle)
                # A process marks itself where it may be stopped; of other ops nothing is known.
                ours = run_tags.PROCESS in attempt.step.tags
                with nullcontext() if ours else stoppable():
                    for event in _step_events(context):
                        if _settles(event) and not hooks:
                            last = event  # reported with the end
                        else:
                            self._news.put(_News(attempt, event))
        except BaseException as raised:  # noqa: BLE001  # raised again by the loop
            error = raised
        self._news.put(_News(attempt, last, ended=True, error=error))

    def _wait(self) -> Iterator[DagsterEvent]:
        """Wait until a step has ended, one may start, or a signal was received."""
        while True:
            try:
                news = self._news.get(timeout=self._seconds_to_wait())
            except queue.Empty:
                return
            if news is None:
                return
            if news.event is not None:
                yield news.event
            self._note(news)
            if news.error is not None:
                raise news.error
            if news.ended or news.attempt.settled:
                return

    def _seconds_to_wait(self) -> float | None:
        """Return the seconds in which no step can start unless one ends; ``None``: for ever."""
        if len(self._running) >= self._limit:
            return None
        seconds: float = self._active.sleep_interval()
        if seconds == 0:  # so Dagster says that nothing waits
            return None if self._running else LOOK_AGAIN_SECONDS
        return max(0.0, seconds)

    def _note(self, news: _News) -> None:
        attempt, event = news.attempt, news.event
        if event is not None:
            self._active.handle_event(event)
            attempt.settled = attempt.settled or _settles(event)
        if news.ended:
            self._running.discard(attempt)
            if news.error is None and not attempt.settled:
                self._active.verify_complete(self._context, attempt.step.key)
                attempt.settled = True

    def _stop_running(self) -> None:
        """Stop the steps that are still running, and give up on those that can't be stopped."""
        for attempt in self._running:
            attempt.stop.ask()
        deadline = time.monotonic() + GRACE_SECONDS
        while self._running:
            try:
                news = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if news is not None:
                self._note(news)
                if news.error is not None and not news.attempt.settled:
                    logger.error("Step %s:", news.attempt.step.key, exc_info=news.error)
                    self._fail(news.attempt, "It was stopped because its run was.")
            elif self._is_interrupted():
                break  # a second request means: don't wait
        for attempt in self._running:
            self._fail(
                attempt,
                f"It did not stop within {GRACE_SECONDS:g} seconds after its run was "
                "interrupted, and was abandoned; what it is doing can't be stopped.",
            )

    def _fail(self, attempt: Attempt, message: str) -> None:
        error = SerializableErrorInfo(message, [], DagsterExecutionInterruptedError.__name__)
        data = StepFailureData(error, None, error_source=ErrorSource.INTERRUPT)
        try:
            context = self._context.for_step(attempt.step)
            self._active.handle_event(DagsterEvent.step_failure_event(context, data))
        except Exception:  # the run ends for another reason, which must not be hidden
            logger.exception("That step %s was stopped can't be recorded.", attempt.step.key)


class _Threads:
    """Threads that are reused during a run.

    They are daemons: a function that can't be stopped must not keep the process from ending, as
    one in a ``ThreadPoolExecutor`` would.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: list[HelperThread] = []
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def start(self, work: Callable[[], None], *, busy: int) -> None:
        """Run ``work`` in a thread; ``busy`` of them have something to do then."""
        if busy > len(self._threads):
            name = f"{self._name}, thread {len(self._threads) + 1}"
            thread = HelperThread(self._serve, name)
            self._threads.append(thread)
            thread.start()
        self._work.put(work)

    def end(self, *, wait: bool) -> None:
        """End them; ``wait`` until they have closed their connections."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _serve(self) -> None:
        with own_connections():
            while (work := self._work.get()) is not None:
                work()


def _step_events(context: StepExecutionContext) -> Iterator[DagsterEvent]:
    """Run a step and its hooks."""
    seen = []
    for event in dagster_event_sequence_for_step(context):
        seen.append(event)
        yield event
    yield from _trigger_hook(context, seen)


def _settles(event: DagsterEvent) -> bool:
    """Return whether an event holds the outcome of a step."""
    return event.is_step_success or event.is_step_failure or event.is_step_up_for_retry


def _was_interrupted(event: DagsterEvent) -> bool:
    """Return whether a step is to be retried because of an interrupt: Dagster would continue."""
    if not event.is_step_up_for_retry:
        return False
    cause = event.step_retry_data.error.cause if event.step_retry_data.error else None
    return cause is not None and cause.cls_name in _INTERRUPTS


def _keep_to_own_logs(context: StepExecutionContext, attempt: Attempt) -> None:
    """Limit a step's captured log to its own records: other steps log in the same process.

    Records of a thread that a step has started belong to no step: the first capture gets them.
    """

    def is_own(takes: Callable[[logging.LogRecord], bool], record: logging.LogRecord) -> bool:
        return _attempt.get() in (attempt, None) and takes(record)

    for handler in context.log.handlers:
        # Not addFilter: Dagster's handlers have a filter() of their own, which asks no others.
        handler.filter = partial(is_own, handler.filter)  # type: ignore[method-assign]


@contextmanager
def _woken_by_signals(news: "queue.SimpleQueue[_News | None]") -> Iterator[None]:
    """Put ``None`` into the queue at a signal, which Dagster's handlers only record."""
    if not in_main_thread():
        yield  # only the main thread can handle signals
        return
    noting = {number: signal.getsignal(number) for number in _ENDINGS}

    def handle(number: int, frame: FrameType | None) -> None:
        news.put(None)
        note = noting[signal.Signals(number)]
        if callable(note):
            note(number, frame)

    for number in _ENDINGS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in noting.items():
            signal.signal(number, handler)


def problem(context: "PlanExecutionContext", message: str) -> DagsterEvent:
    """Log the exception that is being handled in the run."""
    error = serializable_error_info_from_exc_info(sys.exc_info())
    return DagsterEvent.engine_event(context, message, EngineEventData(error=error))
