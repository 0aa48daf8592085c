"""Runs page by page: what Dagster's storage filters, and what it can't."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter

from ...context import sensitive
from ...domain import run_tags as tags
from ...domain.runs import RunPage, RunQuery, RunSummary
from . import storage_time
from .summaries import summaries, summary

SEARCHED = 2000
"""How many runs a page compares at most with what Dagster can't search for."""

CHUNK = 200
"""How many runs are read at once where not each is shown."""

LARGEST = 500
"""How many runs are read at once at most."""

IDS = 10_000
"""How many ids of runs are read at once."""

LONGEST_ID = 36
"""The length of a run's id."""


def page(
    instance: DagsterInstance,
    query: RunQuery,
    *,
    most: int,
    before: str = "",
    after: str = "",
    searched: int = SEARCHED,
) -> RunPage:
    """Return the newest runs that a query finds, or those next to a run.

    Parameters
    ----------
    instance:
        Where they are recorded.
    query:
        Which runs.
    most:
        How many at most.
    before, after:
        The id of a run: only older ones, or only newer ones.
    searched:
        How many runs are compared at most with what Dagster can't search for.
    """
    if after:
        found = scan(instance, query, most, after, searched, ascending=True)
        if found.is_full or not found.is_complete:
            return _newer_page(instance, found)
        before = ""  # the first page, which is full if there are enough
    found = scan(instance, query, most, before, searched)
    return _older_page(instance, found, is_first=not before)


def under_way(instance: DagsterInstance, job_names: Collection[str]) -> list[RunSummary]:
    """Return the runs of trees that have started and not ended, the newest of a great many."""
    started = RunsFilter(statuses=[DagsterRunStatus.STARTED])
    records = instance.get_run_records(started, limit=SEARCHED)
    ours = (each for each in records if tags.TREE in each.dagster_run.tags)
    return [summary(instance, each) for each in ours if each.dagster_run.job_name in job_names]


@dataclass
class Found:
    """The outcome of a search."""

    records: list[RunRecord] = field(default_factory=list)
    is_full: bool = False
    """Whether there is at least one more than was asked for."""

    last: RunRecord | None = None
    """The last one that was compared."""

    searched: int = 0
    is_complete: bool = False
    """Whether there are no others."""


def scan(
    instance: DagsterInstance,
    query: RunQuery,
    most: int,
    cursor: str = "",
    searched: int = SEARCHED,
    *,
    ascending: bool = False,
) -> Found:
    """Read runs until there are enough, or enough were compared.

    Parameters
    ----------
    instance, query, most, searched:
        As ``page`` takes them.
    cursor:
        The id of a run, which is left out with those before it; blank: from the first one on.
    ascending:
        Whether older runs come first.
    """
    filters, matches = _filters(instance, query), _comparison(query)
    size = min(most + 1, LARGEST) if _is_exact(query) else CHUNK
    found = Found()
    while found.searched < searched:
        records = instance.get_run_records(
            filters, limit=size, cursor=cursor or None, ascending=ascending
        )
        for record in records:
            matching = matches(record.dagster_run)
            if matching and len(found.records) == most:
                found.is_full = True
                return found
            found.searched, found.last = found.searched + 1, record
            if matching:
                found.records.append(record)
        if len(records) < size:
            found.is_complete = True
            return found
        cursor = records[-1].dagster_run.run_id
    return found


def _newer_page(instance: DagsterInstance, found: Found) -> RunPage:
    runs = tuple(summaries(instance, reversed(found.records)))
    last = found.last.dagster_run.run_id if found.last is not None else ""
    older = runs[-1].run_id if runs else last
    newer = runs[0].run_id if found.is_full else "" if found.is_complete else last
    return RunPage(runs, older=older, newer=newer, searched=found.searched)


def _older_page(instance: DagsterInstance, found: Found, *, is_first: bool) -> RunPage:
    runs = tuple(summaries(instance, found.records))
    older, back_to = "", None
    if found.is_full:
        older = runs[-1].run_id
    elif not found.is_complete and found.last is not None:
        older = found.last.dagster_run.run_id
        back_to = storage_time.created_at(instance, found.last)
    newer = runs[0].run_id if runs and not is_first else ""
    return RunPage(runs, older, newer, found.searched, back_to)


