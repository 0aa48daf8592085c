"""Run or queue a tree through Dagster, from Python.

Dagster is imported when something runs, not before, so that other Django processes don't pay for
the import.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from .. import context as contexts
from .. import functions
from ..domain import run_tags as tags
from ..domain.submissions import Submission
from ..domain.tree_spec import TreeSpec
from ..exceptions import InstanceError, StorageAway, TreeNotFound
from ..models import ProcessTree, ProcessTreeSchedule, RunStatus
from ..models.validation.tree_validation import references, run_tag_problems, validate_tree
from ..process import caching, reporting
from ..process.run import Outcome, Status
from ..services import declaring, run_outbox, stand_ins, webserver
from ..support import isolation
from ..support.connections import after_commit, in_transaction

if TYPE_CHECKING:
    from ..orchestration.runs.batches import Batch
    from ..orchestration.tree_records import TreeRecord

from . import dagster_loading, submissions
from .results import Follower, Results, results_of
from .run_options import RunOptions, processes_in_sync
from .submitted_run import SubmittedRun

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
Progress = Callable[[str, Status], None]
OnReport = Callable[[str, reporting.Progress], None]
"""Takes a process's name and its new status."""


def get_row(name: str) -> ProcessTree:
    """Return the saved tree called ``name``.

    Raises
    ------
    TreeNotFound
        There is none.
    """
    row = ProcessTree.objects.with_links().filter(name=name).first()
    if row is None:
        raise TreeNotFound(
            f"There is no process tree called {name!r}. Save it first, or look up its name with "
            "ProcessTree.objects.values_list('name')."
        )
    return row


def execute_row(
    row: ProcessTree,
    context: Mapping[str, Any] | None = None,
    *,
    registry: Mapping[str, Function] | None = None,
    triggered_by: tags.Trigger = "python",
    due: dt.datetime | None = None,
    on_progress: Progress | None = None,
    on_report: OnReport | None = None,
    options: RunOptions | None = None,
    run_id: str | None = None,
    run_tags: Mapping[str, str] | None = None,
) -> Results:
    """Run a saved tree in the calling process, recorded in Dagster's history.

    Parameters
    ----------
    row:
        The tree.
    context:
        Keyword arguments of the run; they update the schedule's default context.
    registry:
        Functions that only this process has, by key, reference or process name. A run with such
        functions can't be re-executed.
    triggered_by:
        Who started it.
    due:
        The claimed due time of the run.
    on_progress:
        Called as processes start and finish, in the threads of the processes, one call at a time.
    on_report:
        Called when a process reports progress (``process.progress``), in the same way.
    options:
        Which processes run, and what a failure stops.
    run_id:
        A UUID for the run; left out, Dagster makes one.
    run_tags:
        More tags of the run.

    Raises
    ------
    StandInError
        A function of ``registry`` stands in for nothing.
    ContextError
        The context can't be stored.
    InstanceError
        The Dagster instance can't be opened.
    KeyboardInterrupt
        It was interrupted; the run is canceled.
    """
    dagster_loading.load()
    from ..orchestration import tree_records
    from ..orchestration.runs import schedule_claims

    stand_ins.check(row.content, registry or {})
    given = {**_local_functions(row), **(registry or {})}
    all_tags = {
        tags.TRIGGERED_BY: triggered_by,
        **_cache_tags(options is None or options.use_cache),
        **(run_tags or {}),
    }
    if due is not None:
        all_tags[tags.DUE] = schedule_claims.due_tag(due)
    merged = {**row.base_context(all_tags), **contexts.encode(context or {})}
    if triggered_by == "python":
        _warn_of_unknown_keys(row, context)
    record = tree_records.from_row(row, given or None)
    return _execute(
        record,
        merged,
        all_tags,
        bool(given),
        on_progress,
        options or RunOptions(),
        run_id,
        on_report,
    )


def _warn_of_unknown_keys(row: ProcessTree, context: Mapping[str, Any] | None) -> None:
    """Log which keys of the context nothing takes: a misspelt one would be ignored silently."""
    if context:
        for problem in row.context_schema.unknown(context):
            logger.warning("The context for the process tree %r: %s", row.name, problem)


def _local_functions(row: ProcessTree) -> dict[str, Function]:
    """Return the functions of a tree that only this process has, because it saved the tree."""
    kept = functions.local_functions(row.name)
    named = references(row.content) if kept else []
    return {reference: kept[reference] for reference in named if reference in kept}


