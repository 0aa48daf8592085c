"""What a process can say, with real workers: results, pools, timeouts and bad manners."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.tools.code_files import code_of
from tests.tools.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CODE = code_of(__file__)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("processes"))
    shutil.copy(CODE / "e2e_functions.py", stack.folder)
    (stack.folder / "e2e_settings.py").write_text(
        "from example.settings import *\n"
        "PROCTREE = {**PROCTREE, 'FUNCTION_MODULES': ['example.ledger', 'e2e_functions'],\n"
        "            'POOLS': {'xero': 1}}\n"
    )
    stack.env["DJANGO_SETTINGS_MODULE"] = "e2e_settings"
    try:
        stack.migrate()
        stack.shell(CODE / "save_trees.py", silently=True)
        stack.shell(
            "ProcessTreeSchedule.objects.update(next_run=timezone.now())",
            silently=True,
        )
        stack.start_dagster()
        yield stack
    finally:
        assert stack.stop() == [], "processes outlived Ctrl-C"


def shown(run: dict[str, Any]) -> dict[str, Any]:
    """Return the status and the result that the UI shows of each process."""
    return {
        event["stepKey"]: {
            entry["label"]: entry.get("text")
            for entry in event["metadataEntries"]
            if entry["label"] != "proctree/seconds"
        }
        for event in run["eventConnection"]["events"]
        if event["__typename"] == "ExecutionStepOutputEvent"
    }


def test_a_tree_comes_to_the_same_whichever_way_it_is_run(stack: Stack) -> None:
    ways = {
        "python": stack.shell(
            "print(ProcessTreeManager.execute_tree('everything')['run_id'])"
        ).split()[-1],
        "the UI": stack.launch("everything"),
        "submit_tree": stack.shell("print(ProcessTreeManager.submit_tree('everything').run_id)"),
    }

    def scheduled() -> list[str]:
        runs = stack.runs("everything")
        return [run["runId"] for run in runs if "proctree/due" in run["tags"]]

    ways["the daemon"] = wait_for("the scheduled run", scheduled, 150)[0]
    runs = {way: stack.finished(run_id) for way, run_id in ways.items()}
    assert {way: run["status"] for way, run in runs.items()} == dict.fromkeys(ways, "SUCCESS")
    outcomes = {way: json.dumps(shown(run), sort_keys=True) for way, run in runs.items()}
    assert len(set(outcomes.values())) == 1, outcomes
    one = shown(runs["python"])
    assert one["seen"]["proctree/result"] == "[('a', 1), ('one', 1)]"
    assert {step: each["proctree/status"] for step, each in one.items()} == {
        "one": "completed",
        "lost": "failed",
        "odd": "failed",
        "fresh": "skipped",
        "seen": "completed",
    }
    for run in runs.values():
        assert set(run["tags"]["proctree/failed_optional"].split(", ")) == {"lost", "odd"}


def pool_lines(stack: Stack) -> list[list[str]]:
    path = stack.folder / "pool.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_pool_holds_across_all_runs_and_a_killed_worker_frees_its_slot(stack: Stack) -> None:
    ids = [stack.launch("pool", {"context": {"name": name}}) for name in ("a", "b", "c")]
    for run_id in ids:
        assert stack.finished(run_id, 120)["status"] == "SUCCESS"
    words = [line[3] for line in pool_lines(stack)]
    assert words == ["begins", "ends"] * 3, "two were in the pool at once"

    killed = stack.launch("pool", {"context": {"name": "killed", "seconds": 300}})
    [line] = wait_for(
        "the worker", lambda: [line for line in pool_lines(stack) if line[2] == "killed"]
    )
    os.kill(int(line[1]), signal.SIGKILL)
    assert stack.finished(killed, 120)["status"] == "FAILURE"
    after = stack.launch("pool", {"context": {"name": "after"}})
    assert stack.finished(after, 120)["status"] == "SUCCESS"


def test_a_function_that_outlives_its_timeout_does_not_keep_the_worker(stack: Stack) -> None:
    run = stack.finished(stack.launch("late"))
    assert run["status"] == "FAILURE"
    [failure] = [
        event
        for event in run["eventConnection"]["events"]
        if event["__typename"] == "ExecutionStepFailureEvent"
    ]
    assert "longer than its timeout of 1 seconds" in json.dumps(failure)
    pid = int((Path(stack.folder) / "outlives.txt").read_text())
    wait_for("the worker to end", lambda: not psutil.pid_exists(pid), 10)


def test_bad_manners_of_one_process_are_not_the_next_ones_trouble(stack: Stack) -> None:
    run = stack.finished(stack.launch("ill_mannered"))
    assert run["status"] == "SUCCESS"
    assert shown(run)["ghosts"]["proctree/result"] == "0", "the open transaction was kept"
