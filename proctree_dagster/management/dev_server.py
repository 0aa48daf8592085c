"""``manage.py proctree dev``: Dagster's webserver, daemon and code server for this project.

The webserver is behind the login of the Django site, which the same process serves
(``proctree_dagster.web``). Without a login it is ``dagster dev``, and with ``--django`` Django's
development server beside it. All of it runs with this Python: nothing needs to be on the ``PATH``.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import psutil

from .. import conf
from ..domain import run_tags
from ..support import project
from ..support.os_processes import Identity, end_all

STOP_SECONDS = 30.0
"""Grace period of Dagster in seconds; it gives its own children ten seconds each."""

END_SECONDS = 5.0
"""Grace period of processes that Dagster leaves running (a template, runs), in seconds."""

POLL_SECONDS = 0.2

LOOPBACK = ("localhost", "127.0.0.1", "::1")

ANYWHERE: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
"""The local address of a server that listens on all addresses."""

SITE = "127.0.0.1:8000"
"""The default address of Django's development server."""

SUPERSEDED = "ignore:Function `dev_command` is superseded"


def default_port() -> int:
    """Return the port of ``PROCTREE["DAGSTER_URL"]``, where it names this machine; else 3000."""
    parts = urlsplit(conf.current().DAGSTER_URL or "")
    return (parts.hostname in LOOPBACK and parts.port) or 3000


@dataclass(frozen=True)
class Address:
    """The address on which a server listens.

    Parameters
    ----------
    host:
        A name or an address of this machine; blank for all of its addresses.
    port:
        The port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``HOST:PORT``, ``HOST`` or ``PORT``, as ``manage.py runserver`` takes it.

        Raises
        ------
        ValueError
            It is none of these.
        """
        default = urlsplit(f"//{SITE}")
        parts = urlsplit(f"//{default.hostname}:{text}" if text.isdecimal() else f"//{text}")
        port = parts.port  # it raises for an invalid port
        if (parts.netloc != text and not text.isdecimal()) or "@" in text or not parts.hostname:
            raise ValueError(f"{text!r} is no HOST:PORT")
        return cls(parts.hostname, default.port or 0 if port is None else port)

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL for a browser on this machine."""
        is_local = self.host == "127.0.0.1" or self.host in ANYWHERE
        return f"http://{Address('localhost', self.port) if is_local else self}"

    def problem(self) -> str:
        """Return why no server can listen there; blank if one can."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.host, self.port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"Port {self.port} of {self.host} is taken (does it run already?)"
                return f"Nothing can listen on port {self.port} of {self.host!r}: {error}"
        return ""

    @property
    def here(self) -> "Address":
        """The address for a program on this machine."""
        return Address(ANYWHERE.get(self.host, self.host), self.port)


