"""Run command lines of Python in forks of this process, which has imported Django and Dagster.

    python -P serve.py ADDRESS

It imports nothing of a project: each command reads the files as they are.
"""

import json
import os
import runpy
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# It is beside what each Python of the tests reads.
from forked_programs import import_once, run_and_end, share

OF_A_SHELL = {"_", "OLDPWD", "PWD", "SHLVL"}
"""Variables that each shell sets for itself."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in OF_A_SHELL}


def serve(address: str) -> None:
    """Fork for each command line, until standard input ends."""
    import_once()
    share()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks that wait for commands are reaped
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(f"\0{address}")
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while not any(key.fileobj is sys.stdin for key, _ in selector.select()):
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> NoReturn:
    """Run a command line in one more fork, send its process id and then its exit status, and end.

    Where no fork can stand for it, send ``null``.
    """
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 4)
    while more := connection.recv(1 << 20):
        data += more
    request = json.loads(data)
    status = None
    if can_run(request):
        pid = os.fork()
        if pid == 0:
            connection.close()
            run(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(f"{pid}\n".encode())
        _, ended = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(ended)
        status = code if code >= 0 else 128 - code
    with suppress(BrokenPipeError):  # nobody waits for the end
        connection.sendall(f"{json.dumps(status)}\n".encode())
    os._exit(0)


def can_run(request: dict[str, Any]) -> bool:
    """Return whether a fork can stand for it: its environment is this one's, as /proc says it.

    Who asks for ``anyhow`` does not look there.
    """
    if request.get("anyhow"):
        return True
    found = {k: v for k, v in request["environment"].items() if k not in OF_A_SHELL}
    args = request["args"]
    return found == ENVIRONMENT and bool(args) and (args[0] == "-m" or args[0].endswith(".py"))


def run(request: dict[str, Any], descriptors: list[int]) -> None:
    """Become the command."""
    os.chdir(request["folder"])
    if request.get("session"):
        os.setsid()
    sys.executable = request.get("executable", sys.executable)
    if request.get("anyhow"):
        os.environ.clear()
        os.environ.update(request["environment"])
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[:0] = [each for each in path if each and each not in sys.path]
        time.tzset()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    run_and_end(lambda: become(request["args"], request["folder"]))


def become(args: list[str], folder: str) -> None:
    """Execute a command line."""
    if args[0] == "-m":
        sys.path.insert(0, folder)
        sys.argv = args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(args[0]).resolve().parent))
        sys.argv = args
        runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
