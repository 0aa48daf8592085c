"""What a template imports once, and why it may not be forked."""

import logging
import os
import threading
from pathlib import Path

import psutil
from dagster import RepositoryDefinition

from ..dagster_internals import RepositoryPythonOrigin
from ..launching import imports

logger = logging.getLogger("proctree_dagster.orchestration.template")


def connections_left(before: set[int]) -> str | None:
    """Return why a process with new connections must not be forked, or ``None``.

    Parameters
    ----------
    before:
        The sockets that were open before the imports (see ``sockets``).
    """
    left = len(sockets() - before)
    return f"importing the code location has left {left} connections open" if left else None


def sockets() -> set[int]:
    """Return the file descriptors of this process's sockets."""
    return {each.fd for each in psutil.Process().net_connections("all")}


_FORK_AWARE = "OtelBatch"
"""How the threads' names begin that OpenTelemetry's SDK starts again in a child, with new locks."""


def fork_problem() -> str | None:
    """Return why this process must not be forked, or ``None``."""
    left = threads_left()
    return f"importing the code location has left {left}" if left else None


def threads_left() -> str | None:
    """Return which threads this process has besides this one, or ``None``."""
    others = [each for each in threading.enumerate() if each is not threading.main_thread()]
    named = [each.name for each in others if not each.name.startswith(_FORK_AWARE)]
    count = threading.active_count()
    tasks = Path("/proc/self/task")
    if tasks.is_dir():  # threads that Python does not know of count as well
        count = max(count, len(list(tasks.iterdir())))
    count -= len(others) - len(named)
    if count <= 1:
        return None
    names = ", ".join(named) or f"of a library; {_thread_variables()}"
    return f"{count - 1} threads running ({names})"


def _thread_variables() -> str:
    """Return the environment's limits of libraries' threads."""
    found = {name: os.environ.get(name, "") for name in imports.THREAD_VARIABLES}
    more = [f"{name}={value}" for name, value in found.items() if value != "1"]
    return f"the environment says {', '.join(more)}" if more else "it does not heed the environment"


def be_heard() -> None:
    """Make warnings of this package visible, whatever the project's ``LOGGING`` does.

    Loggers that exist before Django is set up are disabled by ``disable_existing_loggers``, and
    here that is all of them. If no handler takes the template's own warnings, they go to stderr.
    """
    for name, each in logging.root.manager.loggerDict.items():
        if isinstance(each, logging.Logger) and name.startswith("proctree_dagster"):
            each.disabled = False
    if not _is_heard(logger):
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))


def _is_heard(which: logging.Logger) -> bool:
    """Return whether some handler takes a logger's warnings."""
    if not which.isEnabledFor(logging.WARNING):
        return False
    each: logging.Logger | None = which
    while each is not None:
        for handler in each.handlers:
            if handler.level <= logging.WARNING and not isinstance(handler, logging.NullHandler):
                return True
        each = each.parent if each.propagate else None
    return not which.hasHandlers()  # then Python prints them


def load(origin: RepositoryPythonOrigin) -> bool:
    """Import the code location, and what its trees need, and leave no connection open.

    Returns
    -------
    bool
        Whether it is one of trees, whose workers record themselves when they take a run.
    """
    from ...support.connections import close_all  # Django may not be set up before

    repository = origin.code_pointer.load_target()
    is_ours = hasattr(repository, "warm_up")
    try:
        if isinstance(repository, RepositoryDefinition):
            # Ours can do with less than every job (``LiveRepository``).
            getattr(repository, "warm_up", repository.get_all_jobs)()
    except Exception:  # any error of a tree or the database: its runs report it
        logger.exception("The process trees can't be read now; the first runs will start slower.")
    finally:
        close_all()
    return is_ours


def examine(origin: RepositoryPythonOrigin) -> str | None:
    """Import a code location as a template does; return why it can't be forked, or ``None``."""
    before = sockets()
    imports.keep_libraries_from_threads()
    load(origin)
    return fork_problem() or connections_left(before)
