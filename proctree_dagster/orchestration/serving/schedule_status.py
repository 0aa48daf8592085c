"""Dagster's own switch of each schedule, copied to Django's rows.

Dagster stores it in its instance and has no hook for changes. A schedule whose switch is off has no
ticks, whatever Django's ``enabled`` is; so the row shows it, too.
"""

import logging

from dagster import DagsterInstance

from ...models import ProcessTreeSchedule
from .. import dagster_internals as internals
from ..dagster_features import SCHEDULE_STATUS, is_on
from ..runs import origins

logger = logging.getLogger(__name__)


def look_at_switches(instance: DagsterInstance) -> None:
    """Record which schedules are stopped in Dagster; two queries, if nothing has changed."""
    if not is_on(SCHEDULE_STATUS):
        return
    off = stopped(instance)
    columns = ("name", "dagster_name", "process_tree__name", "enabled", "stopped_in_dagster")
    rows = ProcessTreeSchedule.objects.select_related("process_tree").only(*columns)
    for schedule in rows.iterator():
        now = schedule.dagster_name in off
        if now == schedule.stopped_in_dagster:
            continue
        ProcessTreeSchedule.objects.filter(pk=schedule.pk).update(stopped_in_dagster=now)
        if now:
            logger.warning(
                "The schedule of %r was stopped in Dagster: the daemon does not run it, though it "
                "is %s in Django.",
                schedule.title,
                "enabled" if schedule.enabled else "not enabled",
            )
        else:
            logger.info("The schedule of %r was started in Dagster again.", schedule.title)


def stopped(instance: DagsterInstance) -> set[str]:
    """Return the names of our schedules whose switch is off."""
    return {
        state.instigator_name
        for state in instance.all_instigator_state(
            instigator_type=internals.InstigatorType.SCHEDULE,
            instigator_statuses={internals.InstigatorStatus.STOPPED},
        )
        if origins.is_ours(state.origin.repository_origin)
    }
