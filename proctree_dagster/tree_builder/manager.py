"""Running saved trees by name."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from ..context import tagging
from ..domain.submissions import OnConflict, Submission, priority_tag
from ..exceptions import SyncCheckError
from ..running import tree_runs
from ..running.family_execution import FamilyResults, execute_family
from ..running.results import Results
from ..running.run_options import RunOptions, SyncCheck
from ..running.submitted_run import SubmittedRun
from .instance import Function, ProcessTreeInstance


class ProcessTreeManager:
    """Runs saved trees by name."""

    @staticmethod
    def get_tree(name: str) -> ProcessTreeInstance:
        """Return the saved tree called ``name``.

        Raises
        ------
        TreeNotFound
            There is none.
        """
        return ProcessTreeInstance.load(name)

    @staticmethod
    def execute_tree(
        name: str,
        context: Mapping[str, Any] | None = None,
        func_registry: Mapping[str, Function] | None = None,
        sync_check_func: SyncCheck | None = None,
        only_run_out_of_sync: bool = False,
        stop_on_error: bool = True,
        use_cache: bool = True,
        tags: Mapping[str, str] | None = None,
    ) -> Results:
        """Run a saved tree in the calling process, recorded in Dagster's history.

        Parameters
        ----------
        name:
            The tree's name.
        context:
            Keyword arguments of the run; they update the schedule's default context.
        func_registry:
            Functions for this run, by process name, or by a function's key or reference.
        sync_check_func, only_run_out_of_sync:
            The function takes a process's name and returns whether its output is in sync. With
            ``only_run_out_of_sync`` only processes out of sync and those downstream of them run;
            the others are skipped, or give their cached result.
        stop_on_error:
            False lets the processes downstream of a failed one run without its result. The run
            still fails.
        use_cache:
            False runs every process, and caches the new results.
        tags:
            Tags of the run, as for ``submit_tree``.

        Returns
        -------
        Results
            ``success``, ``results``, ``status``, ``errors``, ``reasons``, ``execution_times``,
            ``cached``, ``response_variables`` and ``run_id``. A tree that fails does not raise.

        Raises
        ------
        TreeNotFound
            There is no such tree.
        StandInError
            The tree has no process or function that one of ``func_registry`` is named for.
        ContextError, TagError
            The context can't be stored, or the tags are not valid.
        SyncCheckError
            One of ``sync_check_func`` and ``only_run_out_of_sync`` is given without the other, or
            the function can't be called with a process's name, or returns no bool.
        """
        if only_run_out_of_sync and sync_check_func is None:
            raise SyncCheckError(
                "only_run_out_of_sync needs sync_check_func, a function that takes a process's "
                "name and returns whether it is in sync, a bool."
            )
        if sync_check_func is not None and not only_run_out_of_sync:
            raise SyncCheckError(
                "sync_check_func is asked only with only_run_out_of_sync=True: pass both, or "
                "leave it out to run every process."
            )
        options = RunOptions(sync_check_func, stop_on_error, use_cache)
        given = tagging.checked(tags)
        row = tree_runs.get_row(name)
        return tree_runs.execute_row(
            row, context, registry=func_registry, options=options, run_tags=given
        )

    @staticmethod
    def execute_with_dependents(
        name: str, context: Mapping[str, Any] | None = None
    ) -> FamilyResults:
        """Run a saved tree and all that follow it in the calling process, and wait for them.

        A dependent tree runs when the trees upstream have succeeded, a sibling beside its tree;
        each is a separate run, with the same context. (``execute_tree`` leaves them to Dagster.)

        Parameters
        ----------
        name:
            The tree's name.
        context:
            Keyword arguments of the runs; they update the default context of each tree's schedule.

        Returns
        -------
        FamilyResults
            The results of the tree, as from ``execute_tree``, and ``followers``, the results of
            each of the others by name, and ``failed_followers``, the names of those that failed or
            were not run. With one of those ``success`` is False, and ``errors`` says why by the
            tree's name.

        Raises
        ------
        TreeNotFound, ContextError
            As for ``execute_tree``.
        ProctreeError
            It was called inside a transaction.
        """
        return execute_family(name, context)

    @staticmethod
    def execute_with_siblings(name: str, context: Mapping[str, Any] | None = None) -> FamilyResults:
        """Run a saved tree, its siblings at the same time, and then the trees that depend on them.

        The same as ``execute_with_dependents``, which runs the full family; see there.
        """
        return execute_family(name, context)

    @staticmethod
    def clear_cache(name: str) -> None:
        """Clear the cached results of a saved tree.

        Results that it shares with other trees (``shared_cache_key``) are cleared for them, too.

        Parameters
        ----------
        name:
            The tree's name.

        Raises
        ------
        TreeNotFound
            There is no such tree.
        CacheError
            The cache can't be written to.
        """
        tree_runs.clear_cache(tree_runs.get_row(name))

    @staticmethod
    def submit_tree(
        name: str,
        context: Mapping[str, Any] | None = None,
        use_cache: bool = True,
        tags: Mapping[str, str] | None = None,
        *,
        run_after: dt.datetime | None = None,
        priority: int | None = None,
        key: str | None = None,
        on_conflict: OnConflict | None = None,
    ) -> SubmittedRun:
        """Queue a run of a saved tree for the daemon; return its id and its page at once.

        It is recorded in the caller's transaction and queued after the commit: a rollback
        leaves nothing, and a crash loses nothing.

        Parameters
        ----------
        name, context, use_cache:
            As for ``execute_tree``.
        tags:
            Tags of the run, texts by their names, by which Dagster filters runs and limits the
            queue: ``{"team": "books"}``. ``user`` is shown as *Launched by*. Names that begin
            with ``dagster/``, ``.dagster/``, ``proctree/`` or ``context/`` are reserved, except
            the tags that Dagster reads from callers: ``dagster/priority``, ``dagster/max_retries``,
            ``dagster/max_runtime`` and the like (``tagging.SETTINGS_OF_DAGSTER``).
        run_after:
            Aware; the run is not made before this time, and about ten seconds after it; up to half
            a minute if the time is nearer than that. Default: now.
        priority:
            A run of a higher one leaves Dagster's queue first; default: 0. From -1,000,000 to
            1,000,000. It is Dagster's tag ``dagster/priority``.
        key:
            Of the runs with the same key, of whatever tree, at most one is unfinished at any time.
            At most 200 characters; it is shown as a tag. Default: none.
        on_conflict:
            What becomes of this request while another run with the key is unfinished: ``"return"``
            (the default) returns that run's id; ``"skip"`` requests nothing, and says so
            (``skipped``); ``"replace"`` withdraws or cancels it, and runs when it has ended;
            ``"queue"`` runs after it and after those that wait for it already.

        Raises
        ------
        TreeNotFound, ContextError, TagError
            As for ``execute_tree``.
        SubmissionError
            ``run_after``, ``priority``, ``key`` or ``on_conflict`` is not valid.
        InvalidTree
            The tree is broken, or a worker can't find its functions.
        InstanceError
            Dagster has no home, or its instance no queue.
        """
        submission = Submission.checked(run_after, key, on_conflict)
        given = {**tagging.checked(tags), **priority_tag(priority)}
        row = tree_runs.get_row(name)
        return tree_runs.submit_row(
            row, context, use_cache=use_cache, run_tags=given, submission=submission
        )
