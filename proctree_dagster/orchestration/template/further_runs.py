"""Workers that execute further runs: both ends of the socket between a template and such a worker.

A tree allows it by ``reuse_worker``. Such a worker ends when it has waited for a while, after so
many runs or with so much memory (``PROCTREE["RUNS_PER_WORKER"]``, ``["MEMORY_PER_WORKER"]``), after
a run that did not succeed or that has left threads or processes, and when its template ends or
imports again.
"""

import json
import logging
import multiprocessing
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    deserialize_value,
)

from ... import conf
from ...support.connections import close_all, fresh_connections
from ...support.os_processes import Identity
from .. import dagster_internals as internals
from .. import guardian
from ..dagster_features import REUSED_WORKERS, is_on
from ..dagster_internals import ExecuteRunArgs, InstanceRef
from .loading import threads_left

logger = logging.getLogger("proctree_dagster.orchestration.template")

WAIT_SECONDS = 5.0
"""Seconds that a worker waits for a further run."""

THREADS_SECONDS = 0.5
"""Seconds that threads have to end after a run."""

SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
"""The signals that the template handles, and its workers don't."""

MEBIBYTE = 2**20

_FREE = b"f"
"""What a worker sends when it can be given a run."""

_END = b"\n"
"""What a request ends with."""

_MOST_BYTES = 2**16
"""Bytes of a request that are read at once."""


def is_shared(request: Mapping[str, Any], *, takes_runs: bool) -> bool:
    """Return whether a run is executed by a process that executes others, too.

    Parameters
    ----------
    request:
        A client's.
    takes_runs:
        Whether the code location is one of trees.
    """
    return bool(request.get("shared")) and takes_runs and is_on(REUSED_WORKERS)


class Workers:
    """The workers of a template that may be given a further run.

    Parameters
    ----------
    selector:
        The template's.
    let_go:
        Closes the template's descriptors, in a child.
    """

    def __init__(self, selector: selectors.BaseSelector, let_go: Callable[[], None]) -> None:
        self._selector = selector
        self._let_go = let_go
        self._sockets: dict[int, socket.socket] = {}
        self._homes: dict[int, InstanceRef | None] = {}
        self._free: list[int] = []

    def add(self, pid: int, end: socket.socket, home: InstanceRef | None) -> None:
        """Listen to a worker.

        Parameters
        ----------
        pid:
            Its process id.
        end:
            The template's end of the socket.
        home:
            What its instance is opened by, which stays open.
        """
        self._sockets[pid], self._homes[pid] = end, home
        self._selector.register(end, selectors.EVENT_READ, lambda: self._hear(pid))

    def _hear(self, pid: int) -> None:
        end = self._sockets.get(pid)
        if end is None:  # its death was noticed at the same moment
            return
        try:
            said = end.recv(len(_FREE))
        except OSError:  # it was killed
            said = b""
        if said:
            self._free.append(pid)
        else:
            self.forget(pid)

    def give(self, connection: socket.socket, args: ExecuteRunArgs, serialized: str) -> int | None:
        """Give a run to the worker that became free last; return its process id.

        Parameters
        ----------
        connection:
            The connection to the client, which the worker answers.
        args:
            The run.
        serialized:
            The same, as the client has sent it.

        Returns
        -------
        int | None
            ``None`` if no worker is free.
        """
        for pid in reversed(list(self._free)):
            if self._homes[pid] != args.instance_ref:
                continue
            self._free.remove(pid)
            try:
                self._give_to(pid, connection, args.run_id, serialized)
            except OSError:  # it has just ended
                self.forget(pid)
            else:
                return pid
        return None

    def _give_to(self, pid: int, connection: socket.socket, run_id: str, serialized: str) -> None:
        watched, worker_end = os.pipe()
        try:
            its_guardian = self._fork_guardian(pid, run_id, watched, (worker_end, connection))
            request = json.dumps({"args": serialized, "guardian": its_guardian}).encode() + _END
            passed_on = [connection.fileno(), worker_end]
            socket.send_fds(self._sockets[pid], [request], passed_on)
        finally:
            os.close(watched)
            os.close(worker_end)

    def _fork_guardian(
        self, pid: int, run_id: str, watched: int, not_its: tuple[int, socket.socket]
    ) -> int:
        worker_end, connection = not_its

        def let_go() -> None:
            self._let_go()
            os.close(worker_end)
            connection.close()

        def charge() -> guardian.Charge:  # a worker leads its session
            return guardian.charge_of(Identity.of(pid), run_id, session=pid)

        # No signal may reach the child before it has its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return guardian.fork_for(charge, watched, let_go)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def forget(self, pid: int) -> None:
        """Listen no more to a worker that has ended."""
        end = self._sockets.pop(pid, None)
        self._homes.pop(pid, None)
        if end is not None:
            self._selector.unregister(end)
            end.close()
        if pid in self._free:
            self._free.remove(pid)


