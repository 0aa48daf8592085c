"""Ticks of many schedules, evaluated at once: the daemon requests them together.

Dagster asks for each schedule by itself, and again for its job's steps; each time the row is read,
an instance is opened, and a transaction of its own is committed. Here one pass over the database
decides on all of them, and one transaction records their runs (see ``ticks_together`` for the
daemon's side). What fails here is left out of the answer: the daemon then asks for that schedule
by itself, as Dagster does.
"""

import datetime as dt
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    deserialize_value,
    serialize_value,
)
from django.utils import timezone

from ...context import tagging
from ...domain import run_tags as tags
from ...domain.due_times import EVERY_MINUTE
from ...models import ProcessTree, ProcessTreeSchedule, TreeLink, TriggerSubscription
from ...services import due_time_claims, row_runs
from ...services.due_time_claims import Due, Skip
from ...support.connections import fresh_connections
from .. import dagster_internals as internals
from ..runs import job_records, schedule_claims, schedule_ticks
from ..runs.job_records import JobRecord, Snapshot
from ..tick_messages import Answer, Made, Request, Tick

if TYPE_CHECKING:
    from ..dagster_internals import (
        RemoteRepositoryOrigin,
        RepositoryPythonOrigin,
        SqlRunStorage,
    )

logger = logging.getLogger(__name__)

BuildJob = Callable[[ProcessTree], JobDefinition]
"""Returns the job of a tree, whose row has been read with what the job needs."""


class Wanted(NamedTuple):
    """A run that a tick has requested."""

    tick: Tick
    tree_id: int
    request: RunRequest


def definition(build: BuildJob, *, same_plan: bool) -> ScheduleDefinition:
    """Return the schedule whose evaluation is that of many.

    Parameters
    ----------
    build:
        Builds the jobs of the runs.
    same_plan:
        As for ``job_records.of_job``.
    """

    def evaluation(context: ScheduleEvaluationContext) -> SkipReason:
        [text] = context.log_key or [""]
        with fresh_connections():
            return SkipReason(
                evaluate(Request.from_text(text), build, same_plan=same_plan).as_text()
            )

    return ScheduleDefinition(
        name=tags.DUE_TOGETHER,
        job_name=tags.DUE_TOGETHER,
        cron_schedule=EVERY_MINUTE,
        execution_fn=evaluation,
    )


def evaluate(request: Request, build: BuildJob, *, same_plan: bool = False) -> Answer:
    """Evaluate ticks, and record the runs that they request.

    Parameters
    ----------
    request:
        The ticks.
    build, same_plan:
        As for ``definition``.
    """
    instance, answer = _opened(request.instance), Answer()
    wanted = [
        each
        for tick, schedule_id, decision in _decisions(instance, request.ticks)
        if (each := _note(tick, schedule_id, decision, answer)) is not None
    ]
    if not wanted:
        return answer
    known = _known(instance, wanted)
    answer.made |= {
        each.tick.schedule: known[key] for each in wanted if (key := _key(each)) in known
    }
    missing = [each for each in wanted if _key(each) not in known]
    answer.made |= _create(instance, request, missing, build, same_plan=same_plan)
    return answer


# Deciding


def _decisions(
    instance: DagsterInstance, ticks: Iterable[Tick]
) -> Iterable[tuple[Tick, int, Due | Skip | Exception]]:
    by_name = {tick.schedule: tick for tick in ticks}
    rows = ProcessTreeSchedule.objects.filter(dagster_name__in=list(by_name))
    ids = {pk: str(name) for pk, name in rows.values_list("pk", "dagster_name")}
    decided = due_time_claims.request_together(
        {pk: _moment(by_name[name]) for pk, name in ids.items()},
        lambda pk: schedule_claims.ScheduleHistory(instance, pk),
    )
    return [(by_name[name], pk, decided[pk]) for pk, name in ids.items()]


def _note(
    tick: Tick, schedule_id: int, decision: Due | Skip | Exception, answer: Answer
) -> Wanted | None:
    """Note the reason of a tick that is skipped; return the run that one wants."""
    if isinstance(decision, Skip):
        answer.skipped[tick.schedule] = decision.reason
        return None
    try:
        if isinstance(decision, Exception):
            raise decision
        if decision.schedule.for_each:
            reason = row_runs.request(decision, timezone.now()).reason
            answer.skipped[tick.schedule] = reason
            return None
        return Wanted(tick, decision.schedule.process_tree_id, schedule_ticks.request_of(decision))
    except Exception:  # of this schedule alone: the daemon asks for it by itself, and records it
        logger.warning(
            "The schedule %r can't be evaluated with others.", tick.schedule, exc_info=True
        )
        return None


def _moment(tick: Tick) -> dt.datetime:
    return dt.datetime.fromtimestamp(tick.timestamp, dt.UTC)


# Runs


def _key(wanted: Wanted) -> tuple[str, str, str | None]:
    moment = _moment(wanted.tick).isoformat()
    return wanted.tick.schedule, moment, wanted.request.run_key


