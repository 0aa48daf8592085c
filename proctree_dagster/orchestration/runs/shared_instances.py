"""Shared Dagster instances: one of a home, for all of its users in this process at a time.

Opening an instance costs more than most queries: it reads files, the storage's state, and alembic's
migrations. So a caller that opens one while another part of this process has it open gets the same
one. It is closed by its last user. Two runs never share one, as a run changes its instance
(``execution.event_batching``).
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dagster import DagsterInstance

from .. import homes
from .in_process import in_main_thread

_Key = tuple[object, ...]


@dataclass
class _Shared:
    instance: DagsterInstance
    executes: bool
    """Whether a run is executed with it."""

    users: int = 1


_open: dict[_Key, _Shared] = {}
_lock = threading.Lock()

_kept: dict[_Key, _Shared] = {}
"""What ``keep`` has opened: at most one of the main thread, and one of all others."""

_keeping = threading.Lock()


@contextmanager
def shared(home: str, *, to_execute: bool = False) -> Iterator[DagsterInstance]:
    """Open a home's instance, or use the one that is open.

    Parameters
    ----------
    home:
        The folder.
    to_execute:
        Whether a run will be executed with it, which then has it alone.

    Raises
    ------
    InstanceError
        See ``homes.open_home``.
    """
    key = _key(home)
    found = _acquire(key, home, to_execute=to_execute)
    try:
        yield found.instance
    finally:
        _release(key, found, to_execute=to_execute)


def _acquire(key: _Key, home: str, *, to_execute: bool) -> _Shared:
    with _lock:
        found = _open.get(key)
        if found is not None and not (to_execute and found.executes):
            found.users += 1
            found.executes = found.executes or to_execute
            return found
    found = _Shared(homes.open_home(home), to_execute)
    with _lock:
        _open.setdefault(key, found)  # another thread may have opened one: then both are used
    return found


def _release(key: _Key, found: _Shared, *, to_execute: bool) -> None:
    with _lock:
        found.users -= 1
        found.executes = found.executes and not to_execute
        is_unused = found.users == 0
        if is_unused and _open.get(key) is found:
            del _open[key]
    if is_unused:
        found.instance.dispose()


def keep(home: str) -> None:
    """Keep a home's instance open until this is called for another one, or the process ends.

    For a process that reads a little, again and again. Dagster's storages hold no connection
    between two queries, so what is kept costs nothing but memory.

    Raises
    ------
    InstanceError
        See ``homes.open_home``.
    """
    key = _key(home)
    with _keeping:
        if key in _kept:
            return
        for other in [each for each in _kept if each[1] == key[1]]:
            _release(other, _kept.pop(other), to_execute=False)
        _kept[key] = _acquire(key, home, to_execute=False)


def _key(home: str) -> _Key:
    """Return the key of an instance: the folder, and the content of its ``dagster.yaml``.

    A replaced folder, or a changed file, is another instance. So is that of another thread: runs
    there capture no output (``in_process.leave_output_alone``), those of the main thread do.
    """
    folder = Path(home).stat()
    marks: _Key = (folder.st_dev, folder.st_ino)
    with suppress(FileNotFoundError):  # Dagster's defaults
        file = Path(home, "dagster.yaml").stat()
        marks += (file.st_ino, file.st_mtime_ns, file.st_size)
    return (home, in_main_thread(), *marks)


def _begin_anew() -> None:
    """Reset the lock in a forked child, where a thread of the parent may have held it."""
    global _lock, _keeping
    _lock, _keeping = threading.Lock(), threading.Lock()
    _open.clear()
    _kept.clear()


os.register_at_fork(after_in_child=_begin_anew)
