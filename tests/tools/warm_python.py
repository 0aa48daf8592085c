"""Pythons that run in forks of one that has imported Django and Dagster.

To import both takes most programs longer than what they do. Nothing of a project is imported
before: a program reads its files as they are at that moment.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

from tests.tools import python_path
from tests.tools.code_files import code_of

CODE = code_of(__file__)

TIMEOUT_SECONDS = 120

TEMPLATE = "proctree_dagster.orchestration.template"
"""The module that is a template."""


class Forks:
    """The process that forks; it ends with the process that has started it."""

    def __init__(self, folder: Path, env: Mapping[str, str], python: str = sys.executable) -> None:
        """Start it with an environment, which is that of its forks as /proc says it."""
        self.address = f"proctree-tests-python-{os.getpid()}-{id(self)}"
        self._server = subprocess.Popen(
            [python, "-P", str(CODE / "serve.py"), self.address],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,  # its end tells the server that nobody is left
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n", "the Python that forks did not start"

    def start(
        self,
        args: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        files: Sequence[int],
        *,
        session: bool = False,
    ) -> "Fork":
        """Start a program with an environment of its own, but for what /proc says of it.

        Parameters
        ----------
        args:
            The command line after ``python``.
        folder:
            Its working directory.
        env:
            Its environment.
        files:
            The descriptors that it has as 0, 1, 2 and so on.
        session:
            Whether it leads a session of its own.
        """
        request = {
            **{"args": args, "folder": str(folder), "environment": dict(env)},
            **{"anyhow": True, "session": session},
        }
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"\0{self.address}")
        socket.send_fds(connection, [json.dumps(request).encode()], list(files))
        connection.shutdown(socket.SHUT_WR)
        return Fork(connection)

    def run(self, args: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        """Run a program to its end; fail if it does."""
        with self.start(args, folder, env, [0, 1, 2]) as fork:
            assert fork.wait(TIMEOUT_SECONDS) == 0, f"{args} failed"

    def stop(self) -> None:
        """End it; programs that still run go on to their ends."""
        self._server.communicate(timeout=30)


@cache
def forks_of_these_tests() -> Forks:
    """Return the one that the tests of this process share."""
    env = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    return Forks(CODE, {**env, "PYTHONPATH": python_path()})


class Fork:
    """A program in a fork."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        connection.settimeout(TIMEOUT_SECONDS)
        self.pid = int(self._lines.readline())
        self._status: int | None = None

    def wait(self, seconds: float) -> int:
        """Wait until it has ended and return its exit status, as a shell writes it."""
        if self._status is None:
            self._connection.settimeout(seconds)
            self._status = int(self._lines.readline())
        return self._status

    def kill(self) -> None:
        """Kill it, unless it is known to have ended."""
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._connection.close()


def python_of_templates(folder: Path) -> str:
    """Return a ``python`` in a folder whose templates are forks of the one of these tests.

    A template that takes the place of another (``exec``) and all other programs are new
    interpreters, and every process has the id with which it was started, but for the templates:
    those say theirs.
    """
    address = forks_of_these_tests().address
    file = folder / "python"
    ask = f'exec {sys.executable} -ISP {CODE / "ask_for_template.py"} {address} {file} "$@"'
    file.write_text(
        "#!/bin/sh\n"
        f'case "$2 $*" in {TEMPLATE}*" --state "*) ;; "{TEMPLATE} "*) {ask} ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    file.chmod(0o755)
    return str(file)


class WarmPython:
    """A ``python`` for people who type commands: each runs in a fork."""

    def __init__(self, folder: Path, env: Mapping[str, str], python: str = sys.executable) -> None:
        """Start it.

        Parameters
        ----------
        folder:
            A folder for the executable file ``python``.
        env:
            The environment of the commands: one with another environment runs by itself.
        python:
            The Python that it stands for.
        """
        self._forks = Forks(folder, env, python)
        address = self._forks.address
        self.executable = folder / "python"
        self.executable.write_text(
            f'#!/bin/sh\nexec {python} -ISP {CODE / "ask.py"} {address} {python} "$@"\n'
        )
        self.executable.chmod(0o755)

    def stop(self) -> None:
        """End it; commands that still run go on to their ends."""
        self._forks.stop()
