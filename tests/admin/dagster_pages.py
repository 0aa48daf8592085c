"""What tests of pages that show runs share: real runs, and what Dagster's storage is asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy

from proctree_dagster.models import ProcessTree
from proctree_dagster.running import tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

RUNS = "/admin/proctree_dagster/run/"
TREES = "/admin/proctree_dagster/processtree/"


def save(name: str = "t", func: Callable[..., Any] = processes.one, **options: Any) -> ProcessTree:
    """Save a tree of one process."""
    tree = ProcessTreeInstance(name, overwrite=True)
    return tree.add_process("only", func=func, **options).save()


def execute(row: ProcessTree, context: dict[str, Any] | None = None, **options: Any) -> str:
    """Run a tree here, and return the run's id."""
    return tree_runs.execute_row(row, context, **options)["run_id"]


@contextmanager
def dagster_statements() -> Iterator[list[str]]:
    """Collect the statements that Dagster's storage executes."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.startswith("PRAGMA"):
            found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def address(answer: Any) -> str:
    """Return where an answer leads to."""
    assert answer.status_code == 302
    return str(answer.url)


def text(answer: Any) -> str:
    """Return a page's HTML."""
    return str(answer.content.decode())
