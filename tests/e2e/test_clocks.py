"""A due time runs exactly once, whatever the clock does."""

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_without
from tests.e2e import clocks
from tests.e2e.accidents import Accidents
from tests.tools.schedules import HOUR, MINUTE, utc
from tests.tools.stack import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.apart, pytest.mark.timeout(600)]

SHORTLY = dt.timedelta(seconds=2)
HALF = 30 * MINUTE
NOON = utc("2026-06-10 12:00")

HALF_HOURLY = "interval_minutes=30, start_time=datetime.time(12, 0), timezone='UTC'"


class ClockedStack(Accidents):
    """A stack without trees at first, whose clock can be set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, trees=0)
        # One template for all due times of a test, which come seconds after one another.
        self.configure_dagster(run_launcher={"config": {"linger_seconds": 20}})
        self.clock = clocks.Clock(folder)
        self.env |= self.clock.env

    def begin(self, at: dt.datetime, **rules: str) -> None:
        """Start Dagster at a time, with a tree for each rule."""
        self.clock.set(at)
        self.prepare()
        for name, rule in rules.items():
            self.shell(
                f"tree = ProcessTreeInstance({name!r})"
                ".add_process('note', func='e2e_functions:note')\n"
                f"tree.save()\ntree.register_schedule({rule})"
            )
        self.start_code_server()
        self.start_a_daemon()

    def due_times_run(self, name: str = "tree") -> list[dt.datetime]:
        """Return the due times that a tree was run for, when no run is under way."""
        wait_for("the runs to end", lambda: not self.active_runs(), 180)
        return [dt.datetime.fromisoformat(due) for job, due, _ in self.calls() if job == name]

    def go_to(self, due: dt.datetime, *names: str) -> None:
        """Set the clock to shortly before a due time, and wait until it was run."""
        self.clock.set(due - SHORTLY)
        for name in names or ["tree"]:
            wait_for(f"{name} at {due}", lambda: due in self.due_times_run(name), 180)  # noqa: B023


@pytest.fixture
def stack(tmp_path: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[ClockedStack]:
    """A stack whose clock can be set."""
    if clocks.LIBRARY is None:
        skip_without("libfaketime (apt-get install libfaketime)")
    with django_db_blocker.unblock():
        stack = ClockedStack(tmp_path)
        try:
            yield stack
        finally:
            stack.stop()


def test_an_hour_that_comes_again_runs_nothing_twice_and_a_day_that_is_skipped_one_run(
    stack: ClockedStack,
) -> None:
    stack.begin(NOON - MINUTE, tree=HALF_HOURLY)
    stack.go_to(NOON)
    stack.go_to(NOON + HALF)
    for again in (NOON - HALF, NOON, NOON + HALF):
        stack.clock.set(again - SHORTLY)
        time.sleep(5)  # time enough to run it twice
        looked = "from proctree_dagster.tasks import check_and_run_scheduled_tasks\n"
        assert stack.shell(looked + "print(check_and_run_scheduled_tasks())") == "{}"
    stack.go_to(NOON + 2 * HALF)
    before = [NOON, NOON + HALF, NOON + 2 * HALF]
    assert stack.due_times_run() == before, "what follows runs as usual"
    tomorrow = NOON + 24 * HOUR
    stack.clock.set(tomorrow + 10 * MINUTE)
    wait_for("the run", lambda: len(stack.due_times_run()) > len(before), 180)
    stack.go_to(tomorrow + HALF)
    assert stack.due_times_run() == [*before, NOON + 3 * HALF, tomorrow + HALF]


@pytest.mark.parametrize(
    ("date", "half_hourly", "hourly", "daily"),
    [
        pytest.param(
            "2026-03-29",
            ["01:00", "01:30", "02:00"],
            ["01:00", "01:30"],
            ["01:00"],
            id="half past one does not exist",
        ),
        pytest.param(
            "2026-10-25",
            ["00:30", "01:00", "01:30"],
            ["00:30", "01:30"],
            ["01:30"],
            id="half past one comes twice",
        ),
    ],
)
def test_a_stack_lives_through_a_daylight_saving_change_in_london(
    stack: ClockedStack, date: str, half_hourly: list[str], hourly: list[str], daily: list[str]
) -> None:
    """Each tree is due from half past one in London; the times above are UTC.

    What does not exist is due at the end of the gap, and once. When the hour comes twice, what
    divides an hour is due in both, and the daily one in the second.
    """
    times = {"half_hourly": half_hourly, "hourly": hourly, "daily": daily}
    expected = {name: [utc(f"{date} {time}") for time in each] for name, each in times.items()}
    london = "start_time=datetime.time(1, 30), timezone='Europe/London'"
    stack.begin(
        utc(f"{date} 00:10"),
        half_hourly=f"interval_minutes=30, {london}",
        hourly=f"interval_minutes=60, {london}",
        daily=f"interval_minutes=1440, {london}",
    )
    for moment in expected["half_hourly"]:
        stack.go_to(moment, *(name for name, each in expected.items() if moment in each))
    assert {name: stack.due_times_run(name) for name in expected} == expected
