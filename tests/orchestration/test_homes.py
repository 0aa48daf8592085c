"""A fresh home can be opened by any number of processes at once, and a broken one is repaired."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
import yaml
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from django.core.management import CommandError, call_command
from filelock import FileLock
from pytest_django import Settings

from proctree_dagster.exceptions import InstanceError
from proctree_dagster.orchestration import homes
from proctree_dagster.orchestration.runs import opening, shared_instances
from proctree_dagster.orchestration.storage import ProctreeInstance, SqliteStorage
from tests.orchestration.opening import (
    OURS,
    Opener,
    address,
    open_at_once,
    openers,
    yaml_of_postgres,
)
from tests.tools import TOP

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

pytestmark = pytest.mark.usefixtures("real_dagster")

PROCESSES = int(os.environ.get("PROCTREE_HOME_PROCESSES", "4"))
OPENINGS = int(os.environ.get("PROCTREE_HOME_OPENINGS", "2"))
KILLS = int(os.environ.get("PROCTREE_HOME_KILLS", "3"))

FILES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")


def make_home(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "dagster.yaml").write_text(text)
    return folder


def states(home: Path) -> list[homes.State]:
    return [homes.state_of(each) for each in homes.databases(InstanceRef.from_dir(str(home)))]


def use(instance: DagsterInstance) -> None:
    """Ask each storage for something."""
    instance.get_runs(limit=1)
    instance.all_instigator_state()
    instance.event_log_storage.get_pool_limits()


def change(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.fixture
def home(tmp_path: Path, empty_home: Path, settings: Settings) -> Path:
    """A complete home whose storage is ours."""
    folder = tmp_path / "home"
    shutil.copytree(empty_home, folder)
    (folder / "dagster.yaml").write_text(OURS)
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(folder)}
    return folder


@pytest.fixture(scope="module")
def several() -> Iterator[list[Opener]]:
    """Processes that open homes, half of them as Dagster does, half as Django does."""
    with openers(*("host", "django") * (PROCESSES // 2)) as started:
        yield started


def test_a_fresh_home_on_sqlite_serves_all_that_open_it_at_once(
    tmp_path: Path, several: list[Opener]
) -> None:
    for number in range(OPENINGS):
        folder = make_home(tmp_path / str(number), OURS)
        assert open_at_once(several, folder) == []
        assert all(state.is_complete for state in states(folder))


def test_a_fresh_home_on_postgresql_serves_all_that_open_it_at_once(
    tmp_path: Path, several: list[Opener], postgres: "Postgres"
) -> None:
    for number in range(OPENINGS):
        folder = make_home(tmp_path / str(number), yaml_of_postgres(postgres.new_database()))
        assert open_at_once(several, folder) == []
        assert all(state.is_complete for state in states(folder))


def test_where_dagsters_own_storage_is_named_django_still_opens_it_one_at_a_time(
    tmp_path: Path, several: list[Opener]
) -> None:
    folder = make_home(tmp_path / "home", "telemetry:\n  enabled: false\n")
    assert open_at_once((each for each in several if each.way == "django"), folder) == []
    assert all(state.is_complete for state in states(folder))


def test_a_process_that_is_killed_while_it_creates_a_home_leaves_one_that_the_next_can_open(
    tmp_path: Path,
) -> None:
    for number in range(KILLS):
        folder = make_home(tmp_path / str(number), OURS)
        with openers("host") as (opener,):
            opener.ask(folder)
            # Another file and another moment each time, so that all of the creation is covered.
            while not (folder / FILES[number % 3]).exists():
                assert opener.process.poll() is None
                time.sleep(0.001)
            time.sleep(0.01 * (number // 3))
            opener.process.kill()
        with DagsterInstance.from_config(str(folder)) as instance:
            use(instance)
        assert all(state.is_complete for state in states(folder))


HALF_CREATED = {
    "two revisions": "INSERT INTO alembic_version VALUES ('5771160a95ad')",
    "no revision": "DELETE FROM alembic_version",
    "no table of revisions": "DROP TABLE alembic_version",
    "no data migrations": "DELETE FROM secondary_indexes",
    "a table is missing": "DROP TABLE secondary_indexes",
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("what", HALF_CREATED)
def test_a_half_created_home_is_completed_by_whoever_opens_it_next(
    home: Path, file: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    change(home / file, HALF_CREATED[what])
    assert [state.is_half_created for state in states(home)].count(True) == 1
    with DagsterInstance.from_config(str(home)) as instance:  # as Dagster's own processes do
        use(instance)
    assert all(state.is_complete for state in states(home))
    assert f"{file} is half created; completing it" in caplog.text
    caplog.clear()
    with opening.open_instance() as instance:
        use(instance)
    assert caplog.text == ""


@pytest.mark.parametrize("file", FILES)
def test_a_home_whose_writer_was_killed_in_a_transaction_is_opened(home: Path, file: str) -> None:
    code = (
        "import os, signal, sqlite3, sys\n"
        "writer = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "writer.execute('PRAGMA journal_mode=DELETE')\n"  # as it is while it is created
        "writer.execute('PRAGMA cache_size=1')\n"
        "writer.execute('BEGIN')\n"
        "writer.execute('CREATE TABLE half (made BLOB)')\n"
        "writer.executemany('INSERT INTO half VALUES (zeroblob(9999))', [()] * 99)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, home / file], timeout=60)
    assert (home / f"{file}-journal").exists()
    with opening.open_instance() as instance:
        use(instance)
    assert all(state.is_complete for state in states(home))


def test_a_home_may_be_called_whatever_a_folder_may_be_called(home: Path) -> None:
    named = home.rename(home.with_name("C# 100%"))
    with DagsterInstance.from_config(str(named)) as instance:
        use(instance)
    assert all(state.is_complete for state in states(named))


def test_what_is_in_a_home_outlives_its_repair(home: Path) -> None:
    with opening.open_instance() as instance:
        run = instance.create_run_for_job(_job())
    change(home / FILES[0], HALF_CREATED["two revisions"], "DROP INDEX idx_run_status")
    shared_instances.close_unused()  # as in another process
    with opening.open_instance() as instance:
        assert instance.has_run(run.run_id)
        (runs_database, *_) = homes.databases(instance.get_ref())
        with runs_database.connected() as connection:
            indexes = sqlalchemy.inspect(connection).get_indexes("runs")
    assert "idx_run_status" in {index["name"] for index in indexes}


def _job() -> Any:
    from dagster import job

    @job
    def empty() -> None: ...

    return empty


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_no_database_is_named_with_the_remedy(
    home: Path, file: str, real_dagster: None
) -> None:
    for each in (home / file).parent.glob(f"{Path(file).name}-*"):
        each.unlink()
    (home / file).write_bytes(b"no database" * 1000)
    opened = opening.open_instance()
    with pytest.raises(InstanceError, match="restore it from a backup") as raised, opened:
        pass
    assert str(home / file) in str(raised.value)
    with pytest.raises(CommandError, match="file is not a database"):
        call_command("proctree", "home")


def test_a_half_created_home_of_dagsters_own_storage_is_completed_by_django(
    dagster_home: Path,
) -> None:
    (dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    change(dagster_home / FILES[1], HALF_CREATED["two revisions"])
    with pytest.raises(Exception, match="more than one head"), _stock(dagster_home) as instance:
        use(instance)
    with opening.open_instance() as instance:
        use(instance)
    with _stock(dagster_home) as instance:
        use(instance)


def _stock(home: Path) -> DagsterInstance:
    return DagsterInstance.from_config(str(home))


@pytest.mark.parametrize(
    ("disturbed", "remedy", "revisions"),
    [
        ("two revisions", "dagster instance migrate", ("29b539ebc72a", "5771160a95ad")),
        ("no revision", "restore it from a backup", ()),
        ("no table of revisions", "restore it from a backup", ()),
    ],
)
def test_a_storage_that_older_tables_are_in_is_not_guessed_at(
    home: Path, disturbed: str, remedy: str, revisions: tuple[str, ...]
) -> None:
    change(
        home / FILES[0],
        "ALTER TABLE bulk_actions DROP COLUMN run_tags"
        if _has(home / FILES[0], "bulk_actions", "run_tags")
        else "ALTER TABLE snapshots DROP COLUMN snapshot_type",
        HALF_CREATED[disturbed],
    )
    with pytest.raises(InstanceError, match=rf"of an older Dagster.*{remedy}"):
        DagsterInstance.from_config(str(home))
    assert states(home)[0].revisions == revisions


def _has(file: Path, table: str, column: str) -> bool:
    connection = sqlite3.connect(file)
    names = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    connection.close()
    return column in names


def test_a_home_of_an_older_dagster_is_left_to_dagsters_own_migration(home: Path) -> None:
    change(home / FILES[0], "UPDATE alembic_version SET version_num = '5771160a95ad'")
    change(home / FILES[0], "DELETE FROM secondary_indexes")
    with DagsterInstance.from_config(str(home)) as instance:
        use(instance)
    assert states(home)[0].revisions == ("5771160a95ad",)


@pytest.mark.parametrize(
    "statements",
    [
        ["INSERT INTO alembic_version VALUES ('5771160a95ad')"],
        ["DELETE FROM alembic_version"],
        ["DELETE FROM secondary_indexes"],
        ["DROP TABLE job_ticks"],
        ["DROP TABLE daemon_heartbeats", "DROP TABLE alembic_version"],
    ],
)
def test_a_half_created_home_on_postgresql_is_completed_by_whoever_opens_it_next(
    tmp_path: Path, postgres: "Postgres", statements: list[str]
) -> None:
    folder = make_home(tmp_path / "home", yaml_of_postgres(postgres.new_database()))
    DagsterInstance.from_config(str(folder)).dispose()
    (database,) = homes.databases(InstanceRef.from_dir(str(folder)))
    with database.connected() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    assert states(folder)[0].is_half_created
    with DagsterInstance.from_config(str(folder)) as instance:
        use(instance)
        instance.get_daemon_heartbeats()
    assert states(folder)[0].is_complete


def test_a_lock_that_another_process_does_not_give_back_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "LOCK_SECONDS", 0.2)
    folder = make_home(tmp_path / "home", OURS)
    with (
        FileLock(folder / homes.LOCK_FILE),
        pytest.raises(InstanceError, match=r"holds the lock of '\.proctree\.lock'"),
    ):
        DagsterInstance.from_config(str(folder))


def test_a_lock_on_postgresql_that_is_not_given_back_is_an_error_that_names_it(
    tmp_path: Path, postgres: "Postgres", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "LOCK_SECONDS", 1)
    folder = make_home(tmp_path / "home", yaml_of_postgres(postgres.new_database()))
    (database,) = homes.databases(InstanceRef.from_dir(str(folder)))
    with (
        homes._advisory_lock(database),
        pytest.raises(InstanceError, match="advisory lock"),
    ):
        DagsterInstance.from_config(str(folder))


def test_the_limits_of_a_role_on_postgresql_end_no_lock(
    tmp_path: Path, postgres: "Postgres"
) -> None:
    folder = make_home(tmp_path / "home", yaml_of_postgres(postgres.new_database()))
    (database,) = homes.databases(InstanceRef.from_dir(str(folder)))
    with database.connected() as connection:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(sqlalchemy.text(f"ALTER ROLE CURRENT_USER SET {name} = '200ms'"))
        connection.commit()
    try:
        with homes._advisory_lock(database):
            waits = threading.Thread(target=_take, args=[database])
            waits.start()
            time.sleep(1)  # both do nothing for longer than the role may
        waits.join(30)
        assert not waits.is_alive()
        assert taken == [database]
    finally:
        with database.connected() as connection:
            connection.execute(sqlalchemy.text("ALTER ROLE CURRENT_USER RESET ALL"))
            connection.commit()


taken: list[Any] = []


def _take(database: Any) -> None:
    with homes._advisory_lock(database):
        taken.append(database)


def test_a_complete_home_is_opened_without_the_lock(home: Path) -> None:
    with FileLock(home / homes.LOCK_FILE), opening.open_instance() as instance:
        use(instance)


def test_a_storage_asks_no_more_for_a_column_that_it_has_found(home: Path) -> None:
    with opening.open_instance() as instance:
        ask = [getattr(instance.run_storage, name) for name in homes.COLUMNS]
        assert [each() for each in ask] == [True, True]
        (home / "history" / "runs.db").rename(home / "away.db")
        assert [each() for each in ask] == [True, True]
    answers = iter([False, False, True])
    until = homes._until_true(lambda: next(answers))
    assert [until() for _ in range(5)] == [False, False, True, True, True]


def test_a_home_without_dagster_yaml_is_created_and_opened(
    tmp_path: Path, settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    with opening.open_instance() as instance:
        use(instance)
    assert all(state.is_complete for state in states(tmp_path))
    assert [pragmas(tmp_path / file) for file in FILES] == [("wal", homes.INCREMENTAL)] * 3


def pragmas(file: Path) -> tuple[str, int]:
    """Return whether readers and writers disturb each other, and whether space is given back."""
    with closing(sqlite3.connect(file)) as connection:
        names = ("journal_mode", "auto_vacuum")
        mode, vacuum = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return mode, vacuum


def test_our_instance_class_names_our_storage_unless_another_is_named(tmp_path: Path) -> None:
    ours = make_home(tmp_path / "ours", OURS)
    with DagsterInstance.from_config(str(ours)) as instance:
        assert isinstance(instance, ProctreeInstance)
        assert isinstance(instance.get_ref().storage, SqliteStorage)
        with DagsterInstance.from_ref(instance.get_ref()) as again:  # as a worker does
            use(again)
    other = tmp_path / "elsewhere"
    stock = make_home(
        tmp_path / "stock", f"{OURS}storage:\n  sqlite:\n    base_dir: {str(other)!r}\n"
    )
    assert not homes.is_guarded(InstanceRef.from_dir(str(stock)))
    assert [each.folder for each in homes.databases(InstanceRef.from_dir(str(stock)))] == [
        other
    ] * 3


def test_a_storage_that_can_t_be_written_to_is_an_error_that_names_the_folder(
    tmp_path: Path,
) -> None:
    folder = make_home(tmp_path / "home", OURS)
    (folder / homes.LOCK_FILE).mkdir()  # nobody, not even root, can open it as a file
    with pytest.raises(InstanceError, match=f"can't be created in '{folder}'"):
        DagsterInstance.from_config(str(folder))


def test_psycopg_2_is_used_whatever_sqlalchemy_takes_by_default() -> None:
    for scheme in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        url = homes.with_working_driver(f"{scheme}://me:secret@db/dagster?sslmode=require")
        assert url.drivername == "postgresql+psycopg2" or url.get_driver_name() == "psycopg2"
        assert url.query["sslmode"] == "require"
        assert url.password == "secret"


@pytest.fixture
def webserver_storage(tmp_path: Path, postgres: "Postgres") -> Callable[[str], None]:
    """Prepare a storage as the webserver does, and ask it."""

    def ask(text: str) -> None:
        folder = make_home(tmp_path / "home", text)
        with DagsterInstance.from_config(str(folder)) as instance:
            instance.optimize_for_webserver(statement_timeout=5000, pool_recycle=60, max_overflow=1)
            use(instance)

    return ask


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_the_webservers_connections_to_postgresql_stay_open(
    webserver_storage: Callable[[str], None], postgres: "Postgres", scheme: str
) -> None:
    webserver_storage(yaml_of_postgres(postgres.new_database(), scheme=scheme))


def test_dagsters_own_storage_with_the_default_driver_fails_and_is_named_by_the_doctor(
    tmp_path: Path,
    postgres: "Postgres",
    settings: Settings,
    webserver_storage: Callable[[str], None],
) -> None:
    from proctree_dagster.orchestration.inspection import doctor

    url = address(postgres.new_database())
    if sqlalchemy.__version__ < "2.1":  # whose default is psycopg 2
        url = url.replace("postgresql://", "postgresql+psycopg://")
    with pytest.raises(Exception, match="connection is closed"):
        webserver_storage(f"storage:\n  postgres:\n    postgres_url: {url}\n")
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "home")}
    (found,) = [each for each in doctor.examine() if "psycopg 3" in each.what]
    assert found.level == "error"
    assert "PostgresStorage" in found.remedy


def test_the_packaged_dagster_yaml_for_postgresql_works_and_is_the_examples_but_for_its_storage(
    tmp_path: Path, postgres: "Postgres", monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = (
        TOP / "proctree_dagster" / "orchestration" / "dagster_home" / "postgresql" / "dagster.yaml"
    )
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", address(postgres.new_database()))
    with DagsterInstance.from_config(str(make_home(tmp_path / "home", packaged.read_text()))) as it:
        it.optimize_for_webserver(statement_timeout=5000, pool_recycle=60, max_overflow=1)
        use(it)
    ours = yaml.safe_load(packaged.read_text())
    examples = yaml.safe_load((TOP / "example" / "dagster_home" / "dagster.yaml").read_text())
    del ours["storage"], examples["instance_class"]
    assert ours == examples


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the files that were asked whether they are complete."""
    names: list[str] = []
    ask = homes.state_of

    def counted(database: homes.Database, *, to_read: bool = True) -> homes.State:
        names.append(database.name)
        return ask(database, to_read=to_read)

    monkeypatch.setattr(homes, "state_of", counted)
    monkeypatch.setattr(homes, "_complete", {})
    return names


def test_a_template_asks_a_file_once_whether_it_is_complete_and_its_forks_do_not(
    home: Path, asked: list[str]
) -> None:
    homes.remember(InstanceRef.from_dir(str(home)))
    assert len(asked) == 3
    with DagsterInstance.from_config(str(home)) as instance:
        use(instance)
    assert len(asked) == 3
    pid = os.fork()
    if pid == 0:
        with DagsterInstance.from_config(str(home)):
            os._exit(len(asked))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


@pytest.mark.parametrize("in_place", [False, True], ids=["another file", "in place"])
def test_a_file_that_was_replaced_is_asked_again_and_completed(
    home: Path, asked: list[str], in_place: bool
) -> None:
    homes.remember(InstanceRef.from_dir(str(home)))
    file = home / "history" / "runs.db"
    for each in file.parent.glob("runs.db*"):
        if not in_place:
            each.unlink()
        elif each == file:
            each.write_bytes(b"")
    with DagsterInstance.from_config(str(home)) as instance:
        use(instance)
    assert all(state.is_complete for state in states(home))
