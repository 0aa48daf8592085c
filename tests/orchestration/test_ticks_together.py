"""Ticks that are evaluated together: Dagster's own scheduler, a real code server, started once."""

import contextlib
import datetime as dt
import logging
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus
from dagster._core.utils import InheritContextThreadPoolExecutor
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon import daemon  # noqa: F401  # the scheduler can't be imported before it
from dagster._scheduler import scheduler

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration import dagster_features, ticks_together
from proctree_dagster.orchestration.ticks_together import TicksExecutor
from tests.tools.code_files import code_of
from tests.tools.stack import Stack

Pool = Callable[[], Any]

NAMES = ("a", "b", "with_pool", "disabled", "gone", "unreadable", "rows")
MINUTE = dt.timedelta(minutes=1)


def dagsters() -> InheritContextThreadPoolExecutor:
    """Return the pool of Dagster's scheduler."""
    return InheritContextThreadPoolExecutor(max_workers=4)


def ours() -> TicksExecutor:
    """Return that of this package."""
    return TicksExecutor(dagsters())


class Server:
    """A code server, and what the daemon's scheduler makes of it."""

    def __init__(self, folder: Path) -> None:
        self._stack = Stack(folder)
        self._stack.env["PROCTREE_POOL"] = "p"
        self._stack.migrate()
        self._stack.shell(code_of(__file__) / "save_trees.py", silently=True)
        self.now = dt.datetime.now(dt.UTC).replace(second=30, microsecond=0) - 60 * MINUTE
        self.make_due(*NAMES)  # as the daemon sees them: overdue, so with a tick each minute
        self.origin = self._stack.serve_code()
        self.instance = DagsterInstance.from_config(str(self._stack.home))
        target = GrpcServerTarget(
            host="127.0.0.1", port=self.origin.port, socket=None, location_name=run_tags.LOCATION
        )
        self._workspace = WorkspaceProcessContext(self.instance, target)
        self.look(dagsters)

    def log(self) -> str:
        return self._stack.log.read_text()

    def query(self, statement: str, *values: Any) -> list[Any]:
        """Change the rows behind every back."""
        file = self._stack.env["EXAMPLE_DATABASE"]
        with contextlib.closing(sqlite3.connect(file, timeout=30)) as database:
            found = database.execute(statement, values).fetchall()
            database.commit()
            return found

    def make_due(self, *names: str) -> None:
        """Let these schedules be due, and no others, with nothing that is left of earlier tests."""
        table = "proctree_dagster_processtreeschedule"
        forgotten = "claim = NULL, claimed_at = NULL, last_run = NULL, last_run_status = ''"
        self.query(f"UPDATE {table} SET next_run = '2099-01-01 00:00:00', {forgotten}")
        for name in names:
            due = self.now.strftime("%Y-%m-%d %H:%M:00")
            self.query(
                f"UPDATE {table} SET next_run = ? WHERE dagster_name = ?", due, f"{name}_schedule"
            )

    def look(self, pool: Pool, instance: DagsterInstance | None = None) -> None:
        """Let the scheduler make its next pass, a minute later."""
        self.now += MINUTE
        self.pass_over(pool)

    def pass_over(self, pool: Pool) -> None:
        futures: dict[str, Future[Any]] = {}
        with pool() as executor:
            passed = scheduler.launch_scheduled_runs(
                self._workspace,
                logging.getLogger("scheduler"),
                end_datetime_utc=self.now,
                iteration_times={},
                threadpool_executor=executor,
                scheduler_run_futures=futures,
                max_tick_retries=0,
            )
            errors = [each for each in passed if each is not None]
        assert not errors
        for future in futures.values():
            assert future.result(0) is not None

    def tick(self, name: str) -> InstigatorTick:
        """Return the newest tick of a schedule."""
        return self.ticks(name)[0]

    def ticks(self, name: str) -> list[InstigatorTick]:
        """Return the ticks of the last pass."""
        state = self.states()[f"{name}_schedule"]
        found = self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
        at = self.now.replace(second=0).timestamp()
        return [each for each in found if each.timestamp == at]

    def states(self) -> dict[str, Any]:
        return {each.instigator_name: each for each in self.instance.all_instigator_state()}

    def runs(self, name: str) -> list[DagsterRun]:
        """Return the runs that the last pass has requested for a schedule."""
        at = self.now.replace(second=0).isoformat()
        return [
            run
            for run in self.instance.get_runs()
            if run.tags.get(run_tags.SCHEDULE_NAME) == f"{name}_schedule"
            and run.tags[run_tags.SCHEDULED_FOR] == at
        ]

    def stop(self) -> None:
        self._workspace.__exit__(None, None, None)
        self.instance.dispose()
        self._stack.stop()


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    _server.make_due()
    yield _server
    for run in _server.instance.get_runs():
        _server.instance.delete_run(run.run_id)


