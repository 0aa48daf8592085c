"""Plain workers: a run's process that is a fresh interpreter, as other launchers start it."""

import subprocess
from typing import IO

from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import serialize_value

from .releases import Release


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
