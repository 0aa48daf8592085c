"""Runs that are old enough to go, of one tree after the other, the oldest first.

They are read from the table of runs itself: Dagster's API reads a run's whole record, and neither
skips the newest ones nor knows when a run has ended.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from dagster import DagsterInstance, DagsterRunStatus

from ...domain import run_tags
from ...domain.retention import Bound, Keep
from .. import dagster_internals as internals
from ..runs import storage_time

SUCCEEDED = (DagsterRunStatus.SUCCESS.value, DagsterRunStatus.CANCELED.value)
FAILED = (DagsterRunStatus.FAILURE.value,)
ENDED = (*SUCCEEDED, *FAILED)

REVISION_TAGS = (run_tags.REVISION, run_tags.RAN_REVISION, run_tags.SHOWN_REVISION)
"""The tags that name a revision, and the one that did so in release 0.1."""

PAGE = 100
"""How many runs are read at once."""


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    number: int
    """The number that Dagster gave it, in the order in which runs were made."""

    run_id: str
    status: str
    ended: float
    """When it ended, in seconds since 1970."""


class RunTable:
    """The table of runs of an instance."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._storage: Any = instance.run_storage
        self._zone = storage_time.zone_of(instance)
        self._runs = internals.RunsTable.c

    def jobs(self) -> Iterator[str]:
        """Yield the names of the jobs that have runs, in their order; one look-up each."""
        name, query = "", sqlalchemy.func.min(self._runs.pipeline_name)
        while True:
            found = self._all(sqlalchemy.select(query).where(self._runs.pipeline_name > name))
            if found[0][0] is None:
                return
            name = found[0][0]
            yield name

    def newest(self, job_name: str, statuses: Iterable[str] = ENDED, skip: int = 0) -> int | None:
        """Return the number of a job's newest run with one of these statuses, or the next ones.

        Parameters
        ----------
        job_name:
            The job.
        statuses:
            Dagster's.
        skip:
            How many newer ones to skip.
        """
        query = self._of(job_name, statuses).order_by(self._runs.id.desc()).limit(1).offset(skip)
        found = self._all(query)
        return found[0].id if found else None

    def newest_id(self, job_name: str) -> str | None:
        """Return the id of a job's newest run."""
        query = sqlalchemy.select(self._runs.run_id).where(self._runs.pipeline_name == job_name)
        found = self._all(query.order_by(self._runs.id.desc()).limit(1))
        return found[0][0] if found else None

    def after(self, job_name: str, statuses: Iterable[str], number: int) -> list[Ended]:
        """Return the next runs of a job that have ended, the oldest first."""
        query = self._of(job_name, statuses).where(self._runs.id > number)
        return [self._ended(row) for row in self._all(query.order_by(self._runs.id).limit(PAGE))]

    def numbered(self, job_name: str, numbers: Collection[int]) -> list[Ended]:
        """Return those of a job's runs with some numbers that have ended."""
        query = self._of(job_name, ENDED).where(self._runs.id.in_(list(numbers)))
        return [self._ended(row) for row in self._all(query.order_by(self._runs.id))]

    def unfinished(self, job_name: str) -> set[int]:
        """Return the numbers of a job's runs that have not ended."""
        query = sqlalchemy.select(self._runs.id).where(self._runs.pipeline_name == job_name)
        return {row[0] for row in self._all(query.where(self._runs.status.not_in(ENDED)))}

    def present(self, run_ids: Collection[str]) -> set[str]:
        """Return which of some runs there are."""
        query = sqlalchemy.select(self._runs.run_id)
        return {row[0] for row in self._all(query.where(self._runs.run_id.in_(list(run_ids))))}

    def naming(self, revisions: Collection[str]) -> set[str]:
        """Return which of some revisions runs name."""
        tags = internals.RunTagsTable.c
        query = sqlalchemy.select(tags.value).distinct().where(tags.key.in_(REVISION_TAGS))
        return {row[0] for row in self._all(query.where(tags.value.in_(list(revisions))))}

    def bound(self, keep: Keep, job_name: str, statuses: Iterable[str], now: dt.datetime) -> Bound:
        """Return what a rule means at a moment (aware) for the runs of a job."""
        if keep.age is not None:
            return Bound(ended_by=(now - keep.age).timestamp())
        if keep.last is None:
            return Bound()
        return Bound(older_than=self.newest(job_name, statuses, keep.last - 1))

    def _of(self, job_name: str, statuses: Iterable[str]) -> Any:
        runs = self._runs
        columns = (runs.id, runs.run_id, runs.status, runs.end_time, runs.update_timestamp)
        query = sqlalchemy.select(*columns).where(runs.pipeline_name == job_name)
        return query.where(runs.status.in_(list(statuses)))

    def _ended(self, row: Any) -> Ended:
        # Runs of early releases of Dagster have no time of their end.
        ended = row.end_time or row.update_timestamp.replace(tzinfo=self._zone).timestamp()
        return Ended(row.id, row.run_id, row.status, ended)

    def _all(self, query: Any) -> Sequence[Any]:
        with self._storage.connect() as connection:
            found: Sequence[Any] = connection.execute(query).fetchall()
        return found
