"""The choice of an executor: per deployment, per tree and per run; and runs that stay here."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus, ExecutorDefinition
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.system_config.objects import ResolvedRunConfig
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import ExecutorError, InvalidTree
from proctree_dagster.models import ProcessTree
from proctree_dagster.models.validation import executor_names
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.execution.threads_executor import ThreadsExecutor
from proctree_dagster.orchestration.executors import (
    TreeExecutor,
    configured_executor,
    threads_executor,
)
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.running import tree_runs
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.tools import python_path
from tests.tools.code_files import code_of

pytestmark = pytest.mark.django_db

CODE = code_of(__file__)


def tree(name: str = "tree", overwrite: bool = False) -> ProcessTreeInstance:
    made = ProcessTreeInstance(name, overwrite=overwrite)
    return made.add_process("one", processes.one).add_process("two", processes.two)


def executor_of(row: ProcessTree) -> str:
    executor = translator().job(from_row(row)).executor_def
    assert executor is not None
    return executor.name


# --- The deployment's -----------------------------------------------------------------------------


def test_threads_are_the_default(settings: Any) -> None:
    settings.PROCTREE = {}
    assert executor_of(tree().save()) == "threads"
    assert configured_executor() is threads_executor


def test_the_table_names_what_is_installed_and_says_how_to_install_the_rest() -> None:
    problems = {name: executor_names.problem_of_name(name) for name in executor_names.EXECUTORS}
    present = [name for name, problem in problems.items() if problem is None]
    assert present[:3] == ["threads", "in_process", "multiprocess"]
    assert present[3:] in ([], ["celery"])  # the tests of Celery install it
    assert problems["celery_k8s"] == (
        "the executor 'celery_k8s' is not installed: pip install dagster-celery-k8s"
    )
    assert problems["k8s_job"] is not None
    assert problems["k8s_job"].endswith("pip install dagster-k8s")


configured_here: ExecutorDefinition = dg.multiprocess_executor.configured(
    {"max_concurrent": 7}, name="seven"
)


def test_an_executor_may_be_a_projects_own_and_configured(
    settings: Any, instance: DagsterInstance
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": f"{__name__}.configured_here"}
    assert executor_of(tree().save()) == "seven"
    created = create(ProcessTree.objects.get(), instance)
    assert created._max_concurrent == 7


@pytest.mark.django_db(databases=["default", "north"])  # Django 6 asks each what JSON it can do
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("thread", "'thread' is unknown: choose one of threads, in_process, multiprocess"),
        ("dask", "'dask' is not installed: pip install dagster-dask"),
        ("nowhere.executor", "there is no module 'nowhere'"),
    ],
)
def test_a_wrong_setting_is_an_error_of_the_system_check_and_breaks_the_jobs_one_by_one(
    settings: Any, name: str, complaint: str
) -> None:
    tree("a").save()
    tree("b").set_executor("in_process").save()
    settings.PROCTREE = {"EXECUTOR": name}
    with pytest.raises(SystemCheckError, match="E005"):
        call_command("check")
    with pytest.raises(ImproperlyConfigured) as raised:
        configured_executor()
    assert complaint in str(raised.value)
    broken, whole = LiveRepositoryData(ProcessTreeTranslator()).get_all_jobs()
    assert (broken.name, whole.name) == ("a", "b")
    assert complaint in str(broken.description)
    assert not whole.description


# --- A tree's -------------------------------------------------------------------------------------


def create(
    row: ProcessTree, instance: DagsterInstance, config: dict[str, Any] | None = None
) -> Any:
    """Return the executor that a run of the tree gets, unwrapped."""
    job = translator().job(from_row(row))
    definition = job.executor_def
    assert definition is not None
    assert definition.executor_creation_fn is not None
    resolved = ResolvedRunConfig.build(job, {"execution": config} if config else {})
    context = dg.InitExecutorContext(
        job=InMemoryJob(job),
        executor_def=definition,
        executor_config=resolved.execution.execution_engine_config,
        instance=instance,
    )
    made = definition.executor_creation_fn(context)
    assert isinstance(made, TreeExecutor)
    return made._inner


def test_a_tree_may_name_its_own(settings: Any) -> None:
    settings.PROCTREE = {"EXECUTOR": "in_process"}
    assert executor_of(tree("a").save()) == "in_process"
    assert executor_of(tree("b").set_executor("multiprocess").save()) == "multiprocess"
    assert executor_of(tree("c").set_executor("threads", 2).save()) == "threads"


def test_the_run_says_how_many_run_at_once_or_else_the_tree_or_else_the_settings(
    settings: Any, instance: DagsterInstance
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "MAX_CONCURRENT": 9}
    for name in ("threads", "multiprocess"):
        row = tree(overwrite=True).set_executor(name).save()
        assert create(row, instance)._max_concurrent == 9
        row = tree(overwrite=True).set_executor(name, 3).save()
        assert create(row, instance)._max_concurrent == 3
        said = create(row, instance, {"config": {"max_concurrent": 2}})
        assert said._max_concurrent == 2


def test_processes_are_forked_from_one_that_has_the_trees_unless_the_run_says_otherwise(
    instance: DagsterInstance,
) -> None:
    row = tree().set_executor("multiprocess").save()
    made = create(row, instance)
    assert made._start_method == "forkserver"
    assert made._explicit_forkserver_preload == ["definitions"]
    said = create(row, instance, {"config": {"start_method": {"spawn": {}}}})
    assert said._start_method == "spawn"


def test_a_run_has_nothing_imported_that_is_not_allowed(instance: DagsterInstance) -> None:
    row = tree().set_executor("multiprocess").save()

    def preloading(*modules: str) -> Any:
        start_method = {"forkserver": {"preload_modules": list(modules)}}
        return create(row, instance, {"config": {"start_method": start_method}})

    assert preloading("tests.app.processes", "definitions")._start_method == "forkserver"
    for module in ("antigravity", "tests.imported_by_nobody", "tests.app_of_others"):
        with pytest.raises(ExecutorError, match=f"preload_modules of this run names '{module}'"):
            preloading("tests.app", module)


def test_what_a_tree_does_not_say_changes_no_revision() -> None:
    row = tree().save()
    assert set(row.to_dict()) == {"name", "description", "cache_enabled", "processes"}
    before = row.revision
    row = tree(overwrite=True).set_executor("in_process", 1).save()
    assert row.revision != before
    assert row.to_dict()["executor"] == "in_process"
    assert row.to_dict()["max_concurrent"] == 1
    row = tree(overwrite=True).save()
    assert (row.executor, row.max_concurrent, row.revision) == ("", None, before)


def test_a_loaded_tree_keeps_its_executor() -> None:
    tree().set_executor("in_process", 3).save()
    loaded = ProcessTreeInstance.load("tree").set_description("changed")
    row = loaded.save()
    assert (row.executor, row.max_concurrent) == ("in_process", 3)


def test_what_is_wrong_is_reported_with_everything_else() -> None:
    wrong = tree().add_process("lost", processes.one, dependencies=["nowhere"])
    wrong.set_executor("thread", 0)
    with pytest.raises(InvalidTree) as raised:
        wrong.save()
    assert len(raised.value.problems) == 3
    text = str(raised.value)
    assert "The tree's executor: the executor 'thread' is unknown: choose one of threads" in text
    assert "max_concurrent must be a whole number from 1 to 1000, not 0" in text
    assert "nowhere" in text
    row = tree().save()
    row.executor = "dask"
    with pytest.raises(ValidationError, match="pip install dagster-dask"):
        row.full_clean()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dask", "not installed: pip install dagster-dask"),
        ("thread", "unknown: choose one of"),
        ("os.system", "not allowed: its module 'os'"),
        (f"{__name__}.configured_here", f"not allowed: its module '{__name__}'"),
        ("tests.app.executors.gone", "can't be found"),
        ("tests.app.processes.one", "is function, not an executor"),
    ],
)
def test_an_executor_that_a_row_may_not_have_breaks_its_job_only(name: str, why: str) -> None:
    tree("bad").save()
    tree("good").save()
    ProcessTree.objects.filter(name="bad").update(executor=name)
    bad, good = LiveRepositoryData(ProcessTreeTranslator()).get_all_jobs()
    assert why in str(bad.description)
    assert [node.name for node in bad.graph.nodes] == ["broken_tree"]
    assert not good.description


def test_a_row_imports_nothing_that_is_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmful").mkdir()
    for file in ("__init__.py", "code.py"):
        (tmp_path / "harmful" / file).write_text("import sys; sys.harmed = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tree().save()
    ProcessTree.objects.update(executor="harmful.code.executor")
    [job] = LiveRepositoryData(ProcessTreeTranslator()).get_all_jobs()
    assert "not allowed" in str(job.description)
    with pytest.raises(ExecutorError, match="not allowed"):
        ProcessTreeManager.execute_tree("tree", func_registry={"one": processes.two})
    assert not hasattr(sys, "harmed")


def test_a_row_may_name_the_settings_dotted_path_and_what_is_allowed(settings: Any) -> None:
    path = f"{__name__}.configured_here"
    settings.PROCTREE = {"EXECUTOR": path}
    assert executor_of(tree("a").set_executor(path).save()) == "seven"
    settings.PROCTREE = {"FUNCTION_MODULES": ["tests"]}
    assert executor_of(tree("b").set_executor(path).save()) == "seven"


def test_the_admin_offers_it(admin_client: Any) -> None:
    row = tree().save()
    page = admin_client.get(f"/admin/proctree_dagster/processtree/{row.pk}/change/")
    assert b'name="executor"' in page.content
    assert b'name="max_concurrent"' in page.content


# --- Runs in the calling process ------------------------------------------------------------------

meeting = threading.Barrier(2)


def meet() -> int:
    """Wait for the other."""
    meeting.wait(30)
    return threading.get_ident()


def who() -> int:
    """Return the thread that it runs in."""
    return threading.get_ident()


def pair(func: Any, **options: Any) -> ProcessTreeInstance:
    return (
        ProcessTreeInstance("pair")
        .add_process("a", func, **options)
        .add_process("b", func, **options)
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("executor", ["threads", "in_process"])
def test_a_run_from_python_uses_threads_whatever_the_settings_say(
    settings: Any, instance: DagsterInstance, executor: str
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": executor}
    results = pair(lambda: meet()).execute()
    assert results["success"], results["errors"]
    assert threading.get_ident() not in results["results"].values()


def test_in_a_test_case_a_run_stays_in_its_thread(instance: DagsterInstance) -> None:
    assert set(pair(lambda: who()).execute()["results"].values()) == {threading.get_ident()}


@pytest.mark.django_db(transaction=True)
def test_the_trees_limit_holds_in_a_run_from_python(instance: DagsterInstance) -> None:
    results = pair(lambda: who()).set_executor("", 1).execute()
    assert set(results["results"].values()) == {threading.get_ident()}


@pytest.mark.django_db(transaction=True)
def test_run_tree_stays_in_the_tests_thread_in_any_kind_of_test() -> None:
    results = run_tree(pair(lambda: who()))
    assert set(results["results"].values()) == {threading.get_ident()}


@pytest.mark.django_db(transaction=True)
def test_a_tree_of_four_hundred_processes() -> None:
    large = ProcessTreeInstance("large").set_executor("", 8).add_process("first", processes.one)
    names = [f"p{number}" for number in range(398)]
    for name in names:
        large.add_process(name, processes.one, ["first"])
    results = large.add_process("last", processes.add, names).execute()
    assert results["success"]
    assert len(results["results"]) == 400
    assert results["results"]["last"] == 398


@pytest.mark.django_db(transaction=True)
def test_progress_is_told_one_at_a_time(instance: DagsterInstance) -> None:
    lock, told = threading.Lock(), []

    def progress(process: str, status: str) -> None:
        assert lock.acquire(blocking=False)
        time.sleep(0.02)
        told.append((process, status))
        lock.release()

    made = ProcessTreeInstance("many")
    for number in range(4):
        made.add_process(f"p{number}", processes.one)
    results = tree_runs.execute_row(made.save(), on_progress=progress)
    assert results["success"]
    assert len(told) == 8


@pytest.mark.django_db(transaction=True)
def test_every_failure_that_was_allowed_is_in_the_runs_tag(instance: DagsterInstance) -> None:
    made = ProcessTreeInstance("optional").set_executor("threads", 8)
    names = [f"p{number}" for number in range(8)]
    for name in names:
        made.add_process(name, processes.fail, required=False)
    results = made.execute()
    assert results["success"]
    assert set(results["status"].values()) == {"failed"}
    run = instance.get_run_by_id(results["run_id"])
    assert run is not None
    assert sorted(run.tags[run_tags.FAILED_OPTIONAL].split(", ")) == names


@pytest.mark.django_db(transaction=True)
def test_what_does_not_stop_on_errors_names_every_failure(instance: DagsterInstance) -> None:
    made = pair(processes.fail).add_process("after", processes.echo, dependencies=["a", "b"])
    made.save()
    results = ProcessTreeManager.execute_tree("pair", stop_on_error=False)
    assert results["status"] == {"a": "failed", "b": "failed", "after": "completed"}
    assert not results["success"]


@pytest.mark.django_db(transaction=True)
def test_timeouts_hold_in_threads(instance: DagsterInstance) -> None:
    made = pair(processes.pause, timeout=0.1)
    results = made.execute({"seconds": 5})
    assert set(results["status"].values()) == {"failed"}
    assert all("abandoned" in error for error in results["errors"].values())


# --- Interrupts, connections: in a process of their own -------------------------------------------


class Place:
    """A folder with a project of three processes that run side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        shutil.copy(CODE / "interrupted.py", folder)
        (folder / "interrupted_settings.py").write_text(
            "from tests.settings import *\n"
            "PROCTREE = {'DAGSTER_HOME': " + repr(str(self.home)) + ","
            " 'FUNCTION_MODULES': ['interrupted']}\n"
            "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3',"
            " 'NAME': " + repr(str(folder / "db.sqlite3")) + ", 'CONN_MAX_AGE': None,"
            " 'OPTIONS': {'timeout': 20, 'transaction_mode': 'IMMEDIATE',"
            " 'init_command': 'PRAGMA journal_mode=WAL;'}}}\n"
        )

    def start(self, *, endless: bool) -> "subprocess.Popen[str]":
        path = python_path(self.folder, Path.cwd())
        program = (CODE / "run_command.py").read_text()
        return subprocess.Popen(
            [sys.executable, "-c", program, json.dumps({"endless": endless})],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def said(self) -> list[str]:
        file = self.folder / "said"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_stops_all_of_its_processes(
    place: Place, number: signal.Signals
) -> None:
    command = place.start(endless=True)
    deadline = time.monotonic() + 60
    while sum(line.startswith("begun") for line in place.said()) < 4:
        assert time.monotonic() < deadline
        assert command.poll() is None, command.communicate()[0]
        time.sleep(0.05)
    command.send_signal(number)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 130, output
    assert "the run is canceled" in output
    cleaned = [line for line in place.said() if line.startswith("cleaned")]
    assert sorted(cleaned) == ["cleaned coroutine", "cleaned plain", "cleaned timed"]
    assert "begun last" not in place.said()
    with DagsterInstance.from_config(str(place.home)) as instance:
        [run] = instance.get_runs()
        assert run.status == DagsterRunStatus.CANCELED
        assert "abandoned" not in str([e.user_message for e in instance.all_logs(run.run_id)])


def test_threads_close_their_connections(place: Place) -> None:
    command = place.start(endless=False)
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    assert place.said()[-1] == "closed [True, True]"


def test_what_runs_is_a_threads_executor(instance: DagsterInstance) -> None:
    assert isinstance(create(tree().save(), instance), ThreadsExecutor)
