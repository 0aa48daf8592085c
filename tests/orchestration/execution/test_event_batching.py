"""Events written in groups: the same log, and on the disk when it matters."""

import logging
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    PIPELINE_EVENTS,
    EngineEventData,
)
from dagster._core.events.log import EventLogEntry
from pytest_django import Settings

from proctree_dagster.orchestration.execution import event_batching
from proctree_dagster.orchestration.execution.event_batching import (
    HELD,
    EventWriter,
    flush,
    grouped,
)
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

pytestmark = pytest.mark.django_db

RUN_ID = "5b1c7e0a-1f5a-4e6d-9a53-0f4b8c1c2d3e"
LOGS = "python_logs:\n  managed_python_loggers: [tests.functions]\n"

START, SUCCESS = DagsterEventType.STEP_START, DagsterEventType.STEP_SUCCESS


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest, dagster_home: Path, settings: Settings) -> Path:
    """Dagster's home, with each storage."""
    # One process after another: logs are compared line by line.
    given = {"FUNCTION_MODULES": ["tests"], "MAX_CONCURRENT": 1}
    settings.PROCTREE = {**settings.PROCTREE, **given}
    storage = ""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        database = server.new_database()
        url = f"postgresql+psycopg2://postgres:@/{database['NAME']}?host={database['HOST']}"
        storage = f"storage:\n  postgres:\n    postgres_url: {url}\n"
    with (dagster_home / "dagster.yaml").open("a") as file:
        file.write(LOGS + storage)
    return dagster_home


