"""The threads executor: what does not depend on each other runs side by side, in one process.

One loop, in the thread that executes the run, decides what runs; the steps run in threads and hand
their events to it. It waits for whatever comes first of an event, the next retry, the next look at
a pool and a signal, so nothing is late because something else takes long. A step beside which
nothing can run does not leave the loop's own thread: a chain costs what it costs in process.
"""

import asyncio
import contextvars
import logging
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

from dagster import (
    DagsterEvent,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterInvariantViolationError,
    DagsterRun,
    Executor,
    Field,
    InitExecutorContext,
    Int,
    Noneable,
    executor,
)
from dagster._core.events import EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context.system import (
    PlanExecutionContext,
    PlanOrchestrationContext,
    StepExecutionContext,
)
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.execute_plan import (
    _trigger_hook,
    dagster_event_sequence_for_step,
)
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.objects import ErrorSource, StepFailureData
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.execution.step_dependency_config import (
    StepDependencyConfig,
    get_step_dependency_config_field,
)
from dagster._core.execution.tags import get_tag_concurrency_limits_config
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster_shared.error import SerializableErrorInfo

from ... import conf
from ...domain import run_tags
from ...domain.names import dagster_name
from ...process import cancellation, timeouts
from ...process.cancellation import Stop, stoppable
from ...support.call_context import carried
from ...support.connections import in_any_transaction, own_connections
from ...support.helper_threads import HelperThread
from ..runs.in_process import in_main_thread

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long steps may take to stop when their run is interrupted."""

LOOK_AGAIN_SECONDS = 1.0
"""When a step is looked at again that waits for a pool, and nobody knows until when."""

_ENDINGS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTS = frozenset([DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__])


class ThreadsExecutor(Executor):
    """Executes the steps of a run in the threads of one process.

    Parameters
    ----------
    max_concurrent:
        How many steps may run at once.
    retries:
        Whether a step that asks for it is tried again.
    tag_concurrency_limits:
        How many steps with a tag may run at once, as for Dagster's multiprocess executor.
    step_dependency_config:
        When a step may begin, as for Dagster's own executors.

    Raises
    ------
    DagsterInvariantViolationError
        ``max_concurrent`` is below 1.
    """

    def __init__(
        self,
        max_concurrent: int,
        retries: RetryMode = RetryMode.ENABLED,
        tag_concurrency_limits: list[dict[str, Any]] | None = None,
        step_dependency_config: StepDependencyConfig = StepDependencyConfig.default(),  # noqa: B008
    ) -> None:
        if max_concurrent < 1:
            raise DagsterInvariantViolationError(
                f"max_concurrent must be at least 1, not {max_concurrent}."
            )
        self._max_concurrent = max_concurrent
        self._retries = retries
        self._tag_concurrency_limits = tag_concurrency_limits
        self._step_dependency_config = step_dependency_config

    @property
    def retries(self) -> RetryMode:
        """Whether a step that asks for it is tried again."""
        return self._retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """When a step may begin."""
        return self._step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        """Execute the plan; see ``Executor.execute``."""
        # Other threads have connections of their own, and would not see what is not committed yet.
        limit = 1 if in_any_transaction() else self._max_concurrent
        data = EngineEventData.in_process(os.getpid(), execution_plan.step_keys_to_execute)
        yield DagsterEvent.engine_event(
            plan_context,
            f"Executing steps in threads, at most {limit} at once (pid: {os.getpid()})",
            data,
        )
        started = time.perf_counter()
        yield from ExecuteRunWithPlanIterable(
            execution_plan=execution_plan,
            iterator=partial(self._execute_steps, limit),
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                execution_plan=execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                retry_mode=self._retries,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
                step_dependency_config=self._step_dependency_config,
            ),
        )
        yield DagsterEvent.engine_event(
            plan_context,
            f"Finished steps in threads in {time.perf_counter() - started:.2f}s "
            f"(pid: {os.getpid()})",
            data,
        )

    def _execute_steps(
        self, limit: int, job_context: PlanExecutionContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        with (
            _Pools(job_context.instance, job_context.dagster_run) as pools,
            execution_plan.start(
                retry_mode=self._retries,
                max_concurrent=limit,
                tag_concurrency_limits=self._tag_concurrency_limits,
                instance_concurrency_context=pools,
                step_dependency_config=self._step_dependency_config,
            ) as active,
            ExitStack() as capture,
        ):
            yield from _capture_output(job_context, execution_plan, capture)
            yield from _Loop(job_context, active, limit).events()
            try:
                capture.close()
            except Exception:  # noqa: BLE001  # told in the run; its work is done
                yield _problem(job_context, "Exception while cleaning up compute log capture")


@executor(
    name="threads",
    config_schema={
        "max_concurrent": Field(
            Noneable(Int),
            default_value=None,
            description="How many steps may run at once; by default what the tree says, or else "
            'PROCTREE["MAX_CONCURRENT"].',
        ),
        "retries": get_retries_config(),
        "tag_concurrency_limits": get_tag_concurrency_limits_config(),
        "step_dependency_config": get_step_dependency_config_field(),
    },
)
def threads_executor(init_context: InitExecutorContext) -> ThreadsExecutor:
    """Execute steps that do not depend on each other side by side, in one process."""
    config: Mapping[str, Any] = init_context.executor_config
    retries = RetryMode.from_config(config["retries"])
    assert retries is not None, "the schema has a default"
    return ThreadsExecutor(
        config["max_concurrent"] or conf.current().MAX_CONCURRENT,
        retries,
        config.get("tag_concurrency_limits"),
        StepDependencyConfig.from_config(config.get("step_dependency_config")),
    )


@dataclass(eq=False)
class _Attempt:
    """One try of a step, in a thread."""

    step: ExecutionStep
    known_state: KnownExecutionState
    stop: Stop = field(default_factory=lambda: Stop(DagsterExecutionInterruptedError))
    settled: bool = False
    """Whether the loop knows what it came to; what may still run is its hooks."""


class _News(NamedTuple):
    """What a thread tells the loop."""

    attempt: _Attempt
    event: DagsterEvent | None
    ended: bool = False
    error: BaseException | None = None
    """What the step's machinery raised, not its function: that is an event."""


