"""Which process runs a run, in words that another process can check."""

import os
import socket
from pathlib import Path

import psutil


def this_worker() -> str:
    """Return what names this process: host, process id and start time.

    The start time tells it from a later process with the same id.
    """
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def has_died(worker: str) -> bool:
    """Say whether a worker is known to be gone: one on another host never is."""
    try:
        host, pid, started = worker.split()
    except ValueError:  # blank, or put there past the model
        return False
    return host == socket.gethostname() and pid.isdigit() and _started(int(pid)) != started


def _started(pid: int) -> str | None:
    """Return when a process started; ``None`` if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        # In ticks since the machine started: psutil's follows the clock, and clocks are set.
        try:
            state, *rest = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state in "ZX" else rest[18]
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None
