"""The template process: Dagster, Django and the code location imported once, forked for each run.

    python -m proctree_dagster.orchestration.template --home … --key … --listener … --origin …

It is started by ``template_client``, has one thread, and waits: for requests, for the deaths of its
children, and for the end of the processes that use it. Nothing that must not be shared by two
processes lives in it: no database connection, no thread, no Dagster instance, no gRPC channel.

It serves one release (``releases.py``); another release has another template. When a file that it
has read was changed on disk, a package was installed, or the code location was reloaded, it
replaces itself (``exec``): process id, children and socket stay, the imports are new, and requests
wait in the socket's queue meanwhile.

It is long because one loop answers requests, deaths and signals, and all of them change its state;
what is loaded is in ``loading``, what a fork does in ``worker``.
"""

import argparse
import gc
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dagster import deserialize_value
from filelock import FileLock

from ...domain import run_tags
from ...support import garbage, os_processes
from .. import homes
from ..dagster_internals import ExecuteRunArgs, InstanceRef, RepositoryPythonOrigin
from ..launching import imports, plain, sqlite_keepalive, template_client, template_log
from ..launching.releases import Release
from ..launching.template_client import IdleTimeouts
from ..launching.workers import started
from . import preload
from .further_runs import SIGNALS, Workers, is_shared
from .loading import be_heard, connections_left, examine, fork_problem, load, sockets
from .worker import UNWANTED, adopt_orphans, be_worker, report_death, send

logger = logging.getLogger("proctree_dagster.orchestration.template")

LOOK_ROUND_SECONDS = 60.0
"""Seconds between two checks that its home and its socket still exist."""

POLL_SECONDS = 5.0
"""The same, where the system can't report the end of a process that is no child."""

GRACE_SECONDS = 15.0
"""Grace period in which a worker may cancel its run when everything ends."""

REQUEST_SECONDS = 5.0
"""Timeout of reading a client's request."""

BEGUN_NS = time.time_ns()
"""When the imports began, in nanoseconds of the clock that stamps files."""

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "DAGSTER_IS_DEV_CLI"}
"""The environment at its start: importing a project changes it (``.env``, Django)."""


