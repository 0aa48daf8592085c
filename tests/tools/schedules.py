"""What the tests of schedules share: a clock, and rows."""

import datetime as dt
from typing import Any

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)


def utc(text: str) -> dt.datetime:
    """Read ``2026-06-10 06:20`` as UTC."""
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


class Clock:
    """Says what time it is: 08:20 on a Wednesday in Johannesburg (TIME_ZONE), until it is set."""

    def __init__(self) -> None:
        self.now = utc("2026-06-10 06:20")

    def __call__(self) -> dt.datetime:
        return self.now


def register(**values: Any) -> ProcessTreeSchedule:
    """Save a new tree and its schedule: hourly from 09:00 unless ``values`` say otherwise."""
    tree = ProcessTree.objects.create(
        name=f"tree_{ProcessTree.objects.count()}",
        processes=[{"name": "one", "func": "tests.app.processes:one"}],
    )
    values = {"interval_minutes": 60, "start_time": dt.time(9, 0), **values}
    return ProcessTreeSchedule.objects.create(process_tree=tree, **values)


def row(schedule: ProcessTreeSchedule) -> ProcessTreeSchedule:
    """Return the schedule as the database has it."""
    return ProcessTreeSchedule.objects.get(pk=schedule.pk)


def update(schedule: ProcessTreeSchedule, **changes: Any) -> None:
    """Change the row behind the back of every object."""
    assert ProcessTreeSchedule.objects.filter(pk=schedule.pk).update(**changes) == 1
