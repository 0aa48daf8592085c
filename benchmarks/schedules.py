"""How long it takes until every schedule that is due in one minute has its run in the queue.

Ours: process trees with a schedule each, and the example's dagster.yaml. Stock: as many jobs and
schedules written by hand, and Dagster's defaults. Both on SQLite, one after the other, with a
daemon and a code server; runs stay in the queue (max_concurrent_runs is 0), so that what is
measured is the scheduling, not the running. Beside them, one schedule with a run for each of as
many rows (``for_each``): when all are recorded in Django's database, when the last one is queued.
"""

import datetime as dt
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from dagster import DagsterInstance

from tests.tools import TOP
from tests.tools.code_files import code_of

from .table import Row, tell

CODE = code_of(__file__)

SIZES = (1, 100, 1000)
"""How many schedules are due in one minute."""

LEAD = dt.timedelta(seconds=45)
"""Time for a daemon to come up and see its schedules before they are due."""


@dataclass(frozen=True)
class Figures:
    """What one side needed, in seconds after the due time."""

    first: float
    last: float
    recorded: float = 0.0
    """When all were recorded in the outbox."""


def minute_ahead() -> dt.datetime:
    """Return a whole minute that leaves ``LEAD`` to get ready."""
    ahead = dt.datetime.now(dt.UTC) + LEAD + dt.timedelta(minutes=1)
    return ahead.replace(second=0, microsecond=0)


def ours(count: int, folder: Path, *, rows: bool = False) -> Figures:
    """Measure process trees: a schedule each, or one with a run for each of as many rows."""
    settings = yaml.safe_load((TOP / "example/dagster_home/dagster.yaml").read_text())
    environment = _home(folder, settings)
    environment |= {
        "DJANGO_SETTINGS_MODULE": "example.settings",
        "EXAMPLE_DATABASE": str(folder / "db.sqlite3"),
        "EXAMPLE_DAGSTER_URL": "",
        "PYTHONPATH": str(TOP),
    }
    _manage(environment, "migrate", "-v0")
    due = minute_ahead()
    _save_trees(environment, due, count, "save_rows.py" if rows else "save_trees.py")
    database = folder / "db.sqlite3" if rows else None
    return _measure(["-w", str(TOP / "workspace.yaml")], environment, due, count, database)


def stock(count: int, folder: Path) -> Figures:
    """Measure jobs and schedules that were written by hand."""
    due = minute_ahead()
    environment = _home(folder, {"telemetry": {"enabled": False}})
    environment |= {"BENCH_CRON": f"{due.minute} {due.hour} * * *", "BENCH_COUNT": str(count)}
    code = shutil.copy(CODE / "stock.py", folder)
    return _measure(["-f", str(code)], environment, due, count)


def queries_of_a_tick(folder: Path) -> tuple[int, int]:
    """Return how many queries to Django's database a tick makes: one not due, and one due."""
    environment = _home(folder, {"telemetry": {"enabled": False}})
    environment |= {
        "DJANGO_SETTINGS_MODULE": "example.settings",
        "EXAMPLE_DATABASE": str(folder / "db.sqlite3"),
        "EXAMPLE_DAGSTER_URL": "",
    }
    _manage(environment, "migrate", "-v0")
    _save_trees(environment, minute_ahead(), 1)
    printed = _manage(environment, "shell", "-v0", "-c", (CODE / "count_queries.py").read_text())
    idle, due = map(int, printed.split()[-2:])
    return idle, due


def _save_trees(
    environment: Mapping[str, str], due: dt.datetime, count: int, program: str = "save_trees.py"
) -> None:
    given = {"BENCH_DUE": due.isoformat(), "BENCH_COUNT": str(count)}
    code = (CODE / program).read_text()
    _manage({**environment, **given}, "shell", "-v0", "-c", code)


def _manage(environment: Mapping[str, str], *args: str) -> str:
    """Run ``manage.py``, and return what it prints."""
    command = [sys.executable, str(TOP / "manage.py"), *args]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


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
    target: list[str],
    environment: dict[str, str],
    due: dt.datetime,
    count: int,
    outbox: Path | None = None,
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
            recorded = 0.0 if outbox is None else _recorded(outbox, count, due)
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
    return Figures(seconds[0], seconds[-1], recorded)


def _recorded(database: Path, count: int, due: dt.datetime) -> float:
    """Wait until as many rows are in the outbox; return the seconds since the due time."""
    deadline = time.monotonic() + LEAD.total_seconds() + 180
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        query = "SELECT count(*) FROM proctree_dagster_outboxrun"
        while connection.execute(query).fetchone()[0] < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"{count} rows were not recorded")
            time.sleep(0.1)
    return (dt.datetime.now(dt.UTC) - due).total_seconds()


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
        rule = ours(size, folder / f"rows_{size}", rows=True)
        tell(f"{size} schedules: {theirs} by hand, {mine} ours; as one rule: {rule}")
        found.append(
            Row(
                f"{size} schedules due at once: last is queued", "s", "", [theirs.last], [mine.last]
            )
        )
    idle, due = queries_of_a_tick(folder / "queries")
    tell(f"queries to Django's database: {idle} of a tick that is not due, {due} of one that is")
    return found
