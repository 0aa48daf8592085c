"""Every action of ``manage.py proctree`` where no daemon runs, and where Dagster is not there."""

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from proctree_dagster.management.actions import ACTIONS
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("migrated_cursor")]

NO_HOME = "Dagster has no home"
BAD_YAML = "The dagster.yaml of "
NO_WEBSERVER = (1, "It is not known where the webserver answers")
FAILED_RUN = "RUN"
"""Stands for the id of a run that has failed, among arguments."""


class Expected(NamedTuple):
    """An action's exit code and a part of what it says, by the state that Dagster is in."""

    down: tuple[int, str]
    """There is a home, and no daemon has ever run."""

    absent: tuple[int, str]
    """There is no home."""

    unusable: tuple[int, str]
    """There is a home that Dagster can't open."""

    keys: frozenset[str] = frozenset()
    """What its JSON document has, where no daemon runs; of a list, what each of it has."""


def needs_dagster(down: str, code: int = 0, keys: str = "") -> Expected:
    return Expected((code, down), (1, NO_HOME), (1, BAD_YAML), frozenset(keys.split()))


def goes_on(said: str, down: str = "", absent: str = "", keys: str = "") -> Expected:
    """Return what is done without Dagster, too."""
    without = (0, absent or said)
    return Expected((0, down or said), without, without, frozenset(keys.split()))


def refuses(said: str) -> Expected:
    """Return what is refused, whatever state Dagster is in."""
    return Expected((1, said), (1, said), (1, said))


RUN_KEYS = "run_id tree status triggered_by created_at failures seconds url"

EXPECTED: Mapping[tuple[str, ...], Expected] = {
    ("list",): Expected(
        (0, "Dagster's daemon has never run here: nothing runs the schedules."),
        (0, NO_HOME),
        (0, "Dagster was not asked: The dagster.yaml of "),
        frozenset({"trees", "problems", "daemon_seen_at"}),
    ),
    ("show", "good"): Expected(
        (0, "Last runs: none"),
        (0, f"Last runs: {NO_HOME}"),
        (0, f"Last runs: {BAD_YAML}"),
        frozenset({"name", "rule", "processes", "due_times", "runs", "problems"}),
    ),
    ("run", "good"): Expected(
        (0, "  one: 1\nRun "),
        (0, "  one: 1\nRun "),
        (1, BAD_YAML),
        frozenset({"success", "results", "status", "errors", "reasons", "run_id"}),
    ),
    ("run", "good", "--submit"): needs_dagster("Queued run ", keys="run url"),
    ("fire", "bell"): goes_on("Fired 'bell': 1 run\n  good: run ", keys="tree run url"),
    ("runs",): needs_dagster("fail: ValueError: this process always fails", keys=RUN_KEYS),
    ("logs", FAILED_RUN): needs_dagster(
        "ERROR    fail: Execution of step", keys="at level process message"
    ),
    ("cancel", FAILED_RUN): needs_dagster("has ended: failure", code=1),
    ("retry", FAILED_RUN): needs_dagster("Queued run ", keys="run repeats tree"),
    ("retry", "--failed", "--since", "1h"): needs_dagster("Queued run ", keys="run repeats tree"),
    ("schedule", "good", "--every", "30"): goes_on("'good' runs every 30 minutes"),
    ("enable", "good"): goes_on("'good' runs every hour"),
    ("disable", "good"): goes_on("'good' does not run by itself any more."),
    ("pause", "good", "--reason", "audit"): goes_on("'good' is paused until"),
    ("resume", "good"): goes_on("There is no such pause"),
    ("pauses",): goes_on(""),
    ("backfill", "good", "--from", "2026-01-05", "--to", "2026-01-05"): goes_on(
        "24 due times of good, 4 at once"
    ),
    ("backfills",): goes_on(""),
    ("alerts",): goes_on(""),
    ("sync",): goes_on("", keys="trees errors newer_release"),
    ("take", "good"): refuses("is not declared in code"),
    ("keep", "good"): refuses("is not declared in code"),
    ("export", "good", "-"): goes_on("trees:\n- name: good"),
    ("apply", "no_such.yaml"): refuses("no_such.yaml can't be read"),
    ("revisions", "good"): goes_on("now", keys="present revisions"),
    ("restore", "good", "2999-01-01"): goes_on("its processes and options are those of"),
    ("check",): goes_on("Every tree, schedule, trigger and context fits the code."),
    ("health",): goes_on("OK  daemon: No daemon has made a pass yet.", keys="ok checks"),
    ("doctor",): Expected(
        (0, "WARNING  Dagster's daemon has never run here"),
        (0, f"WARNING  {NO_HOME}"),
        (1, f"ERROR  {BAD_YAML}"),
        frozenset({"level", "what", "remedy"}),
    ),
    ("reload",): Expected(NO_WEBSERVER, NO_WEBSERVER, NO_WEBSERVER),
    ("home",): needs_dagster("is ready."),
    ("metrics",): goes_on(
        "proctree_dagster_up 0", "proctree_dagster_up 1", keys="proctree_trees proctree_dagster_up"
    ),
    ("prune",): needs_dagster(
        "There is nothing to remove.", keys="dry_run removed trees kept bytes problems"
    ),
    ("clear-cache", "good"): goes_on("Cleared the cached results of 'good'"),
}

