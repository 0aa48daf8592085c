"""The runs that count for a requested one: itself, and its retries."""

from dagster import DagsterInstance, DagsterRun, RunsFilter

from ...domain import run_tags as tags
from ...exceptions import RunNotFound
from ...models import OutboxRun
from ...support.row_reading import readable
from . import outbox_delivery


def last(instance: DagsterInstance, run_id: str) -> tuple[str, bool]:
    """Return the id of the last attempt of a run, and whether no other will follow.

    Only Dagster's own retries count (``dagster/max_retries``), and the run that the outbox makes
    where one could not start; not what a person has executed again.

    Raises
    ------
    RunNotFound
        Dagster does not have the run.
    """
    ids, is_final = every(instance, run_id)
    return ids[-1], is_final


def every(instance: DagsterInstance, run_id: str) -> tuple[list[str], bool]:
    """Return the ids of the attempts of a run, and whether no other will follow; see ``last``.

    Raises
    ------
    RunNotFound
        Dagster does not have the run.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        raise RunNotFound(f"Dagster has no run {run_id!r}.")
    ids = [run.run_id]
    while run.is_finished and run.tags.get(tags.WILL_RETRY) == "true":
        retry = _retry_of(instance, run)
        if retry is None:
            return ids, False
        run = retry
        ids.append(run.run_id)
    return ids, run.is_finished and not _will_be_made_anew(instance, run)


def _retry_of(instance: DagsterInstance, run: DagsterRun) -> DagsterRun | None:
    """Return the run by which Dagster retries another; it is the first that repeats it."""
    repeats = RunsFilter(tags={tags.PARENT_RUN: run.run_id})
    records = instance.get_run_records(repeats, limit=1, ascending=True)
    return records[0].dagster_run if records else None


def _will_be_made_anew(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Return whether the outbox will make another run, as this one failed before its start."""
    rows = list(readable(OutboxRun.objects.filter(run_id=run.run_id)))
    return bool(rows) and run.run_id not in outbox_delivery.ended(instance, rows)
