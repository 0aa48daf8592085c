"""Runs in the process of the run before (``reuse_worker``): a real template, real workers."""

import json
import os
import selectors
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus, serialize_value
from dagster._core.test_utils import create_run_for_test
from dagster._grpc.types import ExecuteRunArgs

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration.guardian import Guardian
from proctree_dagster.orchestration.launching import template_client
from proctree_dagster.orchestration.launching.workers import Worker, started
from proctree_dagster.orchestration.runs import run_taking
from proctree_dagster.orchestration.template.further_runs import FurtherRuns, Workers
from proctree_dagster.services import run_workers
from tests.orchestration.launching.test_launcher import (
    Place,
    database,
    no_more,
    on_postgres,
    opened,
)
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for
from tests.tools.warm_python import forks_of_these_tests

__all__ = ["database"]  # a fixture

pytestmark = pytest.mark.timeout(300)

CODE = code_of(__file__)
FUNCTIONS = (CODE / "shared.py").read_text()
SUCCESS = DagsterRunStatus.SUCCESS


def fill(place: Place) -> Place:
    for file in CODE.glob("*.py"):
        shutil.copy(file, place.folder)
    forks_of_these_tests().run(["save_trees.py"], place.folder, os.environ)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[Place]:
    """A home and a code location with saved trees, for the tests of this module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for each in opened(tmp_path_factory.mktemp("further"), empty_home, monkeypatch):
            yield fill(each)


@pytest.fixture
def own_place(tmp_path: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The same for one test."""
    yield from opened(tmp_path, empty_home, monkeypatch)


def create(place: Place, tree: str) -> str:
    shared = {} if tree == "alone" else {run_tags.REUSE_WORKER: "true"}
    run = create_run_for_test(
        place.instance,
        job_name=tree,
        job_code_origin=place.origin()._replace(job_name=tree),
        run_config={"context": {}},
        tags={**shared, "said": ""},
        status=DagsterRunStatus.NOT_STARTED,
    )
    return str(run.run_id)


def launch(place: Place, tree: str) -> str:
    run_id = create(place, tree)
    place.instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]
    return run_id


