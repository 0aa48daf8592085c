"""The threads executor: what is its own, and what it does as Dagster's executors do."""

import contextlib
import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.definitions.job_base import IJob, InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.execution.plan import execute_plan, instance_concurrency_context
from django.db import connection

from proctree_dagster.orchestration.execution import thread_loop
from proctree_dagster.orchestration.executors import threads_executor
from tests.app.models import Organisation
from tests.orchestration.execution.everything import (
    everything,
    fired,
    in_process,
    in_processes,
    something,
)

SECONDS = 60.0
"""How long a step waits for what must come: then its test fails, instead of hanging."""


class Ran:
    """A run that has ended, and what was recorded of it."""

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        self.run_id = run_id
        self.status = run.status
        self.log = [
            entry.get_dagster_event()
            for entry in instance.all_logs(run_id)
            if entry.is_dagster_event
        ]
        self.messages = [entry.user_message for entry in instance.all_logs(run_id)]

    def steps(self, *kinds: DagsterEventType) -> list[str | None]:
        """Return the steps of the events of some types, in their order."""
        return [event.step_key for event in self.log if event.event_type in kinds]

    def by_step(self) -> dict[str, list[str]]:
        """Return the types of the events of each step, in their order."""
        found: dict[str, list[str]] = {}
        for event in self.log:
            # Whether a step has a process of its own is what executors may differ in.
            # A hook of a try and the next try are not one after the other.
            own_process = ("STEP_WORKER", "RESOURCE_INIT", "HOOK_SKIPPED")
            if event.step_key is not None and not event.event_type_value.startswith(own_process):
                found.setdefault(event.step_key, []).append(event.event_type_value)
        return found

    def failure(self, step: str) -> str:
        """Return why a step has failed."""
        [event] = [each for each in self.log if each.is_step_failure and each.step_key == step]
        error = event.step_failure_data.error
        assert error is not None
        return error.message


def run(
    instance: DagsterInstance, job: dg.JobDefinition | IJob, config: dict[str, Any] | None = None
) -> Ran:
    """Execute a job as a run worker does."""
    executable = InMemoryJob(job) if isinstance(job, dg.JobDefinition) else job
    run_config = {"execution": {"config": config}} if config else None
    created = instance.create_run_for_job(executable.get_definition(), run_config=run_config)
    list(execute_run_iterator(executable, created, instance))
    return Ran(instance, created.run_id)


def op(
    name: str,
    body: Callable[[], Any],
    behind: Sequence[str] = (),
    **options: Any,
) -> tuple[dg.OpDefinition, Sequence[str]]:
    """Return an op that calls ``body``, and the ops that it waits for."""

    def compute(context: dg.OpExecutionContext, inputs: Any) -> Iterator[dg.Output[Any]]:
        yield dg.Output(body())

    ins = {each: dg.In(dg.Nothing) for each in behind}
    return dg.OpDefinition(compute, name, ins=ins, outs={"result": dg.Out()}, **options), behind


def job(
    *ops: tuple[dg.OpDefinition, Sequence[str]],
    executor: dg.ExecutorDefinition = threads_executor,
    hooks: Any = None,
) -> dg.JobDefinition:
    return dg.GraphDefinition(
        name="job",
        node_defs=[definition for definition, _ in ops],
        dependencies={
            definition.name: {each: dg.DependencyDefinition(each) for each in behind}
            for definition, behind in ops
        },
    ).to_job(executor_def=executor, hooks=hooks)


def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def memory() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


class Meeting:
    """Steps that wait for each other: they meet only if all of them run at once."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)

    def __call__(self) -> None:
        self._barrier.wait(SECONDS)


class Signal:
    """A step that waits for another."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def wait(self) -> None:
        assert self.event.wait(SECONDS)

    def send(self) -> None:
        self.event.set()


# --- As Dagster's own -----------------------------------------------------------------------------


def in_threads() -> dg.JobDefinition:
    return everything.to_job("everything", executor_def=threads_executor)


@pytest.fixture
def narrow(disk: DagsterInstance) -> DagsterInstance:
    disk.event_log_storage.set_concurrency_slots("narrow", 1)
    return disk


