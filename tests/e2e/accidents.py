"""Trees whose due times must each be run once, whatever happens to the processes around them.

There is no webserver here: a code server of its own (``dagster api grpc``), as in production, and
the daemon. So each can be killed and started by itself.
"""

import datetime as dt
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._grpc.client import DagsterGrpcClient
from django.db import connections
from django.db.models import QuerySet

from example.settings import DATABASES
from proctree_dagster.models import ProcessTreeSchedule
from tests.tools import TOP
from tests.tools.stack import Stack, free_port, wait_for

FUNCTIONS = """
import os
from pathlib import Path
from dagster import OpExecutionContext

def note():
    run = OpExecutionContext.get().run
    line = f"{run.job_name} {run.tags['proctree/due']} {run.run_id}\\n"
    file = os.open(Path(__file__).with_name("calls.txt"), os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)
"""

ACTIVE = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]

Due = tuple[str, str]
"""A tree's job name and one of its due times, as the tag says it."""


class Accidents(Stack):
    """Trees that note what they are called for, and the processes that run them."""

    def __init__(self, folder: Path, trees: int, database: dict[str, Any] | None = None) -> None:
        super().__init__(folder, told_to_reload=False)
        self.trees = trees
        self.database = database or {**DATABASES["default"], "NAME": str(folder / "db.sqlite3")}
        self.calls_file = folder / "calls.txt"
        self.calls_file.touch()
        self.progress = folder / "progress.txt"
        self.progress.touch()
        self.given: list[Due] = []
        self.taken: dict[Due, str] = {}
        self._daemons: subprocess.Popen[bytes] | None = None
        self._orphans: list[psutil.Process] = []
        connections.settings["stack"] = {
            **connections.settings["default"],
            **{"OPTIONS": {}, **self.database},
        }
        self._code_port = free_port()
        self._workspace = folder / "workspace.yaml"
        server = {"host": "127.0.0.1", "port": self._code_port, "location_name": "proctree"}
        self._workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        (folder / "e2e_functions.py").write_text(FUNCTIONS)
        (folder / "e2e_settings.py").write_text(
            "from example.settings import *\n"
            # One tree at once in each of the sixteen: there are as many processes as it takes.
            "PROCTREE = {**PROCTREE, 'FUNCTION_MODULES': ['e2e_functions'], 'MAX_CONCURRENT': 1}\n"
            f"DATABASES = {{'default': {self.database!r}}}\n"
        )
        self.configure_dagster(run_launcher={"config": {"linger_seconds": 1}})
        self.env["DJANGO_SETTINGS_MODULE"] = "e2e_settings"
        self.env["DAEMON_PROGRESS"] = str(self.progress)

    def configure_dagster(self, **changes: dict[str, Any]) -> None:
        """Change sections of the instance's ``dagster.yaml``."""
        path = self.home / "dagster.yaml"
        config = yaml.safe_load(path.read_text())
        for section, values in changes.items():
            config[section] = {**config.get(section, {}), **values}
        path.write_text(yaml.safe_dump(config))

    def prepare(self) -> None:
        """Make the trees. None is due for hours, but for the due times that they are given."""
        self.migrate()
        self.shell(
            "begins = (timezone.localtime() + datetime.timedelta(hours=12)).time()\n"
            f"for number in range({self.trees}):\n"
            "    tree = ProcessTreeInstance(f'tree_{number}')\n"
            "    tree.add_process('note', func='e2e_functions:note').save()\n"
            "    tree.register_schedule(interval_minutes=1440, start_time=begins)\n"
        )

    # --- Processes ---

    def _run_python(self, *command: str, piped: bool = False) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=TOP,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_code_server(self) -> psutil.Process:
        """Start the code server and wait until it answers."""
        at = ("-h", "127.0.0.1", "-p", str(self._code_port))
        what = ("-m", "definitions", "-a", "process_trees", "-d", str(TOP))
        python = "--use-python-environment-entry-point"
        server = self._run_python("-m", "dagster", "api", "grpc", *at, *what, python)
        client = DagsterGrpcClient(port=self._code_port, host="127.0.0.1")

        def answers() -> bool:
            assert server.poll() is None, self.log.read_text()[-3000:]
            return bool(client.health_check_query() == "SERVING")

        wait_for("the code server", answers, 120)
        return psutil.Process(server.pid)

    def let_the_daemon_load_the_code(self) -> None:
        """Have each daemon start a code server of its own, where the workspace names none."""
        module = {"module_name": "definitions", "attribute": "process_trees"}
        where = {"working_directory": str(TOP), "location_name": "proctree"}
        self._workspace.write_text(
            yaml.safe_dump({"load_from": [{"python_module": {**module, **where}}]})
        )

    def start_a_daemon(self, dies_at: str = "") -> psutil.Process:
        """Start the daemon and wait until it is up; ``dies_at``: a point of ``daemon.POINTS``."""
        if self._daemons is None:
            where = ("-w", str(self._workspace))
            self._daemons = self._run_python("-m", "tests.e2e.daemon", "run", *where, piped=True)
        assert self._daemons.stdin is not None
        assert self._daemons.stdout is not None
        self._daemons.stdin.write(f"{dies_at}\n".encode())
        self._daemons.stdin.flush()
        return psutil.Process(int(self._daemons.stdout.readline()))

    def start_sixteen(self) -> subprocess.Popen[bytes]:
        """Start sixteen processes that look for due times until ``stop_sixteen``."""
        return self._run_python("-m", "tests.e2e.sixteen", str(self.folder / "sixteen_may_end"))

    def stop_sixteen(self, sixteen: subprocess.Popen[bytes]) -> None:
        """Let the sixteen end what they are doing, and see that each has ended well."""
        (self.folder / "sixteen_may_end").touch()
        assert sixteen.wait(60) == 0, self.log.read_text()[-3000:]
        self.processes.remove(sixteen)

    def kill(self, process: psutil.Process) -> None:
        """Kill one process; its children live on, as they would."""
        with suppress(psutil.NoSuchProcess):  # it may have died by itself
            self._orphans += process.children(recursive=True)
            process.kill()
        process.wait(60)

    def stop(self) -> list[psutil.Process]:
        """Stop what is still there, and what was left behind by those that were killed."""
        self.processes = [each for each in self.processes if each.poll() is None]
        alive = super().stop()
        for orphan in self._orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        self.instance.dispose()
        connections["stack"].close()
        del connections["stack"], connections.settings["stack"]  # see shared_home
        return alive

    # --- Due times ---

    @property
    def rows(self) -> QuerySet[ProcessTreeSchedule]:
        """The schedules, read through a connection of the test's own."""
        return ProcessTreeSchedule.objects.using("stack").select_related("process_tree")

    def give_due_times(self, most: int = sys.maxsize) -> None:
        """Give a due time to each tree that has nothing to do, ``most`` in all."""
        busy = {run.job_name for run in self.active_runs()}
        for row in self._idle_rows():
            job_name = row.process_tree.job_name
            if len(self.given) >= most or job_name in busy:
                continue
            # In the past, so that the latest tick finds it due, and each one only once.
            due = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
            if self.rows.filter(pk=row.pk, claim=None, next_run=row.next_run).update(next_run=due):
                self.given.append((job_name, due.isoformat()))

    def settled(self) -> bool:
        """Whether no due time waits, no claim is open and no run is under way."""
        return len(self._idle_rows()) == self.trees and not self.active_runs()

    def _idle_rows(self) -> list[ProcessTreeSchedule]:
        """Return the schedules that are not due and have no open claim; note who took the last."""
        idle = [row for row in self.rows.filter(claim=None) if not row.should_run()]
        for row in idle:
            if row.last_due is not None:
                due = (row.process_tree.job_name, row.last_due.isoformat())
                self.taken[due] = row.last_run_id
        return idle

    def calls(self) -> list[tuple[str, str, str]]:
        """Job name, due time and run of each call of a function."""
        lines = self.calls_file.read_text().splitlines()
        return [(job, due, run) for job, due, run in map(str.split, lines)]

    def assert_each_due_time_was_taken_once(self) -> None:
        """One run took each due time that was given, and at most that one called the function."""
        assert self.taken.keys() == set(self.given)
        called = self.calls()
        assert len({(job, due) for job, due, _ in called}) == len(called)
        assert all(self.taken[job, due] == run for job, due, run in called)

    def assert_each_due_time_ran_once(self) -> None:
        """Each due time that was given has called the function, once."""
        self.assert_each_due_time_was_taken_once()
        assert Counter((job, due) for job, due, _ in self.calls()) == Counter(self.given)

    # --- Dagster's record ---

    @cached_property
    def instance(self) -> DagsterInstance:
        """The instance, to look up what it has recorded."""
        return DagsterInstance.from_config(str(self.home))

    def active_runs(self) -> Sequence[DagsterRun]:
        """Return the runs that are queued or under way."""
        return self.instance.get_runs(RunsFilter(statuses=ACTIVE))

    def runs_by_the_daemon(self) -> set[str]:
        """Return the ids of the runs that the daemon requested."""
        runs = self.instance.get_runs()
        return {run.run_id for run in runs if "dagster/schedule_name" in run.tags}
