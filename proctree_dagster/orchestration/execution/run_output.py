"""Printing what a run prints, while it is also written into a file for the UI.

For each of the two streams Dagster starts a ``tail``, which follows the file, and a Python, which
ends the ``tail`` if the run's process is killed. GNU's ``tail`` does so by itself.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ...support.os_processes import Identity
from .. import dagster_internals as internals
from ..dagster_features import OUTPUT_TAIL, is_on

TAIL_SECONDS = 30
"""Seconds that a ``tail`` may take to end."""

WAIT_VARIABLE = "DAGSTER_COMPUTE_LOG_TAIL_WAIT_AFTER_FINISH"
"""Dagster's environment variable of the seconds a ``tail`` has for the last lines."""


def follow_by_tail_alone() -> None:
    """From now on, in this process, have output followed by one program instead of two."""
    if is_on(OUTPUT_TAIL) and _ends_with_a_process():
        internals.compute_logs.tail_to_stream = _tail


@cache
def _ends_with_a_process() -> bool:
    """Return whether ``tail`` has GNU's ``--pid``."""
    try:
        said = subprocess.run(
            ["tail", "--version"],  # noqa: S607  # as Dagster calls it
            capture_output=True,
            text=True,
            timeout=TAIL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # Dagster says what is missing
        return False
    return "GNU coreutils" in said.stdout


@contextmanager
def _tail(path: str, stream: Any) -> Iterator[tuple[int | None, int | None]]:
    """Print what is written into a file; yield the ids of the processes that do so."""
    descriptor = internals.compute_logs._fileno(stream)
    if descriptor is not None and _is_null(descriptor):
        yield None, None
        return
    command = ["tail", "-F", "-c", "+0", f"--pid={os.getpid()}", path]
    tail = subprocess.Popen(command, stdout=stream if descriptor else None)  # noqa: S603
    try:
        yield tail.pid, None
    finally:
        time.sleep(float(os.environ.get(WAIT_VARIABLE, "0")))
        tail.terminate()
        # Python's own wait with a timeout looks now and then, with pauses: 0.03 s of each run.
        Identity.of(tail.pid).wait(TAIL_SECONDS)
        tail.wait(TAIL_SECONDS)


def _is_null(descriptor: int) -> bool:
    """Return whether nobody sees what is printed."""
    try:
        return os.fstat(descriptor).st_rdev == Path(os.devnull).stat().st_rdev
    except OSError:  # it is closed
        return False