@pytest.fixture
def observer(home: Path) -> Iterator[DagsterInstance]:
    """An instance that executes nothing: what it sees, another process would see."""
    with DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be written, and no connection be closed, only because time has passed."""
    monkeypatch.setattr(event_batching, "HOLD_SECONDS", 3600)
    monkeypatch.setattr(event_batching, "IDLE_SECONDS", 3600)


class Once:
    """Fails when it is called for the first time."""

    def __init__(self) -> None:
        self.called = False

    def __call__(self) -> int:
        if not self.called:
            self.called = True
            raise ValueError("not yet")
        return 1


def log_twice(**kwargs: Any) -> None:
    logger = logging.getLogger("tests.functions")
    logger.warning("a message")
    logger.error("another")


def interrupt(**kwargs: Any) -> None:
    signal.raise_signal(signal.SIGINT)


def good(tree: ProcessTreeInstance) -> None:
    tree.add_process("one", func=processes.one)
    tree.add_process("log", func=log_twice, dependencies=["one"])
    tree.add_process("sum", func=processes.add, dependencies=["one", "log"])


def troubled(tree: ProcessTreeInstance) -> None:
    tree.add_process("again", func=Once(), retries=1)
    tree.add_process("skipped", func=processes.one, outdated_check=lambda: False)
    tree.add_process("allowed", func=processes.fail, required=False)
    tree.add_process("unpicklable", func=lambda: lambda: None)
    tree.add_process("failed", func=processes.fail, dependencies=["again"])
    tree.add_process("behind", func=processes.add, dependencies=["failed"])


def interrupted(tree: ProcessTreeInstance) -> None:
    tree.add_process("one", func=processes.one)
    tree.add_process("stop", func=interrupt, dependencies=["one"])
    tree.add_process("never", func=processes.one, dependencies=["stop"])


def execute(fill: Callable[[ProcessTreeInstance], None]) -> None:
    tree = ProcessTreeInstance(fill.__name__, overwrite=True)
    fill(tree)
    try:
        tree.execute()
    except KeyboardInterrupt:
        assert fill is interrupted


def last_log(instance: DagsterInstance) -> list[EventLogEntry]:
    return list(instance.all_logs(instance.get_runs(limit=1)[0].run_id))


def readable(entry: EventLogEntry) -> tuple[Any, ...]:
    """What is to be the same in each run of a tree."""
    event = entry.dagster_event
    kind = None if event is None else event.event_type_value
    text = re.sub(r"[0-9a-f-]{36}|0x[0-9a-f]+|\d+(\.\d+)?(ms|s)?\b", "…", entry.message)
    metadata = ""
    if event is not None and event.is_successful_output:
        data = event.step_output_data.metadata or {}
        shown = {name: value for name, value in data.items() if name != "proctree/seconds"}
        metadata = re.sub("0x[0-9a-f]+", "…", str(shown))
    return kind, entry.step_key, entry.level, text, metadata


@pytest.mark.parametrize("fill", [good, troubled, interrupted])
def test_the_log_is_the_same_as_if_each_event_were_written_alone(
    fill: Callable[[ProcessTreeInstance], None],
    observer: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execute(fill)
    in_groups = [readable(entry) for entry in last_log(observer)]
    monkeypatch.setattr(event_batching, "_is_known", lambda storage: False)
    execute(fill)
    assert in_groups == [readable(entry) for entry in last_log(observer)]
    assert any(kind == "STEP_SUCCESS" for kind, *_ in in_groups)


@pytest.mark.usefixtures("unasked")
def test_a_step_costs_one_transaction(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[str]] = []
    insert = event_batching._Connection.insert

    def counted(self: Any, rows: list[dict[str, Any]]) -> None:
        groups.append([row["step_key"] for row in rows])
        insert(self, rows)

    monkeypatch.setattr(event_batching._Connection, "insert", counted)
    tree = ProcessTreeInstance("chain", overwrite=True)
    for number in range(4):
        before = [f"step_{number - 1}"] if number else []
        tree.add_process(f"step_{number}", func=processes.add, dependencies=before)
    tree.execute()
    assert [(group[0], group[-1]) for group in groups] == [
        (None, "step_0"),
        ("step_0", "step_1"),
        ("step_1", "step_2"),
        ("step_2", "step_3"),
        ("step_3", None),
    ]


@pytest.mark.usefixtures("unasked")
def test_all_that_came_before_a_function_is_stored_when_it_is_called(
    observer: DagsterInstance,
) -> None:
    seen: list[list[tuple[str | None, str | None]]] = []
    cursor = None

    def look(**kwargs: Any) -> None:
        nonlocal cursor
        [run] = observer.get_runs()
        new = observer.get_records_for_run(run.run_id, cursor)
        cursor = new.cursor
        entries = [record.event_log_entry for record in new.records]
        seen.append(
            [
                (entry.dagster_event.event_type_value, entry.step_key)
                for entry in entries
                if entry.dagster_event is not None and entry.step_key is not None
            ]
        )

    tree = ProcessTreeInstance("watched")
    tree.add_process("one", func=look)
    tree.add_process("two", func=look, dependencies=["one"])
    tree.execute()
    assert seen[0][-1] == ("STEP_START", "one")
    assert seen[1] == [
        ("STEP_OUTPUT", "one"),
        ("HANDLED_OUTPUT", "one"),
        ("STEP_SUCCESS", "one"),
        ("STEP_START", "two"),
        ("LOADED_INPUT", "two"),
        ("STEP_INPUT", "two"),
    ]


@pytest.mark.usefixtures("unasked")
def test_whoever_watches_the_log_sees_what_is_under_way(observer: DagsterInstance) -> None:
    seen: queue.SimpleQueue[tuple[str | None, str | None]] = queue.SimpleQueue()

    def see(entry: EventLogEntry, cursor: str) -> None:
        seen.put((entry.dagster_event and entry.dagster_event.event_type_value, entry.step_key))

    def see_the_log_up_to(kind: str, step_key: str) -> None:
        while seen.get(timeout=30) != (kind, step_key):
            pass

    def one() -> None:
        observer.watch_event_logs(observer.get_runs()[0].run_id, None, see)
        logging.getLogger("tests.functions").warning("a message")
        see_the_log_up_to("STEP_START", "one")

    def two(**kwargs: Any) -> None:
        see_the_log_up_to("STEP_SUCCESS", "one")
        see_the_log_up_to("STEP_START", "two")

    tree = ProcessTreeInstance("watched").add_process("one", func=one)
    tree.add_process("two", func=two, dependencies=["one"])
    assert tree.execute()["success"]


@pytest.mark.usefixtures("unasked")
def test_what_a_function_logs_is_stored_at_once(observer: DagsterInstance) -> None:
    seen: list[str] = []

    def log(**kwargs: Any) -> None:
        for text in ("first", "second"):
            logging.getLogger("tests.functions").warning(text)
            seen.append(last_log(observer)[-1].user_message)

    tree = ProcessTreeInstance("talkative")
    tree.add_process("log", func=log)
    tree.execute()
    assert seen == ["first", "second"]


@pytest.mark.usefixtures("unasked")
def test_the_start_of_a_process_that_is_killed_is_stored(observer: DagsterInstance) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    tree = ProcessTreeInstance("killed").add_process("die", func=die)
    pid = os.fork()
    if pid == 0:
        try:
            tree.execute()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    kinds = [entry.dagster_event_type for entry in last_log(observer)]
    assert kinds[-1] == START


# The writer by itself


def event(step_key: str, kind: DagsterEventType = START) -> EventLogEntry:
    data = EngineEventData() if kind is DagsterEventType.ENGINE_EVENT else None
    dagster_event = DagsterEvent(
        kind.value, "job", step_key=step_key, message="", event_specific_data=data
    )
    return EventLogEntry(
        error_info=None,
        level=logging.DEBUG,
        user_message="",
        run_id=RUN_ID,
        timestamp=time.time(),
        step_key=step_key,
        job_name="job",
        dagster_event=dagster_event,
    )


def stored(instance: DagsterInstance) -> list[str | None]:
    return [entry.step_key for entry in instance.all_logs(RUN_ID)]


def test_what_nobody_asks_for_is_written_soon(instance: DagsterInstance) -> None:
    with grouped(instance, RUN_ID):
        instance.handle_new_event(event("one"))
        deadline = time.monotonic() + 60
        while not stored(instance):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.usefixtures("unasked")
def test_an_event_of_another_kind_is_written_after_what_came_before(
    instance: DagsterInstance,
) -> None:
    with grouped(instance, RUN_ID):
        instance.handle_new_event(event("one"))
        assert stored(instance) == []
        instance.handle_new_event(event("two", DagsterEventType.STEP_UP_FOR_RETRY))
        assert stored(instance) == ["one", "two"]


@pytest.mark.usefixtures("unasked")
def test_what_is_held_is_written_however_the_executor_ends(instance: DagsterInstance) -> None:
    def execute() -> None:
        with grouped(instance, RUN_ID):
            instance.handle_new_event(event("one"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute()
    assert stored(instance) == ["one"]
    assert "handle_new_event" not in vars(instance)


def test_steps_that_log_at_once_lose_nothing_and_keep_their_order(
    instance: DagsterInstance,
) -> None:
    count = 50

    def work(name: str) -> None:
        for number in range(count):
            instance.handle_new_event(event(f"{name}{number}"))
            if number % 5 == 0:
                flush(instance)

    with grouped(instance, RUN_ID):
        threads = [threading.Thread(target=work, args=[name]) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    keys = stored(instance)
    assert len(keys) == 3 * count
    for name in "abc":
        assert [key for key in keys if str(key).startswith(name)] == [
            f"{name}{number}" for number in range(count)
        ]


class Away:
    """A database that can't be reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._insert = event_batching._Connection.insert
        self._is_away = True
        monkeypatch.setattr(event_batching._Connection, "insert", self.insert)

    def insert(self, rows: list[dict[str, Any]]) -> None:
        raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("the database is away"))

    def come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_batching._Connection, "insert", self._insert)