_attempt: contextvars.ContextVar[_Attempt | None] = contextvars.ContextVar("attempt", default=None)


class _Loop:
    """Executes the steps of one run. Only its thread touches Dagster's state of the execution."""

    def __init__(self, context: PlanExecutionContext, active: ActiveExecution, limit: int) -> None:
        self._context = context
        self._active = active
        self._limit = limit
        self._running: set[_Attempt] = set()
        self._threads = _Threads(f"run {context.run_id[:8]}")
        # SimpleQueue: what a signal's handler puts there wakes the loop, wherever it is.
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
        # Signals are the main thread's: what it has received is not for a run in another one.
        return in_main_thread() and self._active.check_for_interrupts()

    def _woken_by_stop(self) -> AbstractContextManager[None]:
        """Wake the loop when somebody asks the run, which is in somebody's process, to stop."""
        if self._stop is None:
            return nullcontext()
        return self._stop.reachable(self._wake)

    def _wake(self) -> None:
        self._news.put(None)

    def _ready(self) -> list[ExecutionStep]:
        """Return the steps that may begin now; they count as begun."""
        free = self._limit - len(self._running)
        return list(self._active.get_steps_to_execute(limit=free)) if free > 0 else []

    def _is_alone(self, steps: list[ExecutionStep]) -> bool:
        """Say whether nothing can happen while this runs."""
        if len(steps) != 1 or self._running:
            return False
        if self._limit == 1:
            return True
        hooks = self._context.job_def.get_all_hooks_for_handle(steps[0].node_handle)
        return not hooks and self._active.sleep_interval() == 0

    def _run_here(self, step: ExecutionStep) -> Iterator[DagsterEvent]:
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

    def _start(self, step: ExecutionStep) -> None:
        attempt = _Attempt(step, self._known_state())
        self._running.add(attempt)
        work = carried(partial(self._work, attempt))
        self._threads.start(work, busy=len(self._running))

    def _known_state(self) -> KnownExecutionState:
        known = self._active.get_known_state()
        # A copy: the loop goes on changing Dagster's set.
        return known._replace(ready_outputs=set(known.ready_outputs))

    def _work(self, attempt: _Attempt) -> None:
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
                # A process says itself where it may be stopped; of another op nothing is known.
                ours = run_tags.PROCESS in attempt.step.tags
                with nullcontext() if ours else stoppable():
                    for event in _step_events(context):
                        if _settles(event) and not hooks:
                            last = event  # told with the end: then what is next may run in the loop
                        else:
                            self._news.put(_News(attempt, event))
        except BaseException as raised:  # noqa: BLE001  # raised again by the loop
            error = raised
        self._news.put(_News(attempt, last, ended=True, error=error))

    def _wait(self) -> Iterator[DagsterEvent]:
        """Wait until a step has come to an end, one may begin, or a signal was received."""
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
        """Return how long nothing can begin unless something ends; ``None``: for ever."""
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
        deadline = time.monotonic() + PATIENCE_SECONDS
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
                break  # whoever asks a second time does not want to wait
        for attempt in self._running:
            self._fail(
                attempt,
                f"It did not stop within {PATIENCE_SECONDS:g} seconds after its run was "
                "interrupted, and was abandoned; what it is doing can't be stopped.",
            )

    def _fail(self, attempt: _Attempt, message: str) -> None:
        error = SerializableErrorInfo(message, [], DagsterExecutionInterruptedError.__name__)
        data = StepFailureData(error, None, error_source=ErrorSource.INTERRUPT)
        try:
            context = self._context.for_step(attempt.step)
            self._active.handle_event(DagsterEvent.step_failure_event(context, data))
        except Exception:  # the run ends for another reason, which must not be hidden
            logger.exception("That step %s was stopped can't be recorded.", attempt.step.key)


