"""Rows of Django's database that were written long ago and that nothing needs any more."""

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import models
from django.db.models import Exists, Max, OuterRef, Q

from ..domain.pace import Pace
from ..domain.retention import Rules
from ..models import DagsterAction, OutboxRun, ProcessTree, TreeChange, TreeRevision
from . import run_outbox

NamedByRuns = Callable[[Collection[str]], Collection[str]]
"""Returns which of some revisions runs name."""

AT_ONCE = 200
"""How many rows are compared in one query: databases limit its parameters."""


@dataclass(frozen=True)
class OldRows:
    """Old rows of one kind."""

    kind: str
    """What they are called in a report."""

    model: type[models.Model]
    keys: Sequence[Any]
    still: Q = field(default_factory=Q)
    """What must hold when they are deleted, too."""


def find(rules: Rules, now: dt.datetime, named: NamedByRuns) -> Iterator[OldRows]:
    """Yield the old rows of each kind; delete them before the next one is asked for.

    Parameters
    ----------
    rules:
        How long each kind is kept.
    now:
        Aware.
    named:
        Asked for old revisions.
    """
    if rules.outbox.age is not None:
        closed = run_outbox.closed_before(now - rules.outbox.age)
        yield OldRows("outbox", OutboxRun, _keys(closed), still=run_outbox.CLOSED)
    if rules.actions.age is not None:
        old = DagsterAction.objects.filter(created_at__lt=now - rules.actions.age)
        yield OldRows("actions", DagsterAction, _keys(old))
    if rules.revisions.age is not None:
        yield from _of_revisions(now - rules.revisions.age, named)


def delete(old: OldRows, pace: Pace) -> int:
    """Delete rows, a few at once; return how many."""
    rows = old.model._base_manager.filter(old.still)
    begin, count = 0, 0
    while begin < len(old.keys) and not pace.is_over:
        chunk = list(old.keys[begin : begin + pace.size])
        begin += len(chunk)
        with pace.batch():
            count += rows.filter(pk__in=chunk).delete()[0]
    return count


def _keys(rows: "models.QuerySet[Any]") -> Sequence[Any]:
    return list(rows.values_list("pk", flat=True))


def _of_revisions(before: dt.datetime, named: NamedByRuns) -> Iterator[OldRows]:
    """Yield the old changes of trees, and the revisions that nothing names then.

    The newest change of each tree stays: it is what the tree is. So does a revision that a run
    names, as the run's page compares it with the present one.
    """
    present = ProcessTree.objects.values("job_name")
    newest = TreeChange.objects.filter(job_name__in=present).order_by().values("job_name")
    kept = newest.annotate(newest=Max("pk")).values("newest")
    old = _keys(TreeChange.objects.filter(at__lt=before).exclude(pk__in=kept))
    yield OldRows("changes", TreeChange, old)
    gone = set(old)  # or going to be, in a dry run
    others = {
        (job_name, revision)
        for pk, job_name, revision in TreeChange.objects.values_list("pk", "job_name", "revision")
        if pk not in gone
    }
    rows = TreeRevision.objects.values_list("pk", "job_name", "revision")
    unnamed = [row for row in rows if row[1:] not in others]
    unused = [
        pk
        for begin in range(0, len(unnamed), AT_ONCE)
        for pk in _not_named(unnamed[begin : begin + AT_ONCE], named)
    ]
    same = TreeChange.objects.filter(job_name=OuterRef("job_name"), revision=OuterRef("revision"))
    yield OldRows("revisions", TreeRevision, unused, ~Q(Exists(same)))


def _not_named(rows: Sequence[tuple[Any, str, str]], named: NamedByRuns) -> list[Any]:
    known = set(named([revision for _, _, revision in rows]))
    return [pk for pk, _, revision in rows if revision not in known]