def failures(ran: Ran) -> dict[str, str]:
    """Return why each step has failed: the innermost reason."""
    found = {}
    for event in ran.log:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            found[str(event.step_key)] = error.message if error else ""
    return found


@pytest.mark.timeout(120)
def test_one_of_everything_comes_to_the_same_as_in_process(narrow: DagsterInstance) -> None:
    fired.clear()
    expected = run(narrow, in_process())
    expected_hooks = sorted(fired)
    fired.clear()
    ran = run(narrow, in_threads())
    assert ran.by_step() == expected.by_step()
    assert ran.by_step()["flaky"].count("STEP_UP_FOR_RETRY") == 2
    assert ran.by_step()["flaky"].count("STEP_RESTARTED") == 2
    assert ran.by_step()["skipped_too"] == ["STEP_SKIPPED"]
    assert "abandoned" not in ran.by_step()
    assert failures(ran) == failures(expected)
    assert set(failures(ran)) == {"hopeless", "exits", "refuses", "pooled_and_fails"}
    assert sorted(fired) == expected_hooks
    assert len(fired) == 3
    assert ran.status == expected.status == DagsterRunStatus.FAILURE
    slots = narrow.event_log_storage.get_concurrency_info("narrow")
    assert (slots.active_slot_count, slots.pending_step_count) == (0, 0)


@pytest.mark.timeout(120)
def test_steps_come_to_the_same_as_in_processes_of_their_own(disk: DagsterInstance) -> None:
    expected = run(disk, dg.reconstructable(in_processes))
    ran = run(disk, something.to_job("something", executor_def=threads_executor))
    assert ran.by_step() == expected.by_step()
    assert failures(ran) == failures(expected)
    assert ran.status == expected.status == DagsterRunStatus.FAILURE


def test_a_run_from_failure_executes_the_same_steps(narrow: DagsterInstance) -> None:
    first = run(narrow, dg.reconstructable(in_threads))
    selected = []
    for again in (in_process, in_threads):
        options = dg.ReexecutionOptions.from_failure(first.run_id, narrow)
        with dg.execute_job(
            dg.reconstructable(again), narrow, reexecution_options=options, raise_on_error=False
        ) as result:
            started = {event.step_key for event in result.get_step_failure_events()}
            selected.append((set(options.step_selection), started))
    assert selected[0] == selected[1]
    assert selected[1][1] == {"hopeless", "exits", "refuses", "pooled_and_fails"}


def test_what_steps_print_is_captured_for_the_whole_process(disk: DagsterInstance) -> None:
    ran = run(disk, in_threads())
    [captured] = [event for event in ran.log if event.event_type == DagsterEventType.LOGS_CAPTURED]
    manager = disk.compute_log_manager
    key = manager.build_log_key_for_run(ran.run_id, captured.logs_captured_data.file_key)
    assert b"whole was here" in (manager.get_log_data(key).stdout or b"")


def test_retries_can_be_switched_off(memory: DagsterInstance) -> None:
    policy = dg.RetryPolicy(max_retries=3)

    def fail() -> None:
        raise ValueError

    made = job(op("a", fail, retry_policy=policy), op("b", fail, retry_policy=policy))
    ran = run(memory, made, {"retries": {"disabled": {}}})
    assert sorted(map(str, ran.steps(DagsterEventType.STEP_FAILURE))) == ["a", "b"]
    assert ran.steps(DagsterEventType.STEP_UP_FOR_RETRY) == []


# --- Side by side ---------------------------------------------------------------------------------


def test_what_does_not_depend_on_each_other_runs_at_once(memory: DagsterInstance) -> None:
    meet = Meeting(4)
    ran = run(memory, job(*[op(f"s{number}", meet) for number in range(4)]))
    assert ran.status == DagsterRunStatus.SUCCESS


def test_no_more_run_at_once_than_the_run_says(memory: DagsterInstance) -> None:
    running, most, lock = 0, 0, threading.Lock()
    meet = Meeting(2)

    def count() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meet()
        with lock:
            running -= 1

    ops = [op(f"s{number}", count) for number in range(6)]
    assert run(memory, job(*ops), {"max_concurrent": 2}).status == DagsterRunStatus.SUCCESS
    assert most == 2


