"""The first hour: a new project in which nothing was written for Dagster."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from tests.e2e.newcomer import Newcomer
from tests.tools import python_path
from tests.tools.code_files import code_of
from tests.tools.site import PASSWORD, Person
from tests.tools.stack import SELECTOR, free_port, wait_for
from tests.tools.warm_python import WarmPython

pytestmark = pytest.mark.e2e

CODE = code_of(__file__)

SAVE = """
from bookkeeping.sums import fetch, total
from proctree_dagster.tree_builder import ProcessTreeInstance
tree = ProcessTreeInstance('close', overwrite=True)
tree.add_process('fetch', func=fetch)
tree.add_process('total', func=total, dependencies=['fetch'])
tree.save()
tree.register_schedule(interval_minutes=60)
tree.create_command()
"""


class NewProject:
    """What ``startproject`` and ``startapp`` make, with the app installed and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        left_out = ("DJANGO_SETTINGS_MODULE", "DAGSTER_HOME")
        self.env = {key: value for key, value in os.environ.items() if key not in left_out}
        self.env["PYTHONPATH"] = python_path()
        self.env["PATH"] = "/usr/bin:/bin"  # neither dagster nor this Python
        self.log = folder / "dev.log"
        self.started: list[subprocess.Popen[bytes]] = []
        self.env |= {"DJANGO_SUPERUSER_USERNAME": "ann", "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
        self.bin = TemporaryDirectory()
        self.python = WarmPython(Path(self.bin.name), self.env)
        self.run("-m", "django", "startproject", "mysite", ".")
        self.manage("startapp", "bookkeeping")
        shutil.copy(CODE / "sums.py", folder / "bookkeeping")
        with (folder / "mysite" / "settings.py").open("a") as settings:
            settings.write('INSTALLED_APPS += ["proctree_dagster", "bookkeeping"]\n')
        self.manage("migrate", "-v0")
        self.manage("createsuperuser", "--noinput", "--email=ann@example.com")

    def run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.python.executable, *args],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done

    def manage(self, *args: str, check: bool = True) -> str:
        return self.run("manage.py", *args, check=check).stdout

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """Start ``proctree dev``, and wait until it says where to click."""
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "proctree", "dev", *args],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)

        def ready() -> bool:
            assert process.poll() is None, self.log.read_text()[-3000:]
            return "Dagster is ready: open http://localhost:" in self.log.read_text()

        wait_for("Dagster to be ready", ready, 120)
        return process

    @property
    def home(self) -> Path:
        return self.folder / "dagster_home"

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs for this project's Dagster."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DAGSTER_HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for left in self.processes():
            left.kill()
        self.python.stop()
        self.bin.cleanup()


def graphql(port: int, query: str, **variables: Any) -> Any:
    """Ask Dagster as somebody who is logged in; without a login, as anybody."""
    person = Person(port)
    try:
        person.log_in("ann", PASSWORD)
    except KeyError:  # there is no login: it is Dagster alone
        person.path = ""
    status, answer = person.ask(query, **variables)
    assert status == 200, answer
    return answer["data"]


LAUNCH = """
mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } } }
"""

EVENTS = """
query Events($id: ID!) { logsForRun(runId: $id) { ... on EventConnection {
  events { ... on MessageEvent { eventType level message } } } } }
"""

STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def status(port: int, run_id: str) -> str:
    return str(graphql(port, STATUS, id=run_id)["runOrError"]["status"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewProject]:
    found = NewProject(tmp_path_factory.mktemp("project"))
    try:
        yield found
    finally:
        found.close()


WRITTEN_BY_INIT = {
    "definitions/__init__.py",
    "workspace.yaml",
    "mysite/settings_for_tests.py",
}
"""Besides the home, which there is in any case."""


@pytest.fixture(params=["nothing is written for Dagster", "proctree init"])
def newcomer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[NewProject, str]]:
    """A new project, and how it came to what Dagster needs."""
    found = NewProject(tmp_path)
    try:
        if request.param == "proctree init":
            said = found.manage("proctree", "init")
            assert all(f"Wrote {name}" in said for name in WRITTEN_BY_INIT)
        yield found, request.param
    finally:
        found.close()


