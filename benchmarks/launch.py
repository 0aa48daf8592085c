"""What a launch costs, and a full queue: stock Dagster and ours, side by side.

Stacks in a temporary folder: stock Dagster (default ``dagster.yaml``, executor and launcher,
the tree written by hand as a Dagster job), ours (the example's ``dagster.yaml``), ours without
a limit on runs, so past the queue, and that with a tree that has ``reuse_worker``. They take turns.
"""

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.tools.stack import wait_for

from .stacks import Launches, Ours, Past, Reusing, ReusingPast, Side, Stock, running
from .table import Row, tell

COST_SECONDS = 9.0
"""How long to count the CPU seconds of a run for; the slowest side must have ended by then."""

WORKER_SECONDS = 3.0
"""The same for ours; a worker waits longer for a further run."""

IDLE_SECONDS = 150.0
"""How long to be idle for, in all."""

RELOAD_SECONDS = 60
"""How often Dagster's daemon replaces a code server of its own."""

QUEUED = 60
"""Runs that are queued at once."""


def rows(folder: Path, rounds: int) -> list[Row]:
    """Return the latency and the cost of a launch, and what the stacks take when idle.

    They are started by ``dagster dev``, where the daemon uses the webserver's code server; at the
    end they are idle as services, too, where it has one of its own.

    Parameters
    ----------
    folder:
        Where the stacks live.
    rounds:
        Samples of each measure.
    """
    with running(folder, Stock, Ours, Past, ReusingPast) as sides:
        stock, ours, past, reusing = sides
        for side in sides * 2:
            tell(f"warming up: {side.name} {latency(side):.2f} s")
        tell("idle")
        time.sleep(10)
        assert ours.template()
        warm = [[side.memory() for side in sides] for _ in range(rounds)]
        idles = [idle_cpu(sides, IDLE_SECONDS / rounds) for _ in range(rounds)]
        latencies: dict[str, list[float]] = {side.name: [] for side in sides}
        for number in range(rounds):
            for side in sides:
                latencies[side.name].append(latency(side))
            latencies[reusing.name][-1] = latency(reusing)  # its worker waits, of the run before
            tell(f"round {number + 1}: {[round(each[-1], 2) for each in latencies.values()]}")
        costs: dict[str, list[float]] = {side.name: [] for side in sides}
        for number in range(rounds):
            for index, side in enumerate(sides):
                rest = statistics.median(each[index] for each in idles)
                if side is reusing:
                    latency(side)  # its worker waits
                seconds = COST_SECONDS if side is stock else WORKER_SECONDS
                costs[side.name].append(cost(side, rest, seconds))
            tell(f"cost {number + 1}: {[round(each[-1], 2) for each in costs.values()]}")
        tell("idle, until the template has ended")
        wait_for("the template to end", lambda: not ours.template(), 120)
        cold = [[side.memory() for side in sides] for _ in range(rounds)]
    with running(folder, Stock, Ours, as_services=True) as services:
        tell("idle, as services")
        time.sleep(RELOAD_SECONDS)
        in_services = [idle_cpu(services, RELOAD_SECONDS) for _ in range(rounds)]
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
        Row(
            "the same in a worker that has executed one before (`reuse_worker`)",
            "s",
            "≤ 1/12",
            latencies[stock.name],
            latencies[reusing.name],
        ),
        Row("CPU of a run of four", "s", "≤ 1/8", costs[stock.name], costs[ours.name]),
        Row("the same past the queue", "s", "≤ 1/8", costs[stock.name], costs[past.name]),
        Row(
            "the same in a worker that has executed one before (`reuse_worker`)",
            "s",
            "≤ 1/8",
            costs[stock.name],
            costs[reusing.name],
        ),
        Row(
            "idle CPU of the stack, of a core",
            "%",
            "≤ 1.1×",
            [100 * each[0] for each in idles],
            [100 * each[1] for each in idles],
        ),
        Row(
            "the same, webserver and daemon each by itself",
            "%",
            "≤ 1.1×",
            [100 * each[0] for each in in_services],
            [100 * each[1] for each in in_services],
        ),
        Row(
            "memory of the idle stack (PSS)",
            "MiB",
            "≤ 1.1×",
            [each[0] for each in cold],
            [each[1] for each in cold],
        ),
        Row(
            "the same while its template waits for launches",
            "MiB",
            "≤ 1.1×",
            [each[0] for each in warm],
            [each[1] for each in warm],
        ),
    ]


def queue_rows(folder: Path, rounds: int) -> list[Row]:
    """Return how fast a full queue empties.

    Parameters
    ----------
    folder:
        Where the stacks live.
    rounds:
        Queues a side.
    """
    sides: tuple[type[Side], ...] = (Stock, Ours, Reusing)
    full: dict[str, list[float]] = {make.name: [] for make in sides}
    for number in range(rounds):
        for make in sides:
            full[make.name].append(throughput(make, folder / f"{make.name}{number}", QUEUED))
            tell(f"queue {number + 1}: {make.name}: {full[make.name][-1]:.1f} runs a minute")
    stock = full[Stock.name]
    return [
        Row(f"{QUEUED} queued runs", "a minute", "≥ 8×", stock, full[Ours.name]),
        Row("the same with `reuse_worker`", "a minute", "≥ 8×", stock, full[Reusing.name]),
    ]


def latency(side: Launches) -> float:
    """Return the seconds from the launch in the UI's API to the first line of the tree."""
    at, token = side.launch_one()
    begun = wait_for("a run to begin", lambda: side.noted(token, "begins"), 120)
    side.ended(token)
    time.sleep(2)  # the worker ends
    return begun - at


def cost(side: Launches, idle: float, seconds: float) -> float:
    """Return the CPU seconds of a run: all of the stack's over a while, less the idle ones."""
    before, at = side.cpu(), time.monotonic()
    _, token = side.launch_one()
    side.ended(token)
    time.sleep(max(2.0, at + seconds - time.monotonic()))
    return side.cpu() - before - idle * (time.monotonic() - at)


def idle_cpu(sides: Sequence[Launches], seconds: float) -> list[float]:
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

        runs = wait_for("the queue to empty", finished, 1800)
        begun = min(run["stats"]["launchTime"] for run in runs)
        return count * 60.0 / float(max(run["endTime"] for run in runs) - begun)
    finally:
        side.stop()
