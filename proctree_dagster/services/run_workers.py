"""The workers of runs: each run is taken by one worker, which gives signs of life while it lives.

A process takes a run by inserting the run's row: one process wins, every other ends without calling
a function. From then on the ``guardian``, which no function can starve, writes a sign of life every
few seconds; it also reads whether the run is to be cancelled, and whether it was given up.
``orchestration.runs.lost_runs`` decides by these rows.

A worker is *lost* if it is known to have ended, or has been silent for
``PROCTREE["LOST_AFTER"]`` seconds. Every time is the database's: clocks of several machines are
never compared, and each update filters on what was read, so that of several processes one wins.
"""

import datetime as dt
import enum
from dataclasses import asdict

from django.db import models, router, transaction
from django.db.models import F
from django.db.models.functions import Now

from .. import conf
from ..models import RunWorker
from ..support.os_processes import Identity, State

RETENTION = dt.timedelta(days=1)
"""How long the row of an ended run is retained, to refuse late workers of it."""

BEATS = 12
"""Signs of life in ``LOST_AFTER`` seconds."""


class Order(enum.Enum):
    """The answer that a worker gets to a sign of life."""

    GO_ON = "go on"
    CANCEL = "cancel"
    """The run is to be cancelled."""

    GIVEN_UP = "given up"
    """It was silent for too long: its run was ended, or taken by another worker."""


class Sign(enum.Enum):
    """The state of a run's worker, as far as known."""

    ALIVE = "alive"
    """Its process is seen to run, or it gave a recent sign of life."""

    SILENT = "silent"
    """No sign of life for a while, and its process can't be seen, or is stopped."""

    ENDED = "ended"
    """Known to have ended."""


def beat_seconds() -> float:
    """Return the seconds between two signs of life."""
    return min(5.0, conf.current().LOST_AFTER / BEATS)


def database() -> str:
    """Return the alias of the database that holds the rows."""
    return router.db_for_write(RunWorker)


def worker_of(row: RunWorker) -> Identity:
    """Return the process that a row names."""
    return Identity(row.host, row.boot_id, row.pid_namespace, row.pid, row.process_started)


def take(run_id: str, worker: Identity, *, dedicated: bool, resumed: bool = False) -> bool:
    """Take a run for a process; return False if another process has or had it.

    Parameters
    ----------
    run_id:
        The run's id.
    worker:
        The process that is going to execute it.
    dedicated:
        Whether the process exists for this run only, so that it may be killed.
    resumed:
        Whether the run is resumed after its worker was lost: it may be taken from that worker.
    """
    fields = {**_fields(worker), "is_dedicated": dedicated}
    row, created = RunWorker.objects.get_or_create(
        run_id=run_id, defaults={**fields, "taken_at": Now(), "beat_at": Now()}
    )
    if created or (worker_of(row) == worker and row.ended_at is None):
        return True
    if not resumed or not _has_lost(now_of(row)):
        return False
    again = {"taken_at": Now(), "beat_at": Now(), "suspected_at": None, "ended_at": None}
    mine = RunWorker.objects.filter(pk=row.pk, beats=row.beats, **_fields(worker_of(row)))
    return bool(mine.update(**fields, **again, beats=F("beats") + 1))


def _has_lost(row: RunWorker) -> bool:
    """Return whether a run has lost its worker; one that is silent is suspected first."""
    sign = sign_of(row)
    if sign is Sign.SILENT and not is_lost(row):
        suspect(row)
        return False
    return sign is not Sign.ALIVE


def beat(run_id: str, worker: Identity) -> Order:
    """Record a sign of life of a worker, and return what it is to do."""
    mine = RunWorker.objects.filter(run_id=run_id, **_fields(worker))
    if mine.filter(ended_at=None).update(beat_at=Now(), beats=F("beats") + 1, suspected_at=None):
        asked = mine.filter(cancel_requested_at__isnull=False).exists()
        return Order.CANCEL if asked else Order.GO_ON
    # Without a row nothing was decided about the run: the table was emptied.
    return Order.GIVEN_UP if RunWorker.objects.filter(run_id=run_id).exists() else Order.GO_ON


