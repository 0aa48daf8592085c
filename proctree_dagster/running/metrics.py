"""What is measured of trees, for ``proctree metrics`` and for Prometheus."""

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence

from django.utils import timezone

from ..domain.metrics import MOST_TREES, Metric, by_tree
from ..exceptions import HistoryUnavailable
from ..models import ProcessTree
from ..services import tree_metrics
from . import run_history


def collect(most_trees: int = MOST_TREES, wait: float = run_history.WAIT) -> list[Metric]:
    """Return the metrics as they are now.

    What Dagster has to be asked for is left out if it can't be; ``proctree_dagster_up`` is 0 then.

    Parameters
    ----------
    most_trees:
        How many trees have a label of their own; the others have one together.
    wait:
        Seconds to wait for Dagster's import, which an earlier call may have begun.

    Raises
    ------
    DatabaseError
        Django's database can't be reached.
    """
    now, trees = timezone.now(), tree_metrics.labelled(most_trees)
    of_django = list(tree_metrics.collect(trees, now))
    try:
        with run_history.opened(wait=wait) as history:
            of_dagster = list(_of_dagster(history, trees, now))
    except HistoryUnavailable:
        of_dagster = []
    up = Metric(
        "proctree_dagster_up",
        "Whether Dagster's storage could be asked: 1, or 0.",
        {"": 1.0 if of_dagster else 0.0},
    )
    return [*of_django, up, *of_dagster]


def _of_dagster(
    history: run_history.History, trees: Sequence[str], now: dt.datetime
) -> Iterator[Metric]:
    unfinished, seen = history.unfinished(), history.daemon_seen_at()
    yield Metric(
        "proctree_running_runs",
        "Runs of a tree that have left the queue and have not ended.",
        by_tree(_by_name(unfinished.running), trees),
    )
    yield Metric(
        "proctree_queued_runs",
        "Runs of a tree that wait in Dagster's queue.",
        by_tree(_by_name(unfinished.queued), trees),
    )
    oldest = unfinished.oldest_queued
    yield Metric(
        "proctree_queue_age_seconds",
        "For how long the first run in Dagster's queue waits; 0: none does.",
        {"": 0.0 if oldest is None else (now - oldest).total_seconds()},
    )
    if seen is not None:
        yield Metric(
            "proctree_daemon_age_seconds",
            "Seconds since the last sign of life of Dagster's daemon.",
            {"": (now - seen).total_seconds()},
        )


def _by_name(counts: Counter[str]) -> dict[str, float]:
    """Return counts by the trees' present names instead of their jobs."""
    trees = ProcessTree.objects.filter(job_name__in=list(counts)[:MOST_JOBS])
    names = dict(trees.values_list("job_name", "name"))
    found: Counter[str] = Counter()
    for job_name, count in counts.items():
        found[names.get(job_name, job_name)] += count
    return dict(found)


MOST_JOBS = 500
"""How many jobs are looked up by their names: databases limit the parameters of a query."""
