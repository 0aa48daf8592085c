"""Several daemons on one home, replaced in turn under load, as in a rolling deploy."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster import DagsterRunStatus

from tests.e2e.accidents import Accidents
from tests.tools.stack import wait_for

RUNS = int(os.environ.get("PROCTREE_DAEMON_RUNS", "6"))
"""How many runs are queued by hand."""

DUE_TIMES = int(os.environ.get("PROCTREE_DAEMON_DUE_TIMES", "3"))
"""How many due times are given besides."""

REPLACED = int(os.environ.get("PROCTREE_DAEMONS_REPLACED", "1"))
"""How often a daemon is replaced by another."""

SECONDS = 1200.0 + 3 * RUNS
"""How long all of it may take."""

FUNCTIONS = """
import os
from pathlib import Path
from dagster import OpExecutionContext

def note():
    run = OpExecutionContext.get().run
    line = f"{run.job_name} {run.tags.get('proctree/due', '-')} {run.run_id}\\n"
    file = os.open(Path(__file__).with_name("calls.txt"), os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)
"""

STOCK = {
    **{"module": "dagster._core.launcher", "class": "DefaultRunLauncher"},
    "config": {},
}

pytestmark = [pytest.mark.e2e, pytest.mark.apart, pytest.mark.timeout(2 * SECONDS)]


@pytest.fixture(autouse=True)
def stacks_database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let the test look into the database of its stack."""
    with django_db_blocker.unblock():
        yield


def _kinds() -> list[tuple[str, str, int]]:
    """Return launchers, databases and counts of daemons: all of them, or one in short."""
    if RUNS < 100:
        return [("warm", "sqlite", 2)]
    launchers, databases, counts = ("warm", "stock"), ("sqlite", "postgresql"), (2, 3)
    return [(a, b, c) for a in launchers for b in databases for c in counts]


@pytest.mark.parametrize(("launcher", "database", "daemons"), _kinds())
def test_of_queued_runs_and_due_times_each_is_executed_once_whoever_else_is_at_it(
    tmp_path: Path, request: pytest.FixtureRequest, launcher: str, database: str, daemons: int
) -> None:
    chance = random.Random(0)
    settings, storage = None, {}
    if database == "postgresql":
        settings = request.getfixturevalue("postgres").new_database()
        url = f"postgresql+psycopg2://postgres:@/{settings['NAME']}?host={settings['HOST']}"
        storage = {"storage": {"postgres": {"postgres_url": url}}}
    stack = Accidents(tmp_path, trees=min(DUE_TIMES, 40), database=settings)
    (tmp_path / "e2e_functions.py").write_text(FUNCTIONS)
    stack.configure_dagster(
        # Off, so that only the worker's own claim keeps a second one from executing the run.
        run_monitoring={"enabled": False, "start_timeout_seconds": 60},
        **({"run_launcher": STOCK} if launcher == "stock" else {}),
        **storage,
    )
    try:
        stack.prepare()
        if launcher == "warm":
            stack.let_the_daemon_load_the_code()
        else:
            stack.start_code_server()
        stack.shell(
            "tree = ProcessTreeInstance('by_hand')\n"
            "tree.add_process('note', func='e2e_functions:note').save()\n"
        )
        for begun in range(0, RUNS, 100):
            stack.shell(
                "from proctree_dagster.running import tree_runs as execution\n"
                "from proctree_dagster.orchestration.runs.opening import open_instance\n"
                "row = execution.get_row('by_hand')\n"
                "with open_instance():\n"
                f"    for _ in range({min(100, RUNS - begun)}):\n"
                "        execution.submit_row(row)\n"
            )
        stack.give_due_times(DUE_TIMES)
        alive = [stack.start_a_daemon() for _ in range(daemons)]
        replaced = 0

        def done() -> bool:
            nonlocal replaced
            # Spread over all of it, so that each is replaced while runs are being launched.
            if replaced < REPLACED and len(stack.calls()) * (REPLACED + 1) > replaced * RUNS:
                time.sleep(chance.uniform(0.5, 3))
                stack.kill(alive.pop(0)) if replaced % 2 else stop(alive.pop(0))
                alive.append(stack.start_a_daemon())
                replaced += 1
            stack.give_due_times(DUE_TIMES)
            return len(stack.given) >= DUE_TIMES and replaced >= REPLACED and stack.settled()

        wait_for("everything to be run", done, SECONDS)
        calls = stack.calls()
        by_hand = Counter(run for job, due, run in calls if due == "-")
        due_times = Counter((job, due) for job, due, run in calls if due != "-")
        statuses = Counter(run.status for run in stack.instance.get_runs())
        print(f"{len(by_hand)} runs, {len(due_times)} due times: {statuses}")
        twice = [run for run, count in Counter(run for _, _, run in calls).items() if count > 1]
        assert not twice, "one run, one execution"
        assert due_times == Counter(stack.given), "one due time, one execution"
        assert statuses[DagsterRunStatus.SUCCESS] == len(calls)
        assert len(by_hand) == RUNS, "none is lost, though its daemon was killed as it launched it"
    finally:
        stack.stop()


def stop(daemon: psutil.Process) -> None:
    """Stop a daemon as a service manager does."""
    daemon.terminate()
    daemon.wait(60)
