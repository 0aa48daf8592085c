"""Options of a run: which processes it executes, and what a failure stops."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import functions
from ..domain.texts import shown
from ..domain.tree_spec import with_dependents
from ..exceptions import SyncCheckError
from ..process.run import truth
from ..support.call_context import isolated

if TYPE_CHECKING:
    from ..orchestration.tree_records import TreeRecord


SyncCheck = Callable[[str], bool]
"""Takes a process's name and returns whether its output is in sync."""


@dataclass(frozen=True)
class RunOptions:
    """Which processes a run from Python executes, and what a failure stops."""

    sync_check_func: SyncCheck | None = None
    """Returns whether a process is in sync; if given, only processes out of sync run, and those
    downstream of them."""

    stop_on_error: bool = True
    """Whether processes downstream of a failed one are skipped; otherwise they run without its
    result."""

    use_cache: bool = True
    """Whether to use cached results; otherwise every process runs, and its result is cached."""

    ephemeral: bool = False
    """Whether the run leaves no history, whatever ``DAGSTER_HOME`` is, and uses one thread."""


def processes_in_sync(record: TreeRecord, options: RunOptions) -> frozenset[str]:
    """Return the processes that need not run.

    Raises
    ------
    SyncCheckError
        ``sync_check_func`` can't be called with a name, or returns no bool.
    """
    check = options.sync_check_func
    if check is None or record.spec is None:
        return frozenset()
    _check_signature(check)
    names = [process.name for process in record.spec.processes]
    stale = with_dependents(record.spec, [name for name in names if not _is_in_sync(check, name)])
    return frozenset(names) - stale


_SYNC_CHECK = "sync_check_func must be a function that takes a process's name and returns a bool"


def _check_signature(check: SyncCheck) -> None:
    if not callable(check):
        raise SyncCheckError(f"{_SYNC_CHECK}, not {shown(check, 100)}.")
    try:
        # The outermost callable's: a decorator may supply what its function takes besides.
        inspect.signature(check, follow_wrapped=False).bind("a name")
    except TypeError as error:
        raise SyncCheckError(
            f"{_SYNC_CHECK}; {functions.describe(check)} can't be called with one name: {error}."
        ) from error
    except ValueError:  # some builtins have no signature
        pass


def _is_in_sync(check: SyncCheck, name: str) -> bool:
    answer: Any = isolated(check, name)
    if inspect.iscoroutine(answer):
        answer.close()
        raise SyncCheckError(f"{_SYNC_CHECK}; {functions.describe(check)} is async.")
    in_sync = truth(answer)
    if in_sync is None:
        raise SyncCheckError(
            f"{_SYNC_CHECK}; for {name!r} {functions.describe(check)} returned "
            f"{shown(answer, 100)}."
        )
    return in_sync
