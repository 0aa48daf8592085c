"""Triggers with real processes: polled by the daemon, fired from anywhere, by many at once."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dagster import DagsterInstance

from example.settings import DATABASES
from proctree_dagster.domain import run_tags
from tests.e2e.sixteen_fire import FIRES, POLLED
from tests.tools import TOP, python_path
from tests.tools.code_files import code_of
from tests.tools.stack import Stack, wait_for

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

FUNCTIONS = """
from pathlib import Path

def is_wanted():
    return Path(__file__).with_name("wanted").exists()

def shown(**context):
    return sorted(context.items())
"""

TYPES = ("condition", "schedule", "custom", "outdated_check", "event")


def prepare(stack: Stack) -> None:
    """Give a stack functions and settings of its own, and triggers that have nothing to do."""
    (stack.folder / "e2e_functions.py").write_text(FUNCTIONS)
    (stack.folder / "e2e_settings.py").write_text(
        "from example.settings import *\n"
        "PROCTREE = {**PROCTREE, 'FUNCTION_MODULES': ['e2e_functions']}\n"
    )
    stack.env["DJANGO_SETTINGS_MODULE"] = "e2e_settings"
    stack.migrate()
    stack.shell(code_of(__file__) / "save_triggers.py", silently=True)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("triggers"))
    try:
        prepare(stack)
        stack.start_dagster()
        yield stack
    finally:
        assert stack.stop() == [], "processes outlived Ctrl-C"


def said(stack: Stack, sensor: str, since: float = 0.0) -> list[str] | None:
    """Return what a sensor's ticks have said, the newest first; ``None`` if there is no sensor.

    ``since``: only those of a later start of Dagster. A tick fails whose code server is stopped.
    """
    # Not of all sensors at once: after a restart that list has no ticks (Dagster 1.13).
    data = stack.graphql(
        """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
          ... on Sensor { sensorState {
            ticks { timestamp status skipReason error { message } } } } } }""",
        selector={**stack.selector, "sensorName": sensor},
    )
    if "sensorState" not in data["sensorOrError"]:
        return None
    ticks = data["sensorOrError"]["sensorState"]["ticks"]
    ticks = [tick for tick in ticks if tick["timestamp"] >= since]
    assert all(tick["error"] is None for tick in ticks), ticks
    return [tick["skipReason"] for tick in ticks if tick["status"] == "SKIPPED"]  # it has ended


def polls(stack: Stack, name: str) -> list[str]:
    """Return what the polls of a trigger have said, the newest first."""
    return said(stack, f"{name}_trigger") or []


def ended(stack: Stack, name: str, count: int) -> list[dict[str, Any]]:
    """Wait until a trigger's tree has had so many runs, and return them, the newest first."""
    found = wait_for(
        f"{count} runs of {name}",
        lambda: (
            [run for run in stack.runs(f"of_{name}") if run["status"] in ("SUCCESS", "FAILURE")][
                count - 1 :
            ]
            and stack.runs(f"of_{name}")
        ),
        90,
    )
    assert len(found) == count, found
    assert {run["status"] for run in found} == {"SUCCESS"}
    return found


def test_every_type_that_can_be_polled_is_polled_by_the_daemon_and_fires_once(
    stack: Stack,
) -> None:
    polled = TYPES[:4]
    for name in polled:
        wait_for(f"a poll of {name}", lambda: polls(stack, name), 120)  # noqa: B023
        assert not any(reason.startswith("Fired") for reason in polls(stack, name))
    assert said(stack, "event_trigger") is None
    (stack.folder / "wanted").touch()
    stack.shell(
        "from django.contrib.auth.models import User\n"
        "from example.ledger.models import Organisation\n"
        "from proctree_dagster.models import Trigger\n"
        "for name in ('New one', 'New two'):\n"
        "    Organisation.objects.create(name=name, currency='ZAR')\n"
        "User.objects.update(date_joined=timezone.now() - datetime.timedelta(hours=2))\n"
        "Trigger.objects.filter(name='schedule').update(next_due=timezone.now())\n",
        silently=True,
    )
    for name in polled:
        [run] = ended(stack, name, 1)
        assert run["tags"]["proctree/triggered_by"] == "trigger"
        assert run["tags"]["proctree/trigger"] == name
        assert run["tags"]["dagster/sensor_name"] == f"{name}_trigger"
        # It is polled again, and nothing more happens.
        wait_for(f"polls of {name}", lambda: polls_since_it_fired(stack, name) > 1)  # noqa: B023
        assert len(stack.runs(f"of_{name}")) == 1


def polls_since_it_fired(stack: Stack, name: str) -> int:
    """Return how often a trigger was polled since it fired, and see that it fired once."""
    reasons = polls(stack, name)
    fired = [index for index, reason in enumerate(reasons) if reason.startswith("Fired")]
    [run] = stack.runs(f"of_{name}")
    if not fired:
        return 0  # the run may have ended before its tick is written down
    assert len(fired) == 1
    assert run["runId"] in reasons[fired[0]]
    expected = "Not due until" if name == "schedule" else "Still so, and it has fired"
    assert all(reason.startswith(expected) for reason in reasons[: fired[0]]), reasons
    return fired[0]