def execute_spec(
    spec: TreeSpec,
    registry: Mapping[str, Function],
    context: Mapping[str, Any] | None = None,
    row: ProcessTree | None = None,
    options: RunOptions | None = None,
) -> Results:
    """Run a tree that exists in the calling process only; see ``execute_row``.

    Parameters
    ----------
    spec:
        The tree.
    registry:
        Its functions, by process name.
    context:
        Keyword arguments of the run.
    row:
        The saved tree of the same name, under whose job the run is listed.
    options:
        Which processes run, and what a failure stops.
    """
    dagster_loading.load()
    from ..orchestration import tree_records

    default_context = row.default_context if row is not None else {}
    record = tree_records.from_spec(
        spec, registry, default_context, job_name=row.job_name if row is not None else None
    )
    merged = {**default_context, **contexts.encode(context or {})}
    options = options or RunOptions()
    run_tags = {tags.TRIGGERED_BY: "python", **_cache_tags(options.use_cache)}
    return _execute(record, merged, run_tags, True, None, options)


def submit_row(
    row: ProcessTree,
    context: Mapping[str, Any] | None = None,
    *,
    triggered_by: tags.Trigger = "python",
    use_cache: bool = True,
    run_tags: Mapping[str, str] | None = None,
    submission: Submission = run_outbox.AT_ONCE,
    run_id: str | None = None,
) -> SubmittedRun:
    """Queue a run of a saved tree for the daemon and return at once.

    It is recorded in the outbox, in the caller's transaction, and delivered to Dagster after
    the commit: a rollback leaves nothing, and what can't be delivered then (Dagster's database is
    away, this process is killed) Dagster's sensor delivers later. In a test it is only recorded
    (see ``testing.submitted``).

    Parameters
    ----------
    row:
        The tree.
    context:
        Keyword arguments of the run; they update the schedule's default context.
    triggered_by:
        Who started it.
    use_cache:
        Whether to use cached results (see ``RunOptions``).
    run_tags:
        More tags of the run.
    submission:
        Not before when it is made, and its key.
    run_id:
        A UUID for the run; left out, a new one is made.

    Raises
    ------
    InvalidTree
        The tree is broken, or a worker can't find its functions.
    ContextError
        The context can't be stored.
    SubmissionError
        Its key can't be decided on in a transaction on another database.
    InstanceError
        Dagster has no home, or the instance no queue.
    """
    dagster_loading.load()
    from ..orchestration import kept_jobs, tree_records
    from ..orchestration.configured import translator
    from ..orchestration.runs.batches import Batch

    merged = {**row.default_context, **contexts.encode(context or {})}
    contexts.refuse_kept_keys(merged)
    record = tree_records.from_row(row)
    if record.problem is not None or run_tag_problems(row.own_content):
        validate_tree(row.to_dict())  # it raises, with all problems
    if triggered_by == "python":
        _warn_of_unknown_keys(row, context)
    jobs = kept_jobs.of_tree(translator(), record)  # it may refuse the tree
    all_tags = {
        **(run_tags or {}),
        **{tags.TRIGGERED_BY: triggered_by},
        **_cache_tags(use_cache),
    }
    if not isolation.is_active():
        _check_queue()
    written = submissions.write_down(row, merged, all_tags, run_id, submission)
    run_id = written.run_id
    if written.outcome == "requested" and isolation.is_active():
        logger.info("A test has submitted %r: run %s is recorded, and not run.", row.name, run_id)
    elif written.outcome == "requested" and submission.is_due(timezone.now()):
        just_read = Batch() if in_transaction() else Batch.with_tree(row, jobs)
        after_commit(lambda: deliver([run_id], batch=just_read))
    elif written.outcome == "skipped":
        logger.info("%r is not run: %s with its key is unfinished.", row.name, written.unfinished)
    return SubmittedRun(
        run_id, webserver.run_url(run_id) if run_id else None, written.outcome, written.unfinished
    )


def _check_queue() -> None:
    """Refuse a Dagster without a home or a queue; one that can't be asked now may have both.

    Raises
    ------
    InstanceError
        It has none.
    """
    from ..orchestration.runs import opening

    try:
        with opening.open_instance(persistent=True) as instance:
            opening.check_queue(instance)
    except StorageAway as error:
        logger.warning("Dagster's database is away, the run waits in the outbox: %s", error)


def _cache_tags(use_cache: bool) -> dict[str, str]:
    """Return the tag of a run that uses no cached results."""
    return {} if use_cache else {tags.NO_CACHE: "true"}


def clear_cache(row: ProcessTree) -> None:
    """Clear the cached results of a tree, those that it shares with other trees included.

    Raises
    ------
    CacheError
        The cache can't be written to.
    """
    shared = {
        str(process["cache_key"])
        for process in row.processes
        if process.get("shared_cache_key") and process.get("cache_key")
    }
    caching.clear(row.job_name, shared)


