"""What the template and code servers do once for all changes nothing for what a run does itself."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.sql import get_alembic_config

from proctree_dagster.orchestration import homes
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.orchestration.template import preload
from proctree_dagster.orchestration.template.preload import read_migrations_once


@pytest.fixture(autouse=True)
def warm() -> None:
    read_migrations_once()
    read_migrations_once()  # a second time changes nothing


@pytest.fixture
def own(tmp_path: Path) -> Config:
    """The alembic configuration of a user's project."""
    config = Config(tmp_path / "alembic.ini")
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{tmp_path / 'own.db'}")
    config.print_stdout = lambda *_: None  # type: ignore[method-assign]
    command.init(config, str(tmp_path / "migrations"))
    return config


def test_dagsters_own_migrations_are_read_once() -> None:
    config = get_alembic_config(sqlite_run_storage.__file__)
    assert ScriptDirectory.from_config(config) is ScriptDirectory.from_config(config)


def test_a_function_that_runs_alembic_sees_the_migrations_that_it_has_just_written(
    own: Config,
) -> None:
    assert ScriptDirectory.from_config(own).get_heads() == []
    first = command.revision(own, "first")
    assert ScriptDirectory.from_config(own).get_heads() == [first.revision]  # type: ignore[union-attr]
    command.revision(own, "second")
    assert len(list(ScriptDirectory.from_config(own).walk_revisions())) == 2


def test_two_projects_with_the_same_relative_folder_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = []
    for name in ("one", "two"):
        (tmp_path / name / "migrations" / "versions").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        config = Config()
        config.set_main_option("script_location", "migrations")
        directories.append(ScriptDirectory.from_config(config))
    assert directories[0] is not directories[1]


@pytest.mark.parametrize(("argv", "keeps"), [(["dagster", "api", "grpc"], 1), (["pytest"], 0)])
def test_a_code_server_keeps_the_migrations_that_a_tick_has_read(
    argv: list[str], keeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(preload, "keep_migrations", lambda: asked.append(None))
    build_repository()
    assert len(asked) == keeps


def test_where_they_are_kept_they_are_read_when_they_are_first_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[Config] = []

    def from_config(cls: type[ScriptDirectory], config: Config) -> ScriptDirectory:
        read.append(config)
        return ScriptDirectory(str(homes.scripts()))

    monkeypatch.setattr(ScriptDirectory, "from_config", classmethod(from_config))
    preload.keep_migrations.__wrapped__()
    assert read == []
    config = get_alembic_config(sqlite_run_storage.__file__)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: ScriptDirectory.from_config(config), range(4)))
    assert (len(found), len(read)) == (1, 1)
    assert found.pop().get_current_head() == homes.newest_revision()
