"""The jobs of runs that a process executes or submits: made once, as long as nothing changes."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, JobDefinition
from pytest_django import Settings

from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration import kept_jobs
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.orchestration.tree_records import TreeRecord, from_row
from proctree_dagster.running import tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = pytest.mark.django_db(transaction=True)


class OfOurOwn(ProcessTreeTranslator):
    """A project's own."""


def save(name: str = "kept", **more: Any) -> ProcessTreeInstance:
    tree = ProcessTreeInstance(name, overwrite=True)
    tree.add_process("one", func=processes.echo, **more)
    tree.save()
    return tree


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trees of which a job was made."""
    kept_jobs._kept.clear()
    found: list[str] = []
    job = ProcessTreeTranslator.job

    def noted(self: ProcessTreeTranslator, tree: TreeRecord, **options: Any) -> JobDefinition:
        found.append(tree.name)
        return job(self, tree, **options)

    monkeypatch.setattr(ProcessTreeTranslator, "job", noted)
    return found


def execute(name: str = "kept", **context: Any) -> Mapping[str, Any]:
    results = ProcessTreeManager.execute_tree(name, context=context)
    assert results["success"], results
    return results


@pytest.mark.usefixtures("dagster_home")
def test_the_runs_of_a_tree_have_the_same_jobs_and_each_its_own_results(made: list[str]) -> None:
    save()
    assert [execute(number=number)["results"]["one"] for number in range(3)] == [
        {"number": number} for number in range(3)
    ]
    assert made == ["kept", "kept"], "the one that is served, and the one that is executed"


def change_content(settings: Settings) -> None:
    save(retries=1)


def change_description(settings: Settings) -> None:
    ProcessTree.objects.update(description="changed")


def change_default_context(settings: Settings) -> None:
    save().register_schedule(interval_minutes=60, context={"more": 1})


def change_settings(settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "MAX_CONCURRENT": 1}


@pytest.mark.usefixtures("dagster_home")
@pytest.mark.parametrize(
    "change", [change_content, change_description, change_default_context, change_settings]
)
def test_they_are_made_again_when_something_has_changed(
    change: Callable[[Settings], None], made: list[str], settings: Settings
) -> None:
    save()
    execute()
    change(settings)
    made.clear()
    execute()
    assert made == ["kept", "kept"]


def test_submitted_runs_are_recorded_of_one_job_and_each_with_its_own_context(
    made: list[str], instance: DagsterInstance
) -> None:
    save()
    ids = [ProcessTreeManager.submit_tree("kept", {"number": n}).run_id for n in range(3)]
    assert made == ["kept"], "nothing is executed here"
    runs = [run for each in ids if (run := instance.get_run_by_id(each)) is not None]
    assert [run.run_config["context"] for run in runs] == [{"number": n} for n in range(3)]
    assert {run.status for run in runs} == {DagsterRunStatus.QUEUED}
    [job] = {run.job_snapshot_id for run in runs}
    assert job is not None
    assert instance.get_job_snapshot(job).name == "kept"
    save(retries=1)
    ProcessTreeManager.submit_tree("kept")
    assert made == ["kept"] * 2, "the tree has changed"


@pytest.mark.usefixtures("dagster_home")
def test_they_are_made_again_when_a_function_is_another_one(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save()
    execute()
    monkeypatch.setattr(processes, "echo", processes.one)
    assert execute()["results"]["one"] == 1


@pytest.mark.usefixtures("dagster_home")
def test_a_projects_own_translator_makes_those_of_each_run(
    made: list[str], settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "TRANSLATOR": f"{__name__}.OfOurOwn"}
    save()
    execute()
    execute()
    assert made == ["kept"] * 4


@pytest.mark.usefixtures("dagster_home")
def test_nothing_is_kept_of_functions_that_only_the_caller_has(made: list[str]) -> None:
    save()
    ProcessTreeManager.execute_tree("kept", func_registry={"one": lambda: 1})
    assert kept_jobs._kept == {}


@pytest.mark.usefixtures("dagster_home")
def test_no_more_are_kept_than_a_few(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_jobs, "MOST_KEPT", 2)
    for name in ("first", "second", "first", "third"):
        save(name)
        execute(name)
    assert list(kept_jobs._kept) == ["first", "third"]


def test_a_run_is_recorded_as_if_its_job_had_been_made_for_it(instance: DagsterInstance) -> None:
    save().add_process("two", func=processes.echo, dependencies=["one"]).save()
    row = ProcessTree.objects.get()
    job = translator().job(from_row(row))
    for context in ({}, {"number": 1}, {"number": [None, {"deep": "text"}]}):
        fresh = create.create_run(instance, translator().job(from_row(row)), context, {})
        kept = create.create_run(instance, job, context, {}, same_plan=True)
        assert kept._replace(run_id="") == fresh._replace(run_id="")
        assert kept.execution_plan_snapshot_id is not None


@pytest.mark.usefixtures("dagster_home")
def test_runs_at_once_have_the_same_jobs_and_each_its_own_options(made: list[str]) -> None:
    save(required=True)
    both = threading.Barrier(2)
    told: dict[str, list[Any]] = {"one": [], "other": []}

    def run(name: str) -> Mapping[str, Any]:
        def note(process: str, status: str) -> None:
            if status == "running":
                both.wait(60)
            told[name].append((process, status))

        row = tree_runs.get_row("kept")
        return tree_runs.execute_row(row, {"who": name}, on_progress=note)

    execute()
    made.clear()
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(told, pool.map(run, told), strict=True))
    assert made == []
    for name, each in results.items():
        assert each["results"]["one"] == {"who": name}
        assert told[name] == [("one", "running"), ("one", "completed")]