class Request(NamedTuple):
    """A further run."""

    connection: socket.socket
    """The connection to the client."""

    args: ExecuteRunArgs

    guardian: int
    """The process id of its guardian."""

    orders: int
    """The pipe for messages to its guardian."""


class FurtherRuns:
    """The further runs of this worker.

    Parameters
    ----------
    end:
        The worker's end of the socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._executed = 0
        self._environment, self._folder = dict(os.environ), Path.cwd()

    def may_follow(self, instance: DagsterInstance, run: DagsterRun) -> bool:
        """Return whether a further run may follow one that has ended.

        What the run has left, and that prevents it, its log names.

        Parameters
        ----------
        instance:
            Where it is recorded.
        run:
            The run.
        """
        self._executed += 1
        if run.status != DagsterRunStatus.SUCCESS:
            return False
        limit = self._limit()
        if limit:
            logger.info("Process %s executes no further run: %s.", os.getpid(), limit)
            return False
        left = _left()
        if left:
            instance.report_engine_event(f"Its process executes no further run: {left}.", run)
        return not left

    def _limit(self) -> str:
        """Return which limit is reached; blank: none."""
        current = conf.current()
        if self._executed >= current.RUNS_PER_WORKER:
            return f"it has executed {self._executed}"
        used = psutil.Process().memory_info().rss / MEBIBYTE
        if used >= current.MEMORY_PER_WORKER:
            return f"it has {used:.0f} MiB of memory"
        return ""

    def wait(self) -> Request | None:
        """Wait for a further run; ``None`` if this worker is to end.

        The signals of runs are blocked before and afterwards: none that concerns the run before may
        reach the next one.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not self._is_free():
            return None
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            try:
                self._end.settimeout(WAIT_SECONDS)
                self._end.sendall(_FREE)
                return self._receive()
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        except TimeoutError:
            return self._last()
        except (OSError, KeyboardInterrupt):  # the template has ended, or ends its children
            return None

    def _is_free(self) -> bool:
        """Return whether nobody connects this process with its run any more."""
        from ..runs import run_taking  # Django is set up

        try:
            with fresh_connections():
                _restore(self._environment, self._folder)
                if not run_taking.leave():
                    return False
        except Exception:  # the database or the file system: the next run gets a fresh process
            logger.warning("Process %s executes no further run.", os.getpid(), exc_info=True)
            return False
        # One that was to cancel the run before has come too late; another one ends this process.
        return not signal.sigpending() & {signal.SIGTERM, signal.SIGINT}

    def _receive(self) -> Request | None:
        content, descriptors = b"", list[int]()
        while not content.endswith(_END):
            part, found, _, _ = socket.recv_fds(self._end, _MOST_BYTES, 2)
            descriptors += found
            if not part:
                break
            content += part
        if not content.endswith(_END) or len(descriptors) != 2:
            return None
        # Dagster keeps the job that it has executed last; the tree may have changed since.
        internals.ReconstructableJob.get_definition.cache_clear()
        request = json.loads(content)
        args = deserialize_value(request["args"], ExecuteRunArgs)
        connection, orders = socket.socket(fileno=descriptors[0]), descriptors[1]
        return Request(connection, args, request["guardian"], orders)

    def _last(self) -> Request | None:
        """Accept no more; return the run that was given at the same moment, if one was."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RD)
            self._end.settimeout(0.0)
            return self._receive()
        return None


def _restore(environment: dict[str, str], folder: Path) -> None:
    """Set the environment and the working directory to what they were."""
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
    os.chdir(folder)


def _left() -> str:
    """Return what a run has left in its process and should not share with the next; blank: none."""
    from ..runs import run_taking  # Django is set up

    children = [each.name for each in multiprocessing.active_children()]
    if children:
        return f"it has left processes running: {', '.join(children)}"
    programs = run_taking.programs_left()
    if programs:
        return f"it has left programs running: {programs}"
    close_all()  # the threads of a pool of connections are no function's
    threads = _threads_left()
    return f"it has left {threads}" if threads else ""


def _threads_left() -> str | None:
    """Return which threads are left; one that has ended in Python ends a moment later."""
    deadline = time.monotonic() + THREADS_SECONDS
    while (found := threads_left()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
