"""Delivers the runs of the outbox to Dagster: each once, also with several deliverers."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from django.utils import timezone

from ...domain import run_tags as tags
from ...domain.texts import explain
from ...models import OutboxRun, OutboxState
from ...services import row_runs, run_keys, run_outbox
from ...services.run_outbox import Drop, Ready, Verdict, Wait
from ..dagster_internals import DagsterRunAlreadyExists
from . import create as runs
from . import key_runs, opening
from .batches import Batch

logger = logging.getLogger(__name__)

CHUNK = 500
"""Most runs in one query to Dagster."""


@dataclass
class Delivery:
    """The outcome of one pass over the outbox: ids of runs."""

    delivered: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = [
            (len(self.delivered), "delivered"),
            (len(self.dropped), "dropped"),
            (len(self.failed), "could not be delivered"),
            (len(self.waiting), "waiting"),
        ]
        return ", ".join(f"{count} {what}" for count, what in counts if count) or "Nothing to do."


def deliver(
    instance: DagsterInstance,
    run_ids: Iterable[str] | None = None,
    *,
    seconds: float = float("inf"),
    of_rows: bool = True,
    batch: Batch | None = None,
) -> Delivery:
    """Deliver ready rows, drop those that can't become ready, and leave the rest.

    It must not be called inside a transaction: other processes would not see the leases.

    Parameters
    ----------
    instance:
        Dagster's.
    run_ids:
        Ids of the runs to deliver; all if left out.
    seconds:
        Seconds after which no further delivery is started.
    of_rows:
        Whether to deliver runs of schedules with a run for each row, too, that nothing has begun.
    batch:
        What the caller has just read of their trees.

    Raises
    ------
    InstanceError
        The instance has no queue.
    """
    ends = time.monotonic() + seconds
    result = Delivery()
    rows = run_outbox.open_rows(run_ids, of_rows=of_rows)
    if not rows:
        return result
    opening.check_queue(instance)
    holding = [row for row in rows if row.key_held and row.state != OutboxState.WAITING]
    rows = [row for row in rows if row.state in run_outbox.OPEN and _makes_sense(row, result)]
    delivered = [row for row in rows if row.state == OutboxState.DELIVERED]
    waiting = [row for row in rows if row.state == OutboxState.WAITING]
    key_runs.replace_earlier(instance, waiting)
    made = {str(row.run_id) for row in (*delivered, *holding)}
    asked = made.union(*(row.after for row in waiting))
    known = _with_repetitions(instance, _records(instance, asked))
    for row in delivered:
        try:
            _follow_up(row, known.get(str(row.run_id), []))
        except Exception:  # an error of one run must not prevent the others
            logger.exception("Run %s can't be followed up now.", row.run_id)
    for row in holding:
        if _has_ended(known.get(str(row.run_id), [])):
            run_keys.release(row)
    verdicts = _verdicts(instance, asked, known)
    succeeded = _succeeded(known)
    turns, batch = _Turns(instance, waiting), batch or Batch()
    paused = row_runs.paused(waiting)
    for row in waiting:
        run_id = str(row.run_id)
        verdict = run_outbox.decide(row, verdicts)
        if verdict == Wait() or time.monotonic() > ends:
            result.waiting.append(run_id)
        elif isinstance(verdict, Drop):
            if run_outbox.drop(row, verdict.reason):
                verdicts[run_id] = verdict  # those that wait for it come later in the list
                result.dropped.append(run_id)
        elif row.schedule_id in paused:
            run_outbox.note(row, paused[row.schedule_id])
            result.waiting.append(run_id)
        elif not turns.has_come(row):
            result.waiting.append(run_id)
        else:
            _deliver_or_note(instance, row, _tags(row, succeeded), batch, result)
    return result


class _Turns:
    """Whose turn it is among rows with the same key."""

    def __init__(self, instance: DagsterInstance, waiting: Sequence[OutboxRun]) -> None:
        keys = {row.key for row in waiting if row.key}
        self._firsts = run_keys.firsts(keys, timezone.now()) if keys else {}
        first = set(self._firsts.values())
        mine = {row.key for row in waiting if row.pk in first and not row.key_held}
        self._unfinished = key_runs.unfinished(instance, mine)

    def has_come(self, row: OutboxRun) -> bool:
        """Return whether a row may be delivered; if it has a key, the row holds it then."""
        if not row.key:
            return True
        if self._firsts.get(row.key) != row.pk:
            return False
        others = [run.run_id for run in self._unfinished.get(row.key, [])]
        return set(others) <= {str(row.run_id)} and run_keys.take(row)


def ended(instance: DagsterInstance, rows: Sequence[OutboxRun]) -> frozenset[str]:
    """Return which runs of made rows have ended: for good, or another run repeats them now.

    A run that failed before it started has not: another one takes its place (see ``_follow_up``).
    """
    known = _with_repetitions(instance, _records(instance, [str(row.run_id) for row in rows]))
    found = set()
    for row in rows:
        run_id = str(row.run_id)
        records = known.get(run_id, [])
        is_repeated = any(
            not each.dagster_run.is_finished and each.dagster_run.run_id != run_id
            for each in records
        )
        seen = _seen(records)
        is_made_anew = (
            row.state == OutboxState.DELIVERED and seen is not None and seen.will_be_made_anew(row)
        )
        if is_repeated or (_has_ended(records) and not is_made_anew):
            found.add(run_id)
    return frozenset(found)


def _has_ended(records: Sequence[RunRecord]) -> bool:
    """Return whether a run has ended for good; so has one that was deleted."""
    runs = [record.dagster_run for record in records]
    return not runs or (all(run.is_finished for run in runs) and not _is_retried(runs[-1]))


def _makes_sense(row: OutboxRun, result: Delivery) -> bool:
    """Return whether a row is valid; record its problem if it is not."""
    problem = run_outbox.problem_of(row)
    if problem is not None:
        logger.error("Run %s can't be delivered: %s", row.run_id, problem)
        run_outbox.note(row, problem)
        result.failed.append(str(row.run_id))
    return problem is None


def _records(instance: DagsterInstance, run_ids: Iterable[str]) -> dict[str, RunRecord]:
    found: dict[str, RunRecord] = {}
    for chunk in _chunks(run_ids):
        records = instance.get_run_records(RunsFilter(run_ids=chunk))
        found |= {each.dagster_run.run_id: each for each in records}
    return found


def _chunks(run_ids: Iterable[str]) -> Iterator[list[str]]:
    ids = sorted(set(run_ids))
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _with_repetitions(
    instance: DagsterInstance, known: Mapping[str, RunRecord]
) -> dict[str, list[RunRecord]]:
    """Return each run with its re-executions, the oldest first; alone unless it has failed.

    Retries by Dagster, and re-executions from any of them: all have the same root.
    """
    roots = {
        run_id: record.dagster_run.root_run_id or run_id
        for run_id, record in known.items()
        if record.dagster_run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
    }
    several: dict[str, list[RunRecord]] = {}
    for chunk in _chunks(roots.values()):
        for record in instance.get_run_records(RunsFilter(tags={tags.ROOT_RUN: chunk})):
            root = record.dagster_run.tags[tags.ROOT_RUN]
            several.setdefault(root, []).append(record)
    result = {}
    for run_id, record in known.items():
        others = several.get(roots.get(run_id, ""), [])
        all_of_them = {each.storage_id: each for each in [record, *others]}
        result[run_id] = [all_of_them[key] for key in sorted(all_of_them)]
    return result


def _follow_up(row: OutboxRun, records: Sequence[RunRecord]) -> None:
    """Check whether a delivered run has started; create another one if it could not.

    The daemon may have died in the launch. A run that Dagster itself retries is left to it.
    """
    run_outbox.follow_up(row, _seen(records))


def _seen(records: Sequence[RunRecord]) -> run_outbox.Delivered | None:
    """Return the record of a run and its re-executions; ``None`` if it was deleted."""
    if not records:
        return None
    newest = records[-1].dagster_run
    return run_outbox.Delivered(
        has_started=any(record.start_time is not None for record in records),
        is_canceled=newest.status == DagsterRunStatus.CANCELED,
        has_failed=newest.status == DagsterRunStatus.FAILURE and not _is_retried(newest),
        is_finished=newest.is_finished,
    )


def _verdicts(
    instance: DagsterInstance,
    run_ids: Iterable[str],
    known: Mapping[str, Sequence[RunRecord]],
) -> dict[str, Verdict]:
    """Return the verdict on each run: rows that wait for it are ready, wait on, or are dropped."""
    result = {
        run_id: _verdict([record.dagster_run for record in records])
        for run_id, records in known.items()
    }
    missing = set(run_ids) - known.keys()
    rows = OutboxRun.objects.filter(run_id__in=missing).values_list("run_id", "state")
    states = {str(run_id): state for run_id, state in rows}
    for run_id in missing:
        state = states.get(run_id)
        is_there = state not in run_outbox.OPEN and instance.has_run(run_id)
        result[run_id] = run_outbox.verdict_without_run(run_id, state, is_there=is_there)
    return result


def _verdict(runs: Sequence[DagsterRun]) -> Verdict:
    """Return the verdict on a run with its re-executions: one successful attempt is enough."""
    newest = runs[-1]
    if any(run.status == DagsterRunStatus.SUCCESS for run in runs):
        return Ready()
    if any(not run.is_finished for run in runs) or _is_retried(newest):
        return Wait()
    end = "was canceled" if newest.status == DagsterRunStatus.CANCELED else "has failed"
    return Drop(f"Run {newest.run_id} of {newest.job_name} {end}.")


def _is_retried(run: DagsterRun) -> bool:
    """Return whether Dagster will retry a run, which must be the newest attempt."""
    return run.tags.get(tags.WILL_RETRY) == "true"


def _deliver_or_note(
    instance: DagsterInstance,
    row: OutboxRun,
    run_tags: Mapping[str, str],
    batch: Batch,
    result: Delivery,
) -> None:
    """Deliver a ready row, unless another process has its lease; record an error."""
    run_id = str(row.run_id)
    if not run_outbox.lease(row, timezone.now()):
        result.waiting.append(run_id)
        return
    try:
        _deliver(instance, row, run_tags, batch)
    except Exception as error:  # an error of one tree must not prevent the others
        logger.exception("Run %s of %r could not be delivered.", run_id, row.process_tree.name)
        run_outbox.mark_failed(row, explain(error))
        result.failed.append(run_id)
    else:
        result.delivered.append(run_id)


def _succeeded(known: Mapping[str, Sequence[RunRecord]]) -> dict[str, str]:
    """Map each run id to the id of its successful attempt (itself or a re-execution)."""
    return {
        run_id: record.dagster_run.run_id
        for run_id, records in known.items()
        for record in records
        if record.dagster_run.status == DagsterRunStatus.SUCCESS
    }


def _tags(row: OutboxRun, succeeded: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a row's run: it follows the successful attempts, not the failed ones.

    If they name no launcher, that is the outbox's sensor; code that submits a run has none.
    """
    written = tags.renamed(row.tags)
    follows = [succeeded.get(each, each) for each in tags.split(written.get(tags.FOLLOWS))]
    is_known = not written.keys().isdisjoint({tags.USER, tags.SENSOR_NAME, tags.SCHEDULE_NAME})
    is_known = is_known or written.get(tags.TRIGGERED_BY) in ("python", "command")
    return {
        **({} if is_known else {tags.SENSOR_NAME: tags.OUTBOX_SENSOR}),
        **written,
        **({tags.FOLLOWS: tags.join(follows)} if follows else {}),
        **({tags.KEY: row.key} if row.key else {}),
    }


def _deliver(
    instance: DagsterInstance, row: OutboxRun, run_tags: Mapping[str, str], batch: Batch
) -> None:
    """Create the run of a leased row, if there is none yet, and queue it."""
    run_id = str(row.run_id)
    run: DagsterRun | None = None
    if not (row.attempts and instance.has_run(run_id)):  # at the first attempt there is none
        tree, jobs = batch.of_tree(row.process_tree_id)
        context = batch.context_of(tree, row)
        try:
            run = runs.create_run(
                *(instance, jobs.served, context, run_tags),
                run_id=run_id,
                same_plan=jobs.same_plan,
            )
        except DagsterRunAlreadyExists:
            logger.info("Run %s was created by another process meanwhile.", run_id)
    # A run that is queued twice may be launched twice; a delayed deliverer has lost its lease.
    if not run_outbox.renew(row):
        return
    run = run or instance.get_run_by_id(run_id)
    if run is not None and run.status == DagsterRunStatus.NOT_STARTED:
        runs.submit(instance, run)
    run_outbox.mark_delivered(row)
