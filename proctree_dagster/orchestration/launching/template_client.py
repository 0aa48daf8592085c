"""Client of template processes: finds, starts and queries them (``template`` is the process).

There is one template for each release (``releases.py``). It listens on a Unix socket in Dagster's
home, whose name identifies the release. A client that finds no template starts one: it binds the
socket and passes it on, so that requests queue from the start, and none is lost while the template
imports. Requests and answers are lines of JSON. Both ends check that the other is the same user.
"""

import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil
from dagster import serialize_value
from filelock import FileLock

from . import sockets
from .releases import Release
from .workers import started

logger = logging.getLogger(__name__)

MODULE = "proctree_dagster.orchestration.template"
KIND = "template"


class IdleTimeouts(NamedTuple):
    """Idle timeouts of a template, in seconds."""

    alone: int = 60
    """Without a process that uses it."""

    idle: int = 330
    """Without a launch; 0 for as long as it takes. It holds some 100 MiB meanwhile.

    A little more than five minutes, so that what runs every five finds it.
    """


Request = dict[str, Any]
Answer = dict[str, Any]


class NoAnswer(Exception):
    """The template did not answer; nothing was started."""


class Refused(NoAnswer):
    """The template can't work, and has sent the reason."""


def address(home: str, key: str) -> Path:
    """Return the socket of a release's template.

    Parameters
    ----------
    home:
        Dagster's.
    key:
        The release's (see ``Release.key``).

    Raises
    ------
    PermissionError
        The home's path is too long for a socket, and the private folder that stands in for it
        belongs to somebody else.
    """
    return sockets.place(home, KIND).socket(key)


def addresses(home: str) -> list[Path]:
    """Return the sockets of all templates of a Dagster home."""
    return sockets.place(home, KIND).sockets()


def lock(home: str) -> Path:
    """Return the lock file for starting and ending a template."""
    return Path(home) / ".proctree_template.lock"


def ask(
    home: str,
    release: Release,
    request: Request,
    *,
    output: IO[bytes] | None = None,
    idle_timeouts: IdleTimeouts = IdleTimeouts(),  # noqa: B008  # it is frozen
    seconds: float = 60.0,
) -> Answer:
    """Send a request to the template of a release and return its answer; start it if needed.

    Parameters
    ----------
    home:
        Dagster's.
    release:
        The template's.
    request:
        JSON.
    output:
        The output file of a new template; left out, this process's.
    idle_timeouts:
        The idle timeouts of a new template.
    seconds:
        Timeout of the answer.

    Raises
    ------
    NoAnswer
        No template could be started, or it ended or took too long. The request was not carried
        out.
    """
    try:
        with _reach(home, release, output, idle_timeouts) as connection:
            return _converse(connection, request, seconds)
    except OSError as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from error


def ask_running(
    home: str, request: Request, *, key: str | None = None, seconds: float = 5.0
) -> Iterator[Answer]:
    """Send a request to the running templates of a home, and yield their answers.

    Parameters
    ----------
    home:
        Dagster's.
    request:
        JSON.
    key:
        The key of the release whose template gets it; left out, all templates.
    seconds:
        Timeout of each answer.
    """
    for path in addresses(home) if key is None else [address(home, key)]:
        with suppress(NoAnswer, OSError):  # it is about to end
            connection = _connect(path)
            if connection is not None:
                with connection:
                    yield _converse(connection, request, seconds)


def _converse(connection: socket.socket, request: Request, seconds: float) -> Answer:
    """Send a request and return the answer."""
    connection.settimeout(seconds)
    connection.sendall(json.dumps(request).encode() + b"\n")
    line = connection.makefile("rb").readline()
    if not line:
        raise NoAnswer("It ended before it answered; its output says why.")
    answer: Answer = json.loads(line)
    if "refused" in answer:
        raise Refused(answer["refused"])
    return answer


def stranger(connection: socket.socket) -> str | None:
    """Return the user at the other end of a connection, if it is another user; else ``None``.

    Root may do whatever this user may, and is accepted.
    """
    user = peer(connection)
    return None if user in (os.geteuid(), 0) else f"user {user}"


def peer(connection: socket.socket) -> int:
    """Return the id of the user at the other end of a connection, from the system."""
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        user: int = struct.unpack("3i", credentials)[1]
        return user
    # macOS: LOCAL_PEERCRED gives a struct xucred, which begins with its version and the user.
    user = struct.unpack("2I", connection.getsockopt(0, 1, 76)[:8])[1]
    return user


