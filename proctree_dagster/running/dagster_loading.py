"""Dagster, imported by a thread of a process that serves pages: its import takes seconds.

A page that needs Dagster begins the import, waits for it no longer than a reader does, and says so
if it has not ended. No page imports it in a request. With ``PROCTREE["PRELOAD"]`` it is imported
before there is a request.
"""

import importlib
import logging
import os
import sys
import threading

from ..domain.texts import explain
from ..support import garbage
from ..support.helper_threads import HelperThread

logger = logging.getLogger(__name__)

NEEDED = (
    "proctree_dagster.orchestration.configured",
    "proctree_dagster.orchestration.launching.daemons",
    "proctree_dagster.orchestration.runs.attempts",
    "proctree_dagster.orchestration.runs.details",
    "proctree_dagster.orchestration.runs.history",
    "proctree_dagster.orchestration.runs.opening",
    "proctree_dagster.orchestration.runs.outbox_delivery",
    "proctree_dagster.orchestration.runs.repeating",
    "proctree_dagster.orchestration.runs.stored_outcomes",
    "proctree_dagster.orchestration.serving.schedule_status",
)
"""The modules that read and create runs."""

TO_EXECUTE = (
    "proctree_dagster.orchestration.coordinator",
    "proctree_dagster.orchestration.launcher",
    "proctree_dagster.orchestration.kept_jobs",
    "proctree_dagster.orchestration.runs.local_runs",
    "proctree_dagster.orchestration.storage",
    "proctree_dagster.orchestration.translator",
)
"""Those that a run in the calling process needs besides, and those that ``dagster.yaml`` names."""

_lock = threading.Lock()
_loaded = threading.Event()
_thread: threading.Thread | None = None
_problem = ""


def begin() -> None:
    """Import Dagster in a thread, unless that was begun or done."""
    global _thread
    with _lock:
        if not _loaded.is_set() and _thread is None:
            thread = HelperThread(_load, "proctree-dagster-import")
            thread.start()  # may fail: then the next caller tries again
            _thread = thread


def preload() -> None:
    """Import now what pages and runs in the calling process need; raises nothing.

    In the calling thread, as a server may fork its workers when it has started: they share it then.
    """
    try:
        _import(*NEEDED, *TO_EXECUTE)
        _loaded.set()
    except Exception:  # the site starts without it; whoever needs Dagster tries again
        logger.exception('PROCTREE["PRELOAD"]: Dagster can\'t be imported.')


def load() -> None:
    """Import Dagster now, in a process that is to execute or submit a run.

    Raises
    ------
    ImportError
        It is not installed.
    """
    if "dagster" not in sys.modules:
        _import("proctree_dagster.orchestration.runs.opening")


def wait(seconds: float) -> bool:
    """Begin the import if need be, and return whether it is done within ``seconds``."""
    begin()
    return _loaded.wait(seconds)


def problem() -> str:
    """Return why the last import has failed; blank if none has, or a later one succeeded."""
    return _problem


def _import(*names: str) -> None:
    with garbage.not_collected():
        for name in names:
            importlib.import_module(name)


def _load() -> None:
    global _thread, _problem
    try:
        _import(*NEEDED)
        _problem = ""
        _loaded.set()
    except Exception as error:  # the next page tries again; until then they show what Django knows
        logger.exception("Dagster can't be imported.")
        _problem = explain(error)
    finally:
        with _lock:
            _thread = None


def _begin_anew() -> None:
    """Forget the thread in a forked child, which has none."""
    global _lock, _loaded, _thread
    is_loaded = _loaded.is_set()
    _lock, _loaded, _thread = threading.Lock(), threading.Event(), None
    if is_loaded:
        _loaded.set()


os.register_at_fork(after_in_child=_begin_anew)
