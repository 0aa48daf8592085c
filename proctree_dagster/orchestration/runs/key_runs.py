"""Runs with keys, as Dagster knows them: those that are unfinished, and canceling them.

A run has its key in a tag, which its re-executions copy, so they are found by it, too. So is a run
whose row is gone: the row was deleted, or its tree.
"""

import logging
from collections.abc import Iterable, Sequence

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from django.utils import timezone

from ...domain import run_tags as tags
from ...models import OutboxRun
from ...services import run_keys

logger = logging.getLogger(__name__)

UNFINISHED = [
    *(DagsterRunStatus.NOT_STARTED, DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING),
    *(DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING),
]

CHUNK = 500
"""Most keys in one query to Dagster."""


def unfinished(instance: DagsterInstance, keys: Iterable[str]) -> dict[str, list[DagsterRun]]:
    """Return the unfinished runs with these keys, by key."""
    wanted = sorted(set(keys))
    found: dict[str, list[DagsterRun]] = {}
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start : start + CHUNK]
        query = RunsFilter(tags={tags.KEY: chunk}, statuses=UNFINISHED)
        for run in instance.get_runs(query):
            found.setdefault(run.tags[tags.KEY], []).append(run)
    return found


def replace_earlier(instance: DagsterInstance, rows: Sequence[OutboxRun]) -> None:
    """Withdraw and cancel what rows replace; each of them waits until that has ended.

    Parameters
    ----------
    instance:
        Dagster's.
    rows:
        Waiting rows.
    """
    replacing = {row.key: row for row in rows if row.replaces and row.key}  # the last one of each
    if not replacing:
        return
    for row in replacing.values():
        run_keys.drop_replaced(row, timezone.now())
    for key, runs in unfinished(instance, replacing).items():
        for run in runs:
            new = str(replacing[key].run_id)
            if run.run_id != new and run.status != DagsterRunStatus.CANCELING:
                _cancel(instance, run, f"Run {new} with the same key replaces it.")


def _cancel(instance: DagsterInstance, run: DagsterRun, reason: str) -> None:
    try:
        if run.status == DagsterRunStatus.NOT_STARTED:  # neither the queue nor a worker has it
            instance.report_run_canceled(run, reason)
            return
        instance.report_engine_event(reason, run)
        instance.run_coordinator.cancel_run(run.run_id)
    except Exception:  # of whatever launcher: the next pass tries again, other rows must go on
        logger.exception("Run %s, which is to be replaced, can't be canceled now.", run.run_id)