def deliver(
    run_ids: Iterable[str] | None = None, *, of_rows: bool = True, batch: Batch | None = None
) -> list[str]:
    """Deliver the waiting runs of the outbox to Dagster, as far as possible now.

    Call it outside a transaction (see ``connections.after_commit``). It raises nothing: a run that
    can't be delivered now stays in the outbox, and Dagster's sensor tries it again. In a test it
    does nothing.

    Parameters
    ----------
    run_ids:
        Ids of the runs to deliver; all if left out.
    of_rows:
        Whether to deliver those of schedules with a run for each row, too.
    batch:
        What the caller has just read of their trees.

    Returns
    -------
    list[str]
        Ids of the delivered runs.
    """
    try:
        if isolation.is_active() or (run_ids is None and not run_outbox.is_open()):
            return []
        from ..orchestration.runs import opening, outbox_delivery

        with opening.open_instance(persistent=True) as instance:
            done = outbox_delivery.deliver(instance, run_ids, of_rows=of_rows, batch=batch)
            return done.delivered
    except InstanceError as error:
        logger.warning("Runs wait in the outbox, and can't be handed to Dagster: %s", error)
    except Exception:  # a database can't be reached; the rows stay in the outbox
        logger.exception("Runs wait in the outbox, and can't be handed to Dagster now.")
    return []


def has_history() -> bool:
    """Return whether Dagster has a home, which stores runs; a test has none."""
    from ..orchestration.runs import opening

    return opening.dagster_home() is not None


def followers_of(run_id: str) -> list[Follower]:
    """Return the other runs of the family that begins with a run, in their order."""
    return [
        Follower(
            row.process_tree.name,
            str(row.run_id),
            webserver.run_url(str(row.run_id)),
            row.state,
            row.reason,
        )
        for row in run_outbox.family(run_id)
    ]


LOST = "lost?"
"""The shown status of a run whose worker seems lost: the sensor decides, and ends the run."""


def show_as_dagster_knows(schedules: Iterable[ProcessTreeSchedule]) -> dt.datetime | None:
    """Fill rows, unsaved, with what only Dagster knows. Writes nothing, here or in Dagster.

    That is Dagster's own switch of each schedule, and the outcome of runs that died unrecorded.

    Returns
    -------
    datetime | None
        When Dagster's daemon gave its last sign of life, in UTC; ``None`` if it never has.

    Raises
    ------
    InstanceError
        Dagster has no home.
    """
    from ..orchestration.launching import daemons
    from ..orchestration.runs import opening, schedule_claims
    from ..orchestration.serving import schedule_status

    with opening.open_instance(persistent=True, create=False) as instance:
        stopped = schedule_status.stopped(instance)
        for schedule in schedules:
            schedule.stopped_in_dagster = schedule.dagster_name in stopped
            if schedule.last_run_status != RunStatus.STARTED:
                continue
            history = schedule_claims.ScheduleHistory(instance, schedule.pk)
            try:
                known = history.seen(schedule.last_run_id, schedule.last_run_worker)
            except Exception:  # an error in one run must not hide the others
                logger.exception("Run %s can't be looked at.", schedule.last_run_id)
                continue
            schedule.last_run_status = LOST if known is None else known
        return daemons.last_seen(instance)


def _execute(
    record: TreeRecord,
    context: Mapping[str, Any],
    run_tags: Mapping[str, str],
    in_memory: bool,
    on_progress: Progress | None,
    options: RunOptions,
    run_id: str | None = None,
    on_report: OnReport | None = None,
) -> Results:
    from ..orchestration import kept_jobs
    from ..orchestration.configured import translator
    from ..orchestration.execution.tree_run import ANY_RUN, Local, with_options
    from ..orchestration.runs import create, family_runs, local_runs, opening
    from ..orchestration.runs.in_process import signals_kept

    declaring.refuse("run a tree")
    if options.ephemeral and record.spec is not None:  # patches of a test apply to its own thread
        record = replace(record, spec=replace(record.spec, max_concurrent=1))
    outcomes: dict[str, Outcome] = {}
    one_at_a_time = threading.Lock()

    def collect(name: str, outcome: Outcome) -> None:
        with one_at_a_time:  # processes may run in several threads
            outcomes[name] = outcome
            if on_progress is not None:
                on_progress(name, outcome.status)

    def report(name: str, progress: reporting.Progress) -> None:
        if on_report is not None:
            with one_at_a_time:
                on_report(name, progress)

    chosen = translator()
    local = Local(collect, processes_in_sync(record, options), options.stop_on_error, report=report)
    opened = opening.open_instance(ephemeral=options.ephemeral, to_execute=True)
    with signals_kept(), opened as instance:
        # Recorded as a run of the job that Dagster serves; executed by a local copy of that job.
        jobs = kept_jobs.of_tree(chosen, record, in_memory=in_memory)
        # A job that is kept finds the options of each of its runs.
        given = ANY_RUN if jobs.same_plan else local
        executed = jobs.executed(lambda: chosen.job(record, local=given))
        run_id = run_id or str(uuid.uuid4())
        all_tags = {**run_tags, **local_runs.executed_here(run_id)}
        run = create.create_run(
            instance,
            jobs.served,
            context,
            all_tags,
            in_memory=in_memory,
            run_id=run_id,
            same_plan=jobs.same_plan,
        )
        with with_options(run_id, local):
            ended = local_runs.execute_here(instance, executed, run)
        family_runs.end(instance, run.run_id)
    return results_of(record, outcomes, ended, run.run_id)