def test_the_settings_say_how_many_if_nobody_else_does(
    memory: DagsterInstance, settings: Any
) -> None:
    settings.PROCTREE = {"MAX_CONCURRENT": 6}
    meet = Meeting(6)
    ran = run(memory, job(*[op(f"s{number}", meet) for number in range(6)]))
    assert ran.status == DagsterRunStatus.SUCCESS


def test_max_concurrent_must_make_sense(memory: DagsterInstance) -> None:
    ran = run(memory, job(op("a", nothing)), {"max_concurrent": -1})
    assert ran.status == DagsterRunStatus.FAILURE
    assert "must be at least 1, not -1" in str(ran.log)


def test_tags_limit_what_runs_at_once(memory: DagsterInstance) -> None:
    lock = threading.Lock()

    def alone() -> None:
        assert lock.acquire(blocking=False)
        time.sleep(0.05)
        lock.release()

    ops = [op(f"s{number}", alone, tags={"db": "slow"}) for number in range(4)]
    limits = [{"key": "db", "limit": 1}]
    ran = run(memory, job(*ops), {"tag_concurrency_limits": limits})
    assert ran.status == DagsterRunStatus.SUCCESS


def test_a_chain_stays_in_the_calling_thread(memory: DagsterInstance) -> None:
    seen: list[int] = []

    def note() -> None:
        seen.append(threading.get_ident())

    ops = [op(f"s{number}", note, [f"s{number - 1}"] if number else []) for number in range(5)]
    assert run(memory, job(*ops)).status == DagsterRunStatus.SUCCESS
    assert seen == [threading.get_ident()] * 5


def test_a_chain_behind_a_fan_out_is_back_in_the_calling_thread(memory: DagsterInstance) -> None:
    seen: dict[str, int] = {}
    meet = Meeting(3)

    def note(name: str) -> Callable[[], None]:
        def work() -> None:
            seen[name] = threading.get_ident()
            if name.startswith("fan"):
                meet()

        return work

    fan = [f"fan{number}" for number in range(3)]
    run(
        memory,
        job(
            op("first", note("first")),
            *[op(name, note(name), ["first"]) for name in fan],
            op("join", note("join"), fan),
            op("last", note("last"), ["join"]),
        ),
    )
    here = threading.get_ident()
    assert {name for name, thread in seen.items() if thread == here} == {"first", "join", "last"}


@pytest.mark.django_db
def test_in_a_transaction_everything_runs_in_the_callers_thread_and_sees_it(
    memory: DagsterInstance,
) -> None:
    Organisation.objects.create(name="not committed")
    seen = []

    def look() -> None:
        seen.append((threading.get_ident(), Organisation.objects.count()))

    assert connection.in_atomic_block
    assert run(memory, job(op("a", look), op("b", look))).status == DagsterRunStatus.SUCCESS
    assert seen == [(threading.get_ident(), 1)] * 2


def test_context_variables_of_the_caller_are_seen(memory: DagsterInstance) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    meet, seen = Meeting(2), []

    def look() -> None:
        meet()
        seen.append(variable.get())

    token = variable.set("set by the caller")
    run(memory, job(op("a", look), op("b", look)))
    variable.reset(token)
    assert seen == ["set by the caller"] * 2


def test_asynchronous_ops_run_side_by_side(memory: DagsterInstance) -> None:
    meet = Meeting(2)

    def make(name: str) -> dg.OpDefinition:
        @dg.op(name=name)
        async def waits() -> None:
            meet()

        return waits

    @dg.job(executor_def=threads_executor)
    def two() -> None:
        make("a")()
        make("b")()

    assert run(memory, two).status == DagsterRunStatus.SUCCESS


