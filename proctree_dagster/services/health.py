"""The health of what runs the trees, for probes: Django's rows and a folder are asked, no Dagster.

``manage.py proctree doctor`` says more, and takes seconds.
"""

import datetime as dt
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.db import connections, router
from django.db.models import Min
from django.db.models.functions import Coalesce

from .. import conf
from ..domain.texts import explain
from ..models import ProcessTree, ProcessTreeSchedule
from ..support import project
from ..support.row_reading import readable
from . import alert_delivery, pauses, silence

logger = logging.getLogger(__name__)

OUTBOX_OLD = dt.timedelta(minutes=10)
"""How long a run may wait in the outbox that nothing keeps from being made."""

LEAST_FREE = 500_000_000
"""Bytes that must be free on the disk of Dagster's home."""

NAMED = 5


@dataclass(frozen=True)
class Check:
    """What was checked, and the outcome."""

    name: str
    ok: bool
    message: str
    value: float | None = None
    """What was measured: seconds, a number, or bytes; ``None``: nothing could be."""


def examine(now: dt.datetime) -> list[Check]:
    """Return all checks; one that fails hides no other."""
    return [_tried(name, check, now) for name, check in CHECKS.items()]


def _tried(name: str, check: Callable[[dt.datetime], Check], now: dt.datetime) -> Check:
    try:
        return check(now)
    except Exception as error:  # a database that is away, a row that can't be read
        logger.exception("The check %r failed.", name)
        return Check(name, False, explain(error))


def check_database(now: dt.datetime) -> Check:
    """Check that the database answers, and has the tables."""
    alias = router.db_for_write(ProcessTree)
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
    trees = ProcessTree.objects.count()
    return Check("database", True, f"It answers, and has {trees} trees.", trees)


def check_daemon(now: dt.datetime) -> Check:
    """Check that a daemon makes its passes."""
    last = silence.last_pass(now)
    age = None if last.at is None else (now - last.at).total_seconds()
    if last.at is None:
        said = "No daemon has made a pass yet"
    else:
        said = f"The last pass of a daemon was {age:.0f} seconds ago"
    hint = ": is 'dagster-daemon run' there, and the sensor 'proctree_alerts' on?"
    return Check("daemon", not last.is_silent, said + (hint if last.is_silent else "."), age)


def check_schedules(now: dt.datetime) -> Check:
    """Check that no schedule is overdue; the value is for how long the first one is, in seconds."""
    after = dt.timedelta(minutes=conf.current().ALERTS.late_minutes)
    due = Coalesce("claim", "next_run")
    late = ProcessTreeSchedule.objects.overdue(now, after).annotate(due=due).order_by("due", "pk")
    rows = readable(late.select_related("process_tree"), most=NAMED)
    if not rows:
        return Check("schedules", True, "None is overdue.", 0.0)
    oldest = rows[0].claim or rows[0].next_run or now
    names = ", ".join(repr(each.title) for each in rows)
    return Check(
        "schedules",
        False,
        f"{late.count()} overdue, the first since {oldest.isoformat()}: {names}",
        (now - oldest).total_seconds(),
    )


def check_outbox(now: dt.datetime) -> Check:
    """Check that runs are made soon; the value is the age of the oldest that could be, in seconds.

    What waits for a time, for another run or for its key, or is paused, is left out.
    """
    waiting = pauses.held_by_nothing(now)
    first = waiting.aggregate(first=Min("since"))["first"]
    if first is None:
        return Check("outbox", True, "No run waits.", 0.0)
    age = (now - first).total_seconds()
    said = f"{waiting.count()} runs wait, the first one for {age:.0f} seconds."
    return Check("outbox", age <= OUTBOX_OLD.total_seconds(), said, age)


def check_alerts(now: dt.datetime) -> Check:
    """Check that alerts can be delivered; the value is how many could not."""
    failed = alert_delivery.undelivered(now)
    if not failed:
        return Check("alerts", True, "None could not be delivered.", 0)
    said = f"{failed} could not be delivered: 'manage.py proctree alerts --undelivered'"
    return Check("alerts", False, said, failed)


def check_disk(now: dt.datetime) -> Check:
    """Check that the disk of Dagster's home has room; the value is that, in bytes."""
    home = project.home()
    folder = None if home is None else next(filter(Path.exists, (Path(home), Path(home).parent)))
    if folder is None:
        return Check("disk", True, "Dagster has no home.")
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:.1f} GB are free for Dagster's home."
    return Check("disk", free >= LEAST_FREE, said, free)


CHECKS: dict[str, Callable[[dt.datetime], Check]] = {
    "database": check_database,
    "daemon": check_daemon,
    "schedules": check_schedules,
    "outbox": check_outbox,
    "alerts": check_alerts,
    "disk": check_disk,
}
"""The checks, in their order."""
