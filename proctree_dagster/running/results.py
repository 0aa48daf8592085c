"""The results of runs, as Python gets them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from ..domain.names import dagster_name
from ..domain.tree_spec import ProcessSpec, TreeSpec
from ..exceptions import ResponseVariableError
from ..process import response_variables
from ..process.run import Outcome, Status

if TYPE_CHECKING:
    from ..orchestration.runs.local_runs import Ended
    from ..orchestration.tree_records import TreeRecord


class Results(TypedDict):
    """The results of a run; each dictionary is keyed by process name."""

    success: bool
    """Whether the run succeeded."""

    results: dict[str, Any]
    """The return values of the processes that completed."""

    status: dict[str, Status]
    """The status of every process."""

    errors: dict[str, str]
    """Why a process failed or was skipped; a fault of the whole tree under the tree's name."""

    reasons: dict[str, str]
    """Why a process was skipped though nothing failed, or another remark."""

    execution_times: dict[str, float]
    """Seconds that each called process took."""

    cached: dict[str, bool]
    """Whether the result came from the cache."""

    response_variables: dict[str, dict[str, Any]]
    """The response variables, by process and name."""

    run_id: str
    """The run's id in Dagster."""


class Follower(NamedTuple):
    """A run of a family, as recorded in the outbox."""

    name: str
    """The tree's name."""

    run_id: str
    """The id that the run has, or will have."""

    url: str | None
    """The run's page, if ``PROCTREE["DAGSTER_URL"]`` is set."""

    state: str
    """``waiting``, ``delivered``, ``started`` or ``dropped``."""

    reason: str
    """Why it was dropped, or could not be delivered yet."""


def not_run(name: str, error: str) -> Results:
    """Return the results of a tree that was not run, for this reason."""
    return Results(
        success=False,
        results={},
        status={},
        errors={name: error},
        reasons={},
        execution_times={},
        cached={},
        response_variables={},
        run_id="",
    )


def results_of(
    record: TreeRecord,
    outcomes: Mapping[str, Outcome],
    ended: Ended,
    run_id: str,
) -> Results:
    """Combine the outcomes of a run, with the reason for each process that did not run."""
    if record.spec is None:
        outcomes = {record.name: Outcome("failed", error=record.problem)}
        status: dict[str, Status] = {}
    else:
        ran = _corrected(record.spec, outcomes, ended.failed_steps)
        known = {**_never_ran(record.spec, ran, ended.fault), **ran}
        outcomes = {process.name: known[process.name] for process in record.spec.processes}
        status = {name: outcome.status for name, outcome in outcomes.items()}
    return Results(
        success=ended.success,
        results={name: each.result for name, each in outcomes.items() if each.has_result},
        status=status,
        errors={name: each.error for name, each in outcomes.items() if each.error},
        reasons={name: each.note for name, each in outcomes.items() if each.note},
        execution_times={
            name: each.seconds
            for name, each in outcomes.items()
            if each.status in ("completed", "failed")
        },
        cached={name: each.cached for name, each in outcomes.items()},
        response_variables={
            name: dict(each.response_variables)
            for name, each in outcomes.items()
            if each.response_variables
        },
        run_id=run_id,
    )


def _corrected(
    spec: TreeSpec, outcomes: Mapping[str, Outcome], failed_steps: Mapping[str, str]
) -> dict[str, Outcome]:
    """Mark processes that failed outside their functions, as by a result that can't be stored."""
    failed = {
        process.name: Outcome("failed", error=failed_steps[dagster_name(process.name)])
        for process in spec.processes
        if dagster_name(process.name) in failed_steps
    }
    own = {name: outcome for name, outcome in outcomes.items() if outcome.status == "failed"}
    return {**outcomes, **failed, **own}


def _never_ran(
    spec: TreeSpec, outcomes: Mapping[str, Outcome], fault: str | None
) -> dict[str, Outcome]:
    """Return why the processes without an outcome did not run.

    Parameters
    ----------
    spec:
        The tree.
    outcomes:
        The outcomes of the others.
    fault:
        What stopped the run as a whole.
    """
    result: dict[str, Outcome] = {}
    for process in spec.in_order():
        if process.name in outcomes:
            continue
        failed = [
            name
            for name in process.dependencies
            if name in outcomes and outcomes[name].status == "failed"
        ]
        upstream = [result[name].error for name in process.dependencies if name in result]
        error = f"Dependency failed: {failed[0]}" if failed else next(iter(upstream), fault)
        variables = defaults_of(process) if error else {}
        result[process.name] = Outcome(
            "skipped" if error else "pending", error=error, response_variables=variables
        )
    return result


def defaults_of(process: ProcessSpec) -> dict[str, Any]:
    """Return the response variables of a process that was skipped."""
    try:
        return response_variables.defaults(process.name, process.response_vars)
    except ResponseVariableError:  # SQL wrote it: a run of the process says so
        return {}


def __getattr__(name: str) -> Any:
    """Return what was here before 0.2: ``SubmittedRun``; remove it in 0.3."""
    if name != "SubmittedRun":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.{name} is called proctree_dagster.runs.{name} now; the old name goes with "
        "proctree-dagster 0.3.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(importlib.import_module("proctree_dagster.running.submitted_run"), name)
