"""What a test starts stays in the test."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from dagster import DagsterInstance, job
from django.db import connection
from pytest_django import Settings

from proctree_dagster import testing
from proctree_dagster.exceptions import InstanceError
from proctree_dagster.models import OutboxRun
from proctree_dagster.orchestration.runs import opening
from proctree_dagster.support import isolation
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from proctree_dagster.triggers import create_trigger, fire_trigger, subscribe_tree_to_trigger
from tests.app import processes
from tests.tools.code_files import code_of

CODE = code_of(__file__)

SUITE = "tests/beside/suite.py"


class Webserver(ThreadingHTTPServer):
    """Stands where the real one would, and counts what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests = 0


class Handler(BaseHTTPRequestHandler):
    server: Webserver

    def do_POST(self) -> None:
        self.server.requests += 1
        self.send_error(500)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Place:
    """The real things beside a test: Dagster's home with a run in it, a webserver, a database."""

    def __init__(self, folder: Path, empty_home: Path, webserver: Webserver) -> None:
        self.home = folder / "home"
        shutil.copytree(empty_home, self.home)
        self.database = folder / "real.sqlite3"
        self.webserver = webserver
        with DagsterInstance.from_config(str(self.home)) as instance:
            instance.create_run_for_job(close)
        self.before = self.contents()

    def run(self, *command: str) -> str:
        ended = subprocess.run(
            [sys.executable, *command],
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.beside.settings",
                "DAGSTER_HOME": str(self.home),
                "BESIDE_HOME": str(self.home),
                "BESIDE_URL": self.webserver.url,
                "BESIDE_DATABASE": str(self.database),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def contents(self) -> dict[str, str]:
        """Every file of the home, with a digest of what it says."""
        return {
            str(file.relative_to(self.home)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(self.home.rglob("*"))
            if file.is_file()
        }

    def check_untouched(self) -> None:
        assert self.contents() == self.before
        assert self.webserver.requests == 0


@job
def close() -> None:
    """Somebody's job: its run is in the history already."""


@pytest.fixture
def place(tmp_path: Path, empty_home: Path) -> Iterator[Place]:
    with Webserver() as webserver:
        threading.Thread(target=webserver.serve_forever, daemon=True).start()
        yield Place(tmp_path, empty_home, webserver)
        webserver.shutdown()


RUNNERS: dict[str, Callable[[], list[str]]] = {
    "manage.py test": lambda: ["manage.py", "test", "tests.beside.suite"],
    "in parallel": lambda: ["manage.py", "test", "tests.beside.suite", "--parallel", "2"],
    "pytest": lambda: ["-m", "pytest", SUITE, "-q", "--noconftest", "-p", "no:cacheprovider"],
}


@pytest.mark.apart
@pytest.mark.parametrize("runner", RUNNERS)
def test_nothing_that_a_projects_tests_start_reaches_the_real_dagster(
    place: Place, runner: str
) -> None:
    output = place.run(*RUNNERS[runner]())
    assert "15 passed" in output or "Ran 15 tests" in output
    place.check_untouched()
    assert not place.database.exists()


def test_run_tree_lets_nothing_out_where_no_test_runs_either(place: Place) -> None:
    place.run("-c", (CODE / "run_outside.py").read_text())
    place.check_untouched()


def test_a_server_on_a_test_database_lets_nothing_out(place: Place) -> None:
    place.run("-c", (CODE / "serve_test_database.py").read_text())
    place.check_untouched()


def test_only_a_test_runners_own_name_makes_a_test_database() -> None:
    is_test = isolation._is_test_name
    assert is_test("test_books", "books", {})
    assert is_test("of_tests", "books", {"NAME": "of_tests"})
    assert is_test("file:memorydb_default?mode=memory&cache=shared", "books", {"NAME": None})
    assert not is_test("test_books", "test_books", {})  # that is its name
    assert not is_test("tenant_b", "tenant_a", {})


@pytest.fixture
def tree(db: None) -> ProcessTreeInstance:
    tree = ProcessTreeInstance("close").add_process("only", func=processes.one)
    tree.save()
    return tree


def test_a_test_that_wants_the_real_dagster_says_so(
    tree: ProcessTreeInstance, instance: DagsterInstance
) -> None:
    create_trigger("paid", "event")
    subscribe_tree_to_trigger("close", "paid")
    submitted = ProcessTreeManager.submit_tree("close")
    [fired] = fire_trigger("paid")
    assert {run.run_id for run in instance.get_runs()} == {submitted.run_id, fired.run_id}
    assert testing.submitted() == testing.fired() == []


def test_what_was_recorded_in_a_test_is_never_delivered(
    tree: ProcessTreeInstance, dagster_home: Path, settings: Settings
) -> None:
    create_trigger("paid", "event")
    subscribe_tree_to_trigger("close", "paid")
    with isolation.forced():
        [run] = fire_trigger("paid")
    from proctree_dagster.running.tree_runs import deliver

    assert deliver() == []
    row = OutboxRun.objects.get(run_id=run.run_id)
    assert (row.state, row.reason) == ("dropped", isolation.RECORDED)


def test_a_test_that_opens_the_real_instance_is_refused_with_what_to_write(
    settings: Settings, tmp_path: Path
) -> None:
    settings.PROCTREE = {"DAGSTER_HOME": str(tmp_path)}
    opened = opening.open_instance(persistent=True)
    with pytest.raises(InstanceError, match=r"testing\.real_dagster\(\)"), opened:
        pass
    assert list(tmp_path.iterdir()) == []


def test_to_want_the_real_dagster_holds_for_the_block_and_for_every_thread() -> None:
    seen: list[bool] = []

    def look() -> None:
        seen.append(isolation.is_active())

    def look_in_thread() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    with testing.real_dagster():
        with testing.real_dagster():
            look()
        look_in_thread()
    look()
    assert seen == [False, False, True]


def test_to_want_the_real_dagster_decorates_functions_coroutines_and_test_cases() -> None:
    @testing.real_dagster()
    def function() -> bool:
        return isolation.is_active()

    @testing.real_dagster()
    async def coroutine() -> bool:
        await asyncio.sleep(0)
        return isolation.is_active()

    @testing.real_dagster()
    class Case(unittest.TestCase):
        def test_it(self) -> None:
            assert not isolation.is_active()

    assert not function()
    assert not asyncio.run(coroutine())
    outcome = unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(unittest.TestResult())
    assert outcome.wasSuccessful()
    assert isolation.is_active()


@pytest.mark.django_db
def test_this_database_is_a_test_database() -> None:
    assert isolation._has_test_database()
    assert connection.settings_dict["NAME"] != isolation._configured["default"]


def test_a_site_that_keeps_its_e_mail_in_memory_is_no_test() -> None:
    """Nor is one that imports what tests use, as some packages do."""
    script = (CODE / "keep_mail_in_memory.py").read_text()
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=200
    )
    assert ended.returncode == 0, ended.stderr


def test_inside_a_test_case_nothing_leaves_whatever_the_runner(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("django.test.utils._TestState.saved_data")
    monkeypatch.setattr(isolation, "_configured", {})
    assert isolation.is_active()
