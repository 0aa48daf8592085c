"""Runs requested by a process that must not wait for Dagster, such as one that serves pages.

A request is a row of the outbox, written at once; Dagster is imported and gets the run in a thread.
If that fails, or the process ends before it, Dagster's sensor delivers the row.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from .. import context as contexts
from ..domain import run_tags as tags
from ..models import ProcessTree
from ..models.validation.tree_validation import validate_tree
from ..support import isolation
from ..support.connections import after_commit, is_bound_to_thread, own_connections
from ..support.helper_threads import HelperThread
from . import submissions, tree_runs


def request_row(
    row: ProcessTree,
    context: Mapping[str, Any] | None = None,
    *,
    triggered_by: tags.Trigger = "admin",
    run_tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
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
    run_id:
        A UUID for the run; left out, a new one is made. If it was requested already, nothing is.

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
    all_tags = {**(run_tags or {}), tags.TRIGGERED_BY: triggered_by}
    merged = {**row.base_context(all_tags), **contexts.encode(context or {})}
    requested = submissions.write_down(row, merged, all_tags, run_id).run_id
    after_commit(lambda: deliver_soon([requested]))
    return requested


_lock = threading.Lock()
_undelivered: list[str] = []
_thread: threading.Thread | None = None


def deliver_soon(run_ids: Iterable[str]) -> threading.Thread | None:
    """Deliver runs of the outbox in a thread; return it. In a test there is nothing to deliver.

    While it works it takes what other requests add. Where a thread would not see the rows, such as
    in the transaction of a test that uses ``testing.real_dagster``, they are delivered at once.
    """
    global _thread
    if isolation.is_active():
        return None
    if is_bound_to_thread():
        tree_runs.deliver(list(run_ids))
        return None
    with _lock:
        _undelivered.extend(run_ids)
        if _thread is None:
            thread = HelperThread(_deliver, "proctree-dagster-delivery")
            thread.start()
            _thread = thread
        return _thread


def _deliver() -> None:
    """Deliver runs until there are none left."""
    with own_connections():
        while chosen := _taken():
            tree_runs.deliver(chosen)  # it raises nothing


def _taken() -> list[str]:
    """Return the runs to deliver, now this thread's; if there are none, the thread ends."""
    global _thread
    with _lock:
        chosen = list(_undelivered)
        _undelivered.clear()
        if not chosen:
            _thread = None
        return chosen


def _begin_again() -> None:
    """Forget the thread in a forked child, which has none; the parent delivers its runs."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    _undelivered.clear()


os.register_at_fork(after_in_child=_begin_again)
