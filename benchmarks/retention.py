"""Removing most of a long history while a tree runs each second.

    .venv/bin/python -m benchmarks.retention [--runs 20000] [--events 50] [--storage sqlite]

One run is executed and copied; nine of ten copies ended 100 days ago, and go. What it measures: how
long runs take before and meanwhile, how long the longest batch held a lock, how many megabytes the
disk has back, and whether anything is lost that was to be kept. ``--storage postgresql`` starts a
server of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.orchestration.opening import yaml_of_postgres
from tests.tools.code_files import code_of
from tests.tools.stack import Stack

from .table import tell

CODE = code_of(__file__)

BEFORE_SECONDS = 20.0
"""Seconds in which runs are timed before anything is removed."""

KEEP = {"runs": "90 days"}


@dataclass(frozen=True)
class Measured:
    """What was measured."""

    before: list[float]
    """Seconds that runs took while nothing was removed."""

    meanwhile: list[float]
    """Seconds that they took while it was."""

    removed: int
    seconds: float
    longest_batch: float
    megabytes: float
    """By which the home has become smaller."""

    left: dict[str, int]
    """How many of the runs that were to be kept are there, and whole."""

    kept: int
    """How many were to be."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is lost that was to be kept."""
        return all(count == self.kept for name, count in self.left.items() if name != "all")

    def lines(self) -> Iterator[str]:
        """Return it for people to read."""
        yield f"Runs before: {_spread(self.before)}"
        yield f"Runs meanwhile: {_spread(self.meanwhile)}"
        yield f"Removed {self.removed:,} runs in {self.seconds:.0f} s"
        yield f"The longest batch took {self.longest_batch:.3f} s"
        yield f"The home is smaller by {self.megabytes:.0f} MB"
        yield f"Kept: {self.left} of {self.kept}, {'whole' if self.is_complete else 'NOT WHOLE'}"


def _spread(seconds: list[float]) -> str:
    middle = statistics.median(seconds)
    return f"median {middle:.3f} s, longest {max(seconds):.3f} s, n={len(seconds)}"


def measure(folder: Path, runs: int, events: int, yaml: str = "") -> Measured:
    """Fill a home in a folder, and remove most of it.

    Parameters
    ----------
    folder:
        An empty one.
    runs, events:
        How many runs, and how many events of each.
    yaml:
        The storage's part of ``dagster.yaml``; blank: SQLite.
    """
    stack = Stack(folder, told_to_reload=False)
    try:
        return _measured(stack, runs, events, yaml)
    finally:
        stack.stop()


def _measured(stack: Stack, runs: int, events: int, yaml: str) -> Measured:
    for name in ("bench_functions.py", "bench_settings.py"):
        (stack.folder / name).write_text((CODE / name).read_text())
    if yaml:
        (stack.home / "dagster.yaml").write_text(yaml)
    stack.env |= {"DJANGO_SETTINGS_MODULE": "bench_settings", "BENCH_KEEP": json.dumps(KEEP)}
    stack.migrate()
    said = stack.shell(CODE / "fill.py", BENCH_RUNS=str(runs), BENCH_EVENTS=str(events))
    filled = json.loads(said.splitlines()[-1])
    tell(f"filled: {runs:,} runs of {filled['events']} events")
    kept = stack.folder / "kept.json"
    kept.write_text(json.dumps(filled["kept"]))
    before = _used(stack.home)
    with _running_each_second(stack) as taken:
        time.sleep(BEFORE_SECONDS)
        begun = time.monotonic()
        report = _prune(stack)
        seconds = time.monotonic() - begun
    times = json.loads(taken.read_text())
    left = stack.shell(CODE / "count_kept.py", BENCH_KEPT=str(kept)).splitlines()[-1]
    return Measured(
        before=[took for at, took in times if at + took < BEFORE_SECONDS - 5],
        meanwhile=[took for at, took in times if at >= BEFORE_SECONDS - 5],
        removed=report["removed"]["runs"],
        seconds=seconds,
        longest_batch=report["longest_batch_seconds"],
        megabytes=(before - _used(stack.home)) / 1e6,
        left=json.loads(left),
        kept=len(filled["kept"]),
    )


def _prune(stack: Stack) -> Any:
    command = [sys.executable, str(stack.top / "manage.py"), "proctree", "prune", "--json"]
    done = subprocess.run(command, cwd=stack.top, env=stack.env, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


@contextmanager
def _running_each_second(stack: Stack) -> Iterator[Path]:
    """Run the tree each second in a process of its own; its times are in the file at the end."""
    stop, taken = stack.folder / "stop", stack.folder / "taken.json"
    program = (CODE / "run_each_second.py").read_text()
    env = {**stack.env, "BENCH_STOP": str(stop), "BENCH_TAKEN": str(taken)}
    command = [sys.executable, str(stack.top / "manage.py"), "shell", "-v0", "-c", program]
    with stack.log.open("ab") as log:
        process = subprocess.Popen(command, cwd=stack.top, env=env, stdout=log, stderr=log)
    try:
        yield taken
        stop.touch()
        if process.wait(60):
            raise AssertionError(f"A run failed:\n{stack.log.read_text()[-3000:]}")
    finally:
        process.kill()
        process.wait()


def _used(folder: Path) -> int:
    """Return the bytes of all files in a folder; a file system may allocate more, or later."""
    return sum(each.lstat().st_size for each in folder.rglob("*") if each.is_file())


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--storage", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        if given.storage == "sqlite":
            found = measure(Path(folder), given.runs, given.events)
        else:
            found = _on_postgresql(Path(folder), given.runs, given.events)
    print("\n".join(found.lines()))
    print(f"{os.cpu_count()} cores, load average {load:.1f} before, {os.getloadavg()[0]:.1f} after")


def _on_postgresql(folder: Path, runs: int, events: int) -> Measured:
    from tests.tools.postgres import Postgres

    server = Postgres()
    try:
        return measure(folder, runs, events, yaml_of_postgres(server.new_database()))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