@pytest.mark.usefixtures("unasked")
def test_what_can_not_be_written_raises_and_is_written_with_what_comes_next(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with grouped(instance, RUN_ID):
        away = Away(monkeypatch)
        instance.handle_new_event(event("one"))
        with pytest.raises(sqlalchemy.exc.OperationalError):
            flush(instance)
        away.come_back(monkeypatch)
        instance.handle_new_event(event("two"))
        flush(instance)
        assert stored(instance) == ["one", "two"]


@pytest.mark.usefixtures("unasked")
def test_what_can_not_be_written_in_the_end_is_logged_and_raised(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Away(monkeypatch)
    with pytest.raises(sqlalchemy.exc.OperationalError), grouped(instance, RUN_ID):
        instance.handle_new_event(event("one"))
    [record] = [each for each in caplog.records if each.name == event_batching.__name__]
    assert "STEP_START of one" in record.message
    assert record.exc_info


def test_a_process_fails_if_its_start_can_not_be_written(
    observer: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    tree = ProcessTreeInstance("away")
    tree.add_process("one", func=lambda: called.append(1))
    away = Away(monkeypatch)
    wanted = EventWriter.close

    def close(self: EventWriter, *, quietly: bool) -> None:
        away.come_back(monkeypatch)  # before the end, so that it is told
        wanted(self, quietly=quietly)

    monkeypatch.setattr(EventWriter, "close", close)
    assert not tree.execute()["success"]
    assert not called
    assert START in [entry.dagster_event_type for entry in last_log(observer)]


@pytest.mark.usefixtures("unasked")
def test_the_child_of_a_function_that_forks_writes_its_own_events_itself(
    instance: DagsterInstance,
) -> None:
    with grouped(instance, RUN_ID):
        instance.handle_new_event(event("parent"))
        pid = os.fork()
        if pid == 0:
            try:
                instance.handle_new_event(event("child"))
                flush(instance)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert stored(instance) == ["child"]
    assert stored(instance) == ["child", "parent"]


@pytest.mark.usefixtures("unasked")
def test_whoever_listens_in_the_process_is_told_of_what_is_stored(
    instance: DagsterInstance,
) -> None:
    told: list[list[str | None]] = []
    instance.add_event_listener(RUN_ID, lambda entry: told.append(stored(instance)))
    with grouped(instance, RUN_ID):
        instance.handle_new_event(event("one"))
        assert told == [["one"]]


def test_an_ephemeral_instance_writes_each_event_as_ever(settings: Settings) -> None:
    with DagsterInstance.ephemeral() as instance, grouped(instance, RUN_ID):
        instance.handle_new_event(event("one"))
        assert stored(instance) == ["one"]


def test_dagster_does_nothing_with_a_held_event_but_to_store_it() -> None:
    others = ASSET_EVENTS | ASSET_CHECK_EVENTS | PIPELINE_EVENTS
    assert not HELD & (others | EVENT_TYPE_TO_PIPELINE_RUN_STATUS.keys())
