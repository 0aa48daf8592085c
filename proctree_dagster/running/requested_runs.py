"""Runs that were requested, and that Dagster does not have yet: rows of the outbox."""

import json
import uuid
from collections.abc import Callable, Iterable

from django.db.models import QuerySet
from django.utils import formats, timezone
from django.utils.translation import gettext

from ..context import sensitive
from ..domain import run_tags as tags
from ..domain.runs import RunQuery, RunSummary
from ..models import OutboxRun, OutboxState
from ..services import run_keys, run_outbox, webserver
from ..support.row_reading import UNREADABLE, readable

REQUESTED = "requested"
"""The shown status of a run that waits in the outbox."""

DROPPED = "dropped"
"""The shown status of a run that will never be made."""

COMPARED = 500
"""How many waiting rows are compared at most with what the database can't search for."""


def waiting(query: RunQuery, most: int) -> list[RunSummary]:
    """Return requested runs that a query finds, the newest first; its statuses do not count.

    Parameters
    ----------
    query:
        Which runs.
    most:
        How many at most.
    """
    matches = _comparison(query)
    rows = _rows(query).order_by("-pk")[: most if _is_exact(query) else COMPARED]
    return [summary(row) for row in readable(rows) if matches(row)][:most]


def _rows(query: RunQuery) -> QuerySet[OutboxRun]:
    """Return what the database compares."""
    waiting = OutboxRun.objects.filter(state=OutboxState.WAITING).select_related("process_tree")
    rows = run_keys.with_those_before(waiting)
    if query.job_name:
        rows = rows.filter(process_tree__job_name=query.job_name)
    if query.since is not None:
        rows = rows.filter(created_at__gt=query.since)
    if query.until is not None:
        rows = rows.filter(created_at__lt=query.until)
    if query.run_ids:
        rows = rows.filter(run_id__in=_ids(query.run_ids))
    return rows


def _is_exact(query: RunQuery) -> bool:
    return not query.text and not query.tags and query.triggered_by is None


def _comparison(query: RunQuery) -> Callable[[OutboxRun], bool]:
    """Return what compares a row with the rest, which is JSON."""
    wanted, text = dict(query.tags), query.text.casefold()
    if query.triggered_by is not None:
        wanted[tags.TRIGGERED_BY] = query.triggered_by

    def matches(row: OutboxRun) -> bool:
        written = _tags(row)
        if any(written.get(name, "") != value for name, value in wanted.items()):
            return False
        return not text or text in _text(row).casefold()

    return matches


def _text(row: OutboxRun) -> str:
    return json.dumps(sensitive.masked(row.context), ensure_ascii=False, default=str)


def _tags(row: OutboxRun) -> dict[str, str]:
    written = row.tags if isinstance(row.tags, dict) else {}  # SQL may have put anything there
    return {str(name): str(text) for name, text in written.items()}


def ids_that_begin_with(prefix: str, most: int) -> list[str]:
    """Return the ids of waiting runs that begin with a text, the newest first."""
    rows = OutboxRun.objects.filter(state=OutboxState.WAITING).order_by("-pk")
    ids = map(str, rows.values_list("run_id", flat=True)[:COMPARED])
    return [each for each in ids if each.startswith(prefix.lower())][:most]


def summaries(run_ids: list[str]) -> list[RunSummary]:
    """Return the runs of these ids that wait in the outbox."""
    rows = _rows(RunQuery(run_ids=tuple(run_ids))) if run_ids else OutboxRun.objects.none()
    return [summary(row) for row in readable(rows)]


def find(run_id: str) -> OutboxRun | None:
    """Return the row of a run, whatever its state is; ``None`` if it has none or is unreadable."""
    rows = OutboxRun.objects.filter(run_id__in=_ids([run_id])).select_related("process_tree")
    try:
        return run_keys.with_those_before(rows).first()
    except UNREADABLE:
        return None


def next_attempt(run_id: str) -> OutboxRun | None:
    """Return the row of the run that was made because another failed before it started."""
    wanted = next_attempt_id(run_id)
    return find(wanted) if wanted else None


def next_attempt_id(run_id: str) -> str:
    """Return the id that such a run has, or would have; blank if ``run_id`` is no id."""
    ids = _ids([run_id])
    return str(run_outbox.next_id(ids[0])) if ids else ""


def _ids(run_ids: Iterable[str]) -> list[uuid.UUID]:
    """Return ids as the database has them, without what is no id of ours."""
    found = []
    for each in run_ids:
        try:
            found.append(uuid.UUID(each))
        except ValueError:
            continue
    return found


def summary(row: OutboxRun) -> RunSummary:
    """Return a row as a run that has not begun; its reason stands for what failed."""
    written = _tags(row)
    run_id = str(row.run_id)
    return RunSummary(
        run_id=run_id,
        tree=row.process_tree.name,
        status=REQUESTED if row.state in run_outbox.OPEN else DROPPED,
        triggered_by=written.get(tags.TRIGGERED_BY, ""),
        launched_by=written.get(tags.USER, ""),
        due=None,
        created_at=row.created_at,
        started_at=None,
        ended_at=None,
        parent_run_id=None,
        failures={"": reason} if (reason := reason_of(row)) else {},
        url=webserver.run_url(run_id) if row.state == OutboxState.DELIVERED else None,
        tags=tags.shown(written),
        job_name=row.process_tree.job_name,
        schedule=tags.schedule_of(written),
    )


def reason_of(row: OutboxRun) -> str:
    """Return why a row waits, or was dropped; blank if it is delivered as soon as can be.

    Parameters
    ----------
    row:
        The row; from ``run_keys.with_those_before``, if the run that it waits for is to be named.
    """
    if row.state != OutboxState.WAITING:
        return row.reason
    said = []
    if row.run_after is not None and row.run_after > timezone.now():
        at = formats.date_format(timezone.localtime(row.run_after), "DATETIME_FORMAT")
        said.append(gettext("Not before %(time)s.") % {"time": at})
    before = getattr(row, "before", None)
    if before is not None and row.key_held is None:
        told = gettext("Behind run %(run)s, which has the same key %(key)r.")
        if row.replaces:
            told = gettext("In place of run %(run)s, which has the same key %(key)r, when it ends.")
        said.append(told % {"run": before, "key": row.key})
    return " ".join(filter(None, [*said, row.reason]))


def withdraw(row: OutboxRun, user: str) -> bool:
    """Drop a waiting row; return False if it is being delivered, or has been.

    Parameters
    ----------
    row:
        The row.
    user:
        Who withdraws it.
    """
    return run_outbox.withdraw_one(row, f"Withdrawn by {user}.", timezone.now())