def seen_of_run(server: Server, run: DagsterRun) -> dict[str, Any]:
    """Return a run without what differs between any two."""
    changing = (run_tags.TICK, run_tags.SCHEDULED_FOR, run_tags.DUE, run_tags.RUN_KEY)
    assert all(name in run.tags for name in changing)
    seen = {name: getattr(run, name) for name in type(run).__annotations__}
    assert {"run_config", "execution_plan_snapshot_id", "run_op_concurrency"} <= seen.keys()
    seen |= {"run_id": None, "tags": {k: v for k, v in run.tags.items() if k not in changing}}
    record = server.instance.get_run_record_by_id(run.run_id)
    assert record is not None
    events = server.instance.all_logs(run.run_id)
    return {
        **seen,
        "in the list": (record.start_time, record.end_time),
        "events": [(e.dagster_event_type, e.user_message, e.dagster_event) for e in events],
        "stored": server.instance.run_storage.get_run_tags(tag_keys=[".dagster/repository"]),
    }


def seen_of_tick(tick: InstigatorTick) -> dict[str, Any]:
    """Return a tick without what differs between any two; its log key names it."""
    data = tick.tick_data._asdict()
    assert data.pop("log_key")[2] == str(tick.tick_id)
    assert data["end_timestamp"] is not None
    data["run_ids"], data["run_keys"] = len(data["run_ids"]), len(data["run_keys"])
    return {k: v for k, v in data.items() if k not in ("timestamp", "end_timestamp")}


@pytest.mark.parametrize("name", ["a", "with_pool", "gone"])
def test_a_run_its_events_and_its_tick_are_those_that_dagster_makes(
    server: Server, name: str
) -> None:
    seen = []
    for pool in (dagsters, ours):
        server.make_due(name)
        server.look(pool)
        [run] = server.runs(name)
        seen.append((seen_of_run(server, run), seen_of_tick(server.tick(name))))
        assert server.tick(name).run_ids == [run.run_id]
        assert run.status == DagsterRunStatus.QUEUED
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["disabled", "b"])
def test_a_tick_that_is_skipped_is_the_one_that_dagster_makes(server: Server, name: str) -> None:
    seen = []
    for pool in (dagsters, ours):
        if name == "disabled":
            server.make_due(name)
        server.look(pool)
        assert server.runs(name) == []
        seen.append(seen_of_tick(server.tick(name)))
    assert seen[0] == seen[1]
    assert seen[0]["status"] == TickStatus.SKIPPED


