"""Plain workers: a run's process that is a fresh interpreter, as other launchers start it."""

import logging
import subprocess
import sys
import threading
from typing import IO

from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value
from dagster._utils import get_run_crash_explanation

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
        Where it writes; left out, where this process does.

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


def report_death(process: "subprocess.Popen[bytes]", args: ExecuteRunArgs) -> None:
    """Let a worker's death be written down, with its exit code or signal, as long as this lives.

    Should this process end before the worker, the run is ended without them (``lost_runs``).
    """

    def wait() -> None:
        code = process.wait()
        if code:
            message = get_run_crash_explanation(f"The run's worker (process {process.pid})", code)
            logger.error("%s", message)
            command = [sys.executable, "-m", MODULE, "--died", message]
            subprocess.run([*command, "--args", serialize_value(args)], check=False)  # noqa: S603

    name = f"end of run {args.run_id[:8]}"
    threading.Thread(target=wait, name=name, daemon=True).start()
