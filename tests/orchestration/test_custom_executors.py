"""Executors of projects and of other packages: each finds itself, and what it is given, as stock's.

A wrapper stands between Dagster and the executor (see ``TreeExecutor``): none may notice.
"""

import time
from collections.abc import Iterator
from typing import Any, cast

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterInstance, DagsterRunStatus, Executor, InitExecutorContext
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.step import ExecutionStep
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor

from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create, local_runs
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_calls_yet")]

seen: list[Any] = []
"""What the executors below have noted."""


class FarExecutor(Executor):
    """Does what Celery's does: looks itself up in the context that it is given."""

    def __init__(self, queue: str, init_context: InitExecutorContext) -> None:
        self.queue = queue
        self.init_context = init_context
        self.delegate = InProcessExecutor(RetryMode.ENABLED)

    @property
    def retries(self) -> RetryMode:
        return RetryMode.ENABLED

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        return far_loop(plan_context, execution_plan)


class NearExecutor(FarExecutor):
    """One of two that share what their base class does."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        seen.append("near")
        yield from super().execute(plan_context, execution_plan)


class NestingExecutor(FarExecutor):
    """Hands the plan to the executor of the context once more, then to another."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        if self.queue != "nested":
            self.queue = "nested"
            return plan_context.executor.execute(plan_context, execution_plan)
        return far_loop(plan_context, execution_plan)


class DeafExecutor(FarExecutor):
    """Waits for ever, whatever happens, as one does whose workers are all gone."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        run = plan_context.dagster_run
        yield from self.delegate.execute(plan_context, execution_plan)
        plan_context.instance.report_run_canceling(run)
        while True:
            time.sleep(0.01)


def far_loop(context: PlanOrchestrationContext, plan: ExecutionPlan) -> Iterator[DagsterEvent]:
    """Stand outside of the executor, as ``dagster_celery.core_execution_loop`` does."""
    executor: Any = context.executor
    [first, *_] = plan.step_keys_to_execute
    of_step: Any = context.for_step(cast("ExecutionStep", plan.get_step_by_key(first)))
    assert context.execution_plan is plan
    assert of_step.executor is executor
    seen.append((type(executor), executor.queue))
    yield from executor.delegate.execute(context, plan)


@dg.executor(name="far", config_schema={"queue": dg.Field(str, default_value="default")})
def far(init_context: InitExecutorContext) -> Executor:
    assert init_context.executor_def in (far, configured, weighed)
    return FarExecutor(str(init_context.executor_config["queue"]), init_context)


@dg.executor(name="near", requirements=[])
def near(init_context: InitExecutorContext) -> Executor:
    assert isinstance(init_context.instance, DagsterInstance)
    return NearExecutor(init_context.job.get_definition().name, init_context)


@dg.executor(name="nesting")
def nesting(init_context: InitExecutorContext) -> Executor:
    return NestingExecutor("", init_context)


@dg.executor(name="deaf")
def deaf(init_context: InitExecutorContext) -> Executor:
    return DeafExecutor("", init_context)


@dg.executor(name="empty")
def empty(init_context: InitExecutorContext) -> Any:
    return None


@dg.executor(name="unreachable")
def unreachable(init_context: InitExecutorContext) -> Executor:
    raise ConnectionError("no broker")


configured = far.configured({"queue": "heavy"}, name="configured")
mapped = dg.ExecutorDefinition.hardcoded_executor(FarExecutor("hard", None))  # type: ignore[arg-type]


@dg.configured(far, {"weight": dg.Field(int, default_value=1)})
def weighed(config: Any) -> dict[str, Any]:
    return {"queue": f"weight {config['weight']}"}


@pytest.fixture(autouse=True)
def note() -> None:
    seen.clear()


def run(instance: DagsterInstance, config: dict[str, Any] | None = None) -> str:
    """Execute the saved tree's job here, as a worker would; return the run's id."""
    job = translator().job(from_row(ProcessTree.objects.get()))
    created = create.create_run(instance, job, {"given": 3}, {}, in_memory=True)
    if config is not None:
        instance.delete_run(created.run_id)
        created = created._replace(run_config={**created.run_config, "execution": config})
        instance.add_run(created)
    local_runs.execute_here(instance, job, created)
    return created.run_id


def saved(name: str) -> ProcessTreeInstance:
    tree = ProcessTreeInstance("tree").add_process("one", processes.one)
    tree.add_process("sum", processes.add, ["one"]).save()
    ProcessTree.objects.update(executor=f"{__name__}.{name}")
    return tree


@pytest.fixture
def allowed(settings: Any, instance: DagsterInstance) -> DagsterInstance:
    settings.PROCTREE = {**settings.PROCTREE, "FUNCTION_MODULES": ["tests"]}
    return instance


def status(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    found = instance.get_run_by_id(run_id)
    assert found is not None
    return found.status


@pytest.mark.parametrize(
    ("name", "config", "noted"),
    [
        ("far", None, [(FarExecutor, "default")]),
        ("far", {"config": {"queue": "light"}}, [(FarExecutor, "light")]),
        ("configured", None, [(FarExecutor, "heavy")]),
        ("weighed", {"config": {"weight": 5}}, [(FarExecutor, "weight 5")]),
        ("mapped", None, [(FarExecutor, "hard")]),
        ("near", None, ["near", (NearExecutor, "tree")]),
        ("nesting", None, [(NestingExecutor, "nested")]),
    ],
)
def test_an_executor_finds_itself_and_its_attributes_in_the_plans_context(
    allowed: DagsterInstance, name: str, config: dict[str, Any] | None, noted: list[Any]
) -> None:
    saved(name)
    run_id = run(allowed, config)
    assert seen == noted
    assert status(allowed, run_id) == DagsterRunStatus.SUCCESS


def test_it_finds_itself_also_where_the_tree_has_changed_since_the_run_was_requested(
    allowed: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved("far")
    job = translator().job(from_row(ProcessTree.objects.get()))
    created = create.create_run(allowed, job, {}, {}, in_memory=True)
    allowed.add_run_tags(created.run_id, {run_tags.REVISION: "another"})
    current = allowed.get_run_by_id(created.run_id)
    assert current is not None
    assert local_runs.execute_here(allowed, job, current).success
    assert seen == [(FarExecutor, "default")]
    assert any("has changed since" in entry.message for entry in allowed.all_logs(created.run_id))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("empty", "The executor 'empty' created nothing"),
        ("unreachable", "no broker"),
    ],
)
def test_one_that_can_not_be_made_fails_the_run_and_says_why(
    allowed: DagsterInstance, name: str, why: str
) -> None:
    saved(name)
    with pytest.raises((RuntimeError, ValueError, ConnectionError), match=why):
        run(allowed)
    [record] = allowed.get_run_records()
    assert record.dagster_run.is_finished


@pytest.mark.django_db(transaction=True)
def test_a_terminated_run_ends_though_its_executor_waits_for_ever(
    allowed: DagsterInstance, settings: Any
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "TERMINATE_GRACE": 0}
    saved("deaf")
    with pytest.raises(KeyboardInterrupt):  # as for Ctrl-C, where the run was started
        run(allowed)
    [record] = allowed.get_run_records()
    assert record.dagster_run.status == DagsterRunStatus.CANCELED
