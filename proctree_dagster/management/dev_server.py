"""``manage.py proctree dev``: Dagster's webserver, daemon and code server for this project.

It runs ``dagster dev`` with this Python, so nothing needs to be on the ``PATH``.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import psutil
import yaml

from .. import conf, project, tags
from ..os_processes import Identity, end_all

STOP_SECONDS = 30.0
"""How long Dagster may take to end by itself; it gives its parts ten seconds each."""

END_SECONDS = 5.0
"""How long what Dagster leaves (a template, runs) may take to end."""

POLL_SECONDS = 0.2

WORKSPACE = "workspace.yaml"
"""A project's own list of code locations, beside ``manage.py``."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

SUPERSEDED = "ignore:Function `dev_command` is superseded"


def default_port() -> int:
    """Return the port of ``PROCTREE["DAGSTER_URL"]``, where it names this machine; else 3000."""
    parts = urlsplit(conf.current().DAGSTER_URL or "")
    return (parts.hostname in LOOPBACK and parts.port) or 3000


@dataclass(frozen=True)
class DevServer:
    """How Dagster is started.

    Parameters
    ----------
    home:
        The folder of Dagster's instance; its databases are there.
    host, port:
        Where the webserver listens.
    verbose:
        Whether Dagster logs everything, not warnings only.
    """

    home: str
    host: str
    port: int
    verbose: bool

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "::", "") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def port_is_taken(self) -> bool:
        """Return whether something listens there already."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.host, self.port))
            except OSError:
                return True
        return False

    def run(self, when_ready: Callable[[], None]) -> int:
        """Run Dagster until it ends or a signal ends it, with everything that it has started.

        Parameters
        ----------
        when_ready:
            Called once, when the webserver answers.

        Returns
        -------
        int
            0 if a signal ended it, else Dagster's exit code.
        """
        with tempfile.TemporaryDirectory(prefix="proctree-") as folder, _signals() as received:
            process = subprocess.Popen(  # noqa: S603  # this Python, our arguments
                self._command(folder),
                env=self._environment(),
                cwd=project.root(),
                start_new_session=True,  # a Ctrl-C is passed on once, not by the terminal, too
            )
            project.note_webserver(self.home, self.url, process.pid)
            try:
                ready = False
                while process.poll() is None and not received:
                    if not ready and self._answers():
                        ready = True
                        when_ready()
                    time.sleep(POLL_SECONDS)
            finally:
                _stop(process, received)
                project.forget_webserver(self.home, process.pid)
        return 0 if received else process.returncode

    def _command(self, folder: str) -> list[str]:
        own = (project.root() or Path()) / WORKSPACE
        workspace = own if own.is_file() else _write_workspace(Path(folder))
        level = "info" if self.verbose else "warning"
        return [
            *(sys.executable, "-m", "dagster", "dev", "--workspace", str(workspace)),
            *("--host", self.host, "--port", str(self.port)),
            *("--log-level", level, "--code-server-log-level", level),
        ]

    def _environment(self) -> dict[str, str]:
        warnings = os.environ.get("PYTHONWARNINGS", "")
        return {
            **os.environ,
            "DAGSTER_HOME": self.home,
            "PYTHONWARNINGS": ",".join(filter(None, (warnings, SUPERSEDED))),
        }

    def _answers(self) -> bool:
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        host = anywhere.get(self.host, self.host)
        url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/server_info"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except OSError:
            return False


def _write_workspace(folder: Path) -> Path:
    """Write what names the project's code location to Dagster."""
    location = {
        "module_name": project.definitions(),
        "attribute": tags.REPOSITORY,
        "location_name": tags.LOCATION,
        "working_directory": project.working_directory(),
    }
    path = folder / WORKSPACE
    path.write_text(yaml.safe_dump({"load_from": [{"python_module": location}]}))
    return path


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Gather the signals that end a command, instead of being ended by them."""
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


def _stop(process: "subprocess.Popen[bytes]", received: list[int]) -> None:
    """End Dagster and everything that it has started; at a second Ctrl-C without waiting."""
    started = _descendants(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # what it ends its parts by
        deadline = time.monotonic() + STOP_SECONDS
        while process.poll() is None and time.monotonic() < deadline and len(received) < 2:
            time.sleep(POLL_SECONDS)
    started |= _descendants(process.pid)
    if process.poll() is None:
        process.kill()
        process.wait()
    end_all(started, END_SECONDS)


def _descendants(pid: int) -> set[Identity]:
    """Return the processes that a process has started, directly or not."""
    try:
        return {Identity.of(each.pid) for each in psutil.Process(pid).children(recursive=True)}
    except psutil.Error:
        return set()
