"""Shared Dagster instances: one of a home, for all of its users in this process.

Opening an instance costs more than most runs: it reads files and asks the storage for its state. So
a caller gets the one that is open, and the last of its users leaves it open for the next one, as
long as the home is the same. Two runs never share one at the same time, as a run changes its
instance (``execution.event_batching``): the second one has another, which is left open, too.

What is left open costs memory only: Dagster's storages hold no connection between two queries, and
SQLite's files are open while a run is executed, for its queries to find them open. An instance is
closed by the next call if nobody has used it for a while, if its user failed, if the home or
the environment has changed since, and when the process ends.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import DagsterInstance

from .. import homes
from ..launching import sqlite_keepalive
from .in_process import in_main_thread

if TYPE_CHECKING:
    from ..dagster_internals import InstanceRef

IDLE_SECONDS = 300.0
"""Seconds without a user after which an instance is not used again."""

MOST_IDLE = 4
"""How many are left open: one for each of so many runs at once."""

MOST_USES = 1000
"""How often one is used: a storage may keep something of each run, and never free it."""

_Key = tuple[object, ...]
"""How an instance is named, whether runs capture their output with it, and which it is."""

_BY_HOME, _BY_REFERENCE = "home", "reference"


@dataclass(eq=False)
class _Shared:
    instance: DagsterInstance
    key: _Key
    executes: bool
    """Whether a run is executed with it."""

    files: Sequence[Path] = ()
    """Those of its storage, if it has any."""

    marks: Sequence[object] = ()
    """What they were when it was opened."""

    opened: ExitStack = field(default_factory=ExitStack)
    """Holds the files open during a run."""

    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """``dagster.yaml`` may name variables."""

    users: int = 1
    uses: int = 1
    unused_since: float = 0.0
    spoiled: bool = False
    """Whether a user of it has failed."""

    @property
    def may_be_used_again(self) -> bool:
        """Whether the next user may have it, though nobody uses it now."""
        return (
            not self.spoiled
            and self.uses < MOST_USES
            and time.monotonic() - self.unused_since < IDLE_SECONDS
            and self.environment == dict(os.environ)
            and self.marks == [homes.mark_of(each) for each in self.files]
        )


_open: list[_Shared] = []
"""Those in use, and those left open."""

_lock = threading.Lock()


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
    yield from _used(_key(home), lambda: homes.open_home(home), to_execute=to_execute)


@contextmanager
def shared_by_reference(ref: "InstanceRef") -> Iterator[DagsterInstance]:
    """Open the instance that another process refers to, or use the one that is open.

    It is opened as the reference says. The ``dagster.yaml`` of this process's home, if there is
    one, may be another: a code server's machine needs none.

    Parameters
    ----------
    ref:
        The reference. Nothing is executed with the instance.

    Raises
    ------
    InstanceError
        Its storage can't be opened.
    """
    key = (_BY_REFERENCE, False, ref)
    yield from _used(key, lambda: DagsterInstance.from_ref(ref), to_execute=False)


def _used(
    key: _Key, open_it: Callable[[], DagsterInstance], *, to_execute: bool
) -> Iterator[DagsterInstance]:
    found = _acquire(key, open_it, to_execute=to_execute)
    try:
        yield found.instance
    except BaseException:
        found.spoiled = True
        raise
    finally:
        _release(found, to_execute=to_execute)


def _acquire(key: _Key, open_it: Callable[[], DagsterInstance], *, to_execute: bool) -> _Shared:
    with _lock:
        old = [each for each in _open if not each.users and not _is_good(each, key)]
        for each in old:
            _open.remove(each)
        free = (each for each in _open if each.key == key and not (to_execute and each.executes))
        found = max(free, key=lambda each: each.users, default=None)
        if found is not None:
            found.users += 1
            found.uses += 1
            found.executes = found.executes or to_execute
    _dispose(old)
    if found is None:
        found = _opened(key, open_it, to_execute=to_execute)
    if to_execute:
        found.opened = sqlite_keepalive.keep_open(sqlite_keepalive.of_instance(found.instance))
    return found


def _opened(key: _Key, open_it: Callable[[], DagsterInstance], *, to_execute: bool) -> _Shared:
    sqlite_keepalive.keep_engines()
    instance = open_it()
    sqlite_keepalive.opened_during_runs.add(instance)
    files = homes.files_of(instance.get_ref())
    found = _Shared(instance, key, to_execute, files, [homes.mark_of(each) for each in files])
    with _lock:
        _open.append(found)  # another thread may have opened one: then both are used
    return found


def _is_good(unused: _Shared, key: _Key) -> bool:
    """Return whether an instance stays open while another user wants one.

    One of another home is not needed any more. Those of the main thread and of others differ only
    in what a run does to them.
    """
    is_of_another = unused.key[0] == key[0] and unused.key[2:] != key[2:]
    return unused.may_be_used_again and not is_of_another


def _release(found: _Shared, *, to_execute: bool) -> None:
    """Give an instance back; the last one to do so leaves it open, or closes it."""
    if to_execute:
        found.opened.close()
    with _lock:
        found.users -= 1
        found.executes = found.executes and not to_execute
        if found.users:
            return
        _forget_runs(found.instance)
        found.unused_since = time.monotonic()
        idle = [each for each in _open if not each.users]
        is_kept = found in _open and len(idle) <= MOST_IDLE and found.may_be_used_again
        if not is_kept and found in _open:
            _open.remove(found)
    if not is_kept:
        found.instance.dispose()


def _forget_runs(instance: DagsterInstance) -> None:
    """Drop what Dagster leaves in an instance of every run: an empty list of its listeners."""
    listeners: dict[str, list[object]] = getattr(instance, "_subscribers", {})
    for run_id in [run_id for run_id, each in list(listeners.items()) if not each]:
        listeners.pop(run_id, None)


def close_unused() -> None:
    """Close what nobody uses now."""
    with _lock:
        unused = [each for each in _open if not each.users]
        for each in unused:
            _open.remove(each)
    _dispose(unused)


def _dispose(found: Sequence[_Shared]) -> None:
    for each in found:
        each.instance.dispose()


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
    return (_BY_HOME, in_main_thread(), home, *marks)


def _begin_anew() -> None:
    """Leave the parent's instances to it in a forked child, where a thread may hold the lock."""
    global _lock
    _lock = threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(close_unused)