ELSEWHERE = {
    "dev": "tests/e2e/test_dev.py",
    "init": "tests/support/test_project.py",
    "web": "tests/e2e/test_site.py",
}
"""Actions that other tests type."""


def typed(*args: str) -> tuple[int, str, str]:
    """Type an action; return its exit code, and what it prints to its output and to its errors."""
    out, err = StringIO(), StringIO()
    try:
        call_command("proctree", *args, stdout=out, stderr=err, no_color=True)
    except CommandError as error:
        return error.returncode, out.getvalue(), f"{err.getvalue()}{error}"
    return 0, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def trees(dagster_home: Path) -> None:
    """A tree that would succeed, and one that fails."""
    good = ProcessTreeInstance("good").add_process("one", func=processes.one)
    good.create_trigger("bell", "event")
    good.save()
    good.register_schedule(interval_minutes=60)
    good.subscribe_to_trigger("bell")
    ProcessTreeInstance("bad").add_process("fail", func=processes.fail).save()


def prepared(args: tuple[str, ...], *, there: bool = True) -> list[str]:
    """Return what is typed; where it is about a run that has failed, there is one."""
    run_id = "00000000-0000-0000-0000-000000000000"
    if there and (FAILED_RUN in args or args[0] in ("runs", "retry")):
        run_id = ProcessTreeManager.execute_tree("bad")["run_id"]
    return [run_id if each == FAILED_RUN else each for each in args]


@pytest.mark.parametrize("state", ["down", "absent", "unusable"])
@pytest.mark.parametrize("args", EXPECTED, ids=" ".join)
def test_an_action_does_what_it_can_and_says_what_is_missing(
    args: tuple[str, ...], state: str, settings: Settings, dagster_home: Path
) -> None:
    typed_in = prepared(args, there=state == "down")
    if state == "absent":
        settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": None}
    if state == "unusable":
        (dagster_home / "dagster.yaml").write_text("nonsense: 1\n")
    code, said = getattr(EXPECTED[args], state)
    found, out, err = typed(*typed_in)
    assert (found, said in out + err) == (code, True), out + err
    assert "Traceback" not in err


@pytest.mark.parametrize("args", [args for args in EXPECTED if EXPECTED[args].keys], ids=" ".join)
def test_its_json_is_one_document_for_programs(args: tuple[str, ...]) -> None:
    code, out, err = typed(*prepared(args), "--json")
    assert code == EXPECTED[args].down[0], err
    document = json.loads(out)
    assert document
    for each in document if isinstance(document, list) else [document]:
        assert each.keys() >= EXPECTED[args].keys


def test_each_action_is_among_them() -> None:
    typed_here = {args[0] for args in EXPECTED} | ELSEWHERE.keys()
    assert typed_here == {action.name for action in ACTIONS}
