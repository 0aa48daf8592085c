"""Running trees from Python: the results, and what Dagster's history says of the run."""

import datetime as dt
import logging
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus
from django.db import transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from proctree_dagster import context as contexts
from proctree_dagster.domain import run_tags
from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.exceptions import ContextError, InstanceError, InvalidTree, TreeNotFound
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.execution import tree_run
from proctree_dagster.orchestration.execution.tree_run import Local
from proctree_dagster.orchestration.runs import create, family_runs, local_runs
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.process.run import Outcome, Process, run_process
from proctree_dagster.running import tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.app.models import Organisation
from tests.tools.code_files import code_of

pytestmark = pytest.mark.django_db

CODE = code_of(__file__)

SKIPPED = Outcome("skipped", error="Dependency failed: far")


def save(name: str = "sum", **process_functions: Any) -> ProcessTreeInstance:
    """Save a chain of processes, each behind the one before."""
    tree = ProcessTreeInstance(name, overwrite=True)
    before: list[str] = []
    for process, func in process_functions.items():
        tree.add_process(process, func=func, dependencies=before)
        before = [process]
    tree.save()
    return tree


class TestResults:
    def test_results_are_passed_on_by_name_and_returned_by_name(
        self, instance: DagsterInstance
    ) -> None:
        (
            ProcessTreeInstance("sum")
            .add_process("one", func=processes.one)
            .add_process("two", func=processes.two)
            .add_process("total", func=processes.add, dependencies=["one", "two"])
            .save()
        )
        results = ProcessTreeManager.execute_tree("sum", context={"more": 10})
        times = results["execution_times"]
        assert {**results, "run_id": "", "execution_times": {}} == {
            "success": True,
            "results": {"one": 1, "two": 2, "total": 13},
            "status": {"one": "completed", "two": "completed", "total": "completed"},
            "errors": {},
            "reasons": {},
            "execution_times": {},
            "cached": {"one": False, "two": False, "total": False},
            "response_variables": {},
            "run_id": "",
        }
        assert set(times) == {"one", "two", "total"}
        assert all(seconds >= 0 for seconds in times.values())

    def test_names_that_dagster_refuses_reach_the_function_as_written(
        self, instance: DagsterInstance
    ) -> None:
        names = ["context", "class", "naïve step!", "type"]
        tree = ProcessTreeInstance('a "tree"\nwith {braces} %s')
        for name in names:
            tree.add_process(name, func=processes.one)
        tree.add_process("all", func=processes.echo, dependencies=names)
        tree.save()
        results = ProcessTreeManager.execute_tree(tree.name)
        assert results["results"]["all"] == dict.fromkeys(names, 1)

    def test_none_and_zero_are_results_and_are_passed_on(self, instance: DagsterInstance) -> None:
        (
            ProcessTreeInstance("falsy")
            .add_process("nothing", func=processes.nothing)
            .add_process("zero", func=processes.zero)
            .add_process("seen", func=processes.echo, dependencies=["nothing", "zero"])
            .save()
        )
        results = ProcessTreeManager.execute_tree("falsy")
        assert results["results"]["seen"] == {"nothing": None, "zero": 0}

    def test_a_result_wins_over_a_context_key_of_the_same_name(
        self, instance: DagsterInstance
    ) -> None:
        save(one=processes.one, seen=processes.echo)
        results = ProcessTreeManager.execute_tree("sum", context={"one": "context", "x": 2})
        assert results["results"]["seen"] == {"one": 1, "x": 2}

    def test_an_async_function_and_methods_work(self, instance: DagsterInstance) -> None:
        save(
            asynchronous=processes.asynchronous,
            static=processes.Methods.static,
            of_class=processes.Methods.of_class,
        )
        results = ProcessTreeManager.execute_tree("sum", context={"argument": "x"})
        assert results["results"] == {"asynchronous": "x", "static": "x", "of_class": "Methods: x"}


