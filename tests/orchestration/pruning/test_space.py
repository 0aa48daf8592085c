"""SQLite's files give the space of removed rows back, without holding their lock for long."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proctree_dagster.domain.pace import Pace
from proctree_dagster.orchestration.pruning import space


def filled(file: Path, megabytes: int, *, shrinks: bool) -> Path:
    """Make a file of which nearly all was deleted again."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA auto_vacuum = {2 if shrinks else 0}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
        rows = ((b"x" * 100_000,) for _ in range(10 * megabytes))
        connection.executemany("INSERT INTO t (x) VALUES (?)", rows)
        connection.execute("DELETE FROM t WHERE n > 5")
        connection.commit()
    return file


@pytest.mark.parametrize("shrinks", [True, False])
def test_a_file_shrinks_to_what_is_in_it(tmp_path: Path, shrinks: bool) -> None:
    file = filled(tmp_path / "a.db", 5, shrinks=shrinks)
    before = file.stat().st_size
    assert space.give_back([file, tmp_path / "none.db"], Pace()) == []
    assert file.stat().st_size < before / 5
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (5,)


def test_a_large_file_that_gives_nothing_back_is_rewritten_only_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "REWRITTEN_AT_ONCE", 100_000)
    file = filled(tmp_path / "a.db", 5, shrinks=False)
    before = file.stat().st_size
    [problem] = space.give_back([file], Pace())
    assert "has 5 MB to give back" in problem
    assert "proctree prune --rewrite" in problem
    assert file.stat().st_size == before
    assert space.give_back([file], Pace(), rewrite=True) == []
    assert file.stat().st_size < before / 5


def test_a_little_is_not_worth_it(tmp_path: Path) -> None:
    file = filled(tmp_path / "a.db", 1, shrinks=False)
    assert space.give_back([file], Pace()) == []
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
