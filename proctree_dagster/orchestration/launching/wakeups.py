"""Waking the daemon: whoever queues a run, or has executed one, lets it poll its queue at once.

The daemon listens on a Unix socket in Dagster's home, to which processes of the same user on the
same machine send an empty datagram. A wake-up only saves time: one that does not arrive (from
another machine, or another user) is made up for by the daemon's next poll.
"""

import errno
import logging
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Self

from . import sockets

logger = logging.getLogger(__name__)

KIND = "daemon"

_TOUCH_SECONDS = 3600.0
"""Seconds after which a daemon touches its socket, so that no other takes it for an old one."""


class Wakeups:
    """A daemon's socket; use it as a context manager."""

    def __init__(self, home: str) -> None:
        """Listen.

        Parameters
        ----------
        home:
            Dagster's.

        Raises
        ------
        OSError
            There can be no socket.
        """
        place = sockets.place(home, KIND)
        place.remove_old()
        self._path = place.socket(uuid.uuid4().hex[: sockets.KEY_LENGTH])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)
        except BaseException:
            self._socket.close()
            raise
        self._touched = time.monotonic()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def wait(self, seconds: float) -> bool:
        """Wait to be woken.

        Parameters
        ----------
        seconds:
            At most so long.

        Returns
        -------
        bool
            Whether somebody has sent a wake-up since the last call that returned true.
        """
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            with suppress(FileNotFoundError):  # somebody has removed it: the daemon polls by itself
                os.utime(self._path)
        if not select([self._socket], [], [], max(0.0, seconds))[0]:
            return False
        with suppress(BlockingIOError):  # all of them: one poll is for all
            while True:
                self._socket.recv(1)
        return True


def wake(home: str) -> None:
    """Let the daemons of a home on this machine poll its queue.

    Parameters
    ----------
    home:
        Dagster's.
    """
    try:
        found = sockets.place(home, KIND).sockets()
    except OSError as error:
        logger.info("No daemon is woken; it polls its queue by itself: %s", error)
        return
    for path in found:
        _send(path)


def _send(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(b"", str(path))
        except (FileNotFoundError, BlockingIOError):  # it has ended, or has yet to see others
            pass
        except ConnectionRefusedError:  # it was killed: no other has a socket of this name
            path.unlink(missing_ok=True)
        except OSError as error:
            # macOS says so where Linux would block.
            if error.errno != errno.ENOBUFS:
                logger.info("A daemon is not woken; it polls its queue by itself: %s", error)
