"""The log of the templates that Django processes start: a bounded file in Dagster's home.

Templates and workers share the file and append to it, so it is truncated in place, not renamed:
processes that have it open still write to the present file.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import FileLock

MAX_BYTES = 5 * 1024 * 1024
"""Size from which the log is truncated, in bytes; its content becomes the one older log."""


def path(home: str) -> Path:
    """Return the path of the log."""
    return Path(home) / "proctree_template.log"


def open_to_append(home: str) -> IO[bytes]:
    """Open the log of a Dagster home, cut if it has grown long."""
    cut(home)
    return path(home).open("ab")


def cut(home: str) -> None:
    """Copy the log to ``….log.1`` and empty it, if it is longer than ``MAX_BYTES``.

    Lines that are written between the two steps are lost.
    """
    log = path(home)
    with (
        # There is none; another process cuts it; the disk is full, or it is another user's.
        suppress(OSError),
        FileLock(log.with_name(f".{log.name}.lock"), timeout=0),
    ):
        if log.stat().st_size > MAX_BYTES:
            with log.open("rb+") as file, Path(f"{log}.1").open("wb") as older:
                file.seek(-MAX_BYTES, 2)  # skip all but the newest part of a huge log
                shutil.copyfileobj(file, older)
                file.truncate(0)