def test_what_a_step_logs_is_kept_as_its_own(memory: DagsterInstance) -> None:
    meet = Meeting(2)

    def log(name: str) -> Callable[[], None]:
        def work() -> None:
            meet()  # both of them listen now
            dg.get_dagster_logger().info("log of %s", name)
            meet()

        return work

    ran = run(memory, job(op("a", log("a")), op("b", log("b"))))
    logged = [
        (entry.step_key, entry.user_message)
        for entry in memory.all_logs(ran.run_id)
        if not entry.is_dagster_event and "log of" in entry.user_message
    ]
    assert sorted(logged) == [("a", "log of a"), ("b", "log of b")]


# --- Nothing is delayed by what takes long --------------------------------------------------------


def test_a_long_step_does_not_delay_anothers_retry(memory: DagsterInstance) -> None:
    retried, tries = Signal(), []

    def fail_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        retried.send()

    policy = dg.RetryPolicy(max_retries=1, delay=0.05)
    ran = run(memory, job(op("long", retried.wait), op("flaky", fail_once, retry_policy=policy)))
    assert ran.status == DagsterRunStatus.SUCCESS


def test_a_long_step_does_not_delay_anothers_place_in_a_pool(narrow: DagsterInstance) -> None:
    done, finished = Signal(), []

    def work() -> None:
        finished.append(1)
        if len(finished) == 3:
            done.send()

    pooled_ops = [op(f"p{number}", work, pool="narrow") for number in range(3)]
    ran = run(narrow, job(op("long", done.wait), *pooled_ops))
    assert ran.status == DagsterRunStatus.SUCCESS


