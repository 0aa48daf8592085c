"""What a run does for those that follow it: plan them as it starts, deliver them as it ends."""

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

from ...domain import families, run_tags
from ...models import OutboxRun, ProcessTree
from ...services import run_outbox, tree_links
from ...support import isolation
from ...support.connections import after_commit, fresh_connections, in_transaction, writing
from ..dagster_internals import EngineEventData, PlanOrchestrationContext
from . import opening

logger = logging.getLogger(__name__)


def begin(
    plan_context: PlanOrchestrationContext, context: Mapping[str, Any]
) -> Iterator[DagsterEvent]:
    """Write down the runs that follow one that starts, start those beside it, and say so.

    Their ids follow from the first run's, so to do it twice (a run is resumed) makes no more runs.

    Parameters
    ----------
    plan_context:
        The run's.
    context:
        The run's context as JSON, which is handed on.
    """
    run, instance = plan_context.dagster_run, plan_context.instance
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    family, before, followers = _family_of(run, parent)
    # Executed again after it has succeeded, a run is followed by nothing: that has been done.
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
    """Return the family that a run was made for, and those before and behind it in it.

    Its tags alone don't say so: a launch may have copied them from another run, and whoever
    executes a run again may have edited them.
    """
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
    """Write the family of a first run down; return its id and those that follow directly."""
    run, instance = plan_context.dagster_run, plan_context.instance
    tree = ProcessTree.objects.filter(job_name=run.job_name, links_out__isnull=False).first()
    if tree is None:
        return None, []
    # What follows in a test is recorded in its database; ``run_tree`` writes nothing down.
    is_recorded = isolation.is_active() and not isolation.is_forced()
    if not instance.is_persistent and not is_recorded:
        plan_context.log.warning(
            "The trees that follow this one are not run: Dagster has no home, and so no queue."
        )
        return None, []
    # A run that failed before it came here may have been executed again: the same family.
    plan = tree_links.plan_family(tree, run.run_id, run.root_run_id)
    for problem in plan.problems:
        logger.error(problem)
        plan_context.log.warning(problem)
    if not plan.runs:
        return None, []  # the links were deleted at this moment
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
    """Say which runs a run follows and which follow it; with links, for the UI."""
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
    """Deliver what waited for a run that has ended; raises nothing."""
    try:
        run = instance.get_run_by_id(run_id)
        followers = (
            run_tags.split(run_tags.value(run.tags, run_tags.FOLLOWED_BY))
            if run is not None
            else []
        )
        if run is not None and followers and isolation.is_active():
            if not run.is_success:
                run_outbox.withdraw(run.tags[run_tags.FAMILY], run_id)
        elif followers and instance.is_persistent:
            with fresh_connections():
                _deliver_soon(instance, followers)
    except Exception:  # the run has ended, and that stands; what follows is left to the sensor
        logger.exception("What follows run %s is left to the sensor.", run_id)


def _deliver_soon(instance: DagsterInstance, run_ids: list[str]) -> None:
    """Deliver what is ready of these runs: now, or when the caller's transaction commits."""
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
    from . import outbox_delivery  # it translates trees, and translated trees plan their followers

    try:
        outbox_delivery.deliver(instance, run_ids)
    except Exception:  # the run that is followed must not fail for it; the rows are kept
        logger.exception("Runs that follow another are left to the sensor.")
