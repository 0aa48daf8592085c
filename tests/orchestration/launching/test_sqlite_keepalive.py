"""Dagster's SQLite files: one engine for each, not one for each query."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from sqlalchemy.pool import NullPool, StaticPool

from proctree_dagster.orchestration import sqlite_engines
from proctree_dagster.orchestration.launching import sqlite_keepalive


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the files for which engines are made."""
    files: list[str] = []
    make = sqlite_engines.engine_of

    def counted(url: str, timeout: float | None) -> sqlalchemy.engine.Engine:
        files.append(Path(url).name)
        return make(url, timeout)

    sqlite_keepalive.keep_engines()
    sqlite_keepalive._engine.cache_clear()
    monkeypatch.setattr(sqlite_keepalive, "engine_of", counted)
    yield files
    sqlite_keepalive._engine.cache_clear()


def test_a_look_at_the_queue_makes_no_engine_but_the_first(
    instance: DagsterInstance, made: list[str]
) -> None:
    queued = RunsFilter(statuses=[DagsterRunStatus.QUEUED])
    for _ in range(5):
        assert instance.get_runs(queued) == []
        assert instance.get_run_records(queued) == []
        assert list(instance.all_instigator_state()) == []
    assert sorted(made) == ["runs.db", "schedules.db"]


def test_every_run_has_an_engine_of_its_own(instance: DagsterInstance, made: list[str]) -> None:
    for run in ("one", "two"):
        for _ in range(3):
            assert instance.event_log_storage.get_logs_for_run(run) == []
    assert {"one.db", "two.db"} <= set(made)
    assert len(made) == len(set(made))


def test_an_engine_that_holds_a_connection_open_is_not_kept(made: list[str]) -> None:
    one, two = (sqlite_keepalive._kept_or_new("sqlite://", poolclass=StaticPool) for _ in "12")
    assert one is not two
    kept, same = (sqlite_keepalive._kept_or_new("sqlite://", poolclass=NullPool) for _ in "12")
    assert kept is same
    assert isinstance(kept.pool, NullPool)
    patient = sqlite_keepalive._kept_or_new(
        "sqlite://", poolclass=NullPool, connect_args={"timeout": 90}
    )
    assert patient is not kept


def test_storages_that_make_their_engines_in_another_way_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(url: str) -> None: ...

    module = sqlite_keepalive._storages()[0]
    monkeypatch.setattr(module, "create_engine", other)
    sqlite_keepalive.keep_engines()
    assert module.create_engine is other
