"""What a step costs: stock Dagster's in-process executor and ours, side by side on one machine.

A chain of fifty processes that do nothing, written by hand as a Dagster job and saved as a tree,
on SQLite and on PostgreSQL; and a fan-out of eight that sleep. Each sample is a run in a process of
its own that does what ``dagster api execute_run`` does; the sides take turns. What is measured
lies between the first function and the last, so what it takes to start the process is not in it.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tools import TOP
from tests.tools.code_files import code_of

from .table import Row, tell

CODE = code_of(__file__)

LENGTH = 50
"""Processes of the chain."""

WIDTH = 8
"""Processes of the fan-out's middle."""

CRITICAL_SECONDS = 0.6
"""What the fan-out takes if all of its middle runs at once, and nothing else takes any time."""


@dataclass
class Sample:
    """One run, from its first function to its last."""

    seconds: float
    cpu_seconds: float


class Side:
    """A Dagster home, and how to execute a run in it."""

    def __init__(self, folder: Path, module: str, storage: str) -> None:
        self.folder = folder
        self.module = module
        home = folder / "home"
        home.mkdir(parents=True)
        (home / "dagster.yaml").write_text(f"telemetry:\n  enabled: false\n{storage}")
        self.notes = folder / "notes.txt"
        self.env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "bench_settings",
            "DAGSTER_HOME": str(home),
            "EXAMPLE_DATABASE": str(folder / "db.sqlite3"),
            "EXAMPLE_DAGSTER_URL": "",
            "BENCH_NOTES": str(self.notes),
            "BENCH_LENGTH": str(LENGTH),
            "BENCH_WIDTH": str(WIDTH),
            "PYTHONPATH": os.pathsep.join([str(folder), str(TOP)]),
        }
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        for file in CODE.glob("*.py"):
            shutil.copy(file, folder)

    def prepare(self) -> None:
        """Save the trees."""
        self._python(str(TOP / "manage.py"), "migrate", "-v0")
        code = (CODE / "save_trees.py").read_text()
        self._python(str(TOP / "manage.py"), "shell", "--no-imports", "-c", code)

    def run(self, job: str) -> Sample:
        """Execute one run in a process of its own."""
        self.notes.write_text("")
        self._python("-m", "bench_worker", self.module, job)
        noted = dict(self._notes())
        (began, cpu_began), (ended, cpu_ended) = noted["begins"], noted["ends"]
        return Sample(ended - began, cpu_ended - cpu_began)

    def _notes(self) -> Iterator[tuple[str, tuple[float, float]]]:
        for line in self.notes.read_text().splitlines():
            what, at, cpu = line.split()
            yield what, (float(at), float(cpu))

    def _python(self, *args: str) -> None:
        done = subprocess.run(
            [sys.executable, *args], cwd=TOP, env=self.env, capture_output=True, text=True
        )
        if done.returncode:
            raise AssertionError(f"{args} exited {done.returncode}\n{done.stderr[-4000:]}")


def sides(folder: Path, storage: str) -> tuple[Side, Side]:
    """Return stock and ours, ready."""
    both = Side(folder / "stock", "by_hand", storage), Side(folder / "ours", "definitions", storage)
    for side in both:
        side.prepare()
        side.run("chain")  # creates Dagster's tables, and the bytecode
    return both


def samples(pair: tuple[Side, Side], job: str, rounds: int) -> tuple[list[Sample], list[Sample]]:
    """Let both sides execute a job by turns."""
    stock, ours = pair
    results: tuple[list[Sample], list[Sample]] = ([], [])
    for number in range(rounds):
        results[0].append(stock.run(job))
        results[1].append(ours.run(job))
        last = [round(each[-1].seconds, 3) for each in results]
        tell(f"{job} {number + 1}: {last[0]} s, {last[1]} s")
    return results


@contextlib.contextmanager
def postgres_storage() -> Iterator[str]:
    """Start a PostgreSQL; yield what ``dagster.yaml`` says of it."""
    from tests.tools.postgres import Postgres

    server = Postgres()
    try:
        database = server.new_database()
        url = f"postgresql+psycopg2://postgres:@/{database['NAME']}?host={database['HOST']}"
        yield f"storage:\n  postgres:\n    postgres_url: {url}\n"
    finally:
        server.stop()


def chain_rows(pair: tuple[Side, Side], storage: str, rounds: int) -> list[Row]:
    """Return what a step of the chain takes."""
    stock, ours = samples(pair, "chain", rounds)

    def per_step(values: list[float]) -> list[float]:
        return [1000 * value / (LENGTH - 1) for value in values]

    return [
        Row(
            f"a step of a chain of {LENGTH}, {storage}",
            "ms",
            "≤ 1.0×",
            per_step([each.seconds for each in stock]),
            per_step([each.seconds for each in ours]),
        ),
        Row(
            f"CPU of such a step, {storage}",
            "ms",
            "≤ 1.0×",
            per_step([each.cpu_seconds for each in stock]),
            per_step([each.cpu_seconds for each in ours]),
        ),
    ]


def fan_rows(pair: tuple[Side, Side], storage: str, rounds: int) -> list[Row]:
    """Return what the fan-out takes, against stock and against the longest way through it."""
    stock, ours = samples(pair, "fan", rounds)
    what, seconds = (
        f"1 + {WIDTH} + 1 processes of 0.2 s, {storage}",
        [each.seconds for each in ours],
    )
    return [
        Row(what, "s", "≤ 1/3", [each.seconds for each in stock], seconds),
        Row(f"{what}, against its critical path", "s", "≤ 1.25×", [CRITICAL_SECONDS], seconds),
    ]


def rows(folder: Path, rounds: int) -> list[Row]:
    """Return the table's rows."""
    found = []
    with postgres_storage() as postgres:
        for storage, settings in {"SQLite": "", "PostgreSQL": postgres}.items():
            tell(storage)
            pair = sides(folder / storage, settings)
            found += chain_rows(pair, storage, rounds)
            found += fan_rows(pair, storage, rounds)
    return found
