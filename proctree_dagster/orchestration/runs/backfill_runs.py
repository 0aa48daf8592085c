"""Runs of backfills: requested as others end."""

import datetime as dt
import logging
from collections.abc import Collection

from dagster import DagsterInstance, RunsFilter

from ...domain import run_tags as tags
from ...models import ProcessTreeSchedule
from ...services import backfills
from . import outbox_delivery
from .schedule_claims import due_tag, is_of_our_job

logger = logging.getLogger(__name__)


def advance(instance: DagsterInstance) -> str:
    """Request and deliver what running backfills may begin now; return a report, blank: nothing.

    It must not be called inside a transaction (see ``outbox_delivery.deliver``).
    """

    def has_run(
        schedule: ProcessTreeSchedule, due: Collection[dt.datetime]
    ) -> Collection[dt.datetime]:
        return _that_have_run(instance, schedule, due)

    made: list[str] = []
    for pk in backfills.running():
        try:
            made += backfills.request(pk, has_run)
        except Exception:  # of one schedule's rule: other backfills go on
            logger.exception("Backfill %s can't go on now.", pk)
    if not made:
        return ""
    return f"Backfills: {outbox_delivery.deliver(instance, made)}"


def _that_have_run(
    instance: DagsterInstance, schedule: ProcessTreeSchedule, due: Collection[dt.datetime]
) -> set[dt.datetime]:
    """Return the due times for which the schedule itself has a run, whatever came of it."""
    by_tag = {due_tag(each): each for each in due}
    job_name = schedule.process_tree.job_name
    found = instance.get_runs(RunsFilter(job_name=job_name, tags={tags.DUE: list(by_tag)}))
    return {
        by_tag[run.tags[tags.DUE]]
        for run in found
        if tags.schedule_of(run.tags) == schedule.name and is_of_our_job(run)
    }
