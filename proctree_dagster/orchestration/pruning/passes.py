"""A pass over all that is kept: what is older than the rules say goes, in small batches.

Runs that are needed stay, whatever the rules say; each pass checks them again. How far the logs
and the results of each tree's runs were removed is noted in Dagster's storage, so that a pass does
not read the runs again whose rows stay for longer.
"""

import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dagster import DagsterInstance, RunRecord, RunsFilter
from django.utils import timezone

from ... import conf
from ...domain import retention, run_tags
from ...domain.pace import Pace
from ...domain.retention import Bound, Keep, Rules
from ...domain.texts import explain
from ...exceptions import InstanceError
from ...models import ProcessTree
from ...services import old_rows
from ..dagster_features import RETENTION, is_on, why_off
from ..launching import sqlite_keepalive
from ..runs import removed
from ..runs.removed import Reach
from . import leftovers, needed, space, ticks
from .candidates import ENDED, FAILED, PAGE, SUCCEEDED, Ended, RunTable
from .removal import Removal, size_of

logger = logging.getLogger(__name__)

Kind = Literal["runs", "events", "results"]


@dataclass
class Pruned:
    """What a pass has removed, or would remove."""

    counts: Counter[str] = field(default_factory=Counter)
    """How many of each kind."""

    trees: Counter[str] = field(default_factory=Counter)
    """How many runs of each job."""

    kept: Counter[str] = field(default_factory=Counter)
    """How many runs stay although they are old enough, by the reason."""

    problems: list[str] = field(default_factory=list)
    bytes: int = 0
    """Bytes of removed files, and those that SQLite's files have given back."""

    longest: float = 0.0
    """Seconds that the longest batch took: no lock was held for longer."""

    is_complete: bool = True
    """Whether there was time for all of it."""

    next_job: str = ""
    """The job with which the next pass continues; blank if this one has ended."""

    def __str__(self) -> str:
        said = [f"{count:,} {kind}" for kind, count in self.counts.items() if count]
        removed = f"Removed {', '.join(said)}" if said else "Nothing to remove"
        space_said = f", {self.bytes / 1e6:.1f} MB" if self.bytes else ""
        return " ".join([f"{removed}{space_said}.", *self.problems])


def check(instance: DagsterInstance) -> None:
    """Refuse an instance from which nothing can be removed.

    Raises
    ------
    InstanceError
        With the reason.
    """
    if not is_on(RETENTION):
        raise InstanceError(f"{RETENTION.title} is off: {why_off(RETENTION)} {RETENTION.without}")
    storages = (instance.run_storage, instance.event_log_storage)
    if not all(hasattr(storage, name) for storage, name in zip(storages, _NEEDED, strict=True)):
        raise InstanceError(
            "History can be removed from Dagster's SQL storages only, and this instance has "
            f"{type(instance.run_storage).__name__}."
        )


_NEEDED = ("connect", "index_connection")


def prune(
    instance: DagsterInstance,
    *,
    dry_run: bool = False,
    seconds: float = float("inf"),
    spare: dt.timedelta = dt.timedelta(0),
    first_job: str = "",
    thorough: bool = True,
    rewrite: bool = False,
) -> Pruned:
    """Remove what ``PROCTREE["KEEP"]`` and the trees' rules do not keep.

    Parameters
    ----------
    instance:
        Dagster's.
    dry_run:
        Whether nothing is removed, only counted.
    seconds:
        Seconds after which no further batch is begun.
    spare:
        What ended within that time stays, whatever the rules say.
    first_job:
        The job to begin with, as ``Pruned.next_job`` says it.
    thorough:
        Whether files of runs that are gone are looked for, too.
    rewrite:
        Whether SQLite's files are rewritten that give no space back otherwise: it locks them.

    Raises
    ------
    InstanceError
        Nothing can be removed from this instance.
    """
    check(instance)
    files = sqlite_keepalive.of_instance(instance)
    with space.held_open(files) as write_back:
        work = _Pass(instance, dry_run, Pace(seconds), timezone.now(), spare, write_back)
        work.rows()
        work.ticks()
        work.runs(first_job)
        if thorough:
            work.leftovers()
        if not dry_run:
            work.space(files, rewrite)
    work.found.longest, work.found.is_complete = work.pace.longest, not work.pace.is_over
    work.found.bytes += work.removal.freed
    return work.found


MOST_STAYED = 10_000
"""How many runs of a job are noted that have their logs, or results, while later ones do not."""