def test_a_project_with_nothing_but_the_app_is_run_by_proctree_dev(
    newcomer: tuple[NewProject, str],
) -> None:
    project, how = newcomer
    project.manage("proctree", "list")
    is_written = how == "proctree init"
    assert project.home.exists() == is_written, "who only lists writes nothing"
    project.manage("shell", "-c", SAVE)
    assert "total: 3" in project.manage("close")  # before Dagster was ever started
    port = free_port()
    # Once with the login of the site, and once without one.
    dev = project.start("--port", str(port), *(["--no-login"] if is_written else []))
    path = "" if is_written else "/dagster"
    said = project.log.read_text()
    assert f"Dagster is ready: open http://localhost:{port}{path}" in said
    assert ("behind the login" in said) is not is_written
    assert "Supersession" not in said
    assert "INFO" not in said
    if not is_written:  # the whole guide, typed in while Dagster runs; once is enough
        reader = Newcomer(project.folder)
        try:
            printed = reader.follow("docs/guide.md")
        finally:
            reader.leave()
        _assert_that_the_guide_does_what_it_says(project.folder, printed)
    # In the UI, whose log has all of a run; the terminal is quiet.
    for name in ("close",) if is_written else ("close", "my_scheduled_tree"):
        job = {**SELECTOR, "jobName": name}
        launched = graphql(port, LAUNCH, params={"selector": job, "runConfigData": {}})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        ended_well(port, launched["run"]["runId"])
    assert "STEP_START" in json.dumps(graphql(port, EVENTS, id=launched["run"]["runId"]))
    assert "STEP_START" not in project.log.read_text()
    # From Python, through the daemon; the link leads to the UI without a setting.
    submit = "from proctree_dagster.tree_builder import ProcessTreeManager as M; "
    said = project.manage("shell", "-c", f"{submit}print(M.submit_tree('close').url)")
    url = said.strip().splitlines()[-1]
    assert url.startswith(f"http://localhost:{port}{path}/runs/")
    ended_well(port, url.rpartition("/")[2])
    # Beside the guide's own files there are those of the home and of ``init``, and no others.
    written = {name for name in WRITTEN_BY_INIT if (project.folder / name).exists()}
    assert written == (WRITTEN_BY_INIT if is_written else set())
    # A second one on the same port says what to do, and leaves the first alone.
    second = project.run("manage.py", "proctree", "dev", "--port", str(port), check=False)
    assert second.returncode == 1
    assert "name another one with --port" in second.stderr
    assert dev.poll() is None
    dev.send_signal(signal.SIGINT)
    assert dev.wait(60) == 0
    wait_for("everything to end", lambda: not project.processes())


def _assert_that_the_guide_does_what_it_says(folder: Path, printed: str) -> None:
    assert "Scheduled! Next run: 20" in printed
    commands = folder / "bookkeeping" / "management" / "commands"
    assert {path.name for path in commands.glob("*.py")} == {
        *("__init__.py", "my_scheduled_tree.py", "run_my_tree.py", "hourly_journals_sync.py"),
        "close.py",
    }
    assert (folder / "some" / "other" / "commands" / "my_scheduled_tree.py").is_file()
    assert 'step1: "hello, tenant 123"' in printed
    assert 'step1: "hello, tenant 456"' in printed  # the schedule's default context
    # The model instance in the context, fetched again.
    assert 'sync: {"status": "success", "organisation": "Quiver Tree Coffee"}' in printed
    assert "True {'step1': 'hello, tenant 123'}" in printed
    assert "Queued run" in printed


def ended_well(port: int, run_id: str) -> None:
    wait_for(f"run {run_id} to end", lambda: status(port, run_id) == "SUCCESS", 90)


def test_what_ends_it_ends_everything_runs_included(project: NewProject) -> None:
    shutil.copy(CODE / "definitions.py", project.folder)
    project.manage("shell", "-c", SAVE)
    (project.folder / "bookkeeping" / "slow.py").write_text(
        "import time\nfrom pathlib import Path\n\n\ndef sleep():\n"
        "    Path(__file__).with_name('sleeps').touch()\n    time.sleep(600)\n"
    )
    project.manage(
        "shell",
        "-c",
        "from bookkeeping.slow import sleep\n"
        "from proctree_dagster import tree_builder\n"
        "tree = tree_builder.ProcessTreeInstance('slow', overwrite=True)\n"
        "tree.add_process('sleep', func=sleep).save()\n"
        "tree_builder.ProcessTreeManager.submit_tree('slow')\n",
    )
    port = free_port()
    dev = project.start("--port", str(port))
    # The project's own assets, launched from the UI.
    job = {**SELECTOR, "jobName": "refresh"}
    launched = graphql(port, LAUNCH, params={"selector": job, "runConfigData": {}})["launchRun"]
    ended_well(port, launched["run"]["runId"])
    sleeps = project.folder / "bookkeeping" / "sleeps"
    wait_for("the run", sleeps.exists, 90)
    sleeps.unlink()
    dev.send_signal(signal.SIGTERM)
    assert dev.wait(90) == 0
    wait_for("everything to end", lambda: not project.processes())
    assert not (project.home / ".webserver.json").exists()


def test_it_begins_again_after_it_was_killed(project: NewProject) -> None:
    port = free_port()
    dev = project.start("--port", str(port))
    dev.kill()
    dev.wait()
    for left in project.processes():
        left.kill()

    def port_is_free() -> bool:
        with socket.socket() as listener:
            return listener.connect_ex(("127.0.0.1", port)) != 0

    wait_for("the port", port_is_free)
    dev = project.start("--port", str(port), "-v", "2")
    assert "INFO" in project.log.read_text(), "with -v 2 all that Dagster logs is shown"
    dev.send_signal(signal.SIGHUP)  # its terminal was closed
    assert dev.wait(60) == 0
    wait_for("everything to end", lambda: not project.processes())
