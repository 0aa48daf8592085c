"""The threads executor: independent steps run side by side, in one process.

One loop, in the thread that executes the run, decides what runs; the steps run in threads and pass
their events to it. It waits for the first of an event, the next retry, the next check of a pool and
a signal, so a slow step delays nothing else. A step beside which
nothing can run does not leave the loop's own thread: a chain costs what it costs in process.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from dagster import (
    DagsterEvent,
    DagsterInvariantViolationError,
    Executor,
    Field,
    InitExecutorContext,
    Int,
    Noneable,
    executor,
)

from ... import conf
from ...support.connections import in_any_transaction
from ..dagster_internals import (
    EngineEventData,
    ExecuteRunWithPlanIterable,
    ExecutionPlan,
    PlanExecutionContextManager,
    PlanOrchestrationContext,
    RetryMode,
    StepDependencyConfig,
    create_compute_log_file_key,
    get_retries_config,
    get_step_dependency_config_field,
    get_tag_concurrency_limits_config,
)
from .thread_loop import Loop, problem
from .thread_pools import Pools

if TYPE_CHECKING:
    from ..dagster_internals import PlanExecutionContext

logger = logging.getLogger(__name__)


class ThreadsExecutor(Executor):
    """Executes the steps of a run in the threads of one process.

    Parameters
    ----------
    max_concurrent:
        How many steps may run at once.
    retries:
        Whether a step that requests a retry is retried.
    tag_concurrency_limits:
        How many steps with a tag may run at once, as for Dagster's multiprocess executor.
    step_dependency_config:
        When a step may start, as for Dagster's own executors.

    Raises
    ------
    DagsterInvariantViolationError
        ``max_concurrent`` is below 1.
    """

    def __init__(
        self,
        max_concurrent: int,
        retries: RetryMode = RetryMode.ENABLED,
        tag_concurrency_limits: list[dict[str, Any]] | None = None,
        step_dependency_config: StepDependencyConfig = StepDependencyConfig.default(),  # noqa: B008
    ) -> None:
        if max_concurrent < 1:
            raise DagsterInvariantViolationError(
                f"max_concurrent must be at least 1, not {max_concurrent}."
            )
        self._max_concurrent = max_concurrent
        self._retries = retries
        self._tag_concurrency_limits = tag_concurrency_limits
        self._step_dependency_config = step_dependency_config

    @property
    def retries(self) -> RetryMode:
        """Whether a step that requests a retry is retried."""
        return self._retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """When a step may start."""
        return self._step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        """Execute the plan; see ``Executor.execute``."""
        # Other threads have connections of their own, and would not see what is not committed yet.
        limit = 1 if in_any_transaction() else self._max_concurrent
        data = EngineEventData.in_process(os.getpid(), execution_plan.step_keys_to_execute)
        yield DagsterEvent.engine_event(
            plan_context,
            f"Executing steps in threads, at most {limit} at once (pid: {os.getpid()})",
            data,
        )
        started = time.perf_counter()
        yield from ExecuteRunWithPlanIterable(
            execution_plan=execution_plan,
            iterator=partial(self._execute_steps, limit),
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                execution_plan=execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                retry_mode=self._retries,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
                step_dependency_config=self._step_dependency_config,
            ),
        )
        yield DagsterEvent.engine_event(
            plan_context,
            f"Finished steps in threads in {time.perf_counter() - started:.2f}s "
            f"(pid: {os.getpid()})",
            data,
        )

    def _execute_steps(
        self, limit: int, job_context: "PlanExecutionContext", execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        with (
            Pools(job_context.instance, job_context.dagster_run) as pools,
            execution_plan.start(
                retry_mode=self._retries,
                max_concurrent=limit,
                tag_concurrency_limits=self._tag_concurrency_limits,
                instance_concurrency_context=pools,
                step_dependency_config=self._step_dependency_config,
            ) as active,
            ExitStack() as capture,
        ):
            yield from _capture_output(job_context, execution_plan, capture)
            yield from Loop(job_context, active, limit).events()
            try:
                capture.close()
            except Exception:  # noqa: BLE001  # logged in the run; its work is done
                yield problem(job_context, "Exception while cleaning up compute log capture")


@executor(
    name="threads",
    config_schema={
        "max_concurrent": Field(
            Noneable(Int),
            default_value=None,
            description="How many steps may run at once; by default what the tree says, or else "
            'PROCTREE["MAX_CONCURRENT"].',
        ),
        "retries": get_retries_config(),
        "tag_concurrency_limits": get_tag_concurrency_limits_config(),
        "step_dependency_config": get_step_dependency_config_field(),
    },
)
def threads_executor(init_context: InitExecutorContext) -> ThreadsExecutor:
    """Execute steps that do not depend on each other side by side, in one process."""
    config: Mapping[str, Any] = init_context.executor_config
    retries = RetryMode.from_config(config["retries"])
    assert retries is not None, "the schema has a default"
    return ThreadsExecutor(
        config["max_concurrent"] or conf.current().MAX_CONCURRENT,
        retries,
        config.get("tag_concurrency_limits"),
        StepDependencyConfig.from_config(config.get("step_dependency_config")),
    )


def _capture_output(
    context: "PlanExecutionContext", plan: ExecutionPlan, capture: ExitStack
) -> Iterator[DagsterEvent]:
    """Capture what the process prints, for all steps together: they share the file descriptors."""
    manager = context.instance.compute_log_manager
    keys = [step.key for step in plan.get_steps_to_execute_in_topo_order()]
    log_key = manager.build_log_key_for_run(context.run_id, create_compute_log_file_key())
    try:
        log_context = capture.enter_context(manager.capture_logs(log_key))
        yield DagsterEvent.capture_logs(context, keys, log_key, log_context)
    except Exception:  # noqa: BLE001  # logged in the run, which can do without
        yield problem(context, "Exception while setting up compute log capture")
