"""Schedules with a run for each row: at a due time, the runs of all rows are recorded at once.

The due time is claimed as any other. Then one transaction closes the claim and adds a row to the
outbox for each run, with ids that follow from the schedule, the due time and the row. So a process
that is killed leaves an open claim and no run, or a closed claim and all of them.
"""

import datetime as dt
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Model, QuerySet
from django.utils import timezone

from .. import context as contexts
from .. import functions
from ..context import tagging
from ..domain import for_each as rules
from ..domain import run_tags as tags
from ..domain.names import MAX_NAME_LENGTH, TAG_PART, short_hash
from ..domain.texts import in_utc
from ..exceptions import ScheduleError
from ..models import OutboxRun, OutboxState, ProcessTree, ProcessTreeSchedule
from ..models.pauses import in_words
from ..models.validation import for_each_validation
from ..support.call_context import isolated
from ..support.connections import writing
from ..support.row_reading import readable
from . import pauses, run_keys, run_outbox, trigger_evaluation
from .due_time_claims import Due, Skip

BATCH = 500
"""Rows that are written, or asked for, in one query."""

SHOWN = 5
"""How many rows a message names."""


@dataclass(frozen=True)
class EachRow:
    """One row of a schedule, or one of the contexts that its function has yielded."""

    key: str
    """What identifies it."""

    context: dict[str, Any]
    """What it adds to the context of a run, as JSON."""


@dataclass(frozen=True)
class Requested:
    """The runs that were recorded for a due time."""

    count: int
    reason: str
    """For people to read."""


def rows(schedule: ProcessTreeSchedule) -> list[EachRow]:
    """Return the rows of a schedule, in its order; what its function yields twice is there twice.

    Raises
    ------
    ScheduleError
        Its ``for_each`` is invalid, or names what is not allowed; or its function yields something
        that is neither a context nor a row.
    ContextError
        A context can't be stored.
    Exception
        Whatever the function or the database raises.
    """
    found = for_each_validation.problems(schedule.for_each, schedule.order_by)
    if found:
        raise ScheduleError(" ".join(found))
    decoded = contexts.decode(schedule.for_each)
    if "function" not in decoded:
        return list({row.key: row for row in _of_model(schedule, decoded)}.values())
    try:
        return isolated(lambda: list(_yielded(schedule, decoded)))
    except SystemExit as error:  # it would end the process that checks all schedules
        raise ScheduleError(f"for_each: {decoded['function']} has raised SystemExit.") from error


def _of_model(schedule: ProcessTreeSchedule, decoded: Mapping[str, Any]) -> Iterator[EachRow]:
    """Yield the rows of a model; only their keys are read."""
    order = rules.order(schedule.order_by) or ["pk"]
    for row in trigger_evaluation.rows_of(decoded).order_by(*order).only("pk").iterator():
        yield _of_row(schedule.row_name, row)


def _of_row(name: str, row: Model) -> EachRow:
    context: dict[str, Any] = contexts.encode({name: row})
    key = f"{row._meta.label}:{row.pk}"
    if "using" in context[name]:  # it is of another database than its model is read from
        key += f"@{context[name]['using']}"
    return EachRow(key, context)


def _yielded(schedule: ProcessTreeSchedule, decoded: Mapping[str, Any]) -> Iterator[EachRow]:
    """Yield what a function yields: contexts, or rows; a secret that it was given is masked."""
    from ..process import masking  # it imports all that runs processes

    with masking.in_errors():
        yield from _asked(schedule, decoded)


def _asked(schedule: ProcessTreeSchedule, decoded: Mapping[str, Any]) -> Iterator[EachRow]:
    from ..process import masking, secrets
    from ..process.calling import bind_arguments

    reference = decoded["function"]
    function = functions.resolve(reference)
    arguments = bind_arguments("for_each", function, contexts.decode(schedule.context))
    answer = function(**secrets.resolved("for_each", arguments))
    if inspect.iscoroutine(answer):
        answer.close()
    if isinstance(answer, (str, Mapping)) or not isinstance(answer, Iterable):
        raise ScheduleError(
            f"for_each: {reference} must yield contexts, dictionaries or rows, not {answer!r:.100}."
        )
    for each in answer:
        if isinstance(each, Model):
            yield _of_row(schedule.for_each_as or each._meta.model_name or "row", each)
        elif isinstance(each, Mapping):
            context = contexts.encode(masking.masked(each))
            yield EachRow(json.dumps(context, sort_keys=True, ensure_ascii=False), context)
        else:
            raise ScheduleError(
                f"for_each: {reference} has yielded {each!r:.100}, which is neither a context, a "
                "dictionary, nor a row."
            )


