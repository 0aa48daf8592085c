"""Runs whose worker is killed, stopped, hung or hidden at random, on several hosts."""

import json
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus

from proctree_dagster.domain import run_tags
from tests.tools.host import Host, can_have_namespaces
from tests.tools.shared_home import GRACE, Home, Run
from tests.tools.stack import wait_for

RUNS = int(os.environ.get("PROCTREE_LOST_RUNS", "7"))
"""How many runs there are: the fates come in turn."""

LOST_AFTER = float(os.environ.get("PROCTREE_LOST_AFTER", "8"))

INTERVAL = 1.0
"""Seconds between two passes over the runs; the sensor's are ten."""

SLACK = float(os.environ.get("PROCTREE_LOST_SLACK", "60"))
"""Seconds that a busy machine may take longer."""

FATES = ("healthy", "killed", "stopped", "hung", "hidden", "unguarded", "killed twice")

ENDINGS = {
    "healthy": DagsterRunStatus.SUCCESS,
    "hung": DagsterRunStatus.CANCELED,
    "unguarded": DagsterRunStatus.SUCCESS,
}
"""What runs come to by their fate; all others have failed."""

pytestmark = [pytest.mark.e2e, pytest.mark.apart, pytest.mark.timeout(3600)]


@pytest.fixture
def home(tmp_path: Path, django_db_blocker: Any) -> Iterator[Home]:
    if not can_have_namespaces():
        pytest.skip("this user can't make namespaces")
    with django_db_blocker.unblock():
        found = Home(tmp_path / "it", LOST_AFTER)
        try:
            yield found
        finally:
            found.close()


def started(home: Home, host: Host, number: int, fate: str) -> Run:
    """Let a host start the scheduled run of a tree of its own, and wait until it is called."""
    run = Run(home, "", f"word-{uuid.uuid4()}")
    function = "hang" if fate == "hung" else "sleep"
    home.here.make_schedule(f"tree_{number}", f"e2e_functions:{function}", {"word": run.word})
    run.run_id = host.tick(f"tree_{number}")
    run.called()
    return run


def befall(home: Home, host: Host, run: Run, fate: str) -> None:
    """Do to a run's worker what is to happen to it."""
    written = wait_for("the worker's tag", lambda: run.record.tags.get(run_tags.WORKER))
    pid, guardian = run.row.pid, json.loads(written)["guardian"]
    if fate in ("unguarded", "killed twice"):
        host.send(guardian, signal.SIGKILL)
    if fate in ("killed", "killed twice"):
        host.send(pid, signal.SIGKILL)
    elif fate == "stopped":
        host.send(pid, signal.SIGSTOP)
    elif fate == "hung":
        home.here.terminate(run.run_id)


def test_lost_runs_end_in_time_healthy_ones_go_on_and_so_does_every_schedule(home: Home) -> None:
    chance = random.Random(0)
    hosts = [home.here, home.host("c1", boot="one")]
    doomed = home.host("c2", boot="two")
    runs: list[tuple[Run, str, int]] = []
    for number in range(RUNS):
        fate = FATES[number % len(FATES)]
        # Where a host can't be seen nothing tells a worker without a guardian from a lost one.
        host = doomed if fate == "hidden" else hosts[0 if fate == "unguarded" else number % 2]
        run = started(home, host, number, fate)
        runs.append((run, fate, number))
        if fate != "hidden":
            time.sleep(chance.uniform(0, 0.2))
            befall(home, host, run, fate)
        home.here.settle()
    doomed.die()
    began = time.monotonic()
    took: dict[str, float] = {}

    def all_ended() -> bool:
        home.here.settle()
        for run, fate, _ in runs:
            if run.run_id not in took and run.record.is_finished:
                took[run.run_id] = time.monotonic() - began
            elif fate in ("healthy", "unguarded"):
                assert run.status == DagsterRunStatus.STARTED, f"{fate}: {run.messages}"
        time.sleep(INTERVAL)
        return len(took) == sum(fate not in ("healthy", "unguarded") for _, fate, _ in runs)

    promised = LOST_AFTER + GRACE + 2 * 10
    wait_for("the lost ones to end", all_ended, promised + SLACK)
    for run, fate, _ in runs:
        if fate in ("healthy", "unguarded"):
            run.may_go()
            run.ended()
    found = Counter((fate, run.status) for run, fate, _ in runs)
    expected = [(fate, ENDINGS.get(fate, DagsterRunStatus.FAILURE)) for _, fate, _ in runs]
    assert found == Counter(expected)
    times = sorted(took.values())
    print(f"{len(runs)} runs; the lost ones ended within {times[-1]:.1f} s at most, of {promised}")
    for run, fate, number in runs:
        again = home.here.tick_again(f"tree_{number}")
        wait_for(f"the next run of the schedule ({fate})", lambda: len(run.calls()) == 2)  # noqa: B023
        home.here.terminate(again)
