"""Dagster's daemon, which notes how far it has come, and dies where it is told to.

Run as a program, it starts one daemon for each line that it reads: forked from a process that has
imported everything, so it is up at once. The line names the point where the daemon dies, or none.
``DAEMON_PROGRESS`` names the file of the notes. ``DAEMON_IS_WATCHFUL``: it looks at the clock each
second, where a stock daemon sleeps until the minute is over, and would sleep through a test.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEFORE_THE_CLAIM = ("ticking",)
BETWEEN_CLAIM_AND_LAUNCH = ("claimed", "created", "queued", "launching")
AFTER_LAUNCH = ("launched",)

POINTS = (*BEFORE_THE_CLAIM, *BETWEEN_CLAIM_AND_LAUNCH, *AFTER_LAUNCH)
"""What the daemon passes on its way from a tick to a run; the claim itself is the server's."""


_dies_at = ""
"""Where this daemon dies; not in its environment, which its code server's runs share."""


def pass_by(point: str) -> None:
    """Note that the daemon has come to a point; a write of one line is atomic."""
    file = os.open(os.environ["DAEMON_PROGRESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{os.getpid()} {point}\n".encode())
    os.close(file)
    if point == _dies_at:
        os.kill(os.getpid(), signal.SIGKILL)


def last_point(progress: Path, pid: int) -> str:
    """Return the last point that a daemon passed; ``""`` if it passed none."""
    lines = progress.read_text().splitlines()
    points = [line.split()[1] for line in lines if line.startswith(f"{pid} ")]
    return points[-1] if points else ""


def noted(
    method: Callable[..., Any], before: str = "", after: Callable[[Any], str] = lambda result: ""
) -> Callable[..., Any]:
    """Return a method that notes when it is called and what came of it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            pass_by(before)
        result = method(*args, **kwargs)
        if point := after(result):
            pass_by(point)
        return result

    return call


def wait_a_second(start_time: float) -> float:
    """Wait, and say that the next look is overdue: no time of the clock is waited for."""
    time.sleep(1)
    return 0.0


def main() -> None:
    """Start daemons until there is no more input."""
    global _dies_at  # a daemon is one process
    from dagster import DagsterInstance
    from dagster._core.launcher import DefaultRunLauncher
    from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
    from dagster._core.run_coordinator import QueuedRunCoordinator
    from dagster._daemon.cli import main as run_daemon
    from dagster._scheduler import scheduler

    from proctree_dagster.orchestration import queueing, ticks_together
    from proctree_dagster.orchestration.launcher import WarmRunLauncher

    def evaluated(data: Any) -> str:
        return "claimed" if data.run_requests else "skipped"

    def evaluated_together(answer: Any) -> str:
        return "claimed" if answer.made else "skipped"

    submit = ticks_together._submit

    def submit_together(instance: Any, workspace: Any, made: Any) -> None:
        if made:  # by the code server
            pass_by("created")
        submit(instance, workspace, made)

    for owner, name, before, after in (
        (GrpcServerCodeLocation, "get_schedule_execution_data", "ticking", evaluated),
        (ticks_together, "_ask", "ticking", evaluated_together),
        (queueing, "queue", "", lambda result: "queued"),
        (DagsterInstance, "create_run", "", lambda result: "created"),
        (QueuedRunCoordinator, "submit_run", "", lambda result: "queued"),
        (DefaultRunLauncher, "launch_run", "launching", lambda result: "launched"),
        (WarmRunLauncher, "launch_run", "launching", lambda result: "launched"),
    ):
        setattr(owner, name, noted(getattr(owner, name), before, after))
    ticks_together._submit = submit_together
    if os.environ.get("DAEMON_IS_WATCHFUL"):
        scheduler._get_next_scheduler_iteration_time = wait_a_second
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need no one who waits for them
    for line in sys.stdin:
        child = os.fork()
        if child:
            print(child, flush=True)
            continue
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(2, 1)
            _dies_at = line.strip()
            pass_by("up")
            run_daemon()
        finally:
            os._exit(0)


if __name__ == "__main__":
    main()
