"""Runs as a process that serves pages reads them: Dagster is imported in a thread, never here.

::

    try:
        with run_history.opened() as history:
            page = history.recent(RunQuery(statuses=("failure",)), most=50)
    except HistoryUnavailable as error:  # HistoryLoading, while Dagster is being imported
        ...  # show what Django knows, and str(error)

What a page has to show of a run's context it takes from here, where secrets are replaced.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from django.utils.translation import gettext

from ..domain.runs import FailedRuns, LogPage, RunDetail, RunPage, RunQuery, RunSummary
from ..domain.texts import explain
from ..exceptions import (
    HistoryLoading,
    HistoryUnavailable,
    InstanceError,
    ProctreeError,
    RunNotFound,
)
from . import dagster_loading

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

    from ..orchestration.runs.unfinished_runs import Unfinished
    from ..process.run import Outcome

logger = logging.getLogger(__name__)

WAIT = 0.3
"""Seconds that a page waits for Dagster's import, which an earlier page may have begun."""

PAGE = 50
"""How many runs a page has."""

MOST_TREES = 100
"""Of how many trees the last failed runs are looked up at once."""

_Result = TypeVar("_Result")


@contextmanager
def opened(*, wait: float = WAIT) -> Iterator[History]:
    """Open Dagster's history of runs; the instance stays open for the next page.

    Parameters
    ----------
    wait:
        Seconds to wait for Dagster's import, which is begun if need be.

    Raises
    ------
    HistoryLoading
        Dagster is still being imported: ask again in a moment.
    HistoryUnavailable
        It can't be imported, has no home, or can't be opened; the message says why.
    """
    if not dagster_loading.wait(wait):
        if problem := dagster_loading.problem():
            told = gettext("Dagster can't be imported: %(error)s") % {"error": problem}
            raise HistoryUnavailable(told)
        raise HistoryLoading(gettext("Dagster is being loaded, which takes some seconds."))
    from ..orchestration.runs import opening

    with ExitStack() as stack:
        with _reasons():
            opened_one = opening.open_instance(persistent=True, create=False)
            instance = stack.enter_context(opened_one)
        yield History(instance)


@contextmanager
def _reasons() -> Iterator[None]:
    """Say why Dagster can't be asked; errors that say what is wrong with a request pass.

    Raises
    ------
    HistoryUnavailable
        Its instance or its storage has failed.
    """
    try:
        yield
    except InstanceError as error:
        raise HistoryUnavailable(str(error)) from error
    except ProctreeError:
        raise
    except Exception as error:  # any error of Dagster's storage: pages show what Django knows
        logger.warning("Dagster could not be asked.", exc_info=True)
        told = gettext("Dagster could not be asked: %(error)s") % {"error": explain(error)}
        raise HistoryUnavailable(told) from error


