"""Running a family of trees in the calling process."""

import logging
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .. import context as contexts
from ..domain.texts import explain
from ..exceptions import ProctreeError, TreeNotFound
from ..models import ProcessTree
from ..services import run_outbox, tree_links
from ..services.tree_links import FamilyPlan, PlannedRun
from ..support.call_context import carried
from ..support.connections import in_any_transaction, in_transaction, own_connections
from . import results, tree_runs
from .results import Results

logger = logging.getLogger(__name__)


class FamilyResults(Results):
    """How a family of runs ended: the results of the first one, and those of the others.

    ``success`` is the family's: False if any of its trees failed, which ``errors`` names.
    """

    followers: dict[str, Results]
    """The results of every other tree, by its name; a tree that was not run has the reason."""

    failed_followers: list[str]
    """The names of those that failed, or were not run because a tree upstream failed."""


def execute_family(name: str, context: Mapping[str, Any] | None = None) -> FamilyResults:
    """Run a tree and its followers here, each as soon as the trees upstream have succeeded.

    The first runs in the calling thread, each other one in a thread of its own. In a ``TestCase``,
    whose transaction no other thread sees, all run in the calling thread, one after the other.

    Parameters
    ----------
    name:
        The tree's name.
    context:
        Keyword arguments of all runs; they update the default context of each tree's schedule.

    Raises
    ------
    ProctreeError
        It was called inside a transaction, which the other threads would not see.
    TreeNotFound, ContextError
        As for ``tree_runs.execute_row``.
    KeyboardInterrupt
        The first run was interrupted; runs beside it were finished, and no other was started.
    """
    row = tree_runs.get_row(name)
    merged = {**row.default_context, **contexts.encode(context or {})}
    first_id = str(uuid.uuid4())
    plan = tree_links.plan_family(row, first_id)
    for problem in plan.problems:
        logger.error(problem)
    if plan.runs and in_transaction():
        raise ProctreeError(
            f"The trees that follow {name!r} can't be run inside a transaction: they run in other "
            "threads, which would not see what it has written. Call this outside of atomic()."
        )
    futures: dict[str, Future[Results]] = {first_id: Future()}
    names = {first_id: name} | {planned.run_id: planned.tree.name for planned in plan.runs}

    def follow(planned: PlannedRun) -> Results:
        before = {names[run_id]: futures[run_id] for run_id in planned.after}
        return _run_after(before, planned, merged)

    beside = [] if in_any_transaction() else plan.runs
    with ThreadPoolExecutor(max_workers=max(1, len(beside))) as pool:
        for planned in beside:  # each after those that it waits for
            futures[planned.run_id] = pool.submit(carried(own_connections()(follow)), planned)
        try:
            results = tree_runs.execute_row(row, context, run_id=first_id, run_tags=plan.first_tags)
        except BaseException as error:
            futures[first_id].set_exception(error)
            raise
        futures[first_id].set_result(results)
    for planned in [] if beside else plan.runs:
        futures[planned.run_id] = Future()
        futures[planned.run_id].set_result(follow(planned))
    followers = {planned.tree.name: futures[planned.run_id].result() for planned in plan.runs}
    _leave_to_dagster(plan, followers, merged)
    failed = [name for name, each in followers.items() if not each["success"]]
    family = FamilyResults(**results, followers=followers, failed_followers=failed)
    family["success"] = family["success"] and not failed
    for each in failed:
        said = [family["errors"].get(each, ""), _why_failed(each, followers[each])]
        family["errors"][each] = "; ".join(filter(None, said))  # a process may have the tree's name
    return family


def _why_failed(name: str, results: Results) -> str:
    """Return why a follower failed, or was not run."""
    if name in results["errors"]:
        return results["errors"][name]
    reasons = "; ".join(f"{process}: {error}" for process, error in results["errors"].items())
    return f"The process tree {name!r} failed: {reasons or 'see run ' + results['run_id']}"


def _run_after(
    before: Mapping[str, Future[Results]], planned: PlannedRun, context: Mapping[str, Any]
) -> Results:
    """Wait for the upstream runs, and run a tree if they have succeeded; raises nothing."""
    name = planned.tree.name
    try:
        for each, run in before.items():
            if not _has_succeeded(run):
                return results.not_run(name, f"Not run: {each!r} did not succeed.")
        # By its key: it may have been renamed since, and another have taken its name.
        row = ProcessTree.objects.filter(pk=planned.tree.pk).first()
        if row is None:
            raise TreeNotFound(f"There is no process tree called {name!r} any more.")
        return tree_runs.execute_row(
            row, context, triggered_by="tree", run_id=planned.run_id, run_tags=planned.tags
        )
    except Exception as error:  # a follower's error must not hide the others' outcomes
        logger.exception("The process tree %r could not be run.", name)
        return results.not_run(name, explain(error))


def _has_succeeded(run: Future[Results]) -> bool:
    """Wait for a run, and return whether it has succeeded."""
    return run.exception() is None and run.result()["success"]


def _leave_to_dagster(
    plan: FamilyPlan, followers: Mapping[str, Results], context: Mapping[str, Any]
) -> None:
    """Record the runs that were not made, so that a re-execution in Dagster makes them."""
    if not tree_runs.has_history():
        return
    for planned in plan.runs:
        name = planned.tree.name
        if followers[name]["run_id"]:
            continue
        try:
            row = run_outbox.add(planned.tree, context, planned.tags, planned.after, planned.run_id)
            run_outbox.drop(row, followers[name]["errors"][name])
        except Exception:  # deleted, or no database: the others' outcomes stand
            logger.exception("That %r was not run could not be written down.", name)