def end(run_id: str, worker: Identity) -> None:
    """Record that a worker has ended."""
    RunWorker.objects.filter(run_id=run_id, ended_at=None, **_fields(worker)).update(ended_at=Now())


def forget(run_id: str, worker: Identity) -> None:
    """Delete the row of an in-process run, which no other process can start."""
    RunWorker.objects.filter(run_id=run_id, **_fields(worker)).delete()


def request_cancel(run_id: str) -> bool:
    """Request the end of a run from its worker, on any host; return whether this request is new."""
    open_rows = RunWorker.objects.filter(run_id=run_id, ended_at=None, cancel_requested_at=None)
    return bool(open_rows.update(cancel_requested_at=Now()))


def suspect(row: RunWorker) -> bool:
    """Mark a worker as silent, unless it has given a sign of life since ``row`` was read."""
    same = RunWorker.objects.filter(pk=row.pk, beats=row.beats, ended_at=None, suspected_at=None)
    return bool(same.update(suspected_at=Now()))


def give_up(row: RunWorker) -> bool:
    """End a worker's hold on its run, unless it has given a sign of life since ``row`` was read.

    If it still lives, it learns of this with its next sign of life, and ends.
    """
    same = RunWorker.objects.filter(pk=row.pk, beats=row.beats, ended_at=None)
    return bool(same.update(ended_at=Now()))


def shut(run_id: str) -> bool:
    """Bar a run that no worker has taken from being taken; return False if one has it."""
    now = {"taken_at": Now(), "beat_at": Now(), "ended_at": Now()}
    with transaction.atomic(using=database()):
        _, created = RunWorker.objects.get_or_create(run_id=run_id, defaults=now)
    return created


def prune() -> int:
    """Delete the rows of ended runs after the retention period; return how many."""
    old = RunWorker.objects.filter(ended_at__lt=Now() - RETENTION)
    if not old.exists():  # a DELETE of nothing takes SQLite's write lock, too
        return 0
    return old.delete()[0]


def with_now(found: "models.QuerySet[RunWorker]") -> "models.QuerySet[RunWorker]":
    """Annotate each row with the database's time of the query, as ``now``."""
    return found.annotate(now=Now())


def now_of(row: RunWorker) -> RunWorker:
    """Read a row again, with the database's time."""
    return with_now(RunWorker.objects.all()).get(pk=row.pk)


def silence_of(row: RunWorker) -> float:
    """Return the seconds since a worker's last sign of life; ``row`` comes from ``with_now``."""
    return seconds_since(row, row.ended_at or row.beat_at)


def seconds_since(row: RunWorker, moment: dt.datetime) -> float:
    """Return the seconds from a moment in a row until it was read; it comes from ``with_now``."""
    now: dt.datetime = row.now  # type: ignore[attr-defined]  # annotated
    return (now - moment).total_seconds()


def sign_of(row: RunWorker) -> Sign:
    """Return the state of a run's worker; ``row`` comes from ``with_now``. Writes nothing.

    A worker whose process is seen to run is alive in any case: a long transaction may block its
    signs of life, and a clock may jump.
    """
    if row.ended_at is not None:
        return Sign.ENDED
    state = worker_of(row).state
    if state is State.GONE:
        return Sign.ENDED
    if state is State.RUNNING or silence_of(row) < suspicious_after():
        return Sign.ALIVE
    return Sign.SILENT


def suspicious_after() -> float:
    """Return the seconds of silence after which a worker is suspected to be lost."""
    return conf.current().LOST_AFTER - 3 * beat_seconds()


def is_lost(row: RunWorker) -> bool:
    """Return whether a silent worker is lost; ``row`` comes from ``with_now``.

    It must have been suspected for two signs of life first: after an outage of the database, or a
    jump of its clock, every worker seems silent, and needs time for its next sign of life.
    """
    if row.suspected_at is None:
        return False
    suspected = seconds_since(row, row.suspected_at)
    return silence_of(row) >= conf.current().LOST_AFTER and suspected >= 2 * beat_seconds()


def _fields(worker: Identity) -> dict[str, object]:
    values = asdict(worker)
    values["process_started"] = values.pop("started")
    return values
