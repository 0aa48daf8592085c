"""Execution plans that a host keeps: which steps a run of a job has, for each launch the same.

Dagster's webserver and daemon ask the code server for the plan at each launch, through its proxy: a
third of a launch in the UI. A plan follows from the job's snapshot, which has an id, and from the
run's configuration. So the plan of all steps is asked for once, and kept as long as the host's
present view of the code location, with its list of jobs: each reload gives it a new one.
"""

import inspect
import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import update_wrapper
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..domain import run_tags
from . import dagster_internals as internals
from .dagster_features import KEPT_PLANS, is_on

if TYPE_CHECKING:
    from .dagster_internals import GrpcServerCodeLocation, RemoteExecutionPlan

MOST_STEPS = 5_000
"""Most steps of all plans of a code location together; those that were used last are kept."""

LONGEST = 10_000
"""Characters of the longest configuration whose plan is kept."""

_lock = Lock()
_kept: "WeakKeyDictionary[GrpcServerCodeLocation, OrderedDict[str, RemoteExecutionPlan]]" = (
    WeakKeyDictionary()
)


def install() -> None:
    """Let this process, which is a host, keep execution plans.

    If this Dagster does not allow it, the log says why, and each launch asks the code server.
    """
    if not is_on(KEPT_PLANS):
        return
    location: Any = internals.GrpcServerCodeLocation
    if location.get_execution_plan is not _plan:
        location.get_execution_plan = update_wrapper(_plan, location.get_execution_plan)


def _plan(
    code_location: "GrpcServerCodeLocation",
    remote_job: Any,
    run_config: Mapping[str, Any],
    step_keys_to_execute: Any,
    known_state: Any,
    instance: Any = None,
) -> "RemoteExecutionPlan":
    """Return what Dagster's method returns, or has returned before for the same."""
    is_whole = step_keys_to_execute is None and known_state is None
    key = _key(remote_job, run_config) if is_whole else None
    found = None if key is None else _find(code_location, key)
    if found is None:
        dagsters: Any = inspect.unwrap(_plan)
        found = dagsters(
            code_location, remote_job, run_config, step_keys_to_execute, known_state, instance
        )
        if key is not None and isinstance(found, internals.RemoteExecutionPlan):
            _keep(code_location, key, found)
    return found


def _key(remote_job: Any, run_config: Mapping[str, Any]) -> str | None:
    """Return what a plan follows from, or ``None`` if it is not kept.

    It is not for other jobs than process trees, which may depend on more, and for a part of a job.
    """
    if remote_job.repository_handle.repository_name != run_tags.REPOSITORY:
        return None
    parts = (remote_job.op_selection, remote_job.asset_selection, remote_job.asset_check_selection)
    if any(part is not None for part in parts):
        return None
    try:
        given = json.dumps(run_config, sort_keys=True)
    except (TypeError, ValueError):  # it is Python's, not typed by a person
        return None
    names = [remote_job.name, remote_job.identifying_job_snapshot_id, given]
    return json.dumps(names) if len(given) <= LONGEST else None


def _find(code_location: "GrpcServerCodeLocation", key: str) -> "RemoteExecutionPlan | None":
    with _lock:
        plans = _kept.get(code_location)
        if plans is None or key not in plans:
            return None
        plans.move_to_end(key)
        return plans[key]


def _keep(code_location: "GrpcServerCodeLocation", key: str, plan: "RemoteExecutionPlan") -> None:
    with _lock:
        plans = _kept.setdefault(code_location, OrderedDict())
        plans[key] = plan
        steps = sum(map(_steps, plans.values()))
        while steps > MOST_STEPS:
            _, dropped = plans.popitem(last=False)
            steps -= _steps(dropped)


def _steps(plan: "RemoteExecutionPlan") -> int:
    return len(plan.execution_plan_snapshot.steps)
