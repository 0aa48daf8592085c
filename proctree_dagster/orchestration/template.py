"""The template process: Dagster, Django and the code location imported once, forked for each run.

    python -m proctree_dagster.orchestration.template --home … --listener … --origin …

It is started by ``template_client``, has one thread, and waits: for requests, for the deaths of its
children, and for the end of the processes that use it. Nothing that must not be shared by two
processes lives in it: no database connection, no thread, no Dagster instance, no gRPC channel.

When a module that it has imported was changed on disk, or the code location was reloaded, it
replaces itself (``exec``): process id, children and socket stay, the imports are new, and whoever
asks meanwhile waits in the socket's queue.
"""

import argparse
import gc
import importlib.util
import json
import logging
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil
from dagster import DagsterInstance, RepositoryDefinition
from dagster._cli.api import _execute_run_command_body
from dagster._core.origin import RepositoryPythonOrigin
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import deserialize_value
from dagster._utils import get_run_crash_explanation
from dagster._utils.interrupts import capture_interrupts
from django.apps import apps
from filelock import FileLock

from . import sqlite_files, template_client, warmth
from .template_client import Patience
from .workers import Worker, started

logger = logging.getLogger("proctree_dagster.orchestration.template")

LOOK_ROUND_SECONDS = 60.0
"""How often it sees whether its home and its socket are still there."""

POLL_SECONDS = 5.0
"""The same, where the system can't tell of the end of a process that is no child."""

PATIENCE_SECONDS = 15.0
"""How long a worker may take to cancel its run when everything ends."""

UNWANTED = 75
"""Exit code of a child whose launch was given up before it began."""

REQUEST_SECONDS = 5.0
"""How long whoever has connected may take to say what it wants."""

BEGUN_NS = time.time_ns()
"""When the imports began, in nanoseconds of the clock that stamps files."""

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}

Stamp = tuple[int, int] | None