class History:
    """Dagster's history of the runs of trees. Each method raises ``HistoryUnavailable``, too.

    Parameters
    ----------
    instance:
        Dagster's instance.
    """

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance

    def _ask(self, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        with _reasons():
            return function(self._instance, *args, **kwargs)

    def recent(
        self,
        query: RunQuery | None = None,
        *,
        most: int = PAGE,
        before: str = "",
        after: str = "",
    ) -> RunPage:
        """Return the newest runs that a query finds, or those next to a run.

        Parameters
        ----------
        query:
            Which runs; left out, all.
        most:
            How many at most. The number of queries to Dagster's storage does not grow with it.
        before, after:
            The id of a run (``RunPage.older``, ``RunPage.newer``): only older, or newer ones.
        """
        from ..orchestration.runs import run_pages

        return self._ask(run_pages.page, query or RunQuery(), most=most, before=before, after=after)

    def summaries(self, run_ids: Iterable[str]) -> dict[str, RunSummary]:
        """Return the runs of these ids that Dagster has, by their ids."""
        from ..orchestration.runs import run_pages

        found = self._ask(run_pages.by_ids, list(run_ids))
        return {each.run_id: each for each in found}

    def unfinished(self) -> Unfinished:
        """Return how many runs of trees are unfinished."""
        from ..orchestration.runs import unfinished_runs

        return self._ask(unfinished_runs.count)

    def counts(
        self, statuses: Iterable[str], since: dt.datetime | None = None, job_name: str = ""
    ) -> dict[str, int]:
        """Return how many runs of trees have each of these statuses.

        Parameters
        ----------
        statuses:
            See ``domain.runs.STATUSES``; one query each.
        since:
            Only runs that were made since then; aware.
        job_name:
            Only those of this tree.
        """
        from ..orchestration.runs import run_pages

        query = RunQuery(statuses=tuple(statuses), since=since, job_name=job_name)
        return self._ask(run_pages.counts, query)

    def ids_that_begin_with(self, prefix: str, most: int = PAGE) -> list[str]:
        """Return the ids of runs that begin with a text, the newest first."""
        from ..orchestration.runs import run_pages

        return self._ask(run_pages.ids_that_begin_with, prefix, most)

    def detail(self, run_id: str) -> RunDetail:
        """Return a run with its processes.

        Raises
        ------
        RunNotFound
            Dagster does not have it.
        """
        from ..orchestration.runs import details

        return self._ask(details.detail, run_id)

    def last_attempt(self, run_id: str) -> tuple[str, bool]:
        """Return the id of the run that counts for a requested one, and whether it is final.

        Raises
        ------
        RunNotFound
            Dagster does not have it.
        """
        from ..orchestration.runs import attempts

        return self._ask(attempts.last, run_id)

    def attempts(self, run_id: str) -> tuple[list[str], bool]:
        """Return the ids of the runs that count for a requested one, and whether they are final.

        Raises
        ------
        RunNotFound
            Dagster does not have it.
        """
        from ..orchestration.runs import attempts

        return self._ask(attempts.every, run_id)

    def outcomes(self, run_id: str, steps: Iterable[str]) -> Mapping[str, Outcome | str]:
        """Return the stored outcomes of a run's steps, with their results.

        In the place of one that can't be read is why: it lies on another machine, say.
        """
        from ..orchestration.runs import stored_outcomes

        return self._ask(stored_outcomes.of_run, self._run(run_id), steps)

    def log(self, run_id: str, *, most: int, names: Mapping[str, str] | None = None) -> LogPage:
        """Return the newest lines of a run's log.

        Parameters
        ----------
        run_id:
            The run's id.
        most:
            How many lines at most.
        names:
            The names of its processes, by those of their steps.
        """
        from ..orchestration.runs import details

        return self._ask(details.log, run_id, most=most, names=names)

    def context_of(self, run_id: str) -> dict[str, Any]:
        """Return a run's context as JSON, with its secrets: for another run, not for readers.

        Raises
        ------
        RunNotFound
            Dagster does not have it.
        """
        from ..orchestration.runs import run_pages

        return run_pages.context_of(self._run(run_id))

    def tags_of(self, run_id: str) -> Mapping[str, str]:
        """Return a run's tags, Dagster's own included.

        Raises
        ------
        RunNotFound
            Dagster does not have it.
        """
        return self._run(run_id).tags

    def last_failed(self, since: dt.datetime, most_trees: int = MOST_TREES) -> FailedRuns:
        """Return the last run of each tree since a moment, of those whose last run has failed.

        Parameters
        ----------
        since:
            Only runs that were made since then; aware.
        most_trees:
            How many trees at most; each takes a query.
        """
        from ..orchestration.runs import repeating

        return self._ask(repeating.last_failed, since, most_trees=most_trees)

    # What changes runs

    def repeat(self, run_id: str, user: str, *, everything: bool = False) -> str:
        """Queue a run again, and return the new run's id.

        Parameters
        ----------
        run_id:
            The run's id.
        user:
            The user who asks for it.
        everything:
            Whether it is repeated in full; otherwise from where it failed.

        Raises
        ------
        RunNotFound
            Dagster does not have it.
        RunError
            It can't be repeated, or is being repeated already.
        """
        from ..orchestration.runs import repeating

        run = self._run(run_id)
        new = self._ask(repeating.again, run, user, everything=everything, triggered_by="admin")
        return str(new.run_id)

    def cancel(self, run_id: str, user: str) -> bool:
        """Take a run from the queue, or ask its worker to cancel it.

        Returns
        -------
        bool
            Whether that was done, or is being done; else it has no worker any more.

        Raises
        ------
        RunNotFound
            Dagster does not have it.
        RunError
            It has ended.
        """
        from ..orchestration.runs import history

        return self._ask(history.cancel, self._run(run_id), user)

    def _run(self, run_id: str) -> DagsterRun:
        with _reasons():
            run = self._instance.get_run_by_id(run_id)
        if run is None:
            raise RunNotFound(gettext("Dagster has no run %(run)s.") % {"run": run_id})
        return run

    def daemon_seen_at(self) -> dt.datetime | None:
        """Return when Dagster's daemon gave its last sign of life; ``None`` if it never has."""
        from ..orchestration.launching import daemons

        return self._ask(daemons.last_seen)

    def schedules_stopped(self) -> set[str]:
        """Return the ``dagster_name`` of each schedule that is switched off in Dagster."""
        from ..orchestration.serving import schedule_status

        return self._ask(schedule_status.stopped)
