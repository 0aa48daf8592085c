"""Keys of runs: at most one run with a key is unfinished at any time.

Rows of the outbox with the same key form a line, first in, first out. The first one *holds* the
key from when its run is made until that and its retries have ended: ``key_held`` is unique, so the
database itself refuses a second one, whichever process asks. ``orchestration.runs.key_runs`` knows
when a run has ended.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable

from django.db import IntegrityError, connections, router, transaction
from django.db.models import F, Min, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import NullIf

from ..models import OutboxRun, OutboxState
from ..support import isolation
from .run_outbox import OPEN

UNFINISHED = Q(state__in=OPEN) | Q(key_held__isnull=False)
"""Rows whose run waits, or is made and may be unfinished."""


def lock(key: str, alias: str) -> None:
    """Wait until no other open transaction decides on a key, and keep others waiting until commit.

    On SQLite the caller's write lock does it already. Other databases than that and PostgreSQL have
    no such lock: two requests at the same moment may both be written there. They still run one
    after the other.
    """
    connection = connections[alias]
    if connection.vendor == "postgresql":
        number = int.from_bytes(
            hashlib.sha256(f"proctree {key}".encode()).digest()[:8], signed=True
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])


def unfinished(key: str) -> "QuerySet[OutboxRun]":
    """Return the rows of a key whose runs are unfinished, as far as Django knows, in their order.

    In a test the recorded ones: they never end.
    """
    rows = OutboxRun.objects.filter(key=key)
    if isolation.is_active():
        return rows.filter(reason=isolation.RECORDED).order_by("pk")
    return rows.filter(UNFINISHED).order_by(F("key_held").asc(nulls_last=True), "pk")


def with_those_before(rows: "QuerySet[OutboxRun]") -> "QuerySet[OutboxRun]":
    """Return rows with ``before``: the id of the run that they wait for, as it has their key."""
    # An empty key is no key: compared with NULL, it costs no pass over all that have none.
    key = NullIf(OuterRef("key"), Value(""))
    others = OutboxRun.objects.filter(UNFINISHED, key=key)
    others = others.exclude(pk=OuterRef("pk"))
    first = others.order_by(F("key_held").asc(nulls_last=True), "pk").values("run_id")[:1]
    return rows.annotate(before=Subquery(first))


def in_line(keys: Iterable[str], now: dt.datetime) -> "QuerySet[OutboxRun]":
    """Return the rows that wait for these keys, in their order; not those of a later time."""
    rows = OutboxRun.objects.filter(key__in=set(keys), state=OutboxState.WAITING)
    return due(rows, now).order_by("pk")


def due(rows: "QuerySet[OutboxRun]", now: dt.datetime) -> "QuerySet[OutboxRun]":
    """Return those of some rows whose time has come."""
    return rows.filter(Q(run_after=None) | Q(run_after__lte=now))


def firsts(keys: Iterable[str], now: dt.datetime) -> dict[str, int]:
    """Return the primary key of the row whose turn it is, by key: it holds the key, or is first."""
    wanted = set(keys)
    first = in_line(wanted, now).order_by().values_list("key").annotate(Min("pk"))
    held = OutboxRun.objects.filter(key_held__in=wanted).values_list("key_held", "pk")
    return {**dict(first), **dict(held)}


def take(row: OutboxRun) -> bool:
    """Let a waiting row hold its key. Return False if another row does, or it waits no more."""
    waiting = OutboxRun.objects.filter(pk=row.pk, run_id=row.run_id, state=OutboxState.WAITING)
    try:
        with transaction.atomic(using=router.db_for_write(OutboxRun)):
            return bool(waiting.update(key_held=row.key))
    except IntegrityError:
        return False


def release(row: OutboxRun) -> None:
    """Release the key of a row whose run, with its retries, has ended."""
    made = OutboxRun.objects.filter(pk=row.pk, run_id=row.run_id)
    made.exclude(state=OutboxState.WAITING).update(key_held=None)


def drop_replaced(row: OutboxRun, now: dt.datetime) -> None:
    """Drop the rows before one that replaces them, unless another process delivers them now."""
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    before = OutboxRun.objects.filter(free, key=row.key, state=OutboxState.WAITING, pk__lt=row.pk)
    if before.exists():  # on SQLite an UPDATE takes the write lock
        before.update(
            state=OutboxState.DROPPED,
            reason=f"Run {row.run_id} with the same key has replaced it.",
            key_held=None,
            leased_until=None,
        )
