"""Processes of the operating system: their identity, their state, and ending their children.

A process is identified by the boot of its machine, its PID namespace, its id there and its start
time: two machines, or two containers of one machine, may share a host name and process ids, and
ids are reused. The state of a process of another boot or namespace is *unknown*.
"""

import enum
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

STARTED_BY_RUN = "PROCTREE_RUN_ID"
"""The environment variable that marks the programs that a run has started."""

_STOPPED = ("T", "t", psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
_GONE = ("Z", "X", "x", psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
_HIDDEN = ("hidden", "")

POLL_SECONDS = 0.05


class State(enum.Enum):
    """The state of a process."""

    RUNNING = "running"
    STOPPED = "stopped"
    """By SIGSTOP or a debugger."""

    GONE = "gone"
    """It has ended; a zombie counts as ended."""

    UNKNOWN = "unknown"
    """It can't be read: it belongs to another machine or PID namespace, or the system hides
    other users' processes (``hidepid``)."""


def started(pid: int) -> str | None:
    """Return when a process started, as text that does not depend on the clock.

    Parameters
    ----------
    pid:
        Its id, in this PID namespace.

    Returns
    -------
    str | None
        ``None`` if there is no such process, or it is a zombie, or the system hides it.
    """
    found = _status(pid)
    return None if found is None or found == _HIDDEN or found[0] in _GONE else found[1]


def _status(pid: int) -> tuple[str, str] | None:
    """Return the state of a process and when it started; ``None`` if there is none.

    ``_HIDDEN`` if the system hides it: a process of this id exists, but its state can't be read.
    """
    try:
        if sys.platform != "linux":
            process = psutil.Process(pid)
            return process.status(), str(process.create_time())
        # psutil adds the time of boot, which changes with the clock; ticks since boot don't.
        # The name before the bracket may be anything, also half a character.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii")
        state, *rest = fields.split()
        return state, rest[18]
    except (OSError, psutil.Error):
        return _HIDDEN if _exists(pid) else None


def _exists(pid: int) -> bool:
    """Return whether a process of this id exists, also if its state can't be read."""
    if sys.platform == "win32":
        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has such an id
        return False
    except PermissionError:  # another user's
        return True
    return True


def handle_of(pid: int) -> int | None:
    """Return a descriptor of a process (pidfd), which stays valid if its id is reused.

    Returns
    -------
    int | None
        ``None`` where the system lacks it: not Linux, an old kernel, a sandbox (gVisor), or a
        container's filter of system calls.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError, OverflowError):
        return None


def _wait_for_end(handle: int | None, seconds: float) -> None:
    """Wait until the process of a handle ends; without one, a moment."""
    if handle is None:
        time.sleep(min(POLL_SECONDS, seconds))
        return
    ends = select.poll()
    ends.register(handle, select.POLLIN)
    ends.poll(seconds * 1000)


@cache
def boot_id() -> str:
    """Return the id of this boot of this machine; the host's name where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return host_name()


@cache
def host_name() -> str:
    """Return the name of this machine, as it was when this process first asked for it.

    It may be changed while runs are under way.
    """
    return socket.gethostname()


def pid_namespace() -> str:
    """Return the PID namespace of this process; blank where there are none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@dataclass(frozen=True)
class Identity:
    """The identity of a process, unique over all machines and time."""

    host: str
    """The name of the machine or container."""

    boot_id: str
    """The boot of the machine."""

    pid_namespace: str
    """The PID namespace in which its id counts."""

    pid: int
    """Its id there."""

    started: str
    """When it started (see ``started``)."""

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """Return the identity of a process that can be seen from here."""
        return cls(host_name(), boot_id(), pid_namespace(), pid, started(pid) or "")

    @classmethod
    def of_this_process(cls) -> "Identity":
        """Return the identity of the calling process."""
        return cls.of(os.getpid())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host!r}"

    @property
    def is_visible(self) -> bool:
        """Whether it belongs to this machine and PID namespace, so that its state can be read."""
        here = (host_name(), boot_id(), pid_namespace())
        return here == (self.host, self.boot_id, self.pid_namespace)

    @property
    def state(self) -> State:
        """Its state now."""
        if not self.is_visible:
            return State.UNKNOWN
        found = _status(self.pid)
        if found == _HIDDEN:
            return State.UNKNOWN
        if found is None or found[0] in _GONE or found[1] != self.started:
            return State.GONE
        return State.STOPPED if found[0] in _STOPPED else State.RUNNING

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; return False if it is elsewhere, has ended or is another user's."""
        try:
            handle = handle_of(self.pid)
        except ProcessLookupError:
            return False
        try:
            if self.state in (State.GONE, State.UNKNOWN):
                return False
            if handle is None:
                os.kill(self.pid, number)
            else:  # the descriptor stays with the process, though its id may be reused
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # a program such as sudo
            logger.warning("%s can't be sent %s: it is another user's.", self, number.name)
            return False
        finally:
            if handle is not None:
                os.close(handle)
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; return False if it has not within ``seconds``."""
        deadline = time.monotonic() + seconds
        try:
            handle = handle_of(self.pid)
        except ProcessLookupError:
            return True
        try:
            while self.state not in (State.GONE, State.UNKNOWN):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                _wait_for_end(handle, left)
        finally:
            if handle is not None:
                os.close(handle)
        return True


@dataclass(frozen=True)
class Programs:
    """The live processes that a run has started, without its worker."""

    in_session: tuple[Identity, ...] = ()
    """Those in the worker's session: they are ended with it."""

    detached: tuple[Identity, ...] = ()
    """Those with a session of their own (``setsid``): they are logged, not ended."""

    def __bool__(self) -> bool:
        return bool(self.in_session or self.detached)


def programs_of(
    worker: Identity, run_id: str, spare: Iterable[int] = (), *, session: int | None = None
) -> Programs:
    """Return the live processes that a run's worker has started, directly or not.

    They are found by the worker's session, if it leads one, by descent while the worker lives, and
    by ``STARTED_BY_RUN`` in their environment.

    Parameters
    ----------
    worker:
        The run's worker; it may have ended.
    run_id:
        The run's id.
    spare:
        Ids of processes to leave out, such as the worker's guardian.
    session:
        The worker's session; left out, it is read from the worker, or is the worker's id if that
        has ended.
    """
    if not worker.is_visible:
        return Programs()
    spared = {worker.pid, os.getpid(), *spare}
    # A session still has the id of its leader when that has ended.
    session = session or _session(worker.pid) or worker.pid
    leads = session == worker.pid
    descendants = _descendants(worker)
    in_session: list[Identity] = []
    detached: list[Identity] = []
    for pid in psutil.pids():
        if pid in spared:
            continue
        of_session = _session(pid)
        belongs = leads and of_session == worker.pid
        if not (belongs or pid in descendants or _is_marked(pid, run_id)):
            continue
        found = Identity.of(pid)
        if found.started:
            ours = belongs or (not leads and of_session == session)
            (in_session if ours else detached).append(found)
    return Programs(tuple(in_session), tuple(detached))


def end_all(processes: Iterable[Identity], grace: float) -> None:
    """End processes with SIGTERM, and after ``grace`` seconds with SIGKILL."""
    left = [each for each in processes if each.send(signal.SIGTERM)]
    for each in left:  # a stopped process would not handle SIGTERM
        each.send(signal.SIGCONT)
    deadline = time.monotonic() + grace
    for each in left:
        if not each.wait(max(0.0, deadline - time.monotonic())):
            each.send(signal.SIGKILL)
            each.wait(grace)


def name_of(process: Identity) -> str:
    """Return a process's id and the name of its program, for messages."""
    with suppress(psutil.Error):
        return f"{process.pid} ({psutil.Process(process.pid).name()})"
    return str(process.pid)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _descendants(worker: Identity) -> set[int]:
    if worker.state is State.GONE:
        return set()
    with suppress(psutil.Error):
        return {each.pid for each in psutil.Process(worker.pid).children(recursive=True)}
    return set()


def _is_marked(pid: int, run_id: str) -> bool:
    if sys.platform == "linux":
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            return f"{STARTED_BY_RUN}={run_id}".encode() in environment.split(b"\0")
        return False
    with suppress(psutil.Error, OSError):
        return psutil.Process(pid).environ().get(STARTED_BY_RUN) == run_id
    return False
