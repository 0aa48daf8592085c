"""What a launch costs: stock Dagster and proctree-dagster, side by side on one machine.

    .venv/bin/python -m benchmarks.launch

Starts three stacks in a temporary folder: stock Dagster (default ``dagster.yaml``, executor and
launcher, the tree written by hand as a Dagster job), ours (the example's ``dagster.yaml``), and
ours without a limit on runs, so past the queue. They take turns; what was started is stopped. Lasts
about ten minutes.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.stack import Stack, wait_for

COST_SECONDS = 9.0
"""How long to count the CPU seconds of a run for; the slowest side must have ended by then."""

FUNCTIONS = """
import os
import time

def _note(token, what):
    line = f"{token} {what} {time.time()}\\n"
    with open(os.environ["BENCH_NOTES"], "a") as notes:
        notes.write(line)

def first(token):
    _note(token, "begins")
    return 1

def left(first):
    return first + 1

def right(first):
    return first + 2

def last(token, left, right):
    _note(token, "ends")
    return left + right
"""

BY_HAND = """
import django

django.setup()

import dagster as dg
import bench_functions as functions

@dg.op(config_schema={"token": str})
def first(context):
    return functions.first(context.op_config["token"])

@dg.op
def left(first):
    return functions.left(first)

@dg.op
def right(first):
    return functions.right(first)

@dg.op(config_schema={"token": str})
def last(context, left, right):
    return functions.last(context.op_config["token"], left, right)

@dg.job
def bench():
    start = first()
    last(left(start), right(start))

@dg.repository
def process_trees():
    return [bench]
"""

SETTINGS = """
from example.settings import *

PROCTREE = {**PROCTREE, "FUNCTION_MODULES": ["bench_functions", "example.ledger"]}
LOGGING = {"version": 1, "disable_existing_loggers": False}
"""

SAVE_THE_TREE = """
tree = ProcessTreeInstance("bench", overwrite=True)
tree.add_process("first", func="bench_functions:first")
tree.add_process("left", func="bench_functions:left", dependencies=["first"])
tree.add_process("right", func="bench_functions:right", dependencies=["first"])
tree.add_process("last", func="bench_functions:last", dependencies=["left", "right"])
tree.save()
"""


class Side(Stack):
    """A stack with the benchmark's tree."""

    name = "ours"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.notes = folder / "notes.txt"
        self.notes.touch()
        self.env["BENCH_NOTES"] = str(self.notes)
        self.env["DJANGO_SETTINGS_MODULE"] = "bench_settings"
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        (folder / "bench_functions.py").write_text(FUNCTIONS)
        (folder / "bench_settings.py").write_text(SETTINGS)

    def prepare(self) -> None:
        """Fill the database."""
        self.manage("migrate", "-v0")
        self.shell(SAVE_THE_TREE, silently=True)

    def config(self, token: str) -> dict[str, Any]:
        """Return what the Launchpad would send."""
        return {"context": {"token": token}}

    def launch_one(self) -> tuple[float, str]:
        """Launch the tree in the UI's API; return when, and the run's token."""
        token = uuid.uuid4().hex
        at = time.time()
        self.launch("bench", self.config(token))
        return at, token

    def noted(self, token: str, what: str) -> float | None:
        """Return when a process of a run said something."""
        for line in self.notes.read_text().splitlines():
            its, said, at = line.split()
            if (its, said) == (token, what):
                return float(at)
        return None

    def ended(self, token: str) -> float:
        """Wait for the last process of a run."""
        return wait_for("a run to end", lambda: self.noted(token, "ends"), 120)

    def family(self) -> list[psutil.Process]:
        """Return every process of the stack."""
        found = []
        for process in self.processes:
            top = psutil.Process(process.pid)
            found += [top, *top.children(recursive=True)]
        return found

    def cpu(self) -> float:
        """Return the CPU seconds of the stack, and of every process that it has had."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def memory(self) -> float:
        """Return the stack's memory in MiB: shared pages are counted once (PSS)."""
        total = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 2**20


class Past(Side):
    """Ours, without a limit on runs."""

    name = "past the queue"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        settings = self.home / "dagster.yaml"
        text = settings.read_text()
        assert "max_concurrent_runs: 10" in text
        settings.write_text(text.replace("max_concurrent_runs: 10", "max_concurrent_runs: -1"))


class Stock(Side):
    """Dagster as it comes."""

    name = "stock"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        (folder / "by_hand.py").write_text(BY_HAND)
        workspace = {
            "load_from": [
                {
                    "python_module": {
                        "module_name": "by_hand",
                        "location_name": self.selector["repositoryLocationName"],
                        "working_directory": str(folder),
                    }
                }
            ]
        }
        self.workspace = str(folder / "workspace.json")  # YAML, too
        Path(self.workspace).write_text(json.dumps(workspace))

    def prepare(self) -> None:
        """Fill the database; the job is in a file."""
        self.manage("migrate", "-v0")

    def config(self, token: str) -> dict[str, Any]:
        """Return what the Launchpad would send."""
        return {"ops": {name: {"config": {"token": token}} for name in ("first", "last")}}


@dataclass
class Row:
    """One line of the table."""

    measure: str
    unit: str
    target: str
    stock: list[float]
    ours: list[float]

    def line(self) -> str:
        """Return it as Markdown: medians, spread, and ours against stock."""
        ratio = statistics.median(self.ours) / statistics.median(self.stock)
        times = f"{ratio:.2f}×" if ratio >= 0.5 else f"1/{1 / ratio:.1f}"
        return (
            f"| {self.measure} | {spread(self.stock, self.unit)} | {spread(self.ours, self.unit)} "
            f"| {times} | {self.target} |"
        )


