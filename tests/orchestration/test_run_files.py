"""The files of runs' events on SQLite: copies of an empty one, whoever creates them."""

import errno
import logging
import multiprocessing
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster
import pytest
from dagster import DagsterInstance, EventLogEntry
from dagster._core.storage import sql
from dagster._core.storage.event_log import SqliteEventLogStorage

from proctree_dagster.orchestration import homes, run_files
from proctree_dagster.orchestration.run_files import PAGE_BYTES, RunFileStorage
from proctree_dagster.support.project import create_home

PROCESSES = 8
EVENTS = 20


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the ``dagster.yaml`` of a project that has written none."""
    home = tmp_path / "home"
    create_home(str(home))
    with homes.open_home(str(home)):
        return home


@pytest.fixture
def opened(home: Path) -> Iterator[DagsterInstance]:
    with homes.open_home(str(home)) as instance:
        yield instance


def store(instance: DagsterInstance, run_id: str, message: str = "said") -> None:
    entry = EventLogEntry(None, logging.INFO, message, run_id, 1.0)
    instance.event_log_storage.store_event(entry)


def said(instance: DagsterInstance, run_id: str) -> list[str]:
    return [each.user_message for each in instance.event_log_storage.get_logs_for_run(run_id)]


def path_of(instance: DagsterInstance, run_id: str) -> Path:
    storage = instance.event_log_storage
    assert isinstance(storage, RunFileStorage)
    return Path(storage.path_for_shard(run_id))


def query(file: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(statement).fetchall()


def new_id() -> str:
    return str(uuid.uuid4())


def test_a_runs_file_has_what_a_run_needs_of_dagsters_own_on_smaller_pages(
    opened: DagsterInstance, tmp_path: Path
) -> None:
    ours = path_of(opened, run_id := new_id())
    store(opened, run_id)
    stock = SqliteEventLogStorage(str(tmp_path / "stock"))
    entry = EventLogEntry(None, logging.INFO, "said", run_id, 1.0)
    stock.store_event(entry)
    theirs = Path(stock.path_for_shard(run_id))
    for asked in ("SELECT version_num FROM alembic_version", "PRAGMA journal_mode"):
        assert query(ours, asked) == query(theirs, asked)
    content = "SELECT type, name, tbl_name, sql FROM sqlite_master"
    needed = {*run_files.TABLES, *run_files.INDEXES}
    assert set(query(ours, f"{content} WHERE sql IS NOT NULL")) == {
        row for row in query(theirs, content) if row[1] in needed
    }
    assert query(ours, "PRAGMA page_size") == [(PAGE_BYTES,)]
    assert ours.stat().st_size < theirs.stat().st_size / 8
    assert said(opened, run_id) == ["said"]


def test_dagster_migrates_it_as_its_own(opened: DagsterInstance) -> None:
    store(opened, run_id := new_id())
    opened.upgrade(print_fn=lambda _: None)
    assert said(opened, run_id) == ["said"]


FORM = f"{PAGE_BYTES}-{len(run_files.TABLES)}"
"""How the name of a home's empty file ends."""

OLDER = "5771160a95ad"
"""A revision of Dagster's storage after which several tables of ``index.db`` have changed."""


def test_dagster_migrates_one_that_an_older_dagster_has_made(opened: DagsterInstance) -> None:
    store(opened, run_id := new_id())
    file = path_of(opened, run_id)
    newest = query(file, "SELECT version_num FROM alembic_version")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (OLDER,))
    opened.upgrade(print_fn=lambda _: None)
    assert query(file, "SELECT version_num FROM alembic_version") == newest
    assert said(opened, run_id) == ["said"]


def test_a_run_of_assets_is_stored_read_and_deleted(opened: DagsterInstance) -> None:
    @dagster.asset(pool="narrow")
    def made() -> dagster.MaterializeResult[None]:
        return dagster.MaterializeResult(metadata={"rows": 3}, tags={"of": "test"})

    @dagster.asset_check(asset=made)
    def is_good() -> dagster.AssetCheckResult:
        return dagster.AssetCheckResult(passed=True)

    done = dagster.materialize([made, is_good], instance=opened)
    assert done.success
    assert opened.get_latest_materialization_event(dagster.AssetKey("made")) is not None
    assert opened.get_run_stats(done.run_id).materializations == 1
    assert len(opened.get_run_step_stats(done.run_id)) == 2
    opened.wipe_assets([dagster.AssetKey("made")])
    assert opened.get_latest_materialization_event(dagster.AssetKey("made")) is None
    opened.delete_run(done.run_id)
    assert opened.all_logs(done.run_id) == []


