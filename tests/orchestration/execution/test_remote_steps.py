"""Steps outside of the run's own process: taken once, and lost only if no answer can come."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from django.utils import timezone

from proctree_dagster import conf
from proctree_dagster.models import StepWorker
from proctree_dagster.orchestration import executors
from proctree_dagster.orchestration.execution import remote_steps
from proctree_dagster.orchestration.launching.workers import Worker
from proctree_dagster.process.cancellation import Stop
from proctree_dagster.services import step_workers
from tests.orchestration.test_executors import configured_here

RUN = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


class Clock:
    """Stands for the module ``time``."""

    def __init__(self, now: list[float]) -> None:
        self.monotonic = lambda: now[0]


class Ask(BaseException):
    """What a watch raises."""


def worker(host: str = "elsewhere", pid: int = 1) -> str:
    return Worker(RUN, host, pid, "0").as_text()


def dead() -> str:
    """Return a process of this host that has ended."""
    return replace(Worker.of_process(RUN, os.getpid()), pid=2**22 + 1).as_text()


def taken(step_key: str = "a", attempt: int = 0, by: str | None = None) -> StepWorker:
    row = step_workers.take(RUN, step_key, attempt, by or worker())
    assert row is not None
    return row


@pytest.fixture
def watch(instance: DagsterInstance) -> remote_steps._RunWatch:
    return remote_steps._RunWatch(instance, RUN, Stop(Ask), {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("proctree_dagster.orchestration.execution.remote_steps.time", Clock(now))
    return now


def problem(watch: remote_steps._RunWatch) -> str | None:
    return watch._problem(step_workers.of_run(RUN))


@pytest.mark.django_db
def test_a_step_is_taken_once_and_each_retry_once() -> None:
    row = taken()
    assert step_workers.take(RUN, "a", 0, worker(pid=2)) is None
    step_workers.end(row)
    assert step_workers.take(RUN, "a", 0, worker(pid=2)) is None
    assert step_workers.take(RUN, "a", 1, worker(pid=2)) is not None
    assert step_workers.take(RUN, "b", 0, worker(pid=2)) is not None


@pytest.mark.django_db
def test_a_run_that_has_ended_is_forgotten_and_so_is_what_nobody_forgot() -> None:
    taken("a")
    other = step_workers.take("another run", "a", 0, worker())
    old = step_workers.take("an old run", "a", 0, worker())
    assert other is not None
    assert old is not None
    StepWorker.objects.filter(pk=old.pk).update(
        started_at=timezone.now() - 2 * step_workers.RETENTION
    )
    step_workers.forget(RUN)
    assert list(StepWorker.objects.all()) == [other]


@pytest.mark.django_db
def test_a_step_that_gives_signs_of_life_is_never_lost(
    watch: remote_steps._RunWatch, clock: list[float]
) -> None:
    row = taken()
    for _ in range(100):
        assert problem(watch) is None
        clock[0] += conf.current().LOST_AFTER - 1
        step_workers.beat(row)


@pytest.mark.django_db
def test_one_that_is_silent_is_lost_on_whatever_machine(
    watch: remote_steps._RunWatch, clock: list[float]
) -> None:
    taken()
    assert problem(watch) is None
    clock[0] += conf.current().LOST_AFTER
    assert problem(watch) == (
        "Step 'a' is lost: process 1 on 'elsewhere' has given no sign of life for 60 seconds."
    )


@pytest.mark.django_db
def test_one_whose_process_is_gone_is_lost_sooner_but_not_before_the_executor_may_notice(
    watch: remote_steps._RunWatch, clock: list[float]
) -> None:
    taken(by=dead())
    assert problem(watch) is None
    clock[0] += remote_steps.GONE_SECONDS - 1
    assert problem(watch) is None
    clock[0] += 1
    assert "has ended, and no answer came" in str(problem(watch))


@pytest.mark.django_db
def test_one_that_has_ended_and_whose_answer_is_lost_is_lost_too(
    watch: remote_steps._RunWatch, clock: list[float]
) -> None:
    step_workers.end(taken())
    assert problem(watch) is None
    clock[0] += conf.current().LOST_AFTER
    assert "has ended the step, and no answer came" in str(problem(watch))


@pytest.mark.django_db
def test_what_has_answered_is_not_waited_for_but_its_retry_is(
    watch: remote_steps._RunWatch, clock: list[float]
) -> None:
    step_workers.end(taken())
    watch.see(retry_asked("a"))
    watch.see(retry_asked("b"))
    assert problem(watch) is None
    clock[0] += 2 * conf.current().LOST_AFTER
    assert problem(watch) is None
    taken(attempt=1, by=dead())
    assert problem(watch) is None
    clock[0] += remote_steps.GONE_SECONDS
    assert "Step 'a' is lost" in str(problem(watch))


@pytest.mark.django_db
def test_a_try_that_failed_before_it_was_taken_hides_no_loss_of_the_next_one(
    watch: remote_steps._RunWatch, clock: list[float]
) -> None:
    watch.see(retry_asked("a"))  # its input could not be loaded, so it has no row
    taken(attempt=1, by=dead())
    assert problem(watch) is None
    clock[0] += remote_steps.GONE_SECONDS
    assert "Step 'a' is lost" in str(problem(watch))


@pytest.mark.django_db
def test_of_a_resumed_run_the_tries_before_have_answered(
    instance: DagsterInstance, clock: list[float]
) -> None:
    watch = remote_steps._RunWatch(instance, RUN, Stop(Ask), {"a": 1})
    taken(by=dead())
    step_workers.end(taken(attempt=1))
    watch.see(retry_asked("a"))
    assert problem(watch) is None
    clock[0] += 2 * conf.current().LOST_AFTER
    assert problem(watch) is None


class Other:
    """Stands for the module ``time``: the process that has taken the step does something."""

    def __init__(self, *deeds: Callable[[], object]) -> None:
        self.now, self.deeds = 0.0, list(deeds)
        self.monotonic = lambda: self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.deeds:
            self.deeds.pop(0)()


@pytest.mark.django_db
@pytest.mark.parametrize("how", ["it ends", "it dies", "its run ends", "nobody knows it"])
def test_a_second_delivery_answers_only_after_the_first(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    row, has_ended = taken(), list[bool]()
    monkeypatch.setattr(remote_steps, "_has_ended", lambda *_: bool(has_ended))
    deeds: dict[str, Callable[[], object]] = {
        "it ends": lambda: step_workers.end(row),
        "it dies": lambda: StepWorker.objects.update(worker=dead()),
        "its run ends": lambda: has_ended.append(True),
        "nobody knows it": lambda: step_workers.forget(RUN),
    }
    nothing = [lambda: None] * 99
    other = Other(*nothing, deeds[how])
    monkeypatch.setattr(remote_steps, "time", other)
    context: Any = SimpleNamespace(instance=instance, run_id=RUN, retry_number=0)
    remote_steps._wait_for_other(context, "a")
    grace = 0 if how == "its run ends" else remote_steps.ANSWER_SECONDS
    assert other.now == 100 * remote_steps.POLL_SECONDS + grace


def retry_asked(step_key: str) -> DagsterEvent:
    return DagsterEvent(DagsterEventType.STEP_UP_FOR_RETRY.value, "job", step_key=step_key)


@pytest.mark.parametrize(
    ("executor", "here"),
    [
        (dg.in_process_executor, True),
        (dg.multiprocess_executor, True),
        (configured_here, True),
        (executors.threads_executor, True),
        (executors.threads_executor.configured({"max_concurrent": 2}), True),
        (dg.ExecutorDefinition("other", executor_creation_fn=retry_asked), False),  # type: ignore[arg-type]
    ],
)
def test_steps_are_watched_where_they_may_leave_the_runs_process(
    executor: dg.ExecutorDefinition, here: bool
) -> None:
    assert remote_steps.stay_here(executor) is here


def test_a_process_that_the_runs_own_has_started_knows_it() -> None:
    code = "import os; print(os.environ.get('PROCTREE_RUN_ID'))"
    before = os.environ.get("PROCTREE_RUN_ID")
    with remote_steps.own_process(RUN):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == RUN
    assert os.environ.get("PROCTREE_RUN_ID") == before


def job_in(folder: Path, name: str) -> ReconstructableJob:
    pointer = ModuleCodePointer(name, "process_trees", str(folder))
    return ReconstructableJob(ReconstructableRepository(pointer), "tree")


def release(folder: Path) -> Path:
    (folder / "deployed").mkdir(parents=True)
    (folder / "deployed" / "__init__.py").write_text(
        "from proctree_dagster.orchestration.execution.remote_steps import note_release\n"
        "note_release()\n"
    )
    return folder


@pytest.fixture
def current(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the link that leads to the release that is deployed: one that is imported here."""
    settings.PROCTREE = {"DEFINITIONS": "deployed"}
    link = tmp_path / "current"
    link.symlink_to(release(tmp_path / "a"))
    monkeypatch.syspath_prepend(str(link))
    importlib.import_module("deployed")
    yield link
    del sys.modules["deployed"]


def test_a_worker_executes_the_release_that_it_has_imported_and_no_other(
    current: Path, tmp_path: Path
) -> None:
    assert remote_steps._other_release(job_in(current, "deployed")) is None
    assert remote_steps._other_release(job_in(tmp_path / "a", "deployed")) is None
    problem = remote_steps._other_release(job_in(release(tmp_path / "b"), "deployed"))
    assert str(tmp_path / "a") in str(problem)
    assert str(tmp_path / "b") in str(problem)


def test_a_link_that_was_switched_since_leads_to_another_release(
    current: Path, tmp_path: Path
) -> None:
    current.unlink()
    current.symlink_to(release(tmp_path / "b"))
    problem = remote_steps._other_release(job_in(current, "deployed"))
    assert "restart the workers" in str(problem)


def test_of_a_folder_that_is_another_machines_nothing_is_known(
    current: Path, tmp_path: Path
) -> None:
    assert remote_steps._other_release(job_in(tmp_path / "gone", "deployed")) is None
    assert remote_steps._other_release(job_in(current, "another")) is None
