"""A process that executes many runs keeps nothing of them."""

import gc
import weakref
from collections import Counter
from functools import lru_cache
from pathlib import Path
from types import BuiltinMethodType

import pytest
import sqlalchemy
from sqlalchemy.util import LRUCache

from proctree_dagster.orchestration import homes, sqlite_engines
from proctree_dagster.orchestration.launching import sqlite_keepalive
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

RUNS = 12

ROUNDS = 3
"""What is kept of runs is more after each round; what grows now and then, such as a list's spare
room, is not."""


def objects() -> Counter[str]:
    """Return how many objects there are of each type.

    Not of weak references and their callbacks: a connection of SQLite's lets go of 200 dead ones
    at a time.
    """
    gc.collect()
    return Counter(f"{type(each)}" for each in gc.get_objects() if not _is_weak(each))


def _is_weak(each: object) -> bool:
    owner = each.__self__ if isinstance(each, BuiltinMethodType) else each
    return type(owner) is weakref.ReferenceType


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("dagster_home")
def test_runs_in_one_process_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept up to a limit (engines, compiled statements) is limited to very few here."""
    dialect, _ = sqlite_engines._shared()
    monkeypatch.setattr(sqlite_engines, "_shared", lambda: (dialect, LRUCache(2)))
    few = lru_cache(maxsize=4)(sqlite_keepalive._engine.__wrapped__)
    monkeypatch.setattr(sqlite_keepalive, "_engine", few)
    sqlite_keepalive.keep_engines()
    tree = ProcessTreeInstance("memory").add_process("one", func=processes.one)
    tree.add_process("two", func=processes.one, dependencies=["one"]).save()

    def execute() -> None:
        for _ in range(RUNS):
            assert ProcessTreeManager.execute_tree("memory")["success"]

    execute()
    for _ in range(ROUNDS):
        before = objects()
        execute()
        more = {kind: count for kind, count in (objects() - before).items() if count >= RUNS}
        if not more:
            break
    assert more == {}, "in each round"


def test_engines_of_many_files_keep_few_compiled_statements_together(tmp_path: Path) -> None:
    _, statements = sqlite_engines._shared()
    for number in range(2 * sqlite_engines._STATEMENTS):
        with sqlite_engines.engine_of(f"sqlite:///{tmp_path}/{number}").connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT {number}"))
            connection.execute(sqlalchemy.select(sqlalchemy.column(f"'{number}'")))
    assert 0 < len(statements) < 2 * sqlite_engines._STATEMENTS
    assert homes.scripts().is_dir()
