"""The daemon's code servers, which are kept while nothing has changed that they have read.

Dagster's daemon replaces its code servers each minute, so that it sees edited code: a start takes
two seconds of a core, more than all else that an idle daemon does. Here it asks each of them first.
The question and the answer are the text of a ping: who does not know the question sends it back,
and is replaced, as is who does not answer.
"""

import inspect
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import update_wrapper
from pathlib import Path
from typing import Any

from . import dagster_internals as internals
from .dagster_features import KEPT_SERVERS, is_on
from .launching import imports, template_client

logger = logging.getLogger(__name__)

MAX_SECONDS = 900.0
"""Age at which a code server is replaced in any case: what it has read may have changed unseen."""

QUESTION = "proctree_dagster: is your code unchanged?"
UNCHANGED = "proctree_dagster: unchanged"
CHANGED = "proctree_dagster: "
"""What begins the other answer; after it comes what has changed."""


def keep() -> None:
    """Let this process, which is Dagster's daemon, keep code servers.

    If this Dagster does not allow it, the log says why, and each is replaced each minute.
    """
    if not is_on(KEPT_SERVERS):
        return
    registry: Any = internals.GrpcServerRegistry
    if registry.clear_all_grpc_endpoints is not _forget_changed:
        dagsters = registry.clear_all_grpc_endpoints
        registry.clear_all_grpc_endpoints = update_wrapper(_forget_changed, dagsters)


def _forget_changed(registry: Any) -> None:
    """Forget code servers, as Dagster's method does, but for those that may be kept.

    What is forgotten is started again when it is next needed: at once.
    """
    with registry._lock:
        entries = dict(registry._active_entries)
    replaced = {key: entry for key, entry in entries.items() if not may_be_kept(entry)}
    with registry._lock:
        for key, entry in replaced.items():
            if registry._active_entries.get(key) is entry:  # it was asked without the lock
                del registry._active_entries[key]


def may_be_kept(entry: Any) -> bool:
    """Return whether a code server runs, is not too old, and says that its code is unchanged.

    Parameters
    ----------
    entry:
        What Dagster's registry has of it, or of its failure to start.
    """
    if not isinstance(entry, internals.ServerRegistryEntry):
        return False
    if time.time() - entry.creation_timestamp > MAX_SECONDS:
        return False
    if entry.process.server_process.poll() is not None:
        return False
    try:
        answer = entry.process.create_client().ping(QUESTION)
    except internals.DagsterUserCodeUnreachableError as error:
        logger.warning("A code server does not answer, and is replaced: %s", error)
        return False
    if answer["echo"] == UNCHANGED:
        return True
    if answer["echo"].startswith(CHANGED):
        logger.info("A code server is replaced: %s", answer["echo"].removeprefix(CHANGED))
    return False


class Watch:
    """What a code server has read: the files of its modules, and what was opened meanwhile.

    Parameters
    ----------
    since_ns:
        When it began to read, in nanoseconds of the clock that stamps files.
    """

    def __init__(self, since_ns: int) -> None:
        self._since_ns = since_ns
        self._reads = imports.Reads()
        self._loading = ExitStack()
        self._loading.enter_context(self._reads.noted())
        self._stamps: dict[Path, imports.Stamp] = {}

    def end_loading(self) -> None:
        """Stamp what was read, and record no further file: the code location is loaded."""
        if not self._stamps:
            self._loading.close()
            self._stamp()

    def changed(self) -> list[Path]:
        """Return the files that have changed since they were read, if any."""
        self._stamp()  # modules that were imported since
        return imports.changed(self._stamps)

    def _stamp(self) -> None:
        files = imports.files_of(self._reads) - self._stamps.keys()
        self._stamps |= imports.stamps(files, self._since_ns)


_watched: Watch | None = None
"""What this process has read, if it is a code server of the daemon."""

_examined = False
_repeated: list[Callable[[], None]] = []


def watch() -> None:
    """Let this process, if it is a code server of the daemon, answer whether it may be kept.

    It must be called before the code location is imported. A second call does nothing.
    """
    global _examined, _watched
    if _examined:
        return
    _examined = True
    if not template_client.is_daemons_code_server() or not is_on(KEPT_SERVERS):
        return
    _watched = Watch(time.time_ns())
    server: Any = internals.DagsterApiServer
    server.Ping = update_wrapper(_ping, server.Ping)


def _ping(servicer: Any, request: Any, context: Any) -> Any:
    """Answer as Dagster's method does; answer the daemon's question."""
    dagsters: Any = inspect.unwrap(_ping)
    answer = dagsters(servicer, request, context)
    if _watched is None:
        return answer
    _watched.end_loading()  # nobody is answered before
    if request.echo == QUESTION:
        why = why_replaced(servicer, _watched)
        answer.echo = UNCHANGED if why is None else CHANGED + why
        if why is None:
            for call in _repeated:
                _in_thread(call)
    return answer


def repeat(call: Callable[[], None]) -> None:
    """Call something in a thread, and again whenever this code server is kept.

    So it happens each minute, as if each minute there was a new one.
    """
    _repeated.append(call)
    _in_thread(call)


def _in_thread(call: Callable[[], None]) -> None:
    threading.Thread(target=call, daemon=True).start()


def why_replaced(servicer: Any, watch: Watch) -> str | None:
    """Return as a sentence why a new code server would not serve the same; ``None`` if it would.

    Only one that serves nothing but trees is known to: what else a project defines may depend on
    more than on files.
    """
    loaded = servicer._loaded_repositories
    if loaded is None:
        return "Its code location could not be loaded."
    if not all(getattr(each, "is_live", False) for each in loaded.definitions_by_name.values()):
        return "It serves more than process trees."
    found = watch.changed()
    return f"Changed: {', '.join(map(str, sorted(found)))}." if found else None
