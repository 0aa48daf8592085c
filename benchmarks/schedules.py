"""How long it takes until every schedule that is due in one minute has its run in the queue.

Ours: process trees with a schedule each, and the example's dagster.yaml. Stock: as many jobs and
schedules written by hand, and Dagster's defaults. Both on SQLite, one after the other, with a
daemon and a code server; runs stay in the queue (max_concurrent_runs is 0), so that what is
measured is the scheduling, not the running.
"""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from dagster import DagsterInstance

from .table import Row, tell

TOP = Path(__file__).resolve().parents[1]
SIZES = (1, 100, 1000)
"""How many schedules are due in one minute."""

LEAD = dt.timedelta(seconds=45)
"""Time for a daemon to come up and see its schedules before they are due."""

TREES = """
import datetime as dt
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
due = dt.datetime.fromisoformat({due!r})
for number in range({count}):
    tree = ProcessTree.objects.create(
        name=f"tree_{{number}}",
        processes=[{{"name": "only", "func": "example.ledger.processes:fetch_journals"}}],
    )
    ProcessTreeSchedule.objects.create(
        process_tree=tree, interval_minutes=1440, start_time=due.time(), timezone="UTC"
    )
"""

QUERIES = """
import datetime as dt
from django.db import connection
from django.test.utils import CaptureQueriesContext
from dagster import DagsterInstance, build_schedule_context
from django.utils import timezone
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.models import ProcessTreeSchedule
repository = build_repository()
instance = DagsterInstance.get()
counts = []
for next_run in (timezone.now() + dt.timedelta(hours=1), None):
    ProcessTreeSchedule.objects.update(next_run=next_run, claim=None)
    with CaptureQueriesContext(connection) as queries:
        schedule = repository.get_schedule_def("tree_0_schedule")
        now = timezone.now()
        schedule.evaluate_tick(build_schedule_context(instance, scheduled_execution_time=now))
    counts.append(len([q for q in queries if "proctree_dagster" in q["sql"]]))
print(*counts)
"""

STOCK = """
from dagster import DefaultScheduleStatus, Definitions, ScheduleDefinition, job, op
@op
def only():
    return 1
def make(number):
    @job(name=f"job_{{number}}")
    def made():
        only()
    return ScheduleDefinition(
        job=made, cron_schedule="{cron}", execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
    )
schedules = [make(number) for number in range({count})]
defs = Definitions(schedules=schedules, jobs=[schedule.job for schedule in schedules])
"""


@dataclass(frozen=True)
class Figures:
    """What one side needed, in seconds after the due time."""

    first: float
    last: float


def minute_ahead() -> dt.datetime:
    """Return a whole minute that leaves ``LEAD`` to get ready."""
    ahead = dt.datetime.now(dt.UTC) + LEAD + dt.timedelta(minutes=1)
    return ahead.replace(second=0, microsecond=0)


def ours(count: int, folder: Path) -> Figures:
    """Measure process trees."""
    settings = yaml.safe_load((TOP / "example/dagster_home/dagster.yaml").read_text())
    environment = _home(folder, settings)
    environment |= {
        "DJANGO_SETTINGS_MODULE": "example.settings",
        "EXAMPLE_DATABASE": str(folder / "db.sqlite3"),
        "EXAMPLE_DAGSTER_URL": "",
        "PYTHONPATH": str(TOP),
    }
    manage = (sys.executable, str(TOP / "manage.py"))
    subprocess.run([*manage, "migrate", "-v0"], env=environment, check=True)
    due = minute_ahead()
    trees = TREES.format(due=due.isoformat(), count=count)
    subprocess.run([*manage, "shell", "-v0", "-c", trees], env=environment, check=True)
    return _measure(["-w", str(TOP / "workspace.yaml")], environment, due, count)


def stock(count: int, folder: Path) -> Figures:
    """Measure jobs and schedules that were written by hand."""
    environment = _home(folder, {"telemetry": {"enabled": False}})
    due = minute_ahead()
    code = folder / "stock.py"
    code.write_text(STOCK.format(cron=f"{due.minute} {due.hour} * * *", count=count))
    return _measure(["-f", str(code)], environment, due, count)


def queries_of_a_tick(folder: Path) -> tuple[int, int]:
    """Return how many queries to Django's database a tick makes: one not due, and one due."""
    environment = _home(folder, {"telemetry": {"enabled": False}})
    environment |= {
        "DJANGO_SETTINGS_MODULE": "example.settings",
        "EXAMPLE_DATABASE": str(folder / "db.sqlite3"),
        "EXAMPLE_DAGSTER_URL": "",
    }
    manage = (sys.executable, str(TOP / "manage.py"))
    subprocess.run([*manage, "migrate", "-v0"], env=environment, check=True)
    trees = TREES.format(due=minute_ahead().isoformat(), count=1)
    subprocess.run([*manage, "shell", "-v0", "-c", trees], env=environment, check=True)
    done = subprocess.run(
        [*manage, "shell", "-v0", "-c", QUERIES],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    idle, due = map(int, done.stdout.split()[-2:])
    return idle, due


def _home(folder: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Make a home of Dagster's whose queue lets nothing out; return the environment for it."""
    home = folder / "home"
    home.mkdir(parents=True)
    held = {**settings, "concurrency": {"runs": {"max_concurrent_runs": 0}}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(held))
    # Bytecode for both sides alike.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "DAGSTER_HOME": str(home)}


def _measure(
    target: list[str], environment: dict[str, str], due: dt.datetime, count: int
) -> Figures:
    home = environment["DAGSTER_HOME"]
    log = Path(home).parent / "daemon.log"
    # Opened first: two that open a new home at the same moment would both make its tables.
    with log.open("wb") as output, DagsterInstance.from_config(home) as instance:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", *target],
            cwd=TOP,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + LEAD.total_seconds() + 120 + count
            while instance.get_runs_count() < count:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{count} runs did not come:\n{log.read_text()[-3000:]}")
                time.sleep(1)
            created = [record.create_timestamp for record in instance.get_run_records()]
        finally:
            _stop(daemon)
    assert len(created) == count, f"{len(created)} runs for {count} due times"
    seconds = sorted((moment - due).total_seconds() for moment in created)
    return Figures(seconds[0], seconds[-1])


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(daemon.pid)]
    family += family[0].children(recursive=True)
    os.killpg(daemon.pid, signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=30)
    for process in alive:
        process.kill()
    daemon.wait(30)


def rows(folder: Path, rounds: int) -> list[Row]:
    """Return how long it takes until all are queued; one sample a size, whatever ``rounds``."""
    found = []
    for size in SIZES:
        mine = ours(size, folder / f"ours_{size}")
        theirs = stock(size, folder / f"stock_{size}")
        tell(f"{size} schedules: {theirs} by hand, {mine} ours")
        found.append(
            Row(
                f"{size} schedules due at once: last is queued", "s", "", [theirs.last], [mine.last]
            )
        )
    idle, due = queries_of_a_tick(folder / "queries")
    tell(f"queries to Django's database: {idle} of a tick that is not due, {due} of one that is")
    return found
