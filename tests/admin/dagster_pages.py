"""What tests of pages that show runs share: real runs, and what Dagster's storage is asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from dagster import DagsterEvent, DagsterEventType

from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create, opening
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


def record(
    row: ProcessTree,
    context: dict[str, Any] | None = None,
    *,
    failed: bool = False,
    tags: dict[str, str] | None = None,
) -> str:
    """Record a run that has ended, without executing anything, and return its id."""
    with opening.open_instance(persistent=True) as instance:
        job = translator().job(tree_records.from_row(row))
        run = create.create_run(instance, job, context or {}, tags or {})
        if failed:
            instance.report_run_failed(run, "It failed on purpose.")
        else:
            event = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name)
            instance.report_dagster_event(event, run_id=run.run_id)
    return run.run_id


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