class Template:
    """The process that is forked."""

    def __init__(
        self, home: str, key: str, listener: socket.socket, origin: str, idle_timeouts: IdleTimeouts
    ) -> None:
        self.home = home
        self.idle_timeouts = idle_timeouts
        self.listener = listener
        self.release = Release(deserialize_value(origin, RepositoryPythonOrigin), ENVIRONMENT)
        self._key, self._origin = key, origin
        self.address = template_client.address(home, key)
        self._inode = self.address.stat().st_ino
        self._folder = self._folder_mark()
        self.children: dict[int, str] = {}
        self._started: dict[int, subprocess.Popen[bytes]] = {}
        self._owners: dict[tuple[int, str], bool] = {}
        self._lonely_since = self._asked_at = time.monotonic()
        self._told: set[str] = set()
        self._reads = imports.Reads()
        self._stamps: Mapping[Path, imports.Stamp] = {}
        self._ended = False
        self._polls = sys.platform != "linux"
        self._selector = selectors.DefaultSelector()
        self._workers = Workers(self._selector, self.let_go)
        self._wakeup: socket.socket | None = None
        self._connected: str | None = None
        self._lent: list[str] = []
        self.takes_runs = False

    def warm_up(self) -> None:
        """Import everything once."""
        preload.read_migrations_once()
        preload.import_once()
        sqlite_keepalive.keep_engines()  # the coordinator would, which few workers open
        before = sockets()
        self._lent = imports.keep_libraries_from_threads()
        with self._reads.noted():
            self._add_to_environment()
            self.takes_runs = load(self.release.origin)
        self._know_home()
        be_heard()
        self._connected = connections_left(before)
        self._stamps = imports.stamps(imports.files_of(self._reads), BEGUN_NS)
        gc.collect()
        gc.freeze()  # or the first collection in each child would copy every page

    def _know_home(self) -> None:
        """Learn that the home is complete, as it is for all runs that come."""
        try:
            homes.remember(InstanceRef.from_dir(self.home))
        except Exception:  # any error of a storage's class: each run asks by itself
            logger.warning("Dagster's home %r can't be examined now.", self.home, exc_info=True)

    def _add_to_environment(self) -> None:
        """Set the variables that Dagster reads from ``.env``: before the imports, as it does."""
        loader = InstanceRef.from_dir(self.home).secrets_loader
        if loader is not None:
            os.environ.update(loader.get_secrets_for_environment(run_tags.LOCATION))

    def serve(self) -> None:
        """Serve requests until no process uses it any more."""
        self._wakeup, signals = socket.socketpair()
        self._wakeup.setblocking(False)
        signals.setblocking(False)
        self.listener.setblocking(False)
        self._selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self._selector.register(signals, selectors.EVENT_READ, lambda: self._heed(signals))
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._reap()  # children that died while this process replaced itself
        while not self._ended:
            for key, _ in self._selector.select(self._seconds_left()):
                key.data()
            self._look_round()

    # Requests

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:  # the client has gone
            return
        with connection:
            connection.settimeout(REQUEST_SECONDS)
            try:
                who = template_client.stranger(connection)
                if who is not None:
                    logger.warning("A connection was refused: it is from %s.", who)
                    return
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
            The connection for the answer.
        request:
            The request.
        fresh:
            Whether this process has just replaced itself for it.
        """
        if request["do"] == "reload":
            with suppress(OSError):  # the client has not waited
                send(connection, {"pid": os.getpid()})
            self._replace()
        elif request["do"] == "find":
            pids = [
                pid
                for pid, args in self.children.items()
                if deserialize_value(args, ExecuteRunArgs).run_id == request["run_id"]
            ]
            send(connection, {"pid": pids[-1] if pids else None, "template": os.getpid()})
        elif request["do"] == "retire":
            owner = (request["owner"]["pid"], request["owner"]["started"])
            if not self._owners.get(owner):  # runs end with dagster dev: it stays an owner
                self._owners.pop(owner, None)
            send(connection, {"template": os.getpid()})
        else:
            self._asked_at = time.monotonic()
            self._watch(request["owner"])
            if not fresh and self._is_outdated():
                self._replace(connection, request)
            self._launch(
                connection, request["args"], shared=is_shared(request, takes_runs=self.takes_runs)
            )

    def _launch(self, connection: socket.socket, serialized: str, *, shared: bool) -> None:
        args = deserialize_value(serialized, ExecuteRunArgs)
        problem = fork_problem() or self._connected
        if problem is None:
            pid = self._workers.give(connection, args, serialized) if shared else None
            pid = pid or self._fork(connection, args, shared=shared)
            self.children[pid] = serialized  # it answers itself
            return
        if problem not in self._told:
            self._told.add(problem)
            logger.warning("Runs are started in plain processes, slower: %s.", problem)
        pid = self._keep(plain.start(args, self.release))
        self.children[pid] = serialized
        send(connection, {"pid": pid, "plain": problem})

    def _keep(self, process: "subprocess.Popen[bytes]") -> int:
        """Hold a process until it is reaped here, or ``subprocess`` would reap it some day."""
        self._started[process.pid] = process
        return process.pid

    def _fork(self, connection: socket.socket, args: ExecuteRunArgs, *, shared: bool) -> int:
        ends = socket.socketpair() if shared else None
        # Nothing may interrupt the child before Dagster's own handlers are in place.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(connection, args, ends)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if ends is not None:
            ends[1].close()
            self._workers.add(pid, ends[0], args.instance_ref)
        return pid

    def _be_worker(
        self,
        connection: socket.socket,
        args: ExecuteRunArgs,
        ends: tuple[socket.socket, socket.socket] | None,
    ) -> NoReturn:
        template = None
        if ends is not None:
            ends[0].close()
            template = ends[1]
        be_worker(
            connection, args, let_go=self.let_go, takes_runs=self.takes_runs, template=template
        )

    def let_go(self) -> None:
        """In a child: close the template's descriptors, and undo its own settings."""
        imports.unset(self._lent)
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._wakeup is not None:
            self._wakeup.close()
        self.listener.close()  # the first child of one that has replaced itself: it serves not yet
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            else:
                key.fileobj.close()  # type: ignore[attr-defined]
        self._selector.close()

    # Being up to date

    def _is_outdated(self) -> bool:
        changed = imports.changed(self._stamps)
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
                self.home,
                self._key,
                self.listener.fileno(),
                self._origin,
                self.idle_timeouts,
                file.fileno(),
            )
            os.execve(  # noqa: S606  # itself
                sys.executable, [sys.executable, *command], ENVIRONMENT
            )

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue the work of the process that this one has replaced."""
        self.children = {int(pid): args for pid, args in state["children"].items()}
        for pid, since, dev in state["owners"]:
            self._watch({"pid": pid, "started": since, "dev": dev})
        if state["connection"] is not None:
            with socket.socket(fileno=state["connection"]) as connection:
                connection.set_inheritable(False)
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
            self._workers.forget(pid)
            code = os.waitstatus_to_exitcode(status)
            if pid in self._started:
                self._started.pop(pid).returncode = code
            if args is not None and code not in (0, UNWANTED):
                self._report(pid, code, args)

    def _report(self, pid: int, code: int, args: str) -> None:
        """Start a process that records a worker's death, as this one opens no instance."""
        message = plain.crash_explanation(f"The run's worker (process {pid})", code)
        logger.error("%s", message)
        command = [sys.executable, "-m", template_client.MODULE, "--died", message, "--args", args]
        try:
            self._keep(subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True))  # noqa: S603
        except OSError:  # no process can be started: a daemon finds out by itself
            logger.exception("The end of process %d can't be recorded.", pid)

    # Its own end

    def _watch(self, owner: Mapping[str, Any]) -> None:
        """Stay alive as long as a process does."""
        who = (owner["pid"], owner["started"])
        if who in self._owners or owner["pid"] == os.getpid():
            return
        if who[1] is None or started(who[0]) != who[1]:
            return  # it has ended
        self._owners[who] = owner["dev"]
        try:
            handle = os_processes.handle_of(owner["pid"])
        except ProcessLookupError:
            return  # it has ended, and will be noticed
        if handle is None:
            self._polls = True
        else:
            self._selector.register(handle, selectors.EVENT_READ, lambda: self._forget(handle))

    def _forget(self, handle: int) -> None:
        self._selector.unregister(handle)
        os.close(handle)

    def _seconds_left(self) -> float:
        """Return the seconds until the next check."""
        longest = POLL_SECONDS if self._polls else LOOK_ROUND_SECONDS
        if self.children:
            return longest
        now, idle_timeouts = time.monotonic(), self.idle_timeouts
        left = [longest]
        if not self._owners:
            left.append(self._lonely_since + idle_timeouts.alone - now)
        if idle_timeouts.idle:
            left.append(self._asked_at + idle_timeouts.idle - now)
        return max(0.0, min(left))

    def _look_round(self) -> None:
        gone = [who for who in self._owners if started(who[0]) != who[1]]
        for who in gone:
            if self._owners.pop(who):
                logger.info("Ending with 'dagster dev'.")
                self._end_children()
                self._ended = True
        now, idle_timeouts = time.monotonic(), self.idle_timeouts
        if self._owners:
            self._lonely_since = now
        if self.children:
            self._asked_at = now
        elif now - self._lonely_since >= idle_timeouts.alone:
            self._ended = True
        elif idle_timeouts.idle and now - self._asked_at >= idle_timeouts.idle:
            logger.info("Ending: no run was launched for %s seconds.", idle_timeouts.idle)
            self._ended = True
        if self._is_reachable():
            with suppress(OSError):  # shows that this socket is not abandoned
                os.utime(self.address)
        else:
            logger.warning("%s is not this process's any more; ending.", self.address)
            self._ended = True
        if not self.children and self._folder_mark() != self._folder:
            logger.info("Ending: the release in %s is gone.", self.release.folder)
            self._ended = True
        template_log.cut(self.home)

    def _folder_mark(self) -> int | None:
        """Return the identity of the release's folder, which changes when it is replaced."""
        folder = self.release.folder
        try:
            return None if folder is None else folder.stat().st_ino
        except OSError:
            return -1

    def _is_reachable(self) -> bool:
        """Whether the socket's path still leads here."""
        try:
            return self._inode == self.address.stat().st_ino
        except OSError:
            return False

    def _end_children(self) -> None:
        """End the running runs, as Ctrl-C in ``dagster dev`` ends those of the stock launcher."""
        deadline = time.monotonic() + GRACE_SECONDS
        for pid in self.children:
            _kill(pid, signal.SIGINT)
        while self.children and time.monotonic() < deadline:
            time.sleep(0.1)
            self._reap()
        for pid in self.children:
            _kill(pid, signal.SIGKILL)

    def refuse(self, reason: str, state: Mapping[str, Any] | None) -> None:
        """Send the error to every waiting client, and then end."""
        waiting = []
        if state and state["connection"] is not None:
            waiting.append(socket.socket(fileno=state["connection"]))
        self.listener.setblocking(False)
        with suppress(OSError):  # no other client waits
            while True:
                waiting.append(self.listener.accept()[0])
        for connection in waiting:
            with connection, suppress(OSError):
                send(connection, {"refused": reason})

    def close(self) -> None:
        """Remove the socket."""
        # Under the lock of the starters, so that it is not the socket of the next template.
        with suppress(OSError), FileLock(template_client.lock(self.home), timeout=5):
            if self._is_reachable():
                self.address.unlink(missing_ok=True)
        self.listener.close()


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _read(descriptor: int | None) -> Mapping[str, Any] | None:
    """Return the state that the replaced process has passed on."""
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
    parser.add_argument("--key")
    parser.add_argument("--listener", type=int)
    parser.add_argument("--origin")
    parser.add_argument("--alone", type=int)
    parser.add_argument("--idle", type=int)
    parser.add_argument("--state", type=int)
    parser.add_argument("--examine", action="store_true")
    parser.add_argument("--died")
    parser.add_argument("--args")
    given = parser.parse_args()
    if given.died:
        report_death(deserialize_value(given.args, ExecuteRunArgs), given.died)
        return
    adopt_orphans()
    # A process that a run starts is not one of dagster dev's.
    os.environ.pop("DAGSTER_IS_DEV_CLI", None)
    if given.examine:
        print(json.dumps(examine(deserialize_value(given.origin, RepositoryPythonOrigin))))
        return
    idle_timeouts = IdleTimeouts(given.alone, given.idle)
    listener = socket.socket(fileno=given.listener)
    listener.set_inheritable(False)
    template = Template(given.home, given.key, listener, given.origin, idle_timeouts)
    state, process = _read(given.state), os.getpid()
    try:
        with garbage.not_collected():
            template.warm_up()
        if state is not None:
            template.resume(state)
        template.serve()
    except Exception as error:
        logger.exception("The template process ends.")
        template.refuse(f"{type(error).__name__}: {error}", state)
        sys.exit(1)
    finally:
        if os.getpid() == process:  # else it is a worker, which ends
            template.close()