def user_modules() -> list[Path]:
    """Return the files of the imported modules that somebody may edit: not the installed ones."""
    paths = sysconfig.get_paths()
    installed = tuple(
        {f"{paths[key]}{os.sep}" for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    )
    modules = list(sys.modules.values())
    files = {getattr(module, "__dict__", {}).get("__file__") for module in modules}
    return [Path(file) for file in sorted(filter(None, files)) if not file.startswith(installed)]


def stamp(file: Path) -> Stamp:
    """Return what changes when a file does."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def stamps(files: list[Path], since_ns: int) -> dict[Path, Stamp]:
    """Return the stamps of files, and ``None`` for one that was changed while it was imported."""
    now = time.time_ns()
    found = {file: stamp(file) for file in files}
    return {
        file: None if mark and since_ns <= mark[0] <= now else mark for file, mark in found.items()
    }


def connections_left(before: set[int]) -> str | None:
    """Return why a process with new connections must not be forked, or ``None``.

    Parameters
    ----------
    before:
        The sockets that were open before the imports (see ``sockets``).
    """
    left = len(sockets() - before)
    return f"importing the code location has left {left} connections open" if left else None


def sockets() -> set[int]:
    """Return the file descriptors of this process's sockets."""
    return {each.fd for each in psutil.Process().net_connections("all")}


def why_not_fork() -> str | None:
    """Return why this process must not be forked, or ``None``."""
    threads = threading.active_count()
    tasks = Path("/proc/self/task")
    if tasks.is_dir():  # threads that Python does not know of count as well
        threads = max(threads, len(list(tasks.iterdir())))
    if threads > 1:
        return f"importing the code location has left {threads - 1} threads running"
    return None


def load(origin: RepositoryPythonOrigin) -> None:
    """Import the code location, and what its trees need, and leave no connection open."""
    from django.db import connections

    repository = origin.code_pointer.load_target()
    try:
        if isinstance(repository, RepositoryDefinition):
            repository.get_all_jobs()
    except Exception:  # whatever is wrong with a tree or the database, its runs will say so
        logger.exception("The process trees can't be read now; the first runs will start slower.")
    finally:
        connections.close_all()


class Template:
    """The process that is forked."""

    def __init__(self, home: str, listener: socket.socket, origin: str, patience: Patience) -> None:
        self.home = home
        self.patience = patience
        self.listener = listener
        self.origin: RepositoryPythonOrigin = deserialize_value(origin, RepositoryPythonOrigin)
        self._origin = origin
        self.address = template_client.address(home)
        self._inode = self.address.stat().st_ino
        self.children: dict[int, str] = {}
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        self._owners: dict[tuple[int, str], bool] = {}
        self._lonely_since = self._asked_at = time.monotonic()
        self._told: set[str] = set()
        self._stamps: Mapping[Path, Stamp] = {}
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._wakeup: socket.socket | None = None
        self._connected: str | None = None

    def warm_up(self) -> None:
        """Import everything once."""
        warmth.read_migrations_once()
        before = sockets()
        load(self.origin)
        self._connected = connections_left(before)
        self._stamps = stamps(user_modules(), BEGUN_NS)
        gc.collect()
        gc.freeze()  # or the first collection in each child would copy every page

    def serve(self) -> None:
        """Wait and answer, until there is nobody left to wait for."""
        self._wakeup, signals = socket.socketpair()
        self._wakeup.setblocking(False)
        signals.setblocking(False)
        self.listener.setblocking(False)
        self._selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self._selector.register(signals, selectors.EVENT_READ, lambda: self._heed(signals))
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._reap()  # whoever died while this process replaced itself
        while not self._ended:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._look_round()

    # Requests

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:  # whoever asked has gone
            return
        with connection:
            connection.settimeout(REQUEST_SECONDS)
            try:
                line = connection.makefile("rb").readline()
                if line:
                    self.answer(connection, json.loads(line))
            except Exception:  # one bad request must not end the template
                logger.exception("A request could not be answered.")

    def answer(
        self, connection: socket.socket, request: template_client.Request, *, fresh: bool = False
    ) -> None:
        """Answer one request.

        Parameters
        ----------
        connection:
            Where the answer goes.
        request:
            What is asked for.
        fresh:
            Whether this process has just replaced itself for it.
        """
        if request["do"] == "reload":
            with suppress(OSError):  # whoever asked has not waited
                _send(connection, {"pid": os.getpid()})
            self._replace()
        elif request["do"] == "find":
            pids = [
                pid
                for pid, args in self.children.items()
                if deserialize_value(args, ExecuteRunArgs).run_id == request["run_id"]
            ]
            _send(connection, {"pid": pids[-1] if pids else None, "template": os.getpid()})
        else:
            self._asked_at = time.monotonic()
            self._watch(request["owner"])
            if not fresh and self._is_outdated():
                self._replace(connection, request)
            self._launch(connection, request["args"])

    def _launch(self, connection: socket.socket, serialized: str) -> None:
        args = deserialize_value(serialized, ExecuteRunArgs)
        problem = why_not_fork() or self._connected or self._why_another(args)
        if problem is None:
            pid = self._fork(connection, args)
        else:
            if problem not in self._told:
                self._told.add(problem)
                logger.warning("Runs are started in plain processes, slower: %s.", problem)
            pid = self._start(args.get_command_args())
        self.children[pid] = serialized
        if problem is not None:
            _send(connection, {"pid": pid, "plain": True})  # a forked child says so itself

    def _start(self, command: Sequence[str]) -> int:
        """Start a program and return its process id."""
        process = subprocess.Popen(command, start_new_session=True)  # noqa: S603  # Dagster's, ours
        # Kept until it is reaped here: of what is forgotten, subprocess would reap the next one.
        self._started[process.pid] = process
        return process.pid

    def _why_another(self, args: ExecuteRunArgs) -> str | None:
        """Return why a run is not one for this process: it is of other code."""
        wanted, have = args.job_origin.repository_origin, self.origin
        same = (
            wanted.executable_path == have.executable_path
            and wanted.code_pointer.describe() == have.code_pointer.describe()
        )
        if same:
            return None
        return (
            f"they are of {wanted.code_pointer.describe()!r} ({wanted.executable_path}), and the "
            f"template is for {have.code_pointer.describe()!r} ({have.executable_path})"
        )

    def _fork(self, connection: socket.socket, args: ExecuteRunArgs) -> int:
        # Nothing may interrupt the child before Dagster's own handlers are in place.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _be_worker(self, connection, args)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return pid

    def let_go(self) -> None:
        """In a child: close what is the template's."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._wakeup is not None:
            self._wakeup.close()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            else:
                key.fileobj.close()  # type: ignore[attr-defined]
        self._selector.close()

    # Being up to date

    def _is_outdated(self) -> bool:
        changed = [file for file, before in self._stamps.items() if stamp(file) != before]
        for file in changed:
            # Python takes bytecode for current by size and whole seconds; two edits may share both.
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
        if changed:
            logger.info("Importing anew: %s changed.", ", ".join(map(str, changed[:3])))
        return bool(changed)

    def _replace(
        self,
        connection: socket.socket | None = None,
        request: template_client.Request | None = None,
    ) -> NoReturn:
        """Become a new process in the same place: imports are new, everything else stays."""
        state = {
            "children": self.children,
            "owners": [(*who, dev) for who, dev in self._owners.items()],
            "request": request,
            "connection": connection.fileno() if connection else None,
        }
        with tempfile.TemporaryFile("w+") as file:
            json.dump(state, file)
            file.flush()
            handed = [self.listener.fileno(), file.fileno()]
            if connection is not None:
                handed.append(connection.fileno())
            for descriptor in handed:
                os.set_inheritable(descriptor, True)
            sys.stdout.flush()
            sys.stderr.flush()
            command = template_client.command(
                self.home, self.listener.fileno(), self._origin, self.patience, file.fileno()
            )
            os.execv(sys.executable, [sys.executable, *command])  # noqa: S606  # itself

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where the process was that this one has replaced."""
        self.children = {int(pid): args for pid, args in state["children"].items()}
        for pid, since, dev in state["owners"]:
            self._watch({"pid": pid, "started": since, "dev": dev})
        if state["connection"] is not None:
            with socket.socket(fileno=state["connection"]) as connection:
                connection.setblocking(True)
                self.answer(connection, state["request"], fresh=True)

    # Children

    def _heed(self, signals: socket.socket) -> None:
        received = set(signals.recv(4096))
        if received & {signal.SIGTERM, signal.SIGINT}:
            self._ended = True
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            args = self.children.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if pid in self._started:
                self._started.pop(pid).returncode = code
            if args is not None and code not in (0, UNWANTED):
                self._report(pid, code, args)

    def _report(self, pid: int, code: int, args: str) -> None:
        """Let a process of its own write down that a worker died: this one opens no instance."""
        message = get_run_crash_explanation(f"The run's worker (process {pid})", code)
        logger.error("%s", message)
        command = [sys.executable, "-m", template_client.MODULE, "--died", message, "--args", args]
        self._start(command)

    # Its own end

    def _watch(self, owner: Mapping[str, Any]) -> None:
        """Stay as long as a process does."""
        who = (owner["pid"], owner["started"])
        if who in self._owners or owner["pid"] == os.getpid():
            return
        if who[1] is None or started(who[0]) != who[1]:
            return  # it has ended
        self._owners[who] = owner["dev"]
        if sys.platform == "linux":
            try:
                handle = os.pidfd_open(owner["pid"])
            except OSError:
                return  # it has ended, and will be noticed
            self._selector.register(handle, selectors.EVENT_READ, lambda: self._forget(handle))

    def _forget(self, handle: int) -> None:
        self._selector.unregister(handle)
        os.close(handle)

    def _patience(self) -> float:
        """Return how long to wait until the next look round, in seconds."""
        longest = LOOK_ROUND_SECONDS if sys.platform == "linux" else POLL_SECONDS
        if self.children:
            return longest
        now, patience = time.monotonic(), self.patience
        left = [longest]
        if not self._owners:
            left.append(self._lonely_since + patience.alone - now)
        if patience.idle:
            left.append(self._asked_at + patience.idle - now)
        return max(0.0, min(left))

    def _look_round(self) -> None:
        gone = [who for who in self._owners if started(who[0]) != who[1]]
        for who in gone:
            if self._owners.pop(who):
                logger.info("Ending with 'dagster dev'.")
                self._end_children()
                self._ended = True
        now, patience = time.monotonic(), self.patience
        if self._owners:
            self._lonely_since = now
        if self.children:
            self._asked_at = now
        elif now - self._lonely_since >= patience.alone:
            self._ended = True
        elif patience.idle and now - self._asked_at >= patience.idle:
            logger.info("Ending: no run was launched for %s seconds.", patience.idle)
            self._ended = True
        if not self._is_reachable():
            logger.warning("%s is not this process's any more; ending.", self.address)
            self._ended = True

    def _is_reachable(self) -> bool:
        """Whether the socket's path still leads here."""
        try:
            return self._inode == self.address.stat().st_ino
        except OSError:
            return False

    def _end_children(self) -> None:
        """End the running runs, as Ctrl-C in ``dagster dev`` ends those of the stock launcher."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for pid in self.children:
            _kill(pid, signal.SIGINT)
        while self.children and time.monotonic() < deadline:
            time.sleep(0.1)
            self._reap()
        for pid in self.children:
            _kill(pid, signal.SIGKILL)

    def refuse(self, reason: str, state: Mapping[str, Any] | None) -> None:
        """Say to everyone who waits why there will be no answer, and then end."""
        waiting = []
        if state and state["connection"] is not None:
            waiting.append(socket.socket(fileno=state["connection"]))
        self.listener.setblocking(False)
        with suppress(OSError):  # nobody else waits
            while True:
                waiting.append(self.listener.accept()[0])
        for connection in waiting:
            with connection, suppress(OSError):
                _send(connection, {"refused": reason})

    def close(self) -> None:
        """Leave nothing behind."""
        # Under the lock of the starters, so that it is not the socket of the next template.
        with suppress(OSError), FileLock(template_client.lock(self.home), timeout=5):
            if self._is_reachable():
                self.address.unlink(missing_ok=True)
        self.listener.close()


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _send(connection: socket.socket, answer: template_client.Answer) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _be_worker(template: Template, connection: socket.socket, args: ExecuteRunArgs) -> NoReturn:
    """In a fresh child: do what ``dagster api execute_run`` does, and end."""
    code = 1
    try:
        os.setsid()
        template.let_go()
        # The child answers, not the template: if the template is killed, whoever asked still knows.
        try:
            _send(connection, {"pid": os.getpid()})
        except OSError:
            os._exit(UNWANTED)
        connection.close()
        code = _work(args)
    except BaseException:  # nothing may return into the template's code
        logger.exception("The run %s could not be executed.", args.run_id)
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(code)


def _work(args: ExecuteRunArgs) -> int:
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    with capture_interrupts():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        with (
            _open_instance(args) as instance,
            sqlite_files.keep_open(sqlite_files.of_worker(instance)),
        ):
            worker = Worker.of_process(args.run_id, os.getpid())
            instance.add_run_tags(args.run_id, worker.as_tags())
            code = _execute_run_command_body(
                args.run_id, instance, lambda event: None, set_exit_code_on_failure=False
            )
            if apps.ready:  # it is, if the run's trees could be loaded
                from . import followers

                followers.end(instance, args.run_id)
            return code


def _open_instance(args: ExecuteRunArgs) -> DagsterInstance:
    assert args.instance_ref is not None, "the launcher always gives one"
    return DagsterInstance.from_ref(args.instance_ref)


def report_death(args: ExecuteRunArgs, message: str) -> None:
    """Write down that a run's worker died: the run is failed, or canceled if it was told to be."""
    with _open_instance(args) as instance:
        run = instance.get_run_by_id(args.run_id)
        if run is None or run.is_finished:
            return
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)