@dataclass(frozen=True)
class DevServer:
    """Starts and ends Dagster, and Django's development server.

    Parameters
    ----------
    home:
        The folder of Dagster's instance; its databases are there.
    dagster:
        Where Dagster's webserver listens.
    site:
        Where Django's development server listens; ``None``: it is not started.
    verbose:
        Whether all that Dagster and its runs log is shown, not warnings only.
    login:
        Whether Dagster is served behind the login of the Django site, with it.
    """

    home: str
    dagster: Address
    site: Address | None
    verbose: bool
    login: bool = False

    def run(self, when_ready: Callable[[], None]) -> str:
        """Run both until one ends or a signal comes; then end both with all of their children.

        Parameters
        ----------
        when_ready:
            Called once, when both answer.

        Returns
        -------
        str
            Blank after a signal; else a sentence that says which one ended by itself.
        """
        with ExitStack() as afterwards:
            folder = afterwards.enter_context(tempfile.TemporaryDirectory(prefix="proctree-"))
            received = afterwards.enter_context(_signals())
            processes: list[subprocess.Popen[bytes]] = []
            afterwards.callback(project.forget_webserver, self.home, os.getpid())
            self._note_addresses(folder)  # before the code server is asked for the trees' links
            afterwards.callback(lambda: _stop(processes, received))
            for command in self._commands(folder):
                processes.append(self._start(command))
                if "code-server" in command:
                    _wait_for(_code_socket(folder), processes[-1], received)
            if self.site is not None:
                processes.append(self._start(self._site_command(self.site), self._site_output()))
            ready = False
            while not received and all(each.poll() is None for each in processes):
                if not ready and self._is_ready(folder):
                    ready = True
                    when_ready()
                time.sleep(POLL_SECONDS)
            said = "" if received else self._which_has_ended(processes)
        return said

    def _start(
        self, command: Sequence[str], output: int | None = None
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603  # this Python, our arguments
            command,
            env=self._environment(),
            cwd=project.root(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            start_new_session=True,  # Ctrl-C is passed on once by us, not by the terminal, too
        )

    def _note_addresses(self, folder: str) -> None:
        site = self.dagster if self.login else self.site
        public = f"{self.dagster.url}{conf.current().DAGSTER_PATH}" if self.login else None
        project.note_webserver(
            self.home,
            f"{conf.SOCKET}{_socket(folder)}" if self.login else self.dagster.url,
            os.getpid(),
            site=None if site is None else site.url,
            public=public,
        )

    def _is_ready(self, folder: str) -> bool:
        if self.login:
            return _socket(folder).exists() and _is_open(self.dagster)
        return _serves_dagster(self.dagster) and (self.site is None or _is_open(self.site))

    def _commands(self, folder: str) -> list[list[str]]:
        """Return the commands that serve Dagster."""
        if not self.login:
            return [self._dagster_command(folder)]
        own = project.own_workspace()
        if own is not None:
            return [self._daemon_command(own), self._web_command(own, folder)]
        code = _code_socket(folder)
        workspace = project.write_workspace(Path(folder), code)
        server = self._code_server_command(code)
        return [server, self._daemon_command(workspace), self._web_command(workspace, folder)]

    def _code_server_command(self, socket: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "dagster", "code-server", "start", "--socket", str(socket)),
            *("--module-name", project.definitions(), "--attribute", run_tags.REPOSITORY),
            *("--location-name", run_tags.LOCATION),
            *("--working-directory", project.working_directory(), "--log-level", self._level),
        ]

    def _daemon_command(self, workspace: Path) -> list[str]:
        command = (sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace))
        return [*command, "--log-level", self._level]

    def _web_command(self, workspace: Path, folder: str) -> list[str]:
        return [
            *(sys.executable, "-m", "django", "proctree", "web", "--reload"),
            *("--host", self.dagster.host, "--port", str(self.dagster.port)),
            *("--workspace", str(workspace), "--socket", str(_socket(folder))),
            *("-v", "2" if self.verbose else "0"),
        ]

    @property
    def _level(self) -> str:
        return "info" if self.verbose else "warning"

    def _dagster_command(self, folder: str) -> list[str]:
        workspace = project.workspace(Path(folder))
        return [
            *(sys.executable, "-m", "dagster", "dev", "--workspace", str(workspace)),
            *("--host", self.dagster.host, "--port", str(self.dagster.port)),
            *("--log-level", self._level, "--code-server-log-level", self._level),
        ]

    def _site_command(self, site: Address) -> list[str]:
        ipv6 = ["--ipv6"] if ":" in site.host else []
        return [sys.executable, "-m", "django", "runserver", *ipv6, str(site)]

    def _which_has_ended(self, processes: "Sequence[subprocess.Popen[bytes]]") -> str:
        """Return as a sentence which process has ended by itself."""
        ended = [
            f"{_name_of(process.args)} has ended with exit code {process.returncode}"
            for process in processes
            if process.poll() is not None
        ]
        return f"{'; '.join(ended)}. What it has printed says why."

    def _site_output(self) -> int | None:
        """Return where the server's banner goes; we print the address. Requests go to stderr."""
        return None if self.verbose else subprocess.DEVNULL

    def _environment(self) -> dict[str, str]:
        warnings = os.environ.get("PYTHONWARNINGS", "")
        return {
            **os.environ,
            "DAGSTER_HOME": self.home,
            run_tags.CONSOLE_LEVEL: "" if self.verbose else "WARNING",
            "PYTHONWARNINGS": ",".join(filter(None, (warnings, SUPERSEDED))),
        }


def _socket(folder: str) -> Path:
    """Return where the web process answers Django itself."""
    return Path(folder) / "dagster.sock"


def _code_socket(folder: str) -> Path:
    """Return where the code server answers Dagster's daemon and the web process."""
    return Path(folder) / "code.sock"


def _wait_for(socket: Path, server: "subprocess.Popen[bytes]", received: Sequence[int]) -> None:
    """Wait until a code server listens: to those that come sooner, Dagster prints pages on that."""
    while not socket.exists() and server.poll() is None and not received:
        time.sleep(POLL_SECONDS)


def _serves_dagster(address: Address) -> bool:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
        with opener.open(f"http://{address.here}/server_info", timeout=2):
            return True
    except OSError:
        return False


def _is_open(address: Address) -> bool:
    """Return whether a server listens there, without requesting a page."""
    try:
        socket.create_connection((address.here.host, address.port), timeout=2).close()
    except OSError:
        return False
    return True


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that end a command, instead of being ended by them."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(processes: "Sequence[subprocess.Popen[bytes]]", received: list[int]) -> None:
    """End them and all of their children; at a second Ctrl-C without a grace period."""
    started = _descendants(processes)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # the signal with which Dagster ends its children
    deadline = time.monotonic() + STOP_SECONDS
    while _any_runs(processes) and time.monotonic() < deadline and len(received) < 2:
        time.sleep(POLL_SECONDS)
    started |= _descendants(processes)
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    end_all(started, END_SECONDS)


def _name_of(command: Any) -> str:
    """Return what one of our commands runs, for people."""
    names = {
        "runserver": "Django's development server",
        "web": "The web server",
        "code-server": "Dagster's code server",
        "dagster._daemon": "Dagster's daemon",
    }
    return next((names[word] for word in command if word in names), "Dagster")


def _any_runs(processes: "Sequence[subprocess.Popen[bytes]]") -> bool:
    return any(each.poll() is None for each in processes)


def _descendants(processes: "Sequence[subprocess.Popen[bytes]]") -> set[Identity]:
    """Return the descendants of these processes."""
    found: set[Identity] = set()
    for process in processes:
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
            found |= {Identity.of(each.pid) for each in children}
    return found
