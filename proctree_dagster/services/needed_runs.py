"""Ended runs that rows of Django's database still need, so that they stay in the history."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from django.db.models import Q

from ..models import (
    Backfill,
    BackfillState,
    OutboxRun,
    OutboxState,
    ProcessTreeSchedule,
    RunWorker,
)
from .run_outbox import OPEN


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended, by what its tags say."""

    run_id: str
    job_name: str
    schedule: str
    """The schedule that its tags name."""

    due: dt.datetime | None = None
    """The due time that it was launched for, if it is no re-execution."""

    family: str = ""
    """The id of the first run of its family; blank if it has none."""


def by_django(runs: Sequence[EndedRun]) -> dict[str, str]:
    """Return why runs are still needed, by their ids; those that are not needed are left out."""
    found: dict[str, str] = {}
    for run_id, reason in _reasons(runs):
        found.setdefault(run_id, reason)
    return found


def _reasons(runs: Sequence[EndedRun]) -> Iterator[tuple[str, str]]:
    ids = [run.run_id for run in runs]
    rows = OutboxRun.objects.filter(Q(state__in=OPEN) | Q(key_held__isnull=False), run_id__in=ids)
    for row in rows.values_list("run_id", flat=True):
        yield str(row), "its row of the outbox is not closed"
    working = RunWorker.objects.filter(run_id__in=ids, ended_at=None)
    for run_id in working.values_list("run_id", flat=True):
        yield run_id, "its process has not ended"
    last = ProcessTreeSchedule.objects.filter(last_run_id__in=ids)
    for run_id in last.values_list("last_run_id", flat=True):
        yield run_id, "it is the last run of its schedule"
    yield from _of_families(runs)
    yield from _of_due_times([run for run in runs if run.due is not None])


def _of_families(runs: Sequence[EndedRun]) -> Iterator[tuple[str, str]]:
    """Yield the runs of families of which others wait, or were dropped and may be revived."""
    families = {run.family for run in runs if run.family}
    rows = OutboxRun.objects.filter(family__in=families, state__in=(*OPEN, OutboxState.DROPPED))
    waiting = set(rows.values_list("family", flat=True)) if families else set()
    for run in runs:
        if run.family in waiting:
            yield run.run_id, "runs of its family may still follow it"


def _of_due_times(runs: Sequence[EndedRun]) -> Iterator[tuple[str, str]]:
    """Yield the runs of an open claim, and those that a backfill must not repeat."""
    if not runs:
        return
    jobs = {run.job_name for run in runs}
    claims = set(_claims(jobs))
    ranges = list(_ranges(jobs))
    for run in runs:
        schedule = (run.job_name, run.schedule)
        if (*schedule, run.due) in claims:
            yield run.run_id, "its due time is claimed"
        elif any(schedule == each[:2] and _is_in(run.due, each[2:]) for each in ranges):
            yield run.run_id, "a backfill of its schedule is not done"


def _claims(jobs: Iterable[str]) -> Iterable[tuple[str, str, dt.datetime | None]]:
    rows = ProcessTreeSchedule.objects.filter(process_tree__job_name__in=jobs, claim__isnull=False)
    return rows.values_list("process_tree__job_name", "name", "claim")


_Range = tuple[dt.datetime, dt.datetime]


def _ranges(jobs: Iterable[str]) -> Iterable[tuple[str, str, dt.datetime, dt.datetime]]:
    rows = Backfill.objects.filter(schedule__process_tree__job_name__in=jobs)
    rows = rows.exclude(state=BackfillState.DONE)
    return rows.values_list("schedule__process_tree__job_name", "schedule__name", "first", "last")


def _is_in(due: dt.datetime | None, limits: Sequence[dt.datetime]) -> bool:
    first, last = limits
    return due is not None and first <= due <= last