def test_all_that_is_due_is_asked_for_in_few_requests(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = ticks_together._ask

    def noted(*args: Any) -> Any:
        asked.append(len(args[2]))
        return real(*args)

    monkeypatch.setattr(ticks_together, "_ask", noted)
    server.make_due("a", "b", "with_pool", "gone")
    server.look(ours)
    # The first one is asked for at once. What has failed before is left to Dagster.
    assert len(asked) <= 3
    assert sum(asked) >= len(NAMES) - 1
    assert [len(server.runs(name)) for name in ("a", "b", "with_pool", "gone")] == [1] * 4


def test_a_schedule_that_raises_has_a_failed_tick_with_its_trace_and_the_others_run(
    server: Server,
) -> None:
    server.make_due("a", "unreadable")
    server.look(ours)
    tick = server.tick("unreadable")
    assert tick.status == TickStatus.FAILURE
    assert tick.error is not None
    assert server.runs("unreadable") == []
    assert len(server.runs("a")) == 1


def test_a_schedule_with_rows_records_them_and_its_tick_says_so(server: Server) -> None:
    server.make_due("rows")
    server.look(ours)
    [tick] = server.ticks("rows")
    assert tick.status == TickStatus.SKIPPED
    assert "Requested 2 runs" in str(tick.skip_reason)
    assert server.runs("rows") == []


class Broken(Exception):
    """What a part of the way fails with."""


@pytest.mark.parametrize("part", ["begin", "_ask", "_submit", "_finish", "record", "_times"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_fails_on_the_way_is_finished_by_dagster_with_one_run_and_one_tick(
    server: Server, part: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(ticks_together, part)

    def fails(*args: Any) -> Any:
        if when == "after":
            real(*args)
        raise Broken

    monkeypatch.setattr(ticks_together, part, fails)
    server.make_due("a", "b")
    server.look(ours)
    for name in ("a", "b"):
        [run] = server.runs(name)
        assert run.status == DagsterRunStatus.QUEUED
        [tick] = server.ticks(name)
        # As when Dagster's daemon dies between a run's queueing and the record of its tick.
        is_on_its_way = "is on its way" in str(tick.skip_reason)
        assert (tick.status == TickStatus.SUCCESS) is not is_on_its_way
        assert set(tick.run_ids) == (set() if is_on_its_way else {run.run_id})


def test_a_code_server_that_does_not_know_of_it_is_asked_as_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_tags, "DUE_TOGETHER", "an_earlier_release")
    server.make_due("a")
    server.look(ours)
    assert "can't be evaluated together" in caplog.text
    assert len(server.runs("a")) == 1
    assert server.tick("a").status == TickStatus.SUCCESS


def test_a_code_server_with_a_translator_of_the_projects_own_is_not_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> None:
        raise AssertionError("it is asked for what it can't do")

    monkeypatch.setattr(ticks_together, "_is_one_by_one", lambda location: True)
    monkeypatch.setattr(ticks_together, "begin", fails)
    server.make_due("a", "b")
    server.look(ours)
    assert "can't be evaluated together" not in caplog.text
    for name in ("a", "b"):
        assert len(server.runs(name)) == 1
        assert server.tick(name).status == TickStatus.SUCCESS


def test_runs_that_can_not_be_queued_together_are_queued_one_by_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> None:
        raise Broken

    monkeypatch.setattr("proctree_dagster.orchestration.queueing.queue", fails)
    server.make_due("a", "b")
    server.look(ours)
    runs = [run for name in ("a", "b") for run in server.runs(name)]
    assert [run.status for run in runs] == [DagsterRunStatus.QUEUED] * 2


def test_two_daemons_at_the_same_moment_request_each_due_time_and_no_other(
    server: Server,
) -> None:
    """Both may request the same one, as ever: one of its runs takes the claim."""
    names = ("a", "b", "with_pool", "gone")
    server.make_due(*names)
    server.now += MINUTE
    threads = [threading.Thread(target=server.pass_over, args=(ours,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [server.runs(name) for name in names]
    assert [len({run.tags[run_tags.DUE] for run in runs}) for runs in found] == [1] * len(names)
    assert {run.status for runs in found for run in runs} == {DagsterRunStatus.QUEUED}


def test_schedules_of_other_code_locations_are_left_to_the_pool() -> None:
    with ours() as executor:
        assert executor.submit(len, "abc").result(5) == 3
        assert list(executor.map(len, ["a", "bc"])) == [1, 2]


def test_in_a_process_that_is_no_daemon_nothing_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "dagster._daemon.daemon")
    assert not ticks_together.install()


def test_the_daemons_scheduler_takes_the_replaced_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    name = dagster_features.TICKS_EXECUTOR
    monkeypatch.setattr(scheduler, name, InheritContextThreadPoolExecutor)
    assert ticks_together.install()
    assert ticks_together.install()  # not twice
    with getattr(scheduler, name)(max_workers=1, thread_name_prefix="x") as executor:
        assert isinstance(executor, TicksExecutor)
        assert isinstance(executor._pool, InheritContextThreadPoolExecutor)
