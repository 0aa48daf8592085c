"""Releases: the identity of the code that a run executes.

Two runs are of the same release if the same Python imports the same module from the same folder,
in the same environment. A template process serves one release only (``template_client.address``).
"""

import hashlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ... import __version__
from ...support import os_processes
from ..dagster_internals import ModuleCodePointer, RepositoryPythonOrigin

_SHELLS = (
    *("_", "SHLVL", "PWD", "OLDPWD", "TERM", "COLORTERM", "COLUMNS", "LINES", "WINDOWID", "PS1"),
    *("STY", "TMUX", "TMUX_PANE", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "TERM_SESSION_ID"),
    *("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "SSH_AUTH_SOCK", "SSH_AGENT_PID"),
    *("XDG_SESSION_ID", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKE_TERMOUT", "MAKE_TERMERR"),
    *("DISPLAY", "WAYLAND_DISPLAY", "GNOME_TERMINAL_SCREEN", "ITERM_SESSION_ID", "WT_SESSION"),
    *("KITTY_PID", "KITTY_WINDOW_ID", "KITTY_LISTEN_ON", "WEZTERM_PANE", "WEZTERM_UNIX_SOCKET"),
    *("ALACRITTY_SOCKET", "ALACRITTY_WINDOW_ID", "KONSOLE_DBUS_SESSION", "KONSOLE_DBUS_WINDOW"),
    *("VSCODE_IPC_HOOK_CLI", "VSCODE_GIT_IPC_HANDLE", "VSCODE_GIT_ASKPASS_MAIN", "GPG_TTY"),
)
_SUPERVISORS = (
    *("INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "NOTIFY_SOCKET", "MAINPID"),
    *("WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    *("LISTEN_PIDFDID", "MANAGERPID", "MANAGERPIDFDID"),
    *("MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"),
    *("SUPERVISOR_PROCESS_NAME", "SUPERVISOR_GROUP_NAME", "SUPERVISOR_ENABLED"),
    *("FOREMAN_WORKER_NAME", "HONCHO_PROCESS_NAME"),
)
_SERVERS = (  # set by these for their own processes; settings.TIME_ZONE replaces TZ
    *("DAGSTER_HOME", "DAGSTER_IS_DEV_CLI", "PYTHONWARNINGS", "TZ", "RUN_MAIN", "SERVER_SOFTWARE"),
    *("DAGSTER_verbose", "PYTEST_CURRENT_TEST"),
)
_OF_ONE_PROCESS = frozenset((*_SHELLS, *_SUPERVISORS, *_SERVERS))
"""Environment variables that differ between the processes of one release."""


@dataclass(frozen=True)
class Release:
    """The code of a run, and the environment in which it is imported."""

    origin: RepositoryPythonOrigin
    """The code's origin, with symbolic links followed: a switched link changes no release."""

    environment: Mapping[str, str] = field(repr=False)
    """The environment variables of the process that launches."""

    @classmethod
    def of_origin(
        cls, origin: RepositoryPythonOrigin, environment: Mapping[str, str] | None = None
    ) -> "Release":
        """Return the present release of an origin.

        Parameters
        ----------
        origin:
            The origin of a run's code.
        environment:
            Environment variables; left out, this process's.
        """
        given = dict(os.environ if environment is None else environment)
        given.pop(os_processes.STARTED_BY_RUN, None)  # a run that a run launches is not part of it
        return cls(pinned(origin), given)

    @property
    def key(self) -> str:
        """Return 16 hexadecimal digits that identify the release."""
        pointer = self.origin.code_pointer
        parts = (
            __version__,
            os.getuid(),
            self.origin.executable_path,
            _mark(Path(self.origin.executable_path)),
            pointer.describe(),
            _mark(self.folder),
            _shared(self.environment),
        )
        return _hashed(parts)

    @property
    def folder(self) -> Path | None:
        """Return the folder that the code is imported from."""
        return folder(self.origin)


def environment_key(environment: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits that identify the surroundings in which code runs.

    Processes share them that are on one machine, see the same processes, and have one user and one
    environment.

    Parameters
    ----------
    environment:
        The environment variables of the process.
    """
    machine = (socket.gethostname(), os_processes.boot_id(), os_processes.pid_namespace())
    return _hashed((__version__, os.getuid(), machine, _shared(environment)))


def environment_at_start() -> Mapping[str, str]:
    """Return the environment that this process was started with; its modules may change it."""
    try:
        return psutil.Process().environ()
    except psutil.Error:  # not allowed, or not known here
        return os.environ


def _shared(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables that the processes of one release have in common."""
    return sorted((k, v) for k, v in environment.items() if k not in _OF_ONE_PROCESS)


def _hashed(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def folder(origin: RepositoryPythonOrigin) -> Path | None:
    """Return the working directory of an origin, or ``None`` if it names no absolute one."""
    path = getattr(origin.code_pointer, "working_directory", None)
    return Path(path) if path and Path(path).is_absolute() else None


def why_gone(origin: RepositoryPythonOrigin) -> str | None:
    """Return the missing parts of a release as a sentence; ``None`` if it is complete."""
    where = folder(origin)
    if where is not None and not where.is_dir():
        return f"The folder {str(where)!r} is not there."
    if origin.executable_path and not Path(origin.executable_path).exists():
        return f"Its Python {origin.executable_path!r} is not there."
    return None


def pinned(origin: RepositoryPythonOrigin) -> RepositoryPythonOrigin:
    """Return an origin whose folders are absolute, with symbolic links followed.

    An origin without a folder is imported from this process's working directory.
    """
    pointer, executable = origin.code_pointer, Path(origin.executable_path or sys.executable)
    if isinstance(pointer, ModuleCodePointer):
        where = str(Path(pointer.working_directory or ".").resolve())
        pointer = ModuleCodePointer(pointer.module, pointer.fn_name, where)
    # Only the folder: a virtual environment's Python is itself a link, and known by its path.
    return origin._replace(
        executable_path=str(executable.parent.resolve() / executable.name), code_pointer=pointer
    )


def _mark(path: Path | None) -> tuple[int, ...] | None:
    """Return a stamp that changes when a file or folder is replaced."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    if found is None:
        return None
    # A folder's time changes whenever a file is made in it.
    changed = () if path is not None and path.is_dir() else (found.st_mtime_ns,)
    return (found.st_dev, found.st_ino, *changed)
