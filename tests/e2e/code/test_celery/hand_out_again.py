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


def task(instance, run):
    """Return the task of the run's only process."""
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
    return create_task(app).si(
        execute_step_args_packed=pack_value(args), executable_dict=job.to_dict()
    )


def hand_out(instance, run, **options):
    """Send the task to the workers."""
    made = task(instance, run)
    return made.apply_async(queue="dagster", routing_key="dagster.execute_plan", **options)


def at_work():
    """Return the ids of the run's tasks that workers execute."""
    active = app.control.inspect().active() or {}
    tasks = [each for found in active.values() for each in found]
    return [each["id"] for each in tasks if RUN in f"{each['args']} {each['kwargs']}"]


def wait_for(count):
    while len(at_work()) < count:
        time.sleep(0.2)


def has_ended(instance):
    run = instance.get_run_by_id(RUN)
    return run is not None and run.is_finished


with opening.open_instance() as instance:
    run = instance.get_run_by_id(RUN)
    wait_for(1)
    [task_id] = at_work()
    hand_out(instance, run, task_id=task_id)  # as a broker does that delivers it twice
    wait_for(2)
    time.sleep(3)  # time enough to refuse it
    print(not has_ended(instance))
    (FOLDER / "go").touch()
    while not has_ended(instance):
        time.sleep(0.1)
    print("Its run has ended" in str(hand_out(instance, run).get(60)))
