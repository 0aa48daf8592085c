"""Followers of a run: planned when it starts, delivered when it ends."""

import logging
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from dagster import (
    DagsterEvent,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    MetadataValue,
    RunsFilter,
)
from django.utils import timezone

from ...domain import families, run_tags
from ...models import OutboxRun, ProcessTree
from ...services import run_keys, run_outbox, tree_links
from ...support import isolation
from ...support.connections import after_commit, fresh_connections, in_transaction, writing
from ..dagster_internals import EngineEventData, PlanOrchestrationContext
from ..launching import wakeups
from . import opening

logger = logging.getLogger(__name__)


def begin(
    plan_context: PlanOrchestrationContext, context: Mapping[str, Any]
) -> Iterator[DagsterEvent]:
    """Add the followers of a starting run to the outbox, start its siblings, and log both.

    Their ids are derived from the first run's, so a repetition (by a resumed run) adds no more.

    Parameters
    ----------
    plan_context:
        The run's.
    context:
        The run's context as JSON, which the followers get.
    """
    run, instance = plan_context.dagster_run, plan_context.instance
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    family, before, followers = _family_of(run, parent)
    # The re-execution of a successful run has no followers: they have run already.
    is_repeated = parent is not None and parent.status == DagsterRunStatus.SUCCESS
    if family is None and not is_repeated:
        family, followers = _plan(plan_context, context)
    if family is None:
        return
    if parent is not None and not is_repeated:
        run_outbox.revive(family)
    _deliver_soon(instance, followers)
    message, metadata = _kin(instance, before, followers)
    yield DagsterEvent.engine_event(plan_context, message, EngineEventData(metadata=metadata))


def _family_of(
    run: DagsterRun, parent: DagsterRun | None
) -> tuple[str | None, list[str], list[str]]:
    """Return the family for which a run was made, and the runs upstream and downstream of it.

    Its tags alone are not enough: a launch may have copied them from another run, and a user may
    have edited them for a re-execution. A launch may name any run as the one that it repeats, too:
    of one of another tree, which its user may not run, it gets no followers.
    """
    if parent is not None and parent.job_name != run.job_name:
        return None, [], []
    tagged = parent if parent is not None and run_tags.FAMILY in parent.tags else run
    family = tagged.tags.get(run_tags.FAMILY)
    if family is None or not _is_run_id(family):
        return None, [], []
    is_member = run.parent_run_id is not None or run.run_id == family
    if not is_member and not OutboxRun.objects.filter(run_id=run.run_id).exists():
        tree = ProcessTree.objects.filter(job_name=run.job_name).first()
        if tree is None or run.run_id != families.run_id(family, tree.pk):
            return None, [], []
    links_of = [
        run_tags.split(run_tags.value(tagged.tags, tag))
        for tag in (run_tags.FOLLOWS, run_tags.FOLLOWED_BY)
    ]
    before, behind = ([each for each in ids if _is_run_id(each)] for ids in links_of)
    return family, before, behind


