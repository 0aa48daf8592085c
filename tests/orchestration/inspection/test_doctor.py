"""``manage.py proctree doctor`` names what is wrong and what to do, and changes nothing."""

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, ExecutorDefinition
from dagster._daemon.controller import create_daemon_of_type
from dagster._daemon.types import DaemonHeartbeat
from django.core.management import CommandError, call_command
from django.db.utils import ConnectionHandler
from pytest_django import Settings

from proctree_dagster.orchestration.coordinator import StraightRunCoordinator
from proctree_dagster.orchestration.inspection import doctor
from proctree_dagster.orchestration.inspection.findings import Finding, Subject
from proctree_dagster.orchestration.launching import daemons

pytestmark = pytest.mark.django_db


def found(level: str) -> list[str]:
    return [finding.what for finding in doctor.examine() if finding.level == level]


def beat(instance: DagsterInstance, daemon: str, *, kind: str, age: float = 0) -> None:
    heartbeat = DaemonHeartbeat(time.time() - age, kind, daemon, errors=[])
    instance.add_daemon_heartbeat(heartbeat)


@contextmanager
def webserver(answer: dict[str, Any]) -> Iterator[str]:
    """Answer every question with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def location(loaded: dict[str, Any], name: str = "proctree") -> dict[str, Any]:
    entry = {"name": name, "loadStatus": "LOADED", "locationOrLoadError": loaded}
    return {"data": {"workspaceOrError": {"__typename": "Workspace", "locationEntries": [entry]}}}


def test_an_instance_that_can_not_be_opened_hides_nothing_of_what_else_is_found(
    instance: DagsterInstance, dagster_home: Path
) -> None:
    with (dagster_home / "dagster.yaml").open("a") as file:
        file.write("scheduler:\n  module: gone\n  class: Scheduler\n")
    [problem, *_] = found("error")
    assert "can't be opened: " in problem
    assert "gone" in problem
    assert f"Dagster's home is {str(dagster_home)!r}." in found("ok")


def test_where_nothing_is_wrong_every_part_is_named_as_in_order(
    instance: DagsterInstance, settings: Settings
) -> None:
    beat(instance, "one", kind="SCHEDULER")
    with webserver(location({"__typename": "RepositoryLocation"})) as url:
        settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": url}
        findings = doctor.examine()
    assert {finding.level for finding in findings} == {"ok"}
    said = " ".join(finding.what for finding in findings)
    for part in ("home", "runs.db", "index.db", "schedules.db", "daemon", "webserver", "code"):
        assert part in said


celery = ExecutorDefinition.hardcoded_executor(None)  # type: ignore[arg-type]
celery.executor_creation_fn.__module__ = "dagster_celery.executor"
configured_celery = celery.configured({}, name="on_redis")


@pytest.mark.parametrize("name", ["celery", "configured_celery"])
def test_an_executor_for_several_machines_is_warned_of_where_a_database_is_a_file(
    instance: DagsterInstance, settings: Settings, name: str
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": f"{__name__}.{name}"}
    [warning] = [what for what in found("warning") if "several machines" in what]
    assert "Django's database 'default'" in warning
    assert "Dagster's storage" in warning


@pytest.mark.parametrize("name", ["ecs", "nowhere.executor"])
def test_an_executor_that_is_not_there_is_named(
    instance: DagsterInstance, settings: Settings, name: str
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": name}
    assert any(repr(name) in what for what in found("error"))


class TestDjangosDatabase:
    @pytest.fixture
    def file(self, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A database of its own, where the trees are kept."""
        file = tmp_path / "books.sqlite3"
        alias = {"ENGINE": "django.db.backends.sqlite3", "NAME": file}
        handler = ConnectionHandler({"default": alias})
        monkeypatch.setattr(doctor, "connections", handler)
        monkeypatch.setitem(settings.DATABASES, "default", alias)
        return file

    def check(self) -> Finding:
        (finding,) = doctor.check_database(Subject(None, None))
        return finding

    def test_one_that_is_not_there_is_an_error_and_is_not_created(self, file: Path) -> None:
        finding = self.check()
        assert finding.level == "error"
        assert str(file) in finding.what
        assert "migrate" in finding.remedy
        assert not file.exists()

    def test_one_that_is_not_migrated_is_an_error_that_names_what_it_lacks(
        self, file: Path
    ) -> None:
        file.touch()
        finding = self.check()
        assert finding.level == "error"
        assert "proctree_dagster.0001_initial" in finding.what
        assert file.stat().st_size == 0

    def test_one_that_can_not_be_read_is_an_error(self, file: Path) -> None:
        file.write_bytes(b"no database" * 1000)
        finding = self.check()
        assert finding.level == "error"
        assert "can't be read" in finding.what

    def test_one_that_is_migrated_is_in_order(self) -> None:
        assert self.check().level == "ok"

    @pytest.mark.parametrize("mode", ["", "IMMEDIATE"])
    def test_sqlite_options_that_fit_are_said_to_be_in_order(
        self, file: Path, settings: Settings, mode: str
    ) -> None:
        settings.DATABASES["default"]["OPTIONS"] = {
            "timeout": 20,
            "transaction_mode": mode,
            "init_command": "PRAGMA journal_mode=WAL;",
        }
        found = list(doctor.check_sqlite_options(Subject(None, None)))
        assert [each.level for each in found] == (["ok"] if mode else [])


