"""What a run records of its job: a snapshot of it, one of its plan, and which pools it uses."""

import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from dagster import DagsterInstance, JobDefinition, serialize_value
from sqlalchemy.exc import IntegrityError

from .. import dagster_internals as internals
from ..dagster_features import RUN_RECORDS, is_on
from ..snapshot_texts import id_of, snapshot_text

if TYPE_CHECKING:
    from ..dagster_internals import SqlRunStorage


class Snapshot(NamedTuple):
    """A snapshot as Dagster stores it."""

    kind: str
    body: bytes


@dataclass(frozen=True)
class JobRecord:
    """What a run records of its job."""

    fields: Mapping[str, Any]
    """Fields of a ``DagsterRun``: the snapshots' ids, and the pools."""

    snapshots: Mapping[str, Snapshot]
    """The snapshots by their ids."""


_kept: "WeakKeyDictionary[JobDefinition, JobRecord]" = WeakKeyDictionary()
"""The records of jobs whose plan is always the same."""


def of_job(job: JobDefinition, run_config: Mapping[str, Any], *, same_plan: bool) -> JobRecord:
    """Return what a run records of its job; the run's configuration is checked.

    Parameters
    ----------
    job:
        The job.
    run_config:
        The configuration of the run.
    same_plan:
        Whether the job's plan is the same for every configuration, so that the record is made once.

    Raises
    ------
    DagsterInvalidConfigError
        The job does not allow the configuration.
    """
    known = _kept.get(job) if same_plan else None
    if known is not None:
        internals.ResolvedRunConfig.build(job, run_config)
        return known
    made = _made(job, run_config)
    if same_plan:
        _kept[job] = made
    return made


def _made(job: JobDefinition, run_config: Mapping[str, Any]) -> JobRecord:
    plan = internals.create_execution_plan(job, run_config)
    job_text = snapshot_text(job)
    job_id = id_of(job_text)
    steps = internals.snapshot_from_execution_plan(plan, job_id)
    steps_id = internals.create_execution_plan_snapshot_id(steps)
    kinds = internals.SnapshotType
    return JobRecord(
        {
            "job_snapshot_id": job_id,
            "execution_plan_snapshot_id": steps_id,
            "run_op_concurrency": internals.compute_run_op_concurrency_info_for_snapshot(steps),
        },
        {
            job_id: _snapshot(kinds.PIPELINE, job_text),
            steps_id: _snapshot(kinds.EXECUTION_PLAN, serialize_value(steps)),
        },
    )


def _snapshot(kind: Any, text: str) -> Snapshot:
    return Snapshot(kind.value, zlib.compress(text.encode()))


def can_be_stored(instance: DagsterInstance) -> bool:
    """Return whether an instance's storage of runs is one whose rows are written here."""
    return is_on(RUN_RECORDS) and hasattr(instance.run_storage, "connect")


def store(storage: "SqlRunStorage", snapshots: Mapping[str, Snapshot]) -> None:
    """Insert the snapshots that are not there yet.

    Parameters
    ----------
    storage:
        The storage of runs.
    snapshots:
        Snapshots by their ids.
    """
    table = internals.SnapshotsTable
    with storage.connect() as connection:
        query = table.select().with_only_columns(table.c.snapshot_id)
        found = connection.execute(query.where(table.c.snapshot_id.in_(list(snapshots))))
        there = {row[0] for row in found}
    rows = [
        {
            **{"snapshot_id": snapshot_id, "snapshot_type": snapshot.kind},
            "snapshot_body": snapshot.body,
        }
        for snapshot_id, snapshot in snapshots.items()
        if snapshot_id not in there
    ]
    if not rows:
        return
    try:
        with storage.connect() as connection:
            connection.execute(table.insert(), rows)
    except IntegrityError:  # another process has just stored one of them
        for row in rows:
            with suppress(IntegrityError), storage.connect() as connection:
                connection.execute(table.insert(), row)
