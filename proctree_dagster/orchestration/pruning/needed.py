"""Runs that are old enough to go and are still needed, so that they stay."""

import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from dagster import DagsterInstance, DagsterRun, RunRecord, RunsFilter

from ...domain import run_tags as tags
from ...services import needed_runs
from ...services.needed_runs import EndedRun
from ..runs.key_runs import UNFINISHED

RETRIED_WITHIN = dt.timedelta(days=1).total_seconds()
"""Seconds in which Dagster's daemon begins a retry that it has announced; later it was lost."""

IsOld = Callable[[RunRecord], bool]


def of(instance: DagsterInstance, records: Sequence[RunRecord], is_old: IsOld) -> Mapping[str, str]:
    """Return why runs are still needed, by their ids; those that are not needed are left out.

    Parameters
    ----------
    instance:
        Where they are recorded.
    records:
        Runs of one job that have ended, and are old enough to go.
    is_old:
        Returns whether another run of that job, which has ended, is old enough, too.
    """
    runs = [record.dagster_run for record in records]
    return {
        **_by_other_attempts(instance, runs, is_old),
        **_by_family(instance, runs),
        **needed_runs.by_django([_ended(run) for run in runs]),
        **{
            record.dagster_run.run_id: "Dagster is going to repeat it"
            for record in records
            if record.dagster_run.tags.get(tags.WILL_RETRY) == "true"
            and (record.end_time or 0) > time.time() - RETRIED_WITHIN
        },
    }


def _ended(run: DagsterRun) -> EndedRun:
    return EndedRun(
        run.run_id,
        run.job_name,
        tags.schedule_of(run.tags),
        _due(run),
        run.tags.get(tags.FAMILY, ""),
    )


def _due(run: DagsterRun) -> dt.datetime | None:
    """Return the due time of a scheduled run; ``None`` for a re-execution, which has a copy."""
    try:
        due = dt.datetime.fromisoformat(run.tags.get(tags.DUE, ""))
    except ValueError:  # none, or what somebody typed
        return None
    return due if run.parent_run_id is None and due.tzinfo is not None else None


def _by_other_attempts(
    instance: DagsterInstance, runs: Sequence[DagsterRun], is_old: IsOld
) -> dict[str, str]:
    """Return the runs of which another attempt is unfinished, or is kept.

    A re-execution from failure reads the results of those before it.
    """
    roots = {run.run_id: run.root_run_id or run.run_id for run in runs}
    wanted = sorted(set(roots.values()))
    found = [
        *instance.get_run_records(RunsFilter(tags={tags.ROOT_RUN: wanted})),
        *_present(instance, set(wanted) - roots.keys()),
    ]
    kept = {
        each.dagster_run.root_run_id or each.dagster_run.run_id
        for each in found
        if not (each.dagster_run.is_finished and is_old(each))
    }
    return {
        run_id: "another attempt of it is kept" for run_id, root in roots.items() if root in kept
    }


def _present(instance: DagsterInstance, run_ids: Iterable[str]) -> Sequence[RunRecord]:
    ids = sorted(run_ids)
    return instance.get_run_records(RunsFilter(run_ids=ids)) if ids else ()


def _by_family(instance: DagsterInstance, runs: Sequence[DagsterRun]) -> dict[str, str]:
    """Return the runs of families that have an unfinished run."""
    families = {run.run_id: run.tags[tags.FAMILY] for run in runs if tags.FAMILY in run.tags}
    if not families:
        return {}
    wanted = RunsFilter(tags={tags.FAMILY: sorted(set(families.values()))}, statuses=UNFINISHED)
    going = {run.tags.get(tags.FAMILY) for run in instance.get_runs(wanted)}
    return {
        run_id: "a run of its family has not ended"
        for run_id, family in families.items()
        if family in going
    }