def _read(descriptor: int | None) -> Mapping[str, Any] | None:
    """Return what the process that this one has replaced left for it."""
    if descriptor is None:
        return None
    with open(descriptor) as file:  # noqa: PTH123  # no path
        file.seek(0)
        state: Mapping[str, Any] = json.load(file)
        return state


def main() -> None:
    """Be a template, or report a death."""
    parser = argparse.ArgumentParser(description="Started by WarmRunLauncher.")
    parser.add_argument("--home")
    parser.add_argument("--listener", type=int)
    parser.add_argument("--origin")
    parser.add_argument("--alone", type=int)
    parser.add_argument("--idle", type=int)
    parser.add_argument("--state", type=int)
    parser.add_argument("--died")
    parser.add_argument("--args")
    given = parser.parse_args()
    if given.died:
        report_death(deserialize_value(given.args, ExecuteRunArgs), given.died)
        return
    # A process that a run starts is not one of dagster dev's.
    os.environ.pop("DAGSTER_IS_DEV_CLI", None)
    listener = socket.socket(fileno=given.listener)
    template = Template(given.home, listener, given.origin, Patience(given.alone, given.idle))
    state = _read(given.state)
    try:
        template.warm_up()
        if state is not None:
            template.resume(state)
        template.serve()
    except Exception as error:
        logger.exception("The template process ends.")
        template.refuse(f"{type(error).__name__}: {error}", state)
        sys.exit(1)
    finally:
        template.close()


if __name__ == "__main__":
    main()