def request(decision: Due, now: dt.datetime) -> Requested | Skip:
    """Record the runs for a claimed due time, and close its claim, in one transaction.

    Parameters
    ----------
    decision:
        The claimed due time of a schedule with ``for_each``.
    now:
        Aware.

    Raises
    ------
    Exception
        As for ``rows``; the claim stays open, and is tried again.
    """
    schedule, due = decision.schedule, decision.due
    found = rows(schedule)
    each = list({row.key: row for row in found}.values())
    keys = {} if schedule.allow_overlap else {row.key: _key(schedule, row) for row in each}
    with writing(ProcessTreeSchedule) as alias:
        mine = ProcessTreeSchedule.objects.using(alias).filter(pk=schedule.pk, enabled=True)
        closed = mine.filter(claim=due).update(
            **{"claim": None, "claimed_at": None, "last_due": due},
            **{"last_run_id": "", "last_run_status": "", "last_run_worker": ""},
        )
        if not closed:
            return Skip(
                f"The runs for {in_utc(due)} were requested before, or the schedule was switched "
                "off meanwhile."
            )
        run_outbox.keep_trees(ProcessTree.objects.using(alias).filter(pk=schedule.process_tree_id))
        before = _unfinished(keys.values())
        waits = {key for key, state in before.items() if state == "waiting"}
        left_out = [row for row in each if keys.get(row.key) in waits]
        chosen = [row for row in each if keys.get(row.key) not in waits]
        times = rules.times(len(chosen), max(due, now), schedule.spread_minutes)
        OutboxRun.objects.using(alias).bulk_create(
            [
                _outbox_row(decision, row, keys.get(row.key, ""), not_before)
                for row, not_before in zip(chosen, times, strict=True)
            ],
            batch_size=BATCH,
            ignore_conflicts=True,
        )
    behind = sum(keys.get(row.key, "") in before for row in chosen)
    said = _reason(schedule, len(chosen), behind, left_out)
    if repeated := len(found) - len(each):
        said += f" Left out, as it was yielded before: {repeated:,}."
    return Requested(len(chosen), said)


def _outbox_row(decision: Due, row: EachRow, key: str, not_before: dt.datetime | None) -> OutboxRun:
    schedule = decision.schedule
    due = decision.due.astimezone(dt.UTC).isoformat()
    context = {**decision.context, **row.context}
    named = [name for name in row.context if TAG_PART.fullmatch(name)]
    return OutboxRun(
        run_id=rules.run_id(schedule.name_in_dagster(), decision.due, row.key),
        process_tree_id=schedule.process_tree_id,
        schedule=schedule,
        context=context,
        tags={
            **tagging.of_row(schedule.tags),
            **tagging.from_context(named, context),
            **tags.of_schedule(schedule.name),
            **{tags.TRIGGERED_BY: "schedule", tags.DUE_OF_ROW: due},
            tags.SCHEDULE_NAME: schedule.name_in_dagster(),
        },
        key=key,
        run_after=not_before,
    )


def _key(schedule: ProcessTreeSchedule, row: EachRow) -> str:
    """Return the key by which the runs of a row come one after the other."""
    text = f"{schedule.name_in_dagster()} {row.key}"
    if len(text) > MAX_NAME_LENGTH or len(row.context) != 1:
        text = f"{schedule.name_in_dagster()[:100]} {short_hash(text, 20)}"
    return text


def _unfinished(keys: Iterable[str]) -> dict[str, str]:
    """Return which keys have unfinished runs: ``waiting`` if one waits, else ``going``."""
    wanted, found = list(keys), dict[str, str]()
    for start in range(0, len(wanted), BATCH):
        chunk = OutboxRun.objects.filter(run_keys.UNFINISHED, key__in=wanted[start : start + BATCH])
        for key, held, state in chunk.values_list("key", "key_held", "state"):
            waits = held is None and state == OutboxState.WAITING
            found[key] = "waiting" if waits else found.get(key, "going")
    return found


def _reason(schedule: ProcessTreeSchedule, count: int, behind: int, left_out: list[EachRow]) -> str:
    what = schedule.for_each.get("model") or f"context of {schedule.for_each.get('function')}"
    said = [f"Requested {count:,} run{'' if count == 1 else 's'}, one for each {what}"]
    if schedule.spread_minutes and count > 1:
        said.append(f", spread over {schedule.spread_minutes} minutes")
    said.append(".")
    if behind:
        said.append(f" {behind:,} of them begin when the previous run for the same one has ended.")
    if left_out:
        named = ", ".join(row.key for row in left_out[:SHOWN] if len(row.context) == 1)
        more = f": {named}{', …' if len(left_out) > SHOWN else ''}" if named else ""
        said.append(
            f" Not requested for {len(left_out):,}, whose run for an earlier due time still "
            f"waits{more}."
        )
    return "".join(said)


def paused(rows: Iterable[OutboxRun]) -> dict[int, str]:
    """Return which of some rows' schedules are paused now, by their keys, and why.

    The runs of a spread whose time comes in a pause wait for its end.

    Parameters
    ----------
    rows:
        Rows of the outbox.
    """
    keys = {row.schedule_id for row in rows if row.schedule_id is not None}
    active = pauses.Active().pauses if keys else []
    if not active:
        return {}
    schedules = ProcessTreeSchedule.objects.select_related("process_tree").filter(pk__in=keys)
    found = {
        schedule.pk: [each for each in active if each.concerns(schedule)]
        for schedule in readable(schedules)
    }
    return {pk: f"Paused {in_words(held)}." for pk, held in found.items() if held}


def waiting(schedule: ProcessTreeSchedule | None = None) -> "QuerySet[OutboxRun]":
    """Return the runs of rows whose time has come and that nothing has delivered, in their order.

    Parameters
    ----------
    schedule:
        Those of one schedule; of all if left out.
    """
    found = run_keys.due(OutboxRun.objects.filter(state=OutboxState.WAITING), timezone.now())
    found = (
        found.filter(schedule__isnull=False)
        if schedule is None
        else found.filter(schedule=schedule)
    )
    return found.order_by("pk")
