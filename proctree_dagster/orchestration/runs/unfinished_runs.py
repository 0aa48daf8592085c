"""How many runs are unfinished, by their jobs."""

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from ...domain import run_tags as tags
from . import storage_time
from .key_runs import UNFINISHED

_WAITING = (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED)


@dataclass
class Unfinished:
    """Unfinished runs of trees."""

    running: Counter[str] = field(default_factory=Counter)
    """Those that have left the queue, by their jobs."""

    queued: Counter[str] = field(default_factory=Counter)
    """Those that wait, by their jobs."""

    oldest_queued: dt.datetime | None = None
    """When the one was made that waits longest."""


def count(instance: DagsterInstance) -> Unfinished:
    """Return how many runs of trees are unfinished."""
    found = Unfinished()
    for record in instance.get_run_records(RunsFilter(statuses=UNFINISHED)):
        run = record.dagster_run
        if tags.TREE not in run.tags:
            continue
        waits = run.status in _WAITING
        (found.queued if waits else found.running)[run.job_name] += 1
        if waits:
            made = storage_time.created_at(instance, record)
            found.oldest_queued = min(made, found.oldest_queued or made)
    return found