def said(place: Place, run_id: str) -> dict[str, Any]:
    """Wait for what the process of a run says of itself."""
    path = place.folder / run_id
    wait_for("a process to speak", path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def execute(place: Place, *trees: str, status: DagsterRunStatus = SUCCESS) -> list[dict[str, Any]]:
    """Execute trees one after another, and return what their processes have said."""
    found = []
    for tree in trees:
        run_id = launch(place, tree)
        assert place.ended(run_id) == status, place.failure(run_id)
        found.append({**said(place, run_id), "run_id": run_id})
        settle(place, run_id)
    return found


def worker_of(place: Place, run_id: str) -> Worker:
    found = Worker.of_run(place.run(run_id))
    assert found is not None
    return found


def settle(place: Place, run_id: str) -> None:
    """Wait until a run's worker has ended, or waits for a further one: its guardian has ended."""
    worker = worker_of(place, run_id)

    def is_settled() -> bool:
        return started(worker.pid) is None or started(worker.guardian) is None

    wait_for("a worker to be free", is_settled)


def pids(found: list[dict[str, Any]]) -> list[int]:
    return [each["pid"] for each in found]


# When it is the same process


def test_a_run_of_a_tree_that_allows_it_is_executed_by_the_process_of_the_run_before(
    place: Place,
) -> None:
    check_one_process_executes_several(place)


def test_so_it_is_on_postgresql(
    own_place: Place, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_one_process_executes_several(fill(on_postgres(own_place, database, monkeypatch)))


def test_so_it_is_where_django_has_a_pool_of_connections(
    own_place: Place, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg_pool")
    pooled = {**database, "OPTIONS": {"pool": {"min_size": 1}}}
    place = fill(on_postgres(own_place, pooled, monkeypatch))
    check_one_process_executes_several(place)
    assert {each["parent"] for each in execute(place, "alone")} == {place.template().pid}


def check_one_process_executes_several(place: Place) -> None:
    found = execute(place, "works", "works", "several", "works")
    assert len(set(pids(found))) == 1
    for each in found:
        worker = worker_of(place, each["run_id"])
        assert (worker.pid, worker.shared) == (each["pid"], True)
        assert "no further run" not in place.failure(each["run_id"])


def test_environment_and_working_directory_are_what_they_were_before_each_run(
    place: Place,
) -> None:
    first, second = execute(place, "works", "works")
    assert (second["folder"], second["left"]) == (first["folder"], None)


def test_a_tree_that_does_not_allow_it_has_a_fresh_process_for_each_run(place: Place) -> None:
    found = execute(place, "works", "alone", "works", "alone")
    assert found[0]["pid"] == found[2]["pid"]
    assert len(set(pids(found))) == 3


def test_runs_at_the_same_time_have_a_process_each(place: Place) -> None:
    runs = [create(place, "works") for _ in range(12)]

    def launch_one(run_id: str) -> None:
        with DagsterInstance.from_config(str(place.home)) as instance:
            instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]

    threads = [threading.Thread(target=launch_one, args=(run_id,)) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting = [launch(place, "waits") for _ in range(3)]
    assert len({said(place, run_id)["pid"] for run_id in waiting}) == 3
    for run_id in waiting:
        (place.folder / f"{run_id}.go").touch()
    assert {place.ended(run_id) for run_id in (*runs, *waiting)} == {SUCCESS}


def test_the_next_run_executes_the_tree_and_the_functions_as_they_are_then(place: Place) -> None:
    first = execute(place, "works")[0]
    forks_of_these_tests().run(["change_tree.py"], place.folder, os.environ)
    changed = execute(place, "works")[0]
    assert changed["pid"] == first["pid"]
    assert "also" in place.failure(changed["run_id"])
    (place.folder / "shared.py").write_text(FUNCTIONS.replace("before", "behind"))
    edited = execute(place, "works")[0]
    assert (edited["word"], edited["parent"]) == ("behind", first["parent"])
    assert edited["pid"] != first["pid"]


# When it is a fresh one


@pytest.mark.parametrize(
    ("tree", "status", "reason"),
    [
        ("fails", DagsterRunStatus.FAILURE, None),
        ("leaves_a_thread", SUCCESS, "it has left 1 threads running (late)"),
        ("leaves_a_program", SUCCESS, "it has left programs running"),
    ],
)
def test_after_a_run_that_failed_or_left_something_behind_the_next_has_a_fresh_process(
    place: Place, tree: str, status: DagsterRunStatus, reason: str | None
) -> None:
    first = execute(place, tree, status=status)[0]
    assert execute(place, "works")[0]["pid"] != first["pid"]
    log = place.failure(first["run_id"])
    assert ("Its process executes no further run" in log) == (reason is not None)
    assert reason is None or reason in log


def test_a_process_executes_so_many_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LIMITS", json.dumps({"RUNS_PER_WORKER": 2}))
    found = pids(execute(place, *["works"] * 5))
    assert found[0] == found[1] != found[2] == found[3] != found[4]


def test_a_process_with_much_memory_executes_no_further_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = execute(place, "works", "works")[1]["memory"]
    monkeypatch.setenv("TEST_LIMITS", json.dumps({"MEMORY_PER_WORKER": used + 50}))
    first, second = execute(place, "works", "works")
    assert first["pid"] == second["pid"]
    third = execute(place, "needs_memory")[0]
    assert third["pid"] == second["pid"]
    assert execute(place, "works")[0]["pid"] != third["pid"]


def test_a_process_that_waits_in_vain_ends_and_one_whose_template_is_gone_too(
    place: Place,
) -> None:
    first = psutil.Process(execute(place, "works")[0]["pid"])
    first.wait(60)
    found = execute(place, "works")[0]
    second = psutil.Process(found["pid"])
    psutil.Process(found["parent"]).kill()
    second.wait(30)


# Its runs stay apart


def test_whoever_cancels_a_run_that_has_ended_hits_no_other(place: Place) -> None:
    first = execute(place, "works")[0]
    before = worker_of(place, first["run_id"])
    running = launch(place, "waits")
    assert said(place, running)["pid"] == first["pid"]
    assert not before.cancel(), "its guardian has ended, and the process is another run's"
    (place.folder / f"{running}.go").touch()
    assert place.ended(running) == SUCCESS


def test_a_further_run_is_canceled_and_its_process_executes_no_other(place: Place) -> None:
    first = execute(place, "works")[0]
    running = launch(place, "waits")
    assert said(place, running)["pid"] == first["pid"]
    assert place.launcher.terminate(running)
    assert place.ended(running) == DagsterRunStatus.CANCELED
    assert execute(place, "works")[0]["pid"] != first["pid"]


def test_a_process_that_is_killed_fails_the_run_that_it_executes_and_no_other(
    place: Place,
) -> None:
    first = execute(place, "works")[0]
    running = launch(place, "waits")
    os.kill(said(place, running)["pid"], signal.SIGKILL)
    assert place.ended(running) == DagsterRunStatus.FAILURE
    assert "SIGKILL" in place.failure(running)
    assert place.run(first["run_id"]).status == SUCCESS
    assert execute(place, "works")[0]["pid"] != first["pid"]


def test_a_further_run_is_watched_by_a_guardian_of_its_own(place: Place) -> None:
    first = execute(place, "works")[0]
    running = launch(place, "waits")
    template = said(place, running)["parent"]
    before, now = (worker_of(place, each) for each in (first["run_id"], running))
    assert before.pid == now.pid
    assert started(before.guardian) != before.guardian_started, "it has ended with its run"
    assert psutil.Process(now.guardian).ppid() == template
    (place.folder / f"{running}.go").touch()
    assert place.ended(running) == SUCCESS


def test_a_run_whose_client_has_gone_is_not_executed(place: Place) -> None:
    first, run_id = execute(place, "works")[0], create(place, "waits")
    origin = place.origin()._replace(job_name="waits")
    args = ExecuteRunArgs(origin, run_id, place.instance.get_ref())
    request = {"do": "launch", "args": serialize_value(args), "owner": template_client.owner()}
    for path in template_client.addresses(str(place.home)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(json.dumps({**request, "shared": True}).encode() + b"\n")
    psutil.Process(first["pid"]).wait(60)
    assert place.run(run_id).status == DagsterRunStatus.NOT_STARTED
    assert not (place.folder / run_id).exists()


def test_a_worker_whose_end_and_whose_death_are_noticed_together_is_forgotten() -> None:
    with selectors.DefaultSelector() as selector:
        workers = Workers(selector, lambda: None)
        ours, its = socket.socketpair()
        workers.add(1, ours, None)
        its.sendall(b"f")
        its.close()
        [(key, _)] = selector.select(5)
        workers.forget(1)  # as when its death is reaped
        key.data()
        assert not selector.get_map()


def test_a_run_that_is_given_at_the_moment_at_which_a_worker_leaves_is_executed(
    place: Place,
) -> None:
    args = ExecuteRunArgs(place.origin(), "a run", place.instance.get_ref())
    request = json.dumps({"args": serialize_value(args), "guardian": 1}).encode() + b"\n"
    ours, workers = socket.socketpair()
    client, its_connection = socket.socketpair()
    with ours, client, its_connection, Path(os.devnull).open("rb") as orders:
        given = [its_connection.fileno(), orders.fileno()]
        socket.send_fds(ours, [request], given)
        found = FurtherRuns(workers)._last()
        assert found is not None
        assert found.args == args
        found.connection.close()
        os.close(found.orders)
        with pytest.raises(BrokenPipeError):
            socket.send_fds(ours, [request], given)
        assert FurtherRuns(workers)._last() is None
        workers.close()


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_is_left_when_its_guardian_has_ended_and_not_before(
    monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    class Watching(Guardian):
        def let_go(self) -> bool:
            done.append("guardian")
            return ends

    done: list[str] = []
    monkeypatch.setattr(run_workers, "end", lambda *_: done.append("row"))
    monkeypatch.setattr(run_taking, "_taken", "a run")
    monkeypatch.setattr(run_taking, "_guardian", Watching(1, -1, None))
    assert run_taking.leave() == ends
    assert done == (["guardian", "row"] if ends else ["guardian"])


def test_many_runs_in_one_process_leave_nothing_open(place: Place) -> None:
    def belongings(pid: int) -> tuple[int, int]:
        process = psutil.Process(pid)
        return len(list(Path(f"/proc/{pid}/fd").iterdir())), process.num_threads()

    first = execute(place, *["works"] * 5)[-1]
    before = belongings(first["pid"]), belongings(first["parent"])
    last = execute(place, *["works"] * 25)[-1]
    assert last["pid"] == first["pid"]
    # It may yet be closing the connection through which it has recorded that it has left its run.
    wait_for("the worker to let go", lambda: no_more(belongings(last["pid"]), before[0]), 10)
    wait_for("the template to let go", lambda: no_more(belongings(last["parent"]), before[1]), 10)
