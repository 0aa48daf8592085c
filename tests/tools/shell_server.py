"""Lines of Python in a project, without a new interpreter for each: they run in forks of one.

That one has set Django up and imported Dagster: each takes half a second or more, and a fork takes
milliseconds. It is a fork itself, of one that has imported both for all stacks of these tests.
"""

import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.tools.startup.forked_programs import run_and_end, share
from tests.tools.warm_python import Forks, forks_of_these_tests

TIMEOUT_SECONDS = 120

LISTENER = 3
"""The descriptor of the socket to which programs come."""


class ShellServer:
    """The process that forks. It ends with the process that has started it."""

    def __init__(self, folder: Path, env: Mapping[str, str], log: Path) -> None:
        """Start it in a project's folder."""
        self._address = f"\0proctree-tests-{os.getpid()}-{id(self)}"
        program = f"from {__name__} import serve; serve({LISTENER})"
        args = ["manage.py", "shell", "--no-imports", "-c", program]
        ours, self._theirs = os.pipe()  # its end tells the server that nobody is left
        with socket.socket(socket.AF_UNIX) as listener, log.open("ab") as output:
            listener.bind(self._address)
            listener.listen(64)
            files = [ours, output.fileno(), output.fileno(), listener.fileno()]
            # What is loaded before all else can't be loaded into a fork.
            self._own = Forks(folder, env) if "LD_PRELOAD" in env else None
            forks = self._own or forks_of_these_tests()
            self._fork = forks.start(args, folder, env, files)
        os.close(ours)

    def run(self, program: str) -> "subprocess.CompletedProcess[str]":
        """Run a program as ``manage.py shell`` does, and return what it came to."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(self._address)
            connection.sendall(program.encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                status, output, errors = json.loads(answer.read())
        return subprocess.CompletedProcess(["shell"], status, output, errors)

    def stop(self) -> None:
        """End it; the programs that it runs go on to their ends."""
        os.close(self._theirs)
        with self._fork:
            self._fork.wait(30)
        if self._own is not None:
            self._own.stop()


def serve(descriptor: int) -> None:
    """Fork for each program that comes, until standard input ends. The server calls it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks that wait for programs are reaped
    importlib.import_module("proctree_dagster.orchestration.runs.create")
    share()
    with socket.socket(fileno=descriptor) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not any(key.fileobj is sys.stdin for key, _ in selector.select()):
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run a program in one more fork, send what it came to, and end this process."""
    with connection.makefile("rb") as lines:
        program = lines.read().decode()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if pid == 0:
            connection.close()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            # The functions that it defines belong to the module that they would belong to.
            namespace = vars(importlib.import_module("django.core.management.commands.shell"))
            run_and_end(lambda: exec(program, namespace))
        _, status = os.waitpid(pid, 0)
        printed = [(each.seek(0), each.read().decode())[1] for each in (output, errors)]
    connection.sendall(json.dumps([os.waitstatus_to_exitcode(status), *printed]).encode())
    os._exit(0)
