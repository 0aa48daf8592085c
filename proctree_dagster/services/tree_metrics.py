"""What Django's database knows of trees, as metrics."""

import datetime as dt
from collections.abc import Iterator, Sequence

from django.db.models import Count, Max, Min

from ..domain import run_events
from ..domain.metrics import Metric, by_tree
from ..models import AlertState, Event, OutboxRun, OutboxState, ProcessTree, ProcessTreeSchedule
from ..support.row_reading import readable
from . import alert_delivery, pauses, run_keys

DAY = dt.timedelta(days=1)


def labelled(most: int) -> list[str]:
    """Return the names of the trees that have a label: the oldest, so that they stay the same."""
    return list(ProcessTree.objects.order_by("pk").values_list("name", flat=True)[:most])


def collect(trees: Sequence[str], now: dt.datetime) -> Iterator[Metric]:
    """Yield the metrics.

    Parameters
    ----------
    trees:
        The names of those that have a label.
    now:
        Aware.
    """
    yield Metric("proctree_trees", "Saved process trees.", {"": ProcessTree.objects.count()})
    yield Metric(
        "proctree_overdue_seconds",
        "For how long the schedule of a tree that is most overdue is so; 0: none is.",
        by_tree(_overdue(now), trees, max),
    )
    yield Metric(
        "proctree_last_success_age_seconds",
        "Seconds since the last success of a tree that is known; of the others: the longest.",
        by_tree(_last_success(now), trees, max, None),
    )
    yield Metric(
        "proctree_failed_runs_last_day",
        "Runs of a tree that have failed in the last 24 hours.",
        by_tree(_failed(now - DAY), trees),
    )
    yield from _of_outbox(now)
    yield Metric(
        "proctree_undelivered_alerts",
        "Alerts whose delivery has failed.",
        {"": alert_delivery.undelivered(now)},
    )


def _overdue(now: dt.datetime) -> dict[str, float]:
    late = ProcessTreeSchedule.objects.overdue(now).select_related("process_tree")
    found: dict[str, float] = {}
    for schedule in readable(late):
        due = schedule.claim or schedule.next_run
        if due is not None:
            name, seconds = schedule.process_tree.name, (now - due).total_seconds()
            found[name] = max(seconds, found.get(name, 0.0))
    return found


def _last_success(now: dt.datetime) -> dict[str, float]:
    known = AlertState.objects.values_list("process_tree__name")
    return {
        name: (now - last).total_seconds()
        for name, last in known.annotate(Max("succeeded_at"))
        if last is not None
    }


def _failed(since: dt.datetime) -> dict[str, float]:
    failed = Event.objects.filter(kind=run_events.FAILED, at__gte=since).order_by()
    return dict(failed.values_list("tree").annotate(Count("pk")))


def _of_outbox(now: dt.datetime) -> Iterator[Metric]:
    waiting = run_keys.due(OutboxRun.objects.filter(state=OutboxState.WAITING), now)
    yield Metric(
        "proctree_outbox_runs",
        "Runs in the outbox whose time has come and that Dagster does not have yet.",
        {"": waiting.count()},
    )
    oldest = pauses.held_by_nothing(now).aggregate(oldest=Min("since"))["oldest"]
    yield Metric(
        "proctree_outbox_age_seconds",
        "For how long the first of them waits that waits for no other run or pause; 0: none does.",
        {"": 0.0 if oldest is None else (now - oldest).total_seconds()},
    )