def test_every_type_is_fired_by_hand_and_a_fire_that_is_rolled_back_is_none(stack: Stack) -> None:
    before = {name: len(stack.runs(f"of_{name}")) for name in TYPES}
    out = stack.shell(
        "from django.db import transaction\n"
        "from proctree_dagster.triggers import fire_trigger\n"
        f"for name in {TYPES[:4]!r}:\n"
        "    with transaction.atomic():\n"
        "        lost = fire_trigger(name)\n"
        "        transaction.set_rollback(True)\n"
        "    with transaction.atomic():\n"
        "        [run] = fire_trigger(name, {'how': 'by hand'})\n"
        "    print(name, run.run_id)\n"
    )
    fired = dict(line.split() for line in out.splitlines() if line.count(" ") == 1)
    told = stack.type("proctree", "fire", "event", "--context", '{"how": "by hand"}').stdout
    assert told.startswith("Fired 'event': 1 run\n  of_event: run ")
    fired["event"] = told.split()[-2]
    assert told.split()[-1] == f"{stack.url}/runs/{fired['event']}"
    assert fired.keys() == set(TYPES), out
    for name, run_id in fired.items():
        run = stack.finished(run_id)
        assert run["status"] == "SUCCESS"
        assert "how: by hand" in run["runConfigYaml"]
        assert f"by: {name}" in run["runConfigYaml"]
        assert len(stack.runs(f"of_{name}")) == before[name] + 1


def test_what_is_fired_while_dagster_is_stopped_or_away_is_delivered_once(stack: Stack) -> None:
    """It runs last: it stops the stack, and starts it again."""
    before = len(stack.runs("of_event"))
    assert stack.stop() == []
    stack.processes.clear()
    fire = (
        "from proctree_dagster.triggers import fire_trigger\nprint(fire_trigger('event')[0].run_id)"
    )
    stopped = stack.shell(fire).split()[-1]
    away = stack.folder / "home is away"
    stack.home.rename(away)
    try:
        lost = stack.shell(fire).split()[-1]
    finally:
        away.rename(stack.home)
    started = time.time()
    stack.start_dagster()
    for run_id in (stopped, lost):
        wait_for(
            f"run {run_id}",
            lambda: run_id in {run["runId"] for run in stack.runs("of_event")},  # noqa: B023
            90,
        )
        assert stack.finished(run_id)["status"] == "SUCCESS"
    looks = len(said(stack, "proctree_outbox", started) or [])
    wait_for(
        "the outbox to be looked at again",
        lambda: len(said(stack, "proctree_outbox", started) or []) > looks,
    )
    assert len(stack.runs("of_event")) == before + 2
    retention = wait_for(
        "the sensor of retention", lambda: said(stack, "proctree_retention", started)
    )
    assert retention[0].startswith("Everything is kept")


# --- By many at once ------------------------------------------------------------------------------


SETTINGS = """
from tests.settings import *
PROCTREE = {{"DAGSTER_HOME": {home!r}}}
DATABASES = {{"default": {database!r}}}
"""

# One file for the events of all runs: stock Dagster makes a database for each, which takes longest.
DAGSTER = """
telemetry: {{enabled: false}}
event_log_storage:
  module: dagster._core.storage.event_log
  class: ConsolidatedSqliteEventLogStorage
  config: {{base_dir: {home!r}}}
"""


@pytest.mark.apart
@pytest.mark.parametrize(
    ("vendor", "subscribers"), [("sqlite", ["one", "two"]), ("postgresql", ["one"])]
)
def test_a_hundred_fires_from_sixteen_processes_are_a_hundred_runs_of_each_subscriber(
    tmp_path: Path, vendor: str, subscribers: list[str], request: pytest.FixtureRequest
) -> None:
    database = {**DATABASES["default"], "NAME": str(tmp_path / "db.sqlite3")}
    if vendor == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        database = server.new_database()
    home = str(tmp_path)
    (tmp_path / "e2e_settings.py").write_text(SETTINGS.format(home=home, database=database))
    (tmp_path / "dagster.yaml").write_text(DAGSTER.format(home=home))
    path = python_path(home, TOP)
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.sixteen_fire", *subscribers],
        cwd=TOP,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "e2e_settings", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["counts"] == {"event": FIRES, **dict.fromkeys(POLLED, 1)}
    runs = report["runs"]
    assert {state for *_, state in runs} == {"delivered"}
    assert Counter((tree, context.get("fire")) for tree, context, *_ in runs) == Counter(
        [
            *((tree, fire) for tree in subscribers for fire in range(FIRES)),
            *((tree, None) for tree in POLLED),
        ]
    )
    with DagsterInstance.from_config(home) as instance:
        known = [run for run in instance.get_runs() if run_tags.TRIGGER in run.tags]
    assert Counter((run.job_name, run.run_id) for run in known) == Counter(
        (tree, run_id) for tree, _, run_id, _ in runs
    )