class TestContext:
    def test_a_model_instance_is_fetched_again_when_the_run_starts(
        self, instance: DagsterInstance
    ) -> None:
        organisation = Organisation.objects.create(name="before")
        save(seen=processes.echo)
        Organisation.objects.update(name="after")
        results = ProcessTreeManager.execute_tree("sum", context={"organisation": organisation})
        seen = results["results"]["seen"]["organisation"]
        assert seen == organisation
        assert seen.name == "after"

    def test_a_context_updates_the_schedules_default_context(
        self, instance: DagsterInstance
    ) -> None:
        save(seen=processes.echo).register_schedule(context={"a": 1, "b": Decimal("1.50")})
        results = ProcessTreeManager.execute_tree("sum", context={"a": 2})
        assert results["results"]["seen"] == {"a": 2, "b": Decimal("1.50")}
        run = instance.get_run_by_id(results["run_id"])
        assert run is not None
        assert run.run_config == {"context": {"a": 2, "b": {"$decimal": "1.50"}}}

    def test_a_row_that_is_gone_fails_the_run_with_its_reason(
        self, instance: DagsterInstance
    ) -> None:
        organisation = Organisation.objects.create(name="Acme")
        save(first=processes.one, second=processes.add)
        context = {"organisation": {"$model": "app.Organisation", "pk": organisation.pk}}
        organisation.delete()
        results = ProcessTreeManager.execute_tree("sum", context=context)
        assert not results["success"]
        assert results["status"] == {"first": "skipped", "second": "skipped"}
        assert "there is no app.Organisation" in results["errors"]["first"]
        [failure] = instance.all_logs(results["run_id"], of_type=DagsterEventType.RUN_FAILURE)
        assert failure.dagster_event is not None
        error = failure.dagster_event.job_failure_data.error
        assert error is not None
        assert "there is no app.Organisation" in error.message
        run = instance.get_run_by_id(results["run_id"])
        assert run is not None
        assert run.status == DagsterRunStatus.FAILURE

    def test_what_cannot_be_stored_is_refused_before_a_run_is_created(
        self, instance: DagsterInstance
    ) -> None:
        save(first=processes.one)
        with pytest.raises(ContextError, match=r"context\['a'\]\[0\]"):
            ProcessTreeManager.execute_tree("sum", context={"a": [object()]})
        assert instance.get_runs() == []


class TestFailure:
    def test_a_failed_process_is_failed_and_what_is_behind_it_skipped(
        self, instance: DagsterInstance
    ) -> None:
        (
            ProcessTreeInstance("failing")
            .add_process("bad", func=processes.fail)
            .add_process("behind", func=processes.echo, dependencies=["bad"])
            .add_process("far behind", func=processes.echo, dependencies=["behind"])
            .add_process("beside", func=processes.one)
            .save()
        )
        results = ProcessTreeManager.execute_tree("failing")
        assert not results["success"]
        assert results["status"] == {
            "bad": "failed",
            "behind": "skipped",
            "far behind": "skipped",
            "beside": "completed",
        }
        assert results["errors"] == {
            "bad": "ValueError: this process always fails",
            "behind": "Dependency failed: bad",
            "far behind": "Dependency failed: bad",
        }
        assert results["results"] == {"beside": 1}
        run = instance.get_run_by_id(results["run_id"])
        assert run is not None
        assert run.status == DagsterRunStatus.FAILURE

    def test_a_missing_argument_names_the_process_the_argument_and_what_was_there(
        self, instance: DagsterInstance
    ) -> None:
        save(needy=processes.needs)
        results = ProcessTreeManager.execute_tree("sum", context={"other": 1})
        assert "Process 'needy'" in results["errors"]["needy"]
        assert "'argument'" in results["errors"]["needy"]
        assert "gave 'other'" in results["errors"]["needy"]

    def test_a_broken_tree_is_a_failed_run_with_its_reason(self, instance: DagsterInstance) -> None:
        save(first=processes.one)
        ProcessTree.objects.update(processes=[{"name": "first", "func": "os:system"}])
        results = ProcessTreeManager.execute_tree("sum")
        assert not results["success"]
        assert "'os:system' is not allowed" in results["errors"]["sum"]
        events = instance.all_logs(results["run_id"], of_type=DagsterEventType.STEP_FAILURE)
        assert len(events) == 1

    def test_an_unknown_tree_raises(self) -> None:
        with pytest.raises(TreeNotFound, match="'nowhere'"):
            ProcessTreeManager.execute_tree("nowhere")

    def test_a_failed_tree_leaves_the_callers_transaction_usable(
        self, instance: DagsterInstance
    ) -> None:
        save(bad=processes.fail)
        with transaction.atomic():
            ProcessTreeManager.execute_tree("sum")
            Organisation.objects.create(name="after")
        assert Organisation.objects.filter(name="after").exists()

    def test_a_context_key_does_not_stand_in_for_a_dependency_that_has_no_result(
        self,
    ) -> None:
        seen = Process(ProcessSpec("seen", "tests.app.processes:echo"), processes.echo)
        context = {"before": "from the context", "x": 1}
        outcome = run_process(seen, context, {"before": SKIPPED})
        assert outcome.result == {"x": 1}


