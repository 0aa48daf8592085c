"""One tick of a schedule: what Dagster's daemon asks the code server."""

import datetime as dt

from dagster import RunRequest, ScheduleEvaluationContext, SkipReason

from .. import claims, tagging, tags
from ..connections import fresh_connections
from . import runs


def evaluate(context: ScheduleEvaluationContext, schedule_id: int) -> RunRequest | SkipReason:
    """Return the run that a tick asks for, or why there is none.

    Parameters
    ----------
    context:
        Dagster's; gives the tick's time and the instance.
    schedule_id:
        Primary key of the schedule. Its row is read anew.
    """
    at = context.scheduled_execution_time.astimezone(dt.UTC)
    with fresh_connections():
        history = runs.ScheduleHistory(context.instance, schedule_id)
        decision = claims.request(schedule_id, at, history)
    if isinstance(decision, claims.Skip):
        return SkipReason(decision.reason)
    due, schedule = runs.due_tag(decision.due), decision.schedule
    return RunRequest(
        run_key=due,
        run_config={"context": decision.context},
        tags={
            **tagging.of_row(schedule.tags),
            **tagging.of_tree(schedule.process_tree.run_tags, decision.context),
            **{tags.DUE: due, tags.TRIGGERED_BY: "schedule"},
        },
    )