def _is_run_id(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:  # what somebody typed
        return False


def _plan(
    plan_context: PlanOrchestrationContext, context: Mapping[str, Any]
) -> tuple[str | None, list[str]]:
    """Record the family of a first run; return its id and the direct followers."""
    run, instance = plan_context.dagster_run, plan_context.instance
    tree = ProcessTree.objects.filter(job_name=run.job_name, links_out__isnull=False).first()
    if tree is None:
        return None, []
    # A test's followers are recorded in its database; ``run_tree`` records nothing.
    is_recorded = isolation.is_active() and not isolation.is_forced()
    if not instance.is_persistent and not is_recorded:
        plan_context.log.warning(
            "The trees that follow this one are not run: Dagster has no home, and so no queue."
        )
        return None, []
    # The re-execution of a run that failed before this point: the same family.
    plan = tree_links.plan_family(tree, run.run_id, run.root_run_id)
    for problem in plan.problems:
        logger.error(problem)
        plan_context.log.warning(problem)
    if not plan.runs:
        return None, []  # the links were deleted meanwhile
    with writing(OutboxRun) as alias:
        keys = [planned.tree.pk for planned in plan.runs]
        there = run_outbox.keep_trees(ProcessTree.objects.using(alias).filter(pk__in=keys))
        for planned in plan.runs:
            if planned.tree.pk not in there:
                plan_context.log.warning(f"{planned.tree.name!r} was deleted, and is not run.")
                continue
            run_outbox.add(planned.tree, context, planned.tags, planned.after, planned.run_id)
    instance.add_run_tags(run.run_id, plan.first_tags)
    return plan.first_tags[run_tags.FAMILY], run_tags.split(plan.first_tags[run_tags.FOLLOWED_BY])


def _kin(
    instance: DagsterInstance, before: list[str], behind: list[str]
) -> tuple[str, dict[str, MetadataValue[Any]]]:
    """Log the runs that a run follows and its followers, with links for the UI."""
    rows = OutboxRun.objects.filter(run_id__in=[*before, *behind])
    of_trees = rows.values_list("run_id", "process_tree__name")
    names = {str(run_id): name for run_id, name in of_trees}
    for made in instance.get_runs(RunsFilter(run_ids=before)) if before else ():
        names[made.run_id] = made.tags.get(run_tags.TREE, made.job_name)
    sentences: list[str] = []
    metadata: dict[str, MetadataValue[Any]] = {}
    for what, ids in (("Follows", before), ("Is followed by", behind)):
        if ids:
            sentences.append(f"{what} {', '.join(names.get(each, each) for each in ids)}.")
        for each in ids:
            metadata[f"{what}: {names.get(each, each)}"] = MetadataValue.dagster_run(each)
    return " ".join(sentences), metadata


def end(instance: DagsterInstance, run_id: str) -> None:
    """Deliver the runs that waited for an ended run, its key or its backfill; raises nothing.

    The daemon is woken, as a run of its queue may have waited for the place.
    """
    try:
        if instance.is_persistent and not isolation.is_active():
            wakeups.wake(instance.root_directory)
        run = instance.get_run_by_id(run_id)
        if run is None:
            return
        followers = run_tags.split(run_tags.value(run.tags, run_tags.FOLLOWED_BY))
        if isolation.is_active():
            if followers and not run.is_success:
                run_outbox.withdraw(run.tags[run_tags.FAMILY], run_id)
        elif instance.is_persistent and (followers or not _OF_LINES.isdisjoint(run.tags)):
            with fresh_connections():
                _deliver_soon(instance, [*followers, *_next_in_its_line(run)])
    except Exception:  # the run's outcome stands; the sensor delivers the followers
        logger.exception("What follows run %s is left to the sensor.", run_id)


_OF_LINES = frozenset({run_tags.KEY, run_tags.BACKFILL})
"""Tags of runs for which others wait."""


def _next_in_its_line(run: DagsterRun) -> list[str]:
    """Return the id of a run for which others wait, to release them, and of the next one.

    The next one of a backfill is requested when this one was released.
    """
    key = run.tags.get(run_tags.KEY)
    if not key:
        return [run.run_id] if run_tags.BACKFILL in run.tags else []
    return [run.run_id, *(str(row.run_id) for row in run_keys.in_line([key], timezone.now())[:1])]


def _deliver_soon(instance: DagsterInstance, run_ids: list[str]) -> None:
    """Deliver the ready ones of these runs: now, or when the caller's transaction commits."""
    if isolation.is_active():
        return  # they are recorded
    if in_transaction():
        after_commit(lambda: _deliver_with_another_instance(run_ids), robust=True)
    else:
        _deliver(instance, run_ids)


def _deliver_with_another_instance(run_ids: list[str]) -> None:
    with opening.open_instance(persistent=True) as instance:
        _deliver(instance, run_ids)


def _deliver(instance: DagsterInstance, run_ids: list[str]) -> None:
    # They translate trees, and translated trees plan their followers.
    from . import backfill_runs, outbox_delivery

    try:
        outbox_delivery.deliver(instance, run_ids)
        backfill_runs.advance(instance)
    except Exception:  # the followed run must not fail because of it; the rows stay in the outbox
        logger.exception("Runs that follow another are left to the sensor.")