def tell_reloaded(home: str) -> None:
    """Make a template import again, if this process is a code server: then the code was reloaded.

    A daemon without its own code server starts another every minute, which is no reload.
    """
    if not is_code_server() or _is_started_by_daemon():
        return
    for _ in ask_running(home, {"do": "reload"}):
        pass


def is_code_server() -> bool:
    """Return True if this process is a code server of Dagster's."""
    return sys.argv[1:3] == ["api", "grpc"]


def is_daemons_code_server() -> bool:
    """Return True if this process is a code server of Dagster's daemon."""
    return is_code_server() and _is_started_by_daemon()


def _is_started_by_daemon() -> bool:
    """Return True if this process's parent is known to be Dagster's daemon.

    A parent that has ended, or that the system hides (``hidepid``, another user's), is unknown: a
    needless import of a template costs seconds, a missing one would run old code.
    """
    try:
        parent = psutil.Process().parent()
        return parent is not None and any("daemon" in part for part in parent.cmdline()[:4])
    except (psutil.Error, OSError) as error:
        logger.warning("The process that started this code server can't be read: %r", error)
        return False


def owner() -> Mapping[str, Any]:
    """Return the process with which a template ends: this one, or the ``dagster dev`` above it."""
    under_dev = bool(os.environ.get("DAGSTER_IS_DEV_CLI"))
    pid = os.getppid() if under_dev else os.getpid()
    return {"pid": pid, "started": started(pid), "dev": under_dev}


def _reach(
    home: str, release: Release, output: IO[bytes] | None, idle_timeouts: IdleTimeouts
) -> socket.socket:
    """Connect to the template of a release; if there is none, start it."""
    path = address(home, release.key)
    connection = _connect(path)
    if connection is None:
        # Of two concurrent clients, the second finds the first one's template.
        with FileLock(lock(home), timeout=30):
            connection = _connect(path)
            if connection is None:
                _remove_abandoned(home)
                with _listen(path) as listener:
                    _start(home, listener, release, output, idle_timeouts)
                connection = _connect(path)
    if connection is None:
        raise ConnectionRefusedError("There is no template process.")
    return connection


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
        who = stranger(connection)
        if who is not None:
            raise PermissionError(f"{path} belongs to {who}: no run is handed to it.")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _remove_abandoned(home: str) -> None:
    """Remove the sockets of killed templates. Call it under the starters' lock."""
    for path in addresses(home):
        try:
            connection = _connect(path)
        except PermissionError:  # another user's template
            continue
        if connection is None:
            path.unlink(missing_ok=True)
        else:
            connection.close()
    sockets.place(home, KIND).remove_old()


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)  # before it listens, so nobody else ever gets in
        listener.listen(4096)
    except BaseException:
        listener.close()
        raise
    return listener


def _start(
    home: str,
    listener: socket.socket,
    release: Release,
    output: IO[bytes] | None,
    idle_timeouts: IdleTimeouts,
) -> None:
    """Start a template in its own session, so that no signal to this process group reaches it."""
    arguments = command(
        home, release.key, listener.fileno(), serialize_value(release.origin), idle_timeouts
    )
    subprocess.Popen(  # noqa: S603  # itself
        [release.origin.executable_path, *arguments],
        cwd=release.folder,
        env=release.environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    )


def examine(release: Release, *, seconds: float = 120.0) -> str | None:
    """Return why runs of a release can't be forked, or ``None``; leaves no process running.

    Parameters
    ----------
    release:
        The release, which is imported in a process of its own.
    seconds:
        Timeout of the import.

    Raises
    ------
    NoAnswer
        It can't be imported; the message ends with the reason.
    """
    arguments = ["-m", MODULE, "--examine", "--origin", serialize_value(release.origin)]
    try:
        done = subprocess.run(  # noqa: S603  # itself
            [release.origin.executable_path, *arguments],
            cwd=release.folder,
            env=release.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise NoAnswer(error.stderr.strip().rpartition("\n")[2]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(str(error)) from error
    reason: str | None = json.loads(done.stdout.strip().rpartition("\n")[2])
    return reason


def command(
    home: str,
    key: str,
    listener: int,
    origin: str,
    idle_timeouts: IdleTimeouts,
    state: int | None = None,
) -> list[str]:
    """Return the command line of a template."""
    arguments = ["--home", home, "--key", key, "--listener", str(listener), "--origin", origin]
    arguments += ["--alone", str(idle_timeouts.alone), "--idle", str(idle_timeouts.idle)]
    if state is not None:
        arguments += ["--state", str(state)]
    return ["-m", MODULE, *arguments]