def spread(values: list[float], unit: str) -> str:
    """Return the median, and the least and the most."""
    digits = 0 if statistics.median(values) >= 20 else 2
    text = f"{statistics.median(values):.{digits}f} {unit}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def latency(side: Side) -> float:
    """Return the seconds from the launch in the UI's API to the first line of the tree."""
    at, token = side.launch_one()
    begun = wait_for("a run to begin", lambda: side.noted(token, "begins"), 120)
    side.ended(token)
    time.sleep(2)  # the worker ends
    return begun - at


def cost(side: Side, idle: float, seconds: float) -> float:
    """Return the CPU seconds of a run: all of the stack's over a while, less the idle ones."""
    before, at = side.cpu(), time.monotonic()
    _, token = side.launch_one()
    side.ended(token)
    time.sleep(max(2.0, at + seconds - time.monotonic()))
    return side.cpu() - before - idle * (time.monotonic() - at)


def idle_cpu(sides: list[Side], seconds: float) -> list[float]:
    """Return the CPU seconds a second that each side takes for nothing, at the same time."""
    before = [side.cpu() for side in sides]
    at = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - at
    return [(side.cpu() - was) / passed for side, was in zip(sides, before, strict=True)]


def throughput(make: Callable[[Path], Side], folder: Path, count: int) -> float:
    """Return the runs per minute of a full queue: the daemon starts when all are queued."""
    side = make(folder)
    side.prepare()
    try:
        side.start_webserver()
        ids = [side.launch("bench", side.config(uuid.uuid4().hex)) for _ in range(count)]
        side.start_daemon()
        query = """query ($filter: RunsFilter!) { runsOrError(filter: $filter) {
            ... on Runs { results { status endTime stats {
              ... on RunStatsSnapshot { launchTime } } } } } }"""

        def finished() -> list[dict[str, Any]] | None:
            runs = side.graphql(query, filter={"runIds": ids})["runsOrError"]["results"]
            done: list[dict[str, Any]] = [run for run in runs if run["status"] == "SUCCESS"]
            time.sleep(2)
            return done if len(done) == count else None

        runs = wait_for("the queue to empty", finished, 600)
        begun = min(run["stats"]["launchTime"] for run in runs)
        return count * 60.0 / float(max(run["endTime"] for run in runs) - begun)
    finally:
        side.stop()


@contextlib.contextmanager
def running(folder: Path, *makes: Callable[[Path], Side]) -> Iterator[list[Side]]:
    """Start stacks one after another, and stop them."""
    sides: list[Side] = []
    try:
        for make in makes:
            side = make(folder / uuid.uuid4().hex[:6])
            sides.append(side)
            side.prepare()
            side.start_dagster()
        yield sides
    finally:
        for side in sides:
            side.stop()


def tell(text: str) -> None:
    """Say what is going on, beside the table."""
    print(text, file=sys.stderr, flush=True)


def measure(folder: Path, rounds: int, count: int, idle_seconds: float) -> list[Row]:
    """Return the table's rows."""
    with running(folder, Stock, Side, Past) as sides:
        stock, ours, past = sides
        for side in sides * 2:
            tell(f"warming up: {side.name} {latency(side):.2f} s")
        tell("idle")
        time.sleep(10)
        idles = [idle_cpu(sides, idle_seconds / rounds) for _ in range(rounds)]
        memories = [[side.memory() for side in sides] for _ in range(rounds)]
        tell(f"idle CPU {idles[-1]}, memory {memories[-1]}")
        latencies: dict[str, list[float]] = {side.name: [] for side in sides}
        costs: dict[str, list[float]] = {side.name: [] for side in sides}
        for number in range(rounds):
            for side in sides:
                latencies[side.name].append(latency(side))
            tell(f"round {number + 1}: {[round(each[-1], 2) for each in latencies.values()]}")
        for number in range(rounds):
            for index, side in enumerate(sides[:2]):
                rest = statistics.median(each[index] for each in idles)
                costs[side.name].append(cost(side, rest, COST_SECONDS))
            tell(f"cost {number + 1}: {[round(each[-1], 2) for each in list(costs.values())[:2]]}")
    tell("a full queue")
    full = []
    for number, make in enumerate((Stock, Side)):
        full.append(throughput(make, folder / f"full{number}", count))
        tell(f"{make.name}: {full[-1]:.1f} runs a minute")
    return [
        Row(
            "launch → first line, through the queue",
            "s",
            "≤ 1/5",
            latencies[stock.name],
            latencies[ours.name],
        ),
        Row(
            "launch → first line, past the queue",
            "s",
            "≤ 1/12",
            latencies[stock.name],
            latencies[past.name],
        ),
        Row("CPU of a run of four", "s", "≤ 1/8", costs[stock.name], costs[ours.name]),
        Row(f"{count} queued runs", "a minute", "≥ 8×", [full[0]], [full[1]]),
        Row(
            "idle CPU of the stack",
            "%",
            "≤ 1.1×",
            [100 * each[0] for each in idles],
            [100 * each[1] for each in idles],
        ),
        Row(
            "memory of the stack (PSS)",
            "MiB",
            "≤ 1.1×",
            [each[0] for each in memories],
            [each[1] for each in memories],
        ),
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="samples of each measure")
    parser.add_argument("--runs", type=int, default=60, help="runs that are queued at once")
    parser.add_argument("--idle", type=float, default=40, help="seconds to be idle for")
    given = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.rounds, given.runs, given.idle)
    print("| measure | stock | ours | ours against stock | target |\n|---|---|---|---|---|")
    for row in rows:
        print(row.line())
    print(
        f"\nMedians (least to most) of {given.rounds}, the sides taking turns, on {os.cpu_count()} "
        f"cores; load average {load[0]:.1f} before and {os.getloadavg()[0]:.1f} after."
    )


if __name__ == "__main__":
    main()
