"""Executing the runs of a schedule's rows in the calling process, one after another."""

import logging
from collections.abc import Callable, Mapping

from django.utils import timezone

from ..domain import run_tags as tags
from ..domain.texts import explain
from ..models import OutboxRun, ProcessTreeSchedule
from ..process.run import Status
from ..services import row_runs, run_keys, run_outbox
from ..support.row_reading import readable
from . import results, tree_runs
from .results import Results

logger = logging.getLogger(__name__)


def execute_waiting(schedule: ProcessTreeSchedule, has_run: Callable[[str], bool]) -> Results:
    """Execute the runs of a schedule's rows whose time has come, and return their outcomes.

    A failed run stops no other. One whose previous run is unfinished waits, as one of a later time
    does: the next call executes it, or Dagster's daemon.

    Parameters
    ----------
    schedule:
        The schedule.
    has_run:
        Returns whether Dagster has a run of this id: another process has begun it.

    Returns
    -------
    Results
        Keyed by row (``ledger.Organisation:7``, with the id of the run where a row has several; the
        id alone, where a function gives the contexts) instead of by process. ``results`` has the
        results of each run.
    """
    outcomes: dict[str, Results] = {}
    rows = readable(row_runs.waiting(schedule).select_related("process_tree"))
    paused = row_runs.paused(rows)
    for row in rows:
        outcome = None if row.schedule_id in paused else _execute(row, has_run)
        if outcome is not None:
            label = _label(row, schedule.row_name)
            # Of two due times, or of two contexts with the same row, each has a run of its own.
            outcomes[f"{label} {row.run_id}" if label in outcomes else label] = outcome
    return _together(outcomes)


def _execute(row: OutboxRun, has_run: Callable[[str], bool]) -> Results | None:
    """Execute one run; ``None`` if it waits, or another process has it."""
    problem, now = run_outbox.problem_of(row), timezone.now()
    if problem is not None:
        logger.error("Run %s can't be executed: %s", row.run_id, problem)
        run_outbox.note(row, problem)
        return None
    is_next = not row.key or run_keys.firsts([row.key], now).get(row.key) == row.pk
    if not is_next or (row.key and not run_keys.take(row)) or not run_outbox.lease(row, now):
        return None
    run_id = str(row.run_id)
    row.refresh_from_db(fields=["attempts"])  # others may have had it since it was read
    if row.attempts > 1 and has_run(run_id):
        return None  # whoever began it was killed: the outbox's next pass knows what became of it
    if not tree_runs.has_history():  # which would keep a second process from executing it, too
        run_outbox.mark_started(row)
    try:
        return tree_runs.execute_row(
            row.process_tree,
            row.context,
            triggered_by="schedule",
            run_id=run_id,
            run_tags={**row.tags, **({tags.KEY: row.key} if row.key else {})},
        )
    except Exception as error:  # an error of one run must not prevent the others
        logger.exception("Run %s of %r could not be executed.", run_id, row.process_tree.name)
        return results.not_run(row.process_tree.name, explain(error))
    finally:
        run_outbox.mark_started(row)
        run_keys.release(row)


def _label(row: OutboxRun, name: str) -> str:
    return str(row.tags.get(f"{tags.CONTEXT}{name}") or row.run_id)


def _together(outcomes: Mapping[str, Results]) -> Results:
    """Return the outcomes of several runs as the results of one."""
    status: dict[str, Status] = {
        label: "completed" if each["success"] else "failed" for label, each in outcomes.items()
    }
    return Results(
        success=all(each["success"] for each in outcomes.values()),
        results={label: each["results"] for label, each in outcomes.items()},
        status=status,
        errors={
            label: "; ".join(f"{name}: {why}" for name, why in each["errors"].items())
            for label, each in outcomes.items()
            if not each["success"]
        },
        reasons={},
        execution_times={
            label: sum(each["execution_times"].values()) for label, each in outcomes.items()
        },
        cached=dict.fromkeys(outcomes, False),
        response_variables={},
        run_id="",
    )
