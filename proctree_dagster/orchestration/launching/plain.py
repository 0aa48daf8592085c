"""Plain workers: a new interpreter for each run, as other launchers start it."""

import logging
import signal
import subprocess
import sys
import threading
from typing import IO

from dagster import serialize_value

from ..dagster_internals import ExecuteRunArgs
from .releases import Release
from .template_client import MODULE

logger = logging.getLogger(__name__)


def start(
    args: ExecuteRunArgs, release: Release, output: IO[bytes] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a run's worker in the folder and the environment of its release.

    It is called by the path of its Python: a bare ``dagster``, which is what runs from Dagster's UI
    ask for, is found only where the virtual environment is on the PATH.

    Parameters
    ----------
    args:
        The run.
    release:
        Its code.
    output:
        Its output file; left out, this process's.

    Raises
    ------
    OSError
        It could not be started.
    """
    command = [release.origin.executable_path, "-m", "dagster", "api", "execute_run"]
    return subprocess.Popen(  # noqa: S603  # Dagster's own
        [*command, serialize_value(args)],
        cwd=release.folder,
        env=release.environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def crash_explanation(who: str, code: int) -> str:
    """Return how a process ended, in the words of Dagster's own launchers.

    Parameters
    ----------
    who:
        The process's name, for messages.
    code:
        Its exit code; negative: the signal that has ended it.
    """
    if -code not in set(signal.Signals):
        return f"{who} unexpectedly exited with code {code}."
    ended = f"{who} was terminated by signal {-code} ({signal.Signals(-code).name})."
    if -code != signal.SIGKILL:
        return ended
    return (
        f"{ended} This usually indicates that the process was killed by the operating system due "
        "to running out of memory. Possible solutions include increasing the amount of memory "
        "available to the run, reducing the amount of memory used by the ops in the run, or "
        "configuring the executor to run fewer ops concurrently."
    )


def report_death(process: "subprocess.Popen[bytes]", args: ExecuteRunArgs) -> None:
    """Record a worker's death, with its exit code or signal, while this process lives.

    If this process ends before the worker, the run is ended without them (``lost_runs``).
    """

    def wait() -> None:
        code = process.wait()
        if code:
            message = crash_explanation(f"The run's worker (process {process.pid})", code)
            logger.error("%s", message)
            command = [sys.executable, "-m", MODULE, "--died", message]
            subprocess.run([*command, "--args", serialize_value(args)], check=False)  # noqa: S603

    name = f"end of run {args.run_id[:8]}"
    threading.Thread(target=wait, name=name, daemon=True).start()
