"""Where the sockets of a Dagster home are: a machine's own, in the home or in place of it."""

import hashlib
import os
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ...support import os_processes

LONGEST_ADDRESS = 100
"""Bytes that the path of a socket may have everywhere (Linux: 107, macOS: 103)."""

KEY_LENGTH = 16
"""Most characters of a socket's own part of its name."""

ABANDONED_SECONDS = 86_400.0
"""Seconds after which a socket that nobody touches counts as left by a dead machine."""


class Place(NamedTuple):
    """Where the sockets of one kind are."""

    folder: Path
    stem: str
    """The beginning of their names, those of other machines included."""

    mark: str
    """What this machine's have next."""

    def socket(self, key: str) -> Path:
        """Return the socket with this key."""
        return self.folder / f"{self.stem}{self.mark}.{key}.sock"

    def sockets(self) -> list[Path]:
        """Return this machine's sockets."""
        return sorted(self.folder.glob(f"{self.stem}{self.mark}.*.sock"))

    def remove_old(self) -> None:
        """Remove the sockets of machines that have died: those of others can't be tested."""
        for path in self.folder.glob(f"{self.stem}*.sock"):
            with suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


def place(home: str, kind: str) -> Place:
    """Return where the sockets of a home are.

    Machines and containers that share a home have separate ones.

    Parameters
    ----------
    home:
        Dagster's.
    kind:
        What they are for: a part of their names.

    Raises
    ------
    PermissionError
        The home's path is too long for a socket, and the private folder that stands in for it
        belongs to somebody else.
    """
    here = f"{socket.gethostname()} {os_processes.boot_id()} {os_processes.pid_namespace()}"
    path, mark = Path(home).resolve(), hashlib.sha256(here.encode()).hexdigest()[:6]
    found = Place(path, f".proctree_{kind}.", mark)
    if len(os.fsencode(found.socket("0" * KEY_LENGTH))) <= LONGEST_ADDRESS:
        return found
    folder = Path(tempfile.gettempdir()) / f"proctree-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} must be a folder that only this user can enter.")
    of_home = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Place(folder, f"{of_home}.{kind}.", mark)
