"""Run workers: the processes that execute runs, and how any other process looks after one.

Who works on a run is written on the run: the host, the process id and when that process started,
so that a process that was given the same id later is never taken for the worker.
"""

import json
import os
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from dagster import DagsterRun

from .. import tags


def started(pid: int) -> str | None:
    """Return when a process started, as text that no change of the clock alters.

    Parameters
    ----------
    pid:
        Its id, on this host.

    Returns
    -------
    str | None
        ``None`` if there is no such process, or it has ended and only waits to be reaped.
    """
    try:
        if sys.platform != "linux":
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
        # psutil adds the time of boot, which moves with the clock: ticks since boot do not.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except (OSError, psutil.NoSuchProcess):
        return None


@dataclass(frozen=True)
class Worker:
    """The process that executes a run."""

    run_id: str
    """The run: re-execution copies tags, so another run may carry this one's."""

    host: str
    """The name of the machine it is on."""

    pid: int
    """Its process id there; also its process group's."""

    started: str
    """When it started (see ``started``)."""

    @classmethod
    def of_process(cls, run_id: str, pid: int) -> "Worker":
        """Return the worker that a process on this host is."""
        return cls(run_id, socket.gethostname(), pid, started(pid) or "")

    @classmethod
    def of_run(cls, run: DagsterRun) -> "Worker | None":
        """Return the worker that is written on a run, or ``None``."""
        worker = cls.from_text(run.tags.get(tags.WORKER, ""))
        return worker if worker is not None and worker.run_id == run.run_id else None

    @classmethod
    def from_text(cls, text: str) -> "Worker | None":
        """Return the worker that ``text`` stands for, or ``None`` if it stands for none."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return None

    def as_text(self) -> str:
        """Return what ``from_text`` reads."""
        return json.dumps(asdict(self))

    def as_tags(self) -> dict[str, str]:
        """Return what is written on the run."""
        return {tags.WORKER: self.as_text()}

    @property
    def is_here(self) -> bool:
        """Whether it is on this host, so that it can be looked at."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended; asked on its own host only."""
        return started(self.pid) == self.started

    @property
    def has_died(self) -> bool:
        """Whether it is known to be gone: of one on another host nothing is known."""
        return self.is_here and not self.is_alive

    def interrupt(self) -> bool:
        """Ask it to cancel its run, as Ctrl-C would; return whether there was one to ask."""
        try:
            handle = os.pidfd_open(self.pid) if sys.platform == "linux" else None
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive:
                return False
            if handle is None:
                os.kill(self.pid, signal.SIGINT)
            else:  # it stays with the process, so no other can have taken its id in between
                signal.pidfd_send_signal(handle, signal.SIGINT)
        except ProcessLookupError:
            return False
        finally:
            if handle is not None:
                os.close(handle)
        return True
