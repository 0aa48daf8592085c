"""Five trees that follow one another, started by a schedule; also when the daemon is killed."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e import daemon as daemons
from tests.e2e.families import Families
from tests.tools.stack import wait_for

KILLS = int(os.environ.get("PROCTREE_FAMILY_KILLS", "4"))
"""How often the daemon is killed; twenty were tried by hand."""

SECONDS = 15.0
"""How long a daemon lives, at most, if it comes to no such point."""

POINTS = ("ticking", "claimed", "launching", "launched")
"""Where, if it gets there in time: what a daemon passes on the way of these runs."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def stacks_database(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Let the test look into the database of its stack."""
    with django_db_blocker.unblock():
        yield


def test_a_family_runs_once_in_order_and_linked_though_the_daemon_is_killed(
    tmp_path: Path,
) -> None:
    chance = random.Random(1)
    stack = Families(tmp_path, families=2)
    stack.configure_dagster(run_monitoring={"start_timeout_seconds": 20})
    killed_at: list[str] = []
    try:
        stack.prepare()
        stack.give_due_times()
        stack.start_code_server()
        while len(killed_at) < KILLS:
            daemon = stack.start_a_daemon(chance.choice(("", *POINTS)))
            with suppress(psutil.TimeoutExpired):
                daemon.wait(chance.uniform(0, SECONDS))
            stack.kill(daemon)
            killed_at.append(daemons.last_point(stack.progress, daemon.pid))
            stack.give_due_times()
        stack.start_a_daemon()
        wait_for("what is left to be run", stack.settled, 400)
        stack.assert_each_family_ran_once()
    finally:
        print(f"{len(stack.given)} families; killed at {Counter(killed_at)}")
        stack.stop()