class _Pass:
    def __init__(
        self,
        instance: DagsterInstance,
        dry_run: bool,
        pace: Pace,
        now: dt.datetime,
        spare: dt.timedelta,
        write_back: Callable[[], None],
    ) -> None:
        self._write_back = write_back
        self._instance, self._dry_run, self.pace = instance, dry_run, pace
        self._now, self._spare = now, (now - spare).timestamp()
        self._rules: Rules = conf.current().KEEP
        self._table = RunTable(instance)
        self._own = dict(ProcessTree.objects.values_list("job_name", "keep_runs"))
        self._notes = removed.read_notes(instance)
        self.removal = Removal(instance, pace)
        self.found = Pruned()
        self._gone: set[str] = set()

    def rows(self) -> None:
        """Remove old rows of Django's database."""
        for old in old_rows.find(self._rules, self._now, self._table.naming):
            count = len(old.keys) if self._dry_run else old_rows.delete(old, self.pace)
            self.found.counts[old.kind] += count

    def ticks(self) -> None:
        """Remove old ticks."""
        if self._rules.ticks.age is None:
            return
        ids = ticks.old(self._instance, self._now - self._rules.ticks.age)
        count = len(ids) if self._dry_run else ticks.remove(self._instance, ids, self.pace)
        self.found.counts["ticks"] += count

    def runs(self, first_job: str) -> None:
        """Remove old runs, logs and results, of one job after the other."""
        if not any(self._rules_of(job) for job in {"", *self._own}):
            return
        jobs = list(self._table.jobs())
        start = next((at for at, job in enumerate(jobs) if job >= first_job), 0)
        for job in (*jobs[start:], *jobs[:start]):
            if self.pace.is_over:
                self.found.next_job = job
                break
            try:
                self._of_job(job)
            except Exception as error:  # a row that can't be read; other trees are done
                logger.exception("Old runs of %r can't be removed.", job)
                self.found.problems.append(f"Those of {job!r} stay: {explain(error)}")
        if not self._dry_run:
            _write_notes(self._instance, self._notes, set(jobs))

    def leftovers(self) -> None:
        """Remove files of runs that are gone, if runs are removed at all."""
        if self._rules.removing().keys().isdisjoint({"runs", "failed_runs"}):
            return
        for ids in leftovers.of_gone_runs(self._instance, self._table):
            if self.pace.is_over:
                return
            self.found.counts["files of runs that are gone"] += len(ids)
            if not self._dry_run:
                for run_id in ids:
                    self.removal.leftovers(run_id)

    def space(self, files: Sequence[Path], rewrite: bool) -> None:
        """Give the space of removed rows back."""
        before = sum(map(size_of, files))
        self.found.problems += space.give_back(files, self.pace, rewrite=rewrite)
        self.found.bytes += max(0, before - sum(map(size_of, files)))

    def _rules_of(self, job: str) -> Mapping[Kind, Mapping[tuple[str, ...], tuple[Keep, ...]]]:
        """Return the rules of a job that remove something, by what they remove and the statuses."""
        own = retention.own_rule(self._own.get(job, ""))
        every: dict[Kind, Mapping[tuple[str, ...], tuple[Keep, ...]]] = {
            "runs": {SUCCEEDED: self._rules.of_tree(own), FAILED: self._rules.of_failed(own)},
            "events": {ENDED: (self._rules.events,)},
            "results": {ENDED: (self._rules.results,)},
        }
        return {
            kind: rules
            for kind, rules in every.items()
            if not all(_keeps_all(several) for several in rules.values())
        }

    def _of_job(self, job: str) -> None:
        rules = self._rules_of(job)
        if not rules or not self._is_ours(job):
            return
        for kind, groups in rules.items():
            bounds = {
                status: tuple(self._bound(job, keep) for keep in several)
                for statuses, several in groups.items()
                for status in statuses
            }
            for statuses, several in groups.items():
                if not _keeps_all(several):
                    self._of_kind(kind, job, statuses, bounds)

    def _bound(self, job: str, keep: Keep) -> Bound:
        """Return what a rule means now; that of failed runs counts failures only."""
        counted = FAILED if keep is self._rules.failed_runs else ENDED
        return self._table.bound(keep, job, counted, self._now)

    def _of_kind(
        self, kind: Kind, job: str, statuses: Sequence[str], bounds: Mapping[str, Sequence[Bound]]
    ) -> None:
        def is_old(run: Ended) -> bool:
            passed = (bound.is_passed(run.number, run.ended) for bound in bounds[run.status])
            return run.ended <= self._spare and all(passed)

        def clear(page: Sequence[Ended]) -> set[int]:
            """Remove what is old of some runs and not needed; return which."""
            old = [run for run in page if is_old(run)]
            chosen = self._unneeded(kind, job, old, is_old) if old else []
            self._clear(kind, job, chosen)
            return {run.number for run in page if run.run_id in set(chosen)}

        if kind == "runs":
            for page in self._pages(job, statuses, 0, is_old):
                clear(page)
            return
        reach = self._notes.setdefault(kind, {}).get(job, Reach())
        unfinished = self._table.unfinished(job)
        again = sorted(reach.stayed - unfinished)
        while again and not self.pace.is_over:
            numbers, again = again[:PAGE], again[PAGE:]
            page = self._table.numbered(job, numbers)
            gone = set(numbers) - {run.number for run in page}
            reach = Reach(reach.number, reach.stayed - clear(page) - gone)
            self._notes[kind][job] = reach
        behind = {number for number in unfinished if number > reach.number}
        for page in self._pages(job, statuses, reach.number, is_old):
            done = clear(page)
            behind |= {run.number for run in page} - done
            last = max(done, default=0)
            stayed = reach.stayed | {number for number in behind if number < last}
            if done and len(stayed) <= MOST_STAYED:
                self._notes[kind][job] = reach = Reach(last, stayed)
                behind = {number for number in behind if number > last}

    def _pages(
        self, job: str, statuses: Sequence[str], number: int, is_old: Callable[[Ended], bool]
    ) -> Iterator[list[Ended]]:
        """Yield the runs of a job after a number, while some of them are old and there is time."""
        while not self.pace.is_over:
            page = self._table.after(job, statuses, number)
            if not any(map(is_old, page)):
                return
            yield page
            number = page[-1].number

    def _clear(self, kind: Kind, job: str, run_ids: list[str]) -> None:
        """Remove the runs, or their logs or results, and count them."""
        self.found.counts[_CALLED[kind]] += len(run_ids)
        if kind == "runs":
            self.found.trees[job] += len(run_ids)
            self._gone.update(run_ids)
        if not self._dry_run and run_ids:
            getattr(self.removal, kind)(run_ids)
            self._write_back()

    def _unneeded(
        self, kind: Kind, job: str, page: Sequence[Ended], is_old: Callable[[Ended], bool]
    ) -> list[str]:
        ids = [run.run_id for run in page]
        records = self._instance.get_run_records(RunsFilter(run_ids=ids))
        ours = [each for each in records if run_tags.TREE in each.dagster_run.tags]
        reasons = dict(needed.of(self._instance, ours, lambda record: is_old(_ended(record))))
        if kind == "runs":
            reasons |= self._last_of(job, page)
            self.found.kept.update(reasons.values())
        left = reasons.keys() | self._gone
        return [each.dagster_run.run_id for each in ours if each.dagster_run.run_id not in left]

    def _last_of(self, job: str, page: Sequence[Ended]) -> dict[str, str]:
        """Return the last run and the last success of a tree that there is: they say how it is."""
        if job not in self._own:
            return {}
        last = {
            self._table.newest(job): "it is the last run of its tree",
            self._table.newest(job, SUCCEEDED[:1]): "it is the last success of its tree",
        }
        return {run.run_id: last[run.number] for run in page if run.number in last}

    def _is_ours(self, job: str) -> bool:
        if job in self._own:
            return True
        newest = self._table.newest_id(job)
        run = None if newest is None else self._instance.get_run_by_id(newest)
        return run is not None and run_tags.TREE in run.tags


_CALLED = {"runs": "runs", "events": "logs", "results": "results of runs"}


def _keeps_all(rules: Sequence[Keep]) -> bool:
    return any(keep.is_all for keep in rules)


def _ended(record: RunRecord) -> Ended:
    run = record.dagster_run
    ended = record.end_time or record.update_timestamp.replace(tzinfo=dt.UTC).timestamp()
    return Ended(record.storage_id, run.run_id, run.status.value, ended)


def _write_notes(
    instance: DagsterInstance, notes: Mapping[str, Mapping[str, Reach]], jobs: Collection[str]
) -> None:
    present = {
        kind: {job: reach for job, reach in found.items() if job in jobs}
        for kind, found in notes.items()
        if found
    }
    if present:
        removed.write_notes(instance, present)