def _known(
    instance: DagsterInstance, wanted: Sequence[Wanted]
) -> dict[tuple[str, str, str | None], Made]:
    """Return the runs that are recorded already: the daemon died before it recorded the tick."""
    filters = {
        tags.SCHEDULE_NAME: sorted({each.tick.schedule for each in wanted}),
        tags.SCHEDULED_FOR: sorted({_key(each)[1] for each in wanted}),
    }
    found = {}
    for run in instance.get_runs(RunsFilter(tags=filters)):
        if schedule_claims.is_of_our_job(run):
            key = run.tags.get(tags.RUN_KEY)
            names = run.tags[tags.SCHEDULE_NAME], run.tags[tags.SCHEDULED_FOR]
            found[*names, key] = Made(run.run_id, key or "")
    return found


def _create(
    instance: DagsterInstance,
    request: Request,
    wanted: Sequence[Wanted],
    build: BuildJob,
    *,
    same_plan: bool,
) -> dict[str, Made]:
    """Record runs in one transaction; those whose job can't be built are left out."""
    trees = _trees({each.tree_id for each in wanted})
    runs: dict[str, DagsterRun] = {}
    snapshots: dict[str, Snapshot] = {}
    for each in wanted:
        name = each.tick.schedule
        try:
            job = build(trees[each.tree_id])
            config = each.request.run_config
            record = job_records.of_job(job, config, same_plan=same_plan)
            runs[name] = _run(request, each, job, record)
        except Exception:  # of this tree alone: the daemon asks for its schedule by itself
            logger.warning("The run of %r can't be recorded with others.", name, exc_info=True)
        else:
            snapshots |= record.snapshots
    _store(instance, runs.values(), snapshots)
    return {name: Made(run.run_id, run.tags.get(tags.RUN_KEY, "")) for name, run in runs.items()}


def _trees(ids: Iterable[int]) -> Mapping[int, ProcessTree]:
    rows = ProcessTree.objects.filter(pk__in=list(ids)).each()
    TreeLink.read_for(rows)
    TriggerSubscription.read_for(rows)
    return {row.pk: row for row in rows}


def _run(request: Request, wanted: Wanted, job: JobDefinition, record: JobRecord) -> DagsterRun:
    """Return a run as Dagster's scheduler makes it."""
    config = wanted.request.run_config
    repository, code = _origins(request.repository, request.code)
    all_tags = {
        **job.run_tags,
        **wanted.request.tags,
        tags.SCHEDULE_NAME: wanted.tick.schedule,
        tags.TICK: wanted.tick.tick_id,
        tags.SCHEDULED_FOR: _moment(wanted.tick).isoformat(),
        tags.CODE_LOCATION: repository.code_location_origin.location_name,
        **({tags.RUN_KEY: wanted.request.run_key} if wanted.request.run_key else {}),
    }
    return DagsterRun(
        job_name=job.name,
        run_config=config,
        status=DagsterRunStatus.NOT_STARTED,
        tags={**all_tags, **tagging.missing(all_tags, config["context"])},
        remote_job_origin=internals.RemoteJobOrigin(repository, job.name),
        job_code_origin=internals.JobPythonOrigin(job.name, code),
        **record.fields,
    )


def _store(
    instance: DagsterInstance, runs: Iterable[DagsterRun], snapshots: Mapping[str, Snapshot]
) -> None:
    """Insert runs, their tags and the snapshots that are not there yet.

    Runs and tags are in one transaction on SQLite; Dagster's connections to PostgreSQL commit each
    statement. A run without its tags is never queued: its id is in no answer.
    """
    made, now = list(runs), timezone.now()
    if not made:
        return
    storage: SqlRunStorage = instance.run_storage  # type: ignore[assignment]
    job_records.store(storage, snapshots)
    rows = [
        {
            **{"run_id": run.run_id, "pipeline_name": run.job_name, "status": run.status.value},
            **{"run_body": serialize_value(run), "snapshot_id": run.job_snapshot_id},
            "create_timestamp": now,
        }
        for run in made
    ]
    tagged = [
        {"run_id": run.run_id, "key": key, "value": value}
        for run in made
        for key, value in run.tags_for_storage().items()
    ]
    with storage.connect() as connection:
        connection.execute(internals.RunsTable.insert(), rows)
        connection.execute(internals.RunTagsTable.insert(), tagged)


# What is the same for each pass


@lru_cache(maxsize=8)
def _origins(repository: str, code: str) -> "tuple[RemoteRepositoryOrigin, RepositoryPythonOrigin]":
    return (
        deserialize_value(repository, internals.RemoteRepositoryOrigin),
        deserialize_value(code, internals.RepositoryPythonOrigin),
    )


_instances: dict[str, DagsterInstance] = {}
"""The daemon's instance, which stays open: opening one costs more than a tick."""

_opening = threading.Lock()


def _opened(ref: str) -> DagsterInstance:
    with _opening:
        if ref not in _instances:
            while _instances:
                _instances.popitem()[1].dispose()
            _instances[ref] = DagsterInstance.from_ref(
                deserialize_value(ref, internals.InstanceRef)
            )
        return _instances[ref]
