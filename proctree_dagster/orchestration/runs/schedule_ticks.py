"""One tick of a schedule, which Dagster's daemon requests from the code server.

It is not in ``automation``, which builds on the translator: the translator's schedules call it.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from dagster import RunRequest, ScheduleEvaluationContext, SkipReason
from django.utils import timezone

from ...context import tagging
from ...domain import run_tags
from ...models import ProcessTree
from ...services import due_time_claims, row_runs
from ...support.connections import fresh_connections
from . import schedule_claims


def evaluate(context: ScheduleEvaluationContext, schedule_id: int) -> RunRequest | SkipReason:
    """Return the run request of a tick, or the reason to skip it.

    Parameters
    ----------
    context:
        Dagster's; gives the tick's time and the instance.
    schedule_id:
        Primary key of the schedule. Its row is read again.
    """
    at = context.scheduled_execution_time.astimezone(dt.UTC)
    with fresh_connections():
        history = schedule_claims.ScheduleHistory(context.instance, schedule_id)
        decision = due_time_claims.request(schedule_id, at, history)
        if isinstance(decision, due_time_claims.Due) and decision.schedule.for_each:
            return SkipReason(row_runs.request(decision, timezone.now()).reason)
    if isinstance(decision, due_time_claims.Skip):
        return SkipReason(decision.reason)
    return request_of(decision)


def request_of(decision: due_time_claims.Due) -> RunRequest:
    """Return the request for the run of a claimed due time."""
    due, schedule = schedule_claims.due_tag(decision.due), decision.schedule
    return RunRequest(
        run_key=due,
        run_config={"context": decision.context},
        tags={
            **tagging.of_row(schedule.tags),
            **tagging.of_tree(schedule.process_tree.run_tags, decision.context),
            **_limit(schedule.process_tree, decision.context),
            **run_tags.of_schedule(schedule.name),
            **{run_tags.DUE: due, run_tags.TRIGGERED_BY: "schedule"},
        },
    )


def _limit(tree: ProcessTree, context: Mapping[str, Any]) -> dict[str, str]:
    return tagging.of_limited_tree(
        tree.one_at_a_time_per, tree.limit_per_key, tree.job_name, context
    )