class _Threads:
    """Threads that are kept while a run lasts.

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


class _Pools(InstanceConcurrencyContext):
    """Dagster's claims on pools, which know when they are to be looked at again.

    Dagster's own answer "now" to that, always, and look at a slot that the run itself has freed
    only a second later and more.
    """

    def __init__(self, instance: DagsterInstance, run: DagsterRun) -> None:
        super().__init__(instance, run)
        self._held: set[str] = set()
        """Steps that have ended, but not what was abandoned of them."""

    def interval_to_next_pending_claim_check(self) -> float:
        """Return the seconds until the next look; those that are due were just looked at."""
        now = time.time()
        ahead = [at - now for at in self._pending_timeouts.values() if at > now]
        return min(ahead, default=LOOK_AGAIN_SECONDS)

    def has_pending_claims(self) -> bool:
        """Free the slots of what has ended meanwhile, and return whether any step waits."""
        for step_key in sorted(self._held - self._still_working()):
            self.free_step(step_key)
        return super().has_pending_claims()

    def __exit__(self, *args: Any) -> None:
        """Free every slot: the run has ended, whatever still works."""
        for step_key in sorted(self._held):
            super().free_step(step_key)
        super().__exit__(*args)

    def _still_working(self) -> set[str]:
        return {dagster_name(name) for name in timeouts.still_working(self._run_id)}

    def free_step(self, step_key: str) -> None:
        """Free a step's slot, and let the others look at once.

        Not while a call that was abandoned after its timeout still works: it uses what the pool
        limits.
        """
        if step_key in self._still_working():
            self._held.add(step_key)
            return
        self._held.discard(step_key)
        freed = step_key in self._claims
        super().free_step(step_key)
        if freed:
            for waiting in self._pending_timeouts:
                self._pending_timeouts[waiting] = 0.0


def _step_events(context: StepExecutionContext) -> Iterator[DagsterEvent]:
    """Run a step and its hooks."""
    seen = []
    for event in dagster_event_sequence_for_step(context):
        seen.append(event)
        yield event
    yield from _trigger_hook(context, seen)


def _settles(event: DagsterEvent) -> bool:
    """Say whether an event tells what a step has come to."""
    return event.is_step_success or event.is_step_failure or event.is_step_up_for_retry


def _was_interrupted(event: DagsterEvent) -> bool:
    """Say whether a step is to be retried because it was interrupted: Dagster would go on."""
    if not event.is_step_up_for_retry:
        return False
    cause = event.step_retry_data.error.cause if event.step_retry_data.error else None
    return cause is not None and cause.cls_name in _INTERRUPTS


def _keep_to_own_logs(context: StepExecutionContext, attempt: _Attempt) -> None:
    """Let the step keep only what it has logged itself: others log in the same process.

    What is logged by a thread that a step has started is nobody's: whoever comes first keeps it.
    """

    def is_own(takes: Callable[[logging.LogRecord], bool], record: logging.LogRecord) -> bool:
        return _attempt.get() in (attempt, None) and takes(record)

    for handler in context.log.handlers:
        # Not addFilter: Dagster's handlers have a filter() of their own, which asks no others.
        handler.filter = partial(is_own, handler.filter)  # type: ignore[method-assign]


@contextmanager
def _woken_by_signals(news: "queue.SimpleQueue[_News | None]") -> Iterator[None]:
    """Put ``None`` there when a signal comes: Dagster's handlers only take note of it."""
    if not in_main_thread():
        yield  # signals are the main thread's
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


def _capture_output(
    context: PlanExecutionContext, plan: ExecutionPlan, capture: ExitStack
) -> Iterator[DagsterEvent]:
    """Capture what the process prints, for all steps together: they share the file descriptors."""
    manager = context.instance.compute_log_manager
    keys = [step.key for step in plan.get_steps_to_execute_in_topo_order()]
    log_key = manager.build_log_key_for_run(context.run_id, create_compute_log_file_key())
    try:
        log_context = capture.enter_context(manager.capture_logs(log_key))
        yield DagsterEvent.capture_logs(context, keys, log_key, log_context)
    except Exception:  # noqa: BLE001  # told in the run, which can do without
        yield _problem(context, "Exception while setting up compute log capture")


def _problem(context: PlanExecutionContext, message: str) -> DagsterEvent:
    """Tell in the run what is being handled."""
    error = serializable_error_info_from_exc_info(sys.exc_info())
    return DagsterEvent.engine_event(context, message, EngineEventData(error=error))