def _append(home: str, run_id: str, start: Any) -> None:
    with homes.open_home(home) as instance:
        start.wait()
        for _ in range(EVENTS):
            store(instance, run_id, str(os.getpid()))


def test_of_processes_that_create_one_at_the_same_moment_each_writes_into_it(
    home: Path, opened: DagsterInstance
) -> None:
    run_id = new_id()
    context = multiprocessing.get_context("fork")
    start = context.Barrier(PROCESSES)
    processes = [
        context.Process(target=_append, args=(str(home), run_id, start)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    counted = said(opened, run_id)
    assert {counted.count(word) for word in counted} == {EVENTS}
    assert len(counted) == PROCESSES * EVENTS
    left = {each.name for each in path_of(opened, run_id).parent.iterdir()}
    assert not any(name.startswith(".") and "empty" not in name for name in left), "no drafts"


def test_a_file_that_is_there_stays_as_it_is(home: Path, opened: DagsterInstance) -> None:
    run_id = new_id()
    stock = SqliteEventLogStorage(str(path_of(opened, run_id).parent))
    entry = EventLogEntry(None, logging.INFO, "of an earlier release", run_id, 1.0)
    stock.store_event(entry)
    store(opened, run_id)
    assert query(path_of(opened, run_id), "PRAGMA page_size") == [(4096,)]
    assert said(opened, run_id) == ["of an earlier release", "said"]


def begin(instance: DagsterInstance, run_id: str, message: str = "first") -> bool:
    storage = instance.event_log_storage
    assert isinstance(storage, RunFileStorage)
    event = EventLogEntry(None, logging.INFO, message, run_id, 1.0)
    return storage.begin(run_id, storage.prepare_insert_event(event))


def test_a_run_may_begin_with_its_first_event_in_its_file(opened: DagsterInstance) -> None:
    run_id = new_id()
    assert begin(opened, run_id)
    store(opened, run_id)
    assert said(opened, run_id) == ["first", "said"]
    assert query(path_of(opened, run_id), "PRAGMA journal_mode") == [("wal",)]


def test_a_run_that_has_a_file_does_not_begin_again(opened: DagsterInstance) -> None:
    store(opened, run_id := new_id())
    assert not begin(opened, run_id)
    assert said(opened, run_id) == ["said"]


def test_a_run_whose_first_event_can_not_be_written_does_not_begin_and_no_draft_stays(
    opened: DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store(opened, new_id())  # the kept empty file is there
    content = run_files._empty(folder := path_of(opened, "any").parent, lambda _: None)
    before = sorted(folder.iterdir())
    monkeypatch.setattr(run_files, "_contents", {folder: content[: len(content) // 2]})
    run_id = new_id()
    assert not begin(opened, run_id)
    assert sorted(folder.iterdir()) == before
    assert "can't be created by a copy" in caplog.text


def _begin(home: str, run_id: str, start: Any, begun: Any) -> None:
    with homes.open_home(home) as instance:
        start.wait(60)
        if begin(instance, run_id):
            begun.put(os.getpid())
        else:
            store(instance, run_id, "second")


def test_of_processes_that_begin_a_run_at_the_same_moment_one_does_and_no_event_is_lost(
    home: Path, opened: DagsterInstance
) -> None:
    context = multiprocessing.get_context("fork")
    run_id, start, begun = new_id(), context.Barrier(PROCESSES), context.Queue()
    found = [
        context.Process(target=_begin, args=(str(home), run_id, start, begun))
        for _ in range(PROCESSES)
    ]
    for each in found:
        each.start()
    for each in found:
        each.join(60)
    assert begun.get(timeout=10)
    assert begun.empty()
    assert said(opened, run_id) == ["first", *["second"] * (PROCESSES - 1)]


def test_an_empty_file_that_was_left_behind_is_completed(opened: DagsterInstance) -> None:
    path_of(opened, run_id := new_id()).touch()
    store(opened, run_id)
    assert said(opened, run_id) == ["said"]


def test_where_there_are_no_hard_links_dagster_creates_it_and_the_log_says_so(
    opened: DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    store(opened, run_id := new_id())
    assert said(opened, run_id) == ["said"]
    assert "can't be created by a copy" in caplog.text


@pytest.mark.parametrize("spoil", ["zero bytes", "half", "of another file"])
def test_a_damaged_empty_file_is_made_again_and_no_run_gets_it(
    opened: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: str,
) -> None:
    store(opened, new_id())
    [kept] = path_of(opened, "any").parent.glob(".empty-*")
    whole = kept.read_bytes()
    kept.write_bytes({"zero bytes": b"", "half": whole[: len(whole) // 2]}.get(spoil, b"x" * 5000))
    monkeypatch.setattr(run_files, "_contents", {})
    store(opened, run_id := new_id())
    assert said(opened, run_id) == ["said"]
    assert kept.read_bytes() == whole
    assert "is damaged" in caplog.text


def test_what_sqlite_has_left_of_a_removed_file_is_not_read_into_a_new_one(
    home: Path, opened: DagsterInstance
) -> None:
    store(opened, run_id := new_id())
    path = path_of(opened, run_id)
    with closing(sqlite3.connect(path)) as reader:  # as long as it is open, the WAL stays
        reader.execute("SELECT count(*) FROM event_logs").fetchall()
        store(opened, run_id, "removed")
        path.unlink()
    assert Path(f"{path}-wal").exists()
    with homes.open_home(str(home)) as another:
        store(another, run_id, "new")
        assert said(another, run_id) == ["new"]


def test_a_process_that_has_read_a_file_is_not_disturbed_by_its_removal(
    opened: DagsterInstance,
) -> None:
    store(opened, run_id := new_id())
    assert said(opened, run_id) == ["said"]
    for suffix in ("-wal", "-shm", ""):
        Path(f"{path_of(opened, run_id)}{suffix}").unlink(missing_ok=True)
    assert said(opened, run_id) == []
    path_of(opened, run_id).write_bytes(b"")  # by a process that has not noticed it
    store(opened, run_id, "late")
    assert said(opened, run_id) == ["late"]


@pytest.mark.parametrize("function", ["_made", "_write"])
def test_where_no_empty_file_can_be_made_dagster_creates_it_and_no_draft_stays(
    opened: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    function: str,
) -> None:
    def fail(path: Any, *_: object) -> None:
        if function == "_write":
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(run_files, function, fail)
    monkeypatch.setattr(run_files, "_contents", {})
    store(opened, run_id := new_id())
    assert said(opened, run_id) == ["said"]
    assert "can't be created by a copy" in caplog.text
    assert not list(path_of(opened, run_id).parent.glob(".*"))


def test_an_empty_file_that_only_another_user_may_read_is_no_hindrance(
    opened: DagsterInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = path_of(opened, "any").parent / f".empty-{dagster.__version__}-{FORM}"
    kept.mkdir()  # root may read any file, and no one a folder as one
    monkeypatch.setattr(run_files, "_contents", {})
    store(opened, run_id := new_id())
    assert query(path_of(opened, run_id), "PRAGMA page_size") == [(PAGE_BYTES,)]
    assert "can't be read" in caplog.text


def test_a_home_of_another_dagster_makes_an_empty_file_of_its_own(
    opened: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(opened, new_id())
    folder = path_of(opened, "any").parent
    monkeypatch.setattr(dagster, "__version__", "99")
    monkeypatch.setattr(run_files, "_contents", {})
    store(opened, run_id := new_id())
    assert (folder / f".empty-99-{FORM}").is_file()
    assert run_id in opened.event_log_storage.get_all_run_ids()  # type: ignore[attr-defined]
    assert len(opened.event_log_storage.get_all_run_ids()) == 2  # type: ignore[attr-defined]


def test_a_complete_home_is_opened_without_alembic(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("alembic was asked")

    monkeypatch.setattr(sql, "check_alembic_revision", refuse)
    with homes.open_home(str(home)) as instance:
        store(instance, run_id := new_id())
        assert said(instance, run_id) == ["said"]


def test_a_home_that_lacks_a_database_is_completed(home: Path) -> None:
    shutil.rmtree(home / "schedules")
    with homes.open_home(str(home)) as instance:
        assert instance.all_instigator_state() == []