def _filters(instance: DagsterInstance, query: RunQuery) -> RunsFilter:
    """Return what Dagster's storage compares."""
    started = {} if not query.triggered_by else {tags.TRIGGERED_BY: query.triggered_by}
    return RunsFilter(
        run_ids=list(query.run_ids) or None,
        job_name=query.job_name or None,
        statuses=[DagsterRunStatus(each.upper()) for each in query.statuses],
        tags={**query.tags, **started},
        created_after=storage_time.as_stored(instance, query.since),
        created_before=storage_time.as_stored(instance, query.until),
    )


def _is_exact(query: RunQuery) -> bool:
    """Return whether Dagster's storage finds all of it, as long as each run is a tree's."""
    return not query.text and query.triggered_by != ""


def _comparison(query: RunQuery) -> Callable[[DagsterRun], bool]:
    """Return what compares a run with the rest: it is a tree's, and what only we know."""
    text = query.text.casefold()

    def matches(run: DagsterRun) -> bool:
        if tags.TREE not in run.tags:
            return False
        if query.triggered_by == "" and run.tags.get(tags.TRIGGERED_BY):
            return False
        return not text or text in context_text(run).casefold()

    return matches


def context_of(run: DagsterRun) -> dict[str, object]:
    """Return a run's context as JSON, with its secrets; empty if the run has none."""
    config = run.run_config
    context = config.get("context") if isinstance(config, Mapping) else None
    return dict(context) if isinstance(context, Mapping) else {}


def context_text(run: DagsterRun) -> str:
    """Return a run's context as text that is searched; without its secrets."""
    return json.dumps(sensitive.masked(context_of(run)), ensure_ascii=False, default=str)


def ids_that_begin_with(instance: DagsterInstance, prefix: str, most: int) -> list[str]:
    """Return the ids of runs that begin with a text, the newest first; ``most`` at most."""
    wanted, found, cursor = prefix.lower(), list[str](), None
    if len(wanted) >= LONGEST_ID:
        return [wanted] if instance.has_run(wanted) else []
    while True:
        ids = instance.get_run_ids(limit=IDS, cursor=cursor)
        found += [each for each in ids if each.startswith(wanted)]
        if len(found) >= most or len(ids) < IDS:
            return found[:most]
        cursor = ids[-1]


def newest(instance: DagsterInstance, job_name: str) -> str:
    """Return the id of the newest run of a job; blank if it has none."""
    return next(iter(instance.get_run_ids(RunsFilter(job_name=job_name), limit=1)), "")


def counts(instance: DagsterInstance, query: RunQuery) -> dict[str, int]:
    """Return how many runs of trees a query finds, by status; one query for each status asked for.

    Parameters
    ----------
    instance:
        Where they are recorded.
    query:
        Which runs, by what Dagster's storage compares; with the statuses to count.

    Raises
    ------
    ValueError
        The query names no status, or needs runs to be compared one by one.
    """
    if not query.statuses or not _is_exact(query):
        raise ValueError("Runs are counted by statuses, and not by text or by Dagster's UI.")
    trees = sorted(name for _, names in instance.get_run_tags([tags.TREE]) for name in names)
    if not trees:
        return dict.fromkeys(query.statuses, 0)
    filters = _filters(instance, query)
    return {
        status: instance.get_runs_count(
            RunsFilter(
                job_name=filters.job_name,
                statuses=[DagsterRunStatus(status.upper())],
                tags={tags.TREE: trees, **filters.tags},
                created_after=filters.created_after,
                created_before=filters.created_before,
            )
        )
        for status in query.statuses
    }


def by_ids(instance: DagsterInstance, run_ids: list[str]) -> list[RunSummary]:
    """Return the runs of these ids that there are, the newest first."""
    if not run_ids:
        return []
    records = instance.get_run_records(RunsFilter(run_ids=run_ids))
    return summaries(instance, (each for each in records if tags.TREE in each.dagster_run.tags))
