"""A whole stack of real processes in a folder of its own: a database, ``dagster dev``, commands."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
from dagster import DagsterInstance
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin

from tests.tools import TOP, python_path
from tests.tools.shell_server import ShellServer

T = TypeVar("T")

SELECTOR = {"repositoryName": "process_trees", "repositoryLocationName": "proctree"}

IMPORTS = """
import datetime
from django.utils import timezone
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
"""
"""What lines that are given to ``Stack.shell`` need not import."""

SILENTLY = """
from django.conf import settings
settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": None}
"""
"""What keeps lines from asking Dagster to reload."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(what: str, ask: Callable[[], T | None], seconds: float = 60) -> T:
    """Ask until there is an answer, ever less often; fail with what was waited for."""
    deadline, pause = time.monotonic() + seconds, 0.02
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


class Stack:
    """Starts ``dagster dev`` for the example, and talks to it."""

    workspace = "workspace.yaml"
    selector = SELECTOR
    top = TOP
    """The project's folder."""

    def __init__(self, folder: Path, *, told_to_reload: bool = True) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        shutil.copy(TOP / "example" / "dagster_home" / "dagster.yaml", self.home)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "dagster.log"
        self.env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "example.settings",
            "DAGSTER_HOME": str(self.home),
            "EXAMPLE_DATABASE": str(folder / "db.sqlite3"),
            "EXAMPLE_DAGSTER_URL": self.url if told_to_reload else "",
            "PYTHONPATH": python_path(folder, TOP),
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self._shells: dict[tuple[object, ...], ShellServer] = {}

    def manage(
        self,
        *args: str,
        check: bool = True,
        silently: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``manage.py`` and return what it came to.

        ``silently``: without telling Dagster to reload. ``environment``: beside the stack's own.
        """
        quiet = {"EXAMPLE_DAGSTER_URL": ""} if silently else {}
        done = subprocess.run(
            [sys.executable, str(self.top / "manage.py"), *args],
            cwd=self.top,
            env={**self.env, **quiet, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode:
            raise AssertionError(f"manage.py {args} exited {done.returncode}\n{done.stderr}")
        return done

    def shell(self, code: str | Path, *, silently: bool = False, **environment: str) -> str:
        """Run Python in the project, a file or some lines; return what it prints.

        ``silently``: without asking Dagster to reload. ``environment``: beside the stack's own.
        """
        program = code.read_text() if isinstance(code, Path) else IMPORTS + code
        if silently:
            program = SILENTLY + program
        done = self._shell_server(environment).run(program)
        if done.returncode:
            raise AssertionError(f"exit status {done.returncode} of {code}\n{done.stderr}")
        return done.stdout.strip()

    def type(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Do as ``manage``, in a fork of a Python that has set Django up: a third of the time."""
        done = self._shell_server().run(
            "import importlib, runpy, sys\n"
            "from django.core.management import get_commands\n"
            "get_commands.cache_clear()  # a command may have been written since\n"
            "importlib.invalidate_caches()\n"
            f"sys.argv = {['manage.py', *args]!r}\n"
            "runpy.run_path('manage.py', run_name='__main__')"
        )
        if check and done.returncode:
            raise AssertionError(f"manage.py {args} exited {done.returncode}\n{done.stderr}")
        return done

    def _shell_server(self, environment: Mapping[str, str] | None = None) -> ShellServer:
        """Return what forks, with an environment beside the stack's own."""
        env = {**self.env, **(environment or {})}
        key = (self.top, *sorted(env.items()))
        if key not in self._shells:
            self._shells[key] = ShellServer(self.top, env, self.log)
        return self._shells[key]

    def start(self) -> None:
        """Set the example up, and wait until Dagster serves it."""
        self.set_up_example()
        self.start_dagster()

    def migrate(self) -> None:
        """Make the tables."""
        self.call_command("migrate", "-v0")

    def set_up_example(self) -> None:
        """Make the tables, and save the example's trees."""
        self.migrate()
        self.call_command("setup_example", silently=True)

    def call_command(self, *args: str, silently: bool = False) -> str:
        """Call a command of ``manage.py`` that is not what is tested, and return what it prints."""
        call = f"from django.core.management import call_command\ncall_command(*{args!r})"
        return self.shell(call, silently=silently)

    def start_dagster(self, *, as_services: bool = False) -> None:
        """Start Dagster in one of the ways that docs/install.md shows.

        ``as_services``: its webserver and its daemon by themselves, as in production.
        """
        at = ("-h", "127.0.0.1", "-p", str(self.port))
        if as_services:
            self.start_webserver()
            self.start_daemon()
        else:
            self._start("dagster", "dev", *at)
            wait_for("Dagster to serve its jobs", self._serves, 120)

    def start_webserver(self) -> None:
        """Start the webserver by itself, and wait until it serves."""
        self._start("dagster_webserver", "-h", "127.0.0.1", "-p", str(self.port))
        wait_for("Dagster to serve its jobs", self._serves, 120)

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start the daemon by itself."""
        return self._start("dagster._daemon", "run")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start one of Dagster's programs with the workspace."""
        return self.start_module(*command, "-w", self.workspace)

    def serve_code(self) -> GrpcServerCodeLocationOrigin:
        """Start a code server by itself, wait until it answers, and return how it is reached."""
        origin = GrpcServerCodeLocationOrigin(
            host="127.0.0.1", port=free_port(), location_name=SELECTOR["repositoryLocationName"]
        )
        command = ("api", "grpc", "-p", str(origin.port), "-m", "definitions")
        process = self.start_module("dagster", *command)

        def answers() -> bool:
            assert process.poll() is None, self.log.read_text()[-3000:]
            try:
                return bool(origin.create_client().ping(""))
            except DagsterUserCodeUnreachableError:
                return False

        wait_for("the code server", answers, 120)
        return origin

    def start_module(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a module of this Python's in the project, which ``stop`` ends."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.top,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def _serves(self) -> bool:
        for process in self.processes:
            if process.poll() is not None:
                raise AssertionError(f"{process.args!r} ended:\n{self.log.read_text()[-3000:]}")
        try:
            return bool(self.job_names())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def stop(self) -> list[psutil.Process]:
        """Stop what was started, as Ctrl-C does; return the processes that outlived it."""
        for shell in self._shells.values():
            shell.stop()
        self._shells = {}
        family = []
        for process in self.processes:
            started = psutil.Process(process.pid)
            family += [started, *started.children(recursive=True)]
        for process in self.processes:
            os.killpg(process.pid, signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=30)
        for each in alive:
            each.kill()
        for process in self.processes:
            process.wait(30)
        self.processes = []
        return alive

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask Dagster's webserver."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            # Dagster answers a fault in its own processes with 500 and the answer all the same.
            answer = json.load(error)
        if "errors" in answer:
            raise AssertionError(answer["errors"])
        data: dict[str, Any] = answer["data"]
        return data

    def job_names(self) -> list[str]:
        data = self.graphql(
            """query ($selector: RepositorySelector!) {
              repositoryOrError(repositorySelector: $selector) {
                ... on Repository { jobs { name } } } }""",
            selector=self.selector,
        )
        names: list[str] = [job["name"] for job in data["repositoryOrError"]["jobs"]]
        return names

    def launch(
        self,
        job: str,
        run_config: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """Launch a job as the Launchpad does, and return the run's id."""
        data = self.graphql(
            """mutation ($params: ExecutionParams!) {
              launchRun(executionParams: $params) { __typename
                ... on LaunchRunSuccess { run { runId } }
                ... on PythonError { message }
                ... on RunConfigValidationInvalid { errors { message } } } }""",
            params={
                "selector": {**self.selector, "jobName": job},
                "runConfigData": json.dumps(run_config or {}),
                "executionMetadata": {
                    "tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]
                },
            },
        )
        assert data["launchRun"]["__typename"] == "LaunchRunSuccess", data
        run_id: str = data["launchRun"]["run"]["runId"]
        return run_id

    def reexecution(self, run_id: str, strategy: str) -> dict[str, Any]:
        """Ask for a re-execution as the UI does, and return the answer."""
        data = self.graphql(
            """mutation ($params: ReexecutionParams!) {
              launchRunReexecution(reexecutionParams: $params) { __typename
                ... on LaunchRunSuccess { run { runId } }
                ... on PythonError { message } } }""",
            params={"parentRunId": run_id, "strategy": strategy},
        )
        answer: dict[str, Any] = data["launchRunReexecution"]
        return answer

    def reexecute(self, run_id: str, strategy: str) -> str:
        """Re-execute a run (``ALL_STEPS`` or ``FROM_FAILURE``) and return the new run's id."""
        answer = self.reexecution(run_id, strategy)
        assert answer["__typename"] == "LaunchRunSuccess", answer
        new_id: str = answer["run"]["runId"]
        return new_id

    def run(self, run_id: str) -> dict[str, Any]:
        """Return what Dagster says of a run."""
        found = self.run_or_none(run_id)
        assert found is not None, f"Dagster has no run {run_id}"
        return found

    def run_or_none(self, run_id: str) -> dict[str, Any] | None:
        """Return what Dagster says of a run; ``None`` if it has no such run yet."""
        data = self.graphql(
            """query ($id: ID!) { runOrError(runId: $id) { __typename
              ... on Run { runId status jobName parentRunId runConfigYaml
                tags { key value }
                stepStats { stepKey status }
                eventConnection(limit: 1000) { events { __typename
                  ... on MessageEvent { message level }
                  ... on ExecutionStepOutputEvent { stepKey metadataEntries { label
                    ... on TextMetadataEntry { text } } }
                  ... on ExecutionStepFailureEvent { stepKey error { message cause { message } } }
                  ... on RunFailureEvent { error { message } } } } } } }""",
            id=run_id,
        )
        found: dict[str, Any] = data["runOrError"]
        if found["__typename"] == "RunNotFoundError":
            return None
        assert found["__typename"] == "Run", data
        found["tags"] = {tag["key"]: tag["value"] for tag in found["tags"]}
        return found

    def tags(self, run_id: str) -> dict[str, str]:
        """Return all tags of a run, also those that the webserver shows nobody."""
        with DagsterInstance.from_config(str(self.home)) as instance:
            run = instance.get_run_by_id(run_id)
            return dict(run.tags) if run is not None else {}

    def began_and_ended(self, run_id: str) -> tuple[float, float]:
        """Return when a run that has ended began and ended, in seconds since the epoch."""
        data = self.graphql(
            """query ($id: ID!) { runOrError(runId: $id) { ... on Run { startTime endTime } } }""",
            id=run_id,
        )["runOrError"]
        return data["startTime"], data["endTime"]

    def finished(self, run_id: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until a run has ended and return it."""

        def ask() -> dict[str, Any] | None:
            run = self.run_or_none(run_id)
            ended = run is not None and run["status"] in ("SUCCESS", "FAILURE", "CANCELED")
            return run if ended else None

        return wait_for(f"run {run_id} to end", ask, seconds)

    def runs(self, job: str) -> list[dict[str, Any]]:
        """Return the runs of a job, the newest first."""
        data = self.graphql(
            """query ($filter: RunsFilter!) { runsOrError(filter: $filter) {
              ... on Runs { results { runId status tags { key value } } } } }""",
            filter={"pipelineName": job},
        )
        results: list[dict[str, Any]] = data["runsOrError"]["results"]
        for run in results:
            run["tags"] = {tag["key"]: tag["value"] for tag in run["tags"]}
        return results

    def ticks(self, job: str) -> list[dict[str, Any]]:
        """Return the ticks of a job's schedule, the newest first."""
        data = self.graphql(
            """query ($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) {
              ... on Schedule { scheduleState { ticks(limit: 50) {
                timestamp status skipReason runIds error { message } } } } } }""",
            selector={**self.selector, "scheduleName": f"{job}_schedule"},
        )
        ticks: list[dict[str, Any]] = data["scheduleOrError"]["scheduleState"]["ticks"]
        return ticks

    def switch(self, job: str, *, on: bool) -> None:
        """Turn Dagster's own switch of a job's schedule, as its UI does."""
        selector = {**SELECTOR, "scheduleName": f"{job}_schedule"}
        if on:
            data = self.graphql(
                """mutation ($selector: ScheduleSelector!) {
                  answer: startSchedule(scheduleSelector: $selector) { __typename } }""",
                selector=selector,
            )
        else:
            state = self.graphql(
                """query ($selector: ScheduleSelector!) { scheduleOrError(
                  scheduleSelector: $selector) { ... on Schedule { scheduleState { id } } } }""",
                selector=selector,
            )["scheduleOrError"]["scheduleState"]
            data = self.graphql(
                """mutation ($id: String!) {
                  answer: stopRunningSchedule(id: $id) { __typename } }""",
                id=state["id"],
            )
        assert data["answer"]["__typename"] == "ScheduleStateResult", data