def test_a_run_inside_a_transaction_on_a_file_leaves_the_transaction_alone(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    """In memory ``close()`` does nothing, so this needs a file."""
    program = (CODE / "run_in_transaction.py").read_text()
    database = tmp_path / "db.sqlite3"
    done = subprocess.run(
        [sys.executable, "-c", program, str(database), instance.root_directory],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "{'count': 1} 2", done.stderr


class TestHistory:
    def test_a_run_is_recorded_so_that_the_ui_can_execute_it_again(
        self, instance: DagsterInstance
    ) -> None:
        save(first=processes.one)
        run = instance.get_run_by_id(ProcessTreeManager.execute_tree("sum")["run_id"])
        assert run is not None
        assert run.tags[run_tags.TREE] == "sum"
        assert run.tags[run_tags.TRIGGERED_BY] == "python"
        assert run.tags[run_tags.REVISION] == ProcessTree.objects.get().revision
        assert run.step_keys_to_execute is None
        assert run.execution_plan_snapshot_id is not None
        origin = run.remote_job_origin
        assert origin is not None
        assert origin.location_name == "proctree"
        assert origin.repository_origin.repository_name == "process_trees"
        code = run.job_code_origin
        assert code is not None
        assert code.repository_origin.entry_point is not None
        assert list(code.repository_origin.entry_point[1:]) == ["-m", "dagster"]

    def test_a_run_with_functions_of_this_process_is_recorded_as_one(
        self, instance: DagsterInstance
    ) -> None:
        save(first=processes.one)
        results = ProcessTreeManager.execute_tree("sum", func_registry={"first": lambda: "mine"})
        assert results["results"] == {"first": "mine"}
        run = instance.get_run_by_id(results["run_id"])
        assert run is not None
        assert run.tags[run_tags.IN_MEMORY] == "true"
        assert run.remote_job_origin is None

    def test_a_tree_that_is_not_saved_runs_as_it_is_here(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("unsaved").add_process("secret", func=lambda: 42)
        results = tree.execute()
        assert results["results"] == {"secret": 42}
        assert not ProcessTree.objects.exists()
        assert instance.get_run_by_id(results["run_id"]) is not None

    def test_a_saved_tree_runs_as_it_was_saved(self, instance: DagsterInstance) -> None:
        run_id = save(first=processes.one).execute()["run_id"]
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run_tags.IN_MEMORY not in run.tags

    @pytest.mark.usefixtures("real_dagster")
    def test_without_a_home_the_history_is_not_kept_and_the_log_says_so(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(first=processes.one)
        with caplog.at_level(logging.WARNING):
            assert ProcessTreeManager.execute_tree("sum")["success"]
        assert "history is not kept" in caplog.text

    @pytest.mark.usefixtures("real_dagster")
    def test_a_home_that_is_no_folder_is_an_error(self, settings: Any) -> None:
        settings.PROCTREE = {"DAGSTER_HOME": "/nowhere/at/all"}
        save(first=processes.one)
        with pytest.raises(InstanceError, match="'/nowhere/at/all' is not a folder"):
            ProcessTreeManager.execute_tree("sum")

    def test_progress_is_told_as_processes_start_and_finish(
        self, instance: DagsterInstance
    ) -> None:
        save(first=processes.one, bad=processes.fail)
        told: list[tuple[str, str]] = []
        tree_runs.execute_row(
            tree_runs.get_row("sum"), on_progress=lambda name, status: told.append((name, status))
        )
        assert told == [
            ("first", "running"),
            ("first", "completed"),
            ("bad", "running"),
            ("bad", "failed"),
        ]


class TestAChangedTree:
    def launched_before(
        self, instance: DagsterInstance, steps: list[str] | None, **parents: str
    ) -> str:
        """Create a run of the tree as it is, then add a process to the tree."""
        tree = save(first=processes.one)
        job = translator().job(from_row(tree_runs.get_row("sum")))
        run = create.create_run(instance, job, {}, {})
        late = run._replace(step_keys_to_execute=steps, **parents)
        instance.delete_run(run.run_id)
        instance.add_run(late)
        tree.add_process("added", func=processes.two).save()
        return run.run_id

    def execute(self, instance: DagsterInstance, run_id: str) -> None:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        local = Local(collect=lambda name, outcome: None)
        job = translator().job(from_row(tree_runs.get_row("sum")), local=local)
        local_runs.execute_here(instance, job, run)

    @pytest.mark.parametrize("steps", [None, ["first"]])
    def test_a_run_executes_the_tree_as_it_is_when_it_starts_and_says_so(
        self, instance: DagsterInstance, steps: list[str] | None
    ) -> None:
        run_id = self.launched_before(instance, steps)
        self.execute(instance, run_id)
        assert succeeded(instance, run_id) == {"first", "added"}
        warnings = [
            record.user_message
            for record in instance.all_logs(run_id)
            if record.level == logging.WARNING
        ]
        assert len(warnings) == 1
        assert "The tree has changed since this run was requested" in warnings[0]
        assert ProcessTree.objects.get().revision in warnings[0]

    def test_a_re_execution_keeps_to_its_steps(self, instance: DagsterInstance) -> None:
        save(first=processes.one)
        parent_id = ProcessTreeManager.execute_tree("sum")["run_id"]
        run_id = self.launched_before(
            instance, ["first"], parent_run_id=parent_id, root_run_id=parent_id
        )
        self.execute(instance, run_id)
        assert succeeded(instance, run_id) == {"first"}


def succeeded(instance: DagsterInstance, run_id: str) -> set[str | None]:
    events = instance.all_logs(run_id, of_type=DagsterEventType.STEP_SUCCESS)
    return {event.step_key for event in events}


class TestSubmitting:
    def test_a_submitted_run_is_queued_and_its_page_is_known(
        self, instance: DagsterInstance, settings: Any
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": "http://dagster.example/"}
        save(first=processes.one)
        run_id, url = ProcessTreeManager.submit_tree("sum", context={"a": 1})
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status == DagsterRunStatus.QUEUED
        assert run.run_config == {"context": {"a": 1}}
        assert url == f"http://dagster.example/runs/{run_id}"

    @pytest.mark.parametrize("commits", [True, False])
    def test_inside_a_transaction_it_is_queued_after_the_commit_and_not_after_a_rollback(
        self,
        instance: DagsterInstance,
        commits: bool,
        django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    ) -> None:
        save(first=processes.one)
        with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
            run_id, _ = ProcessTreeManager.submit_tree("sum")
            assert instance.get_runs() == []
            transaction.set_rollback(not commits)
        assert [run.run_id for run in instance.get_runs()] == ([run_id] if commits else [])

    @pytest.mark.usefixtures("real_dagster")
    def test_without_a_home_it_refuses(self) -> None:
        save(first=processes.one)
        with pytest.raises(InstanceError, match="Dagster has no home"):
            ProcessTreeManager.submit_tree("sum")

    def test_a_broken_tree_is_refused(self, instance: DagsterInstance) -> None:
        save(first=processes.one)
        ProcessTree.objects.update(processes=[])
        with pytest.raises(InvalidTree, match="no processes"):
            ProcessTreeManager.submit_tree("sum")
        assert instance.get_runs() == []

    def test_an_instance_without_a_queue_is_refused(
        self, instance: DagsterInstance, dagster_home: Any
    ) -> None:
        (dagster_home / "dagster.yaml").write_text(
            "run_coordinator:\n"
            "  module: dagster._core.run_coordinator\n"
            "  class: DefaultRunCoordinator\n"
        )
        save(first=processes.one)
        with pytest.raises(InstanceError, match="no run queue"):
            ProcessTreeManager.submit_tree("sum")


@pytest.mark.django_db(transaction=True)
def test_a_context_is_decoded_once_as_the_run_begins_and_once_for_each_process(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each process anew: one before it may have changed the row, and what it changes is its."""
    decoded: list[Mapping[str, Any]] = []

    def counting(stored: Mapping[str, Any]) -> dict[str, Any]:
        decoded.append(stored)
        return contexts.decode(stored)

    monkeypatch.setattr(tree_run, "contexts", SimpleNamespace(decode=counting))
    ProcessTreeInstance("two").add_process("one", func=processes.one).add_process(
        "echo", func=processes.echo, dependencies=["one"]
    ).save()
    assert ProcessTreeManager.execute_tree("two", {"day": dt.date(2026, 3, 31)})["success"]
    assert decoded == [{"day": {"$date": "2026-03-31"}}] * 3
    assert tree_run._begun == {}


@pytest.mark.django_db(transaction=True)
def test_no_context_is_kept_of_a_run_that_fails_before_its_first_process(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError("the database is away")

    monkeypatch.setattr(family_runs, "begin", fail)
    ProcessTreeInstance("one").add_process("one", func=processes.one).save()
    assert not ProcessTreeManager.execute_tree("one", {"year": 2026})["success"]
    assert tree_run._begun == {}