def test_a_home_and_databases_of_another_user_are_errors_that_name_the_user(
    dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Path] = []  # root may write everywhere, and tests may be run by root
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path not in refused and access(path, mode))
    owner = dagster_home.owner()
    for path in (dagster_home, dagster_home / "history" / "runs.db"):
        refused[:] = [path]
        (problem,) = found("error")
        assert str(path) in problem
        assert f"belongs to {owner}" in problem


def test_the_doctor_creates_nothing_and_writes_nothing(dagster_home: Path, tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix not in (".db-shm", ".db-wal")  # SQLite's readers'
        }

    before = files(dagster_home)
    doctor.examine()
    assert files(dagster_home) == before


@pytest.mark.usefixtures("real_dagster")
def test_a_fresh_home_is_not_created_by_being_examined(tmp_path: Path, settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    (tmp_path / "dagster.yaml").write_text(
        "instance_class:\n"
        "  module: proctree_dagster.orchestration.storage\n"
        "  class: ProctreeInstance\n"
    )
    assert any("is created when Dagster first opens it" in what for what in found("ok"))
    assert not found("error")
    assert [path.name for path in tmp_path.iterdir()] == ["dagster.yaml"]


@pytest.mark.usefixtures("real_dagster")
def test_a_fresh_home_that_several_processes_may_break_is_a_warning(
    tmp_path: Path, settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    warnings = [each for each in doctor.examine() if "is not there yet" in each.what]
    assert warnings
    assert all("proctree home" in each.remedy for each in warnings)
    call_command("proctree", "home", stdout=StringIO())
    assert not any("is not there yet" in each.what for each in doctor.examine())


@pytest.mark.usefixtures("real_dagster")
def test_a_home_that_is_no_folder_and_one_without_dagster_yaml_are_named(
    tmp_path: Path, settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "none")}
    assert any("is not a folder" in what for what in found("error"))
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    assert any("has no dagster.yaml" in what for what in found("warning"))
    settings.BASE_DIR = tmp_path
    settings.PROCTREE = {
        key: value for key, value in settings.PROCTREE.items() if key != "DAGSTER_HOME"
    }
    assert any("is not there yet" in what for what in found("warning"))
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": None}
    assert any("has no home" in what for what in found("warning"))


def test_a_dagster_yaml_that_dagster_does_not_take_is_named(dagster_home: Path) -> None:
    (dagster_home / "dagster.yaml").write_text("storage:\n  sqlite:\n    folder: /nowhere\n")
    assert any("dagster.yaml" in what and "can't be used" in what for what in found("error"))


@pytest.mark.parametrize("file", ["history/runs.db", "history/runs/index.db"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("INSERT INTO alembic_version VALUES ('5771160a95ad')", "2 revisions"),
        ("DELETE FROM alembic_version", "0 revisions"),
        ("DROP TABLE kvs", "lacks 1 tables"),
    ],
)
def test_a_storage_that_is_half_created_is_an_error(
    dagster_home: Path, file: str, change: str, said: str
) -> None:
    if "kvs" in change and file.endswith("index.db"):
        change = "DROP TABLE asset_keys"
    connection = sqlite3.connect(dagster_home / file)
    with connection:
        connection.execute(change)
    connection.close()
    (error,) = found("error")
    assert file in error
    assert said in error


def test_a_storage_of_an_older_dagster_is_a_warning_with_its_remedy(dagster_home: Path) -> None:
    connection = sqlite3.connect(dagster_home / "schedules" / "schedules.db")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '5771160a95ad'")
    connection.close()
    (finding,) = [each for each in doctor.examine() if "5771160a95ad" in each.what]
    assert finding.level == "warning"
    assert "dagster instance migrate" in finding.remedy


def test_a_file_that_is_no_database_is_an_error(dagster_home: Path) -> None:
    (dagster_home / "history" / "runs.db").write_bytes(b"no database" * 1000)
    assert any("can't be read" in what for what in found("error"))


def test_no_daemon_a_silent_one_and_two_at_once_are_told_apart(instance: DagsterInstance) -> None:
    assert any("has never run" in what for what in found("warning"))
    beat(instance, "one", kind="SCHEDULER", age=1000)
    assert any("has been silent" in what for what in found("error"))
    beat(instance, "one", kind="SCHEDULER")
    assert any("is alive" in what for what in found("ok"))
    beat(instance, "two", kind="SENSOR")
    assert any("More than one daemon" in what for what in found("error"))
    beat(instance, "two", kind="SCHEDULER")  # the first was ended, the second took its place
    assert any("is alive" in what for what in found("ok"))


def test_two_daemons_that_poll_the_queue_are_named_whoever_wrote_the_last_heartbeat(
    instance: DagsterInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(instance, "one", kind="SCHEDULER")
    first, second = StraightRunCoordinator(), StraightRunCoordinator()
    for coordinator in (first, second):
        coordinator.register_instance(instance)
        coordinator.get_run_queue_config()  # a webserver asks for this, too
    assert daemons.alive(instance) == {}
    for coordinator in (first, second):
        create_daemon_of_type("QUEUED_RUN_COORDINATOR", with_coordinator(instance, coordinator))
        coordinator.get_run_queue_config()  # as the daemon does at each poll
    assert len(daemons.alive(instance)) == 2
    assert "Another daemon works for this home" in caplog.text
    assert any("More than one daemon" in what for what in found("error"))
    monkeypatch.setattr(daemons, "GONE_AFTER", -1)
    assert daemons.alive(instance) == {}
    assert any("is alive" in what for what in found("ok"))


def with_coordinator(instance: DagsterInstance, coordinator: Any) -> Any:
    return SimpleNamespace(run_coordinator=coordinator, get_ref=instance.get_ref)


def test_a_webserver_that_does_not_answer_and_a_code_server_that_does_not_load_are_errors(
    instance: DagsterInstance, settings: Settings
) -> None:
    assert any("DAGSTER_URL" in what for what in found("warning"))
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": "http://127.0.0.1:9"}
    assert any("does not answer" in what for what in found("error"))
    with webserver(location({"__typename": "PythonError", "message": "no such module"})) as url:
        settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": url}
        assert any("no such module" in what for what in found("error"))
    with webserver(location({"__typename": "RepositoryLocation"}, name="another")) as url:
        settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": url}
        assert any("'another'" in what for what in found("error"))


def test_a_check_that_fails_hides_no_other(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_nothing(_: Subject) -> Iterator[Finding]:
        raise RuntimeError("out of order")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (check_nothing, *doctor.CHECKS))
    findings = doctor.examine()
    assert "check_nothing" in findings[0].what
    assert "out of order" in findings[0].what
    assert any("home" in finding.what for finding in findings[1:])


@pytest.mark.parametrize("level", ["ok", "warning", "error"])
def test_the_command_prints_every_finding_and_fails_for_errors_only(
    level: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "CHECKS", (lambda _: [Finding(level, "Something is so.", "Do this.")],)
    )
    out = StringIO()
    if level == "error":
        with pytest.raises(CommandError, match="1 thing is wrong"):
            call_command("proctree", "doctor", stdout=out, no_color=True)
    else:
        call_command("proctree", "doctor", stdout=out, no_color=True)
    assert out.getvalue() == f"{level.upper()}  Something is so.\n  Do this.\n"
