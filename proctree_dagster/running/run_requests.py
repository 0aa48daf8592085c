"""Runs requested by a process that must not wait for Dagster, such as one that serves pages.

A request is a row of the outbox, written at once; Dagster is imported and gets the run in a thread.
If that fails, or the process ends before it, Dagster's sensor delivers the row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from .. import context as contexts
from ..domain import run_tags as tags
from ..models import ProcessTree
from ..models.validation.tree_validation import validate_tree
from ..services import run_outbox
from ..support import isolation
from ..support.connections import after_commit, is_bound_to_thread, own_connections
from ..support.helper_threads import HelperThread
from . import tree_runs


def request_row(
    row: ProcessTree,
    context: Mapping[str, Any] | None = None,
    *,
    triggered_by: tags.Trigger = "admin",
    run_tags: Mapping[str, str] | None = None,
) -> str:
    """Request a run of a saved tree, and return at once.

    Inside a transaction the run is queued after the commit, and not at all after a rollback. In a
    test it is only recorded (see ``testing.submitted``).

    Parameters
    ----------
    row:
        The tree.
    context:
        Keyword arguments of the run; they update the schedule's default context.
    triggered_by:
        Who started it.
    run_tags:
        More tags of the run.

    Returns
    -------
    str
        The id that the run will have.

    Raises
    ------
    InvalidTree
        The tree is broken, or a worker can't find its functions.
    ContextError
        The context can't be stored.
    """
    validate_tree(row.to_dict())
    merged = {**row.default_context, **contexts.encode(context or {})}
    requested = run_outbox.add(row, merged, {**(run_tags or {}), tags.TRIGGERED_BY: triggered_by})
    run_id = str(requested.run_id)
    after_commit(lambda: deliver_soon([run_id]))
    return run_id


def deliver_soon(run_ids: Iterable[str]) -> threading.Thread | None:
    """Deliver runs of the outbox in a thread; return it. In a test there is nothing to deliver.

    Where a thread would not see the rows, such as in the transaction of a test that uses
    ``testing.real_dagster``, they are delivered at once.
    """
    if isolation.is_active():
        return None
    chosen = list(run_ids)
    if is_bound_to_thread():
        tree_runs.deliver(chosen)
        return None

    def deliver() -> None:
        with own_connections():
            tree_runs.deliver(chosen)

    thread = HelperThread(deliver, "proctree-dagster-delivery")
    thread.start()
    return thread