@pytest.mark.timeout(60)
def test_a_place_that_the_run_itself_frees_is_taken_at_once(
    narrow: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dagster's own executors wait that long after a refusal, whoever frees the place meanwhile.
    monkeypatch.setattr(instance_concurrency_context, "INITIAL_INTERVAL_VALUE", 3600)
    monkeypatch.setattr(
        instance_concurrency_context, "MAX_CONCURRENCY_CLAIM_BLOCKED_INTERVAL", 3600
    )
    ops = [op(f"p{number}", nothing, pool="narrow") for number in range(4)]
    assert run(narrow, job(*ops)).status == DagsterRunStatus.SUCCESS


def test_a_slow_hook_delays_nobody(memory: DagsterInstance) -> None:
    behind_ran = Signal()

    @dg.success_hook(name="slow")
    def slow(context: dg.HookContext) -> None:
        if context.op.name == "first":
            behind_ran.wait()

    ran = run(
        memory,
        job(op("first", nothing), op("next", behind_ran.send, ["first"]), hooks={slow}),
    )
    assert ran.status == DagsterRunStatus.SUCCESS
    assert sorted(map(str, ran.steps(DagsterEventType.HOOK_COMPLETED))) == ["first", "next"]


# --- Many -----------------------------------------------------------------------------------------


def test_many_that_raise_at_the_same_moment_all_fail(disk: DagsterInstance) -> None:
    meet = Meeting(16)

    def fail() -> None:
        meet()
        raise ValueError("all at once")

    names = [f"s{number}" for number in range(16)]
    made = job(*[op(name, fail) for name in names], op("behind", nothing, names))
    ran = run(disk, made, {"max_concurrent": 16})
    assert sorted(map(str, ran.steps(DagsterEventType.STEP_FAILURE))) == sorted(names)
    assert "behind" not in ran.by_step()
    assert ran.status == DagsterRunStatus.FAILURE


def test_an_error_of_dagster_itself_stops_the_others_and_fails_the_run(
    memory: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet, stopped = Meeting(2), []
    original = execute_plan.dagster_event_sequence_for_step

    def broken(context: Any) -> Iterator[dg.DagsterEvent]:
        yield from original(context)
        if context.step.key == "broken":
            raise OSError("the disk is full")

    def endless() -> None:
        meet()
        try:
            while True:
                time.sleep(0.01)
        finally:
            stopped.append(1)

    monkeypatch.setattr(thread_loop, "dagster_event_sequence_for_step", broken)
    ran = run(memory, job(op("broken", meet), op("endless", endless)))
    assert ran.status == DagsterRunStatus.FAILURE
    assert stopped == [1]
    assert "the disk is full" in str(ran.log)


# --- Interrupts -----------------------------------------------------------------------------------


class Interrupted:
    """Steps that run until the run is canceled, as the UI does it."""

    def __init__(self, instance: DagsterInstance, parties: int) -> None:
        self._instance = instance
        self._meet = threading.Barrier(parties, action=self._interrupt)
        self.cleaned_up: list[str] = []
        self.is_over = False

    def _interrupt(self) -> None:
        [run] = self._instance.get_runs()
        self._instance.report_run_canceling(run)
        os.kill(os.getpid(), signal.SIGINT)

    def until_stopped(self, name: str) -> Callable[[], None]:
        def work() -> None:
            try:
                self._meet.wait(SECONDS)
                deadline = time.monotonic() + SECONDS
                while not self.is_over and time.monotonic() < deadline:
                    time.sleep(0.01)
            finally:
                self.cleaned_up.append(name)

        return work


def test_an_interrupt_stops_every_step_and_starts_none(disk: DagsterInstance) -> None:
    interrupted = Interrupted(disk, 4)
    policy = dg.RetryPolicy(max_retries=5)
    names = ["a", "b", "c"]
    ran = run(
        disk,
        job(
            *[op(name, interrupted.until_stopped(name)) for name in names],
            op("retried", interrupted.until_stopped("retried"), retry_policy=policy),
            op("behind", nothing, names),
            op("waits", nothing),
        ),
        {"max_concurrent": 4},
    )
    assert ran.status == DagsterRunStatus.CANCELED
    assert sorted(interrupted.cleaned_up) == ["a", "b", "c", "retried"]
    assert sorted(map(str, ran.steps(DagsterEventType.STEP_START))) == ["a", "b", "c", "retried"]
    assert sorted(map(str, ran.steps(DagsterEventType.STEP_FAILURE))) == names
    assert ran.steps(DagsterEventType.STEP_UP_FOR_RETRY) == ["retried"]
    assert ran.steps(DagsterEventType.STEP_RESTARTED) == []


@pytest.mark.parametrize("policy", [None, dg.RetryPolicy(max_retries=5)])
def test_a_step_in_the_calling_thread_is_interrupted_too(
    memory: DagsterInstance, policy: dg.RetryPolicy | None
) -> None:
    interrupted = Interrupted(memory, 1)
    alone = op("alone", interrupted.until_stopped("alone"), retry_policy=policy)
    ran = run(memory, job(alone, op("behind", nothing, ["alone"])))
    assert ran.status == DagsterRunStatus.CANCELED
    assert interrupted.cleaned_up == ["alone"]
    assert ran.steps(DagsterEventType.STEP_START) == ["alone"]


def test_what_can_not_be_stopped_is_abandoned_and_said_to_be(
    memory: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_loop, "GRACE_SECONDS", 0.3)
    interrupted = Interrupted(memory, 2)
    threads = set(threading.enumerate())

    def stubborn() -> None:
        while not interrupted.is_over:
            with contextlib.suppress(BaseException):
                interrupted.until_stopped("stubborn")()

    ran = run(
        memory, job(op("stubborn", stubborn), op("stops", interrupted.until_stopped("stops")))
    )
    # Or it would disturb other tests: its loggers' handlers are still there.
    interrupted.is_over = True
    for thread in set(threading.enumerate()) - threads:
        thread.join(SECONDS)
    assert ran.status == DagsterRunStatus.CANCELED
    assert "stops" in interrupted.cleaned_up
    assert "did not stop within 0.3 seconds" in ran.failure("stubborn")
    assert "can't be stopped" in ran.failure("stubborn")


def test_the_handlers_of_signals_are_as_before(memory: DagsterInstance) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(memory, job(op("a", nothing), op("b", nothing)))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_outside_of_the_main_thread_takes_no_interrupt_that_is_not_its_own(
    memory: DagsterInstance,
) -> None:
    done = []
    thread = threading.Thread(
        target=lambda: done.append(run(memory, job(op("a", Meeting(1)), op("b", nothing))).status)
    )
    thread.start()
    thread.join(SECONDS)
    assert done == [DagsterRunStatus.SUCCESS]
