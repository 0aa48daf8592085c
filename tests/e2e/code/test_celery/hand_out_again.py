"""Give a worker a process twice, as the run that the environment names is executing it."""

import os
import time
from pathlib import Path

from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task

from proctree_dagster.orchestration.runs import opening

FOLDER = Path(os.environ["FAR_FOLDER"])
RUN = os.environ["FAR_RUN"]
redis = os.environ["FAR_REDIS"]
app = make_app({"broker": redis, "backend": redis})


def hand_out_again(instance, run):
    """Do what a broker does that delivers a task twice."""
    pointer = run.job_code_origin.repository_origin.code_pointer
    job = ReconstructableJob(ReconstructableRepository(pointer), run.job_name)
    args = ExecuteStepArgs(
        job_origin=job.get_python_origin(),
        run_id=run.run_id,
        step_keys_to_execute=["once"],
        instance_ref=instance.get_ref(),
        retry_mode=RetryMode.DISABLED,
        known_state=KnownExecutionState(),
        print_serialized_events=True,
    )
    task = create_task(app).si(
        execute_step_args_packed=pack_value(args), executable_dict=job.to_dict()
    )
    return str(task.apply_async(queue="dagster", routing_key="dagster.execute_plan").get(60))


def has_ended(instance):
    run = instance.get_run_by_id(RUN)
    return run is not None and run.is_finished


with opening.open_instance() as instance:
    run = instance.get_run_by_id(RUN)
    print("handed it out twice" in hand_out_again(instance, run))
    (FOLDER / "go").touch()
    while not has_ended(instance):
        time.sleep(0.1)
    print("Its run has ended" in hand_out_again(instance, run))
