"""A due time runs exactly once, whatever happens."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from django.db import connections

from tests.e2e import daemon as daemons
from tests.e2e.accidents import Accidents
from tests.tools.stack import wait_for

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

FULL = os.environ.get("PROCTREE_ACCIDENTS") == "full"
"""Whether each accident happens as often as it was shown once: it takes a quarter of an hour."""

DUE_TIMES = 200 if FULL else 24
DAEMONS_KILLED = 50 if FULL else 10
CODE_SERVERS_KILLED_AT = ("ticking", "launching", "launching", "ticking")[: 4 if FULL else 2]
DATABASES_KILLED = 8 if FULL else 2

# Not apart: two of them at once would have forty processes, which no machine of two cores bears.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def stacks_database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let the test look into the database of its stack."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    """Where Django's tables are."""
    if request.param == "sqlite":
        return None
    settings: dict[str, Any] = request.getfixturevalue("postgres").new_database()
    return settings


def test_of_many_due_times_sixteen_processes_and_a_daemon_run_each_once(
    tmp_path: Path, database: dict[str, Any] | None
) -> None:
    stack = Accidents(tmp_path, trees=40 if FULL else 24, database=database)
    try:
        stack.prepare()
        stack.give_due_times()  # what is overdue is ticked every minute
        stack.start_code_server()
        stack.start_a_daemon()
        sixteen = stack.start_sixteen()

        def requested_by_both() -> bool:
            by_the_daemon = stack.runs_by_the_daemon()
            return {run in by_the_daemon for _, _, run in stack.calls()} == {True, False}

        def all_done() -> bool:
            if not stack.settled():
                return False
            if len(stack.given) >= DUE_TIMES and requested_by_both():
                return True
            stack.give_due_times()  # all at once: those that have nothing to do want the same ones
            return False

        wait_for("all due times, some by the daemon and some by the sixteen", all_done, 300)
        stack.stop_sixteen(sixteen)
        stack.assert_each_due_time_ran_once()
        requested = len(stack.instance.get_runs())
        assert requested == len(stack.given), "some were requested twice"
    finally:
        stack.stop()


def test_a_daemon_killed_again_and_again_neither_loses_nor_doubles_a_due_time(
    tmp_path: Path,
) -> None:
    chance = random.Random(0)
    stack = Accidents(tmp_path, trees=20)
    stack.configure_dagster(run_monitoring={"start_timeout_seconds": 20})
    killed_at: list[str] = []

    def die(dies_at: str, seconds: float) -> None:
        """Let a daemon live until it comes to a point, or for some seconds."""
        daemon = stack.start_a_daemon(dies_at)
        stack.give_due_times()
        with suppress(psutil.TimeoutExpired):
            daemon.wait(seconds)
        stack.kill(daemon)
        killed_at.append(daemons.last_point(stack.progress, daemon.pid))

    try:
        stack.prepare()
        stack.give_due_times()
        stack.start_code_server()
        while len(killed_at) < DAEMONS_KILLED:
            die(chance.choice(("", *daemons.POINTS)), chance.uniform(0, 3))
        # What chance has left out is placed: the kills have come to every point in the end.
        for point in daemons.POINTS:
            while point not in killed_at:
                die(point, 90)
        stack.start_a_daemon()
        wait_for("what is left to be run", stack.settled, 300)
        stack.assert_each_due_time_ran_once()
    finally:
        print(f"{len(stack.given)} due times; killed at {Counter(killed_at)}")
        stack.stop()


def test_a_code_server_killed_amid_ticks_and_launches_neither_loses_nor_doubles_a_due_time(
    tmp_path: Path,
) -> None:
    chance = random.Random(0)
    stack = Accidents(tmp_path, trees=12 if FULL else 2)
    stack.configure_dagster(
        run_monitoring={"start_timeout_seconds": 20},
        # Stock Dagster's, which asks the code server for each worker.
        run_launcher={
            **{"module": "dagster._core.launcher", "class": "DefaultRunLauncher"},
            "config": {},
        },
    )
    try:
        stack.prepare()
        stack.give_due_times()
        server = stack.start_code_server()
        stack.start_a_daemon()
        for point in CODE_SERVERS_KILLED_AT:
            passed = stack.progress.read_text().count(point)
            wait_for(point, lambda: stack.progress.read_text().count(point) > passed, 150)  # noqa: B023
            time.sleep(chance.uniform(0, 1))
            stack.kill(server)
            server = stack.start_code_server()
            stack.give_due_times()
        wait_for("what is left to be run", stack.settled, 300)
        stack.assert_each_due_time_was_taken_once()
    finally:
        print(f"{len(stack.given)} due times, {len(stack.calls())} calls")
        stack.stop()


def test_a_database_killed_amid_claims_and_runs_neither_loses_nor_doubles_a_due_time(
    tmp_path: Path, postgres: "Postgres"
) -> None:
    chance = random.Random(0)
    stack = Accidents(tmp_path, trees=25 if FULL else 12, database=postgres.new_database())
    try:
        stack.prepare()
        stack.give_due_times()
        stack.start_code_server()
        stack.start_a_daemon()
        sixteen = stack.start_sixteen()
        for _ in range(DATABASES_KILLED):
            before = len(stack.calls())
            wait_for("work", lambda: len(stack.calls()) > before + 3, 150)  # noqa: B023
            time.sleep(chance.uniform(0, 1))
            connections["stack"].close()
            postgres.kill()
            postgres.start_again()
            stack.give_due_times()
        wait_for("what is left to be run", stack.settled, 300)
        stack.stop_sixteen(sixteen)
        stack.assert_each_due_time_was_taken_once()
    finally:
        print(f"{len(stack.given)} due times, {len(stack.calls())} calls")
        stack.stop()
