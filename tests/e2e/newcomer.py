"""Someone who types what a page of the documentation says, in a project of their own.

What a page may hold:

``python`` or ``yaml`` whose first line is ``# path`` (or ``# path (add)``)
    A file, or an addition to one.
any other ``python``
    Typed into the project's shell, which stays open for the blocks that follow.
``sh`` or ``bash``
    Commands, a line each. What installs a package or makes a virtual environment is left out: the
    tests have one. ``manage.py proctree dev`` goes on in the background, on a free port.
``text`` right after commands
    What they print in a terminal: ``…`` stands for anything, and how lines are folded does not
    matter. Commands that ask how things are in Dagster are repeated until they say so. Commands may
    fail where the text names a ``CommandError``, and nowhere else.
everything else
    For the reader.
"""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.tools import TOP, python_path
from tests.tools.stack import free_port, wait_for
from tests.tools.warm_python import WarmPython

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|yaml))( \(add\))?\n")
INSTALLS = ("pip install ", "python -m venv ", ". .venv/")
ASKS = re.compile(r"python manage\.py proctree (doctor|list|logs|runs)\b")
DEV = "python manage.py proctree dev"
ADD_USER = "python manage.py createsuperuser"

SHELL = """
import sys, json, django
django.setup()
namespace = {}
for line in sys.stdin:
    exec(compile(json.loads(line), 'typed', 'exec'), namespace)
    print('\\x00', flush=True)
"""

ANSWER_TIMEOUT = 120
"""Seconds until what the page shows must be there, where it is asked for again and again."""


class Block(NamedTuple):
    """A block of a page."""

    language: str
    text: str
    shows: str | None
    """What it prints, if the page says so."""


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page, with what each prints."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    for (language, text), (next_language, next_text) in pairwise([*found, ("", "")]):
        if language != "text":
            yield Block(language, text, next_text if next_language == "text" else None)


def says(printed: str, shown: str) -> bool:
    """Return whether a command printed what a page shows of it."""
    rest = _folded(printed)
    for part in filter(None, map(str.strip, _folded(shown).split("…"))):
        if part not in rest:
            return False
        rest = rest[rest.index(part) + len(part) :]
    return True


def _folded(text: str) -> str:
    """Return a text on one line, with its rules of one length."""
    return re.sub("─+", "─", " ".join(text.split()))


class Newcomer:
    """Someone who types what the pages say, in a folder of their own.

    Parameters
    ----------
    folder:
        The folder.
    python:
        The Python of the virtual environment that they use.
    """

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.python = python
        left_out = ("DJANGO_SETTINGS_MODULE", "DAGSTER_HOME")
        self.env = {key: value for key, value in os.environ.items() if key not in left_out}
        self.env["PYTHONPATH"] = python_path()
        self.bin = TemporaryDirectory()
        path = [self.bin.name, str(Path(python).parent), os.environ["PATH"]]
        self.env["PATH"] = os.pathsep.join(path)
        self.env |= {"TERM": "dumb", "NO_COLOR": "1", "DJANGO_COLORS": "nocolor", "COLUMNS": "200"}
        self.env["DJANGO_SUPERUSER_PASSWORD"] = "a long password"
        self.warm_python = WarmPython(Path(self.bin.name), self.env, python)
        self.shell: subprocess.Popen[str] | None = None
        self.dev: subprocess.Popen[bytes] | None = None

    def follow(self, page: str) -> str:
        """Do what a page says, and return what was printed.

        Raises
        ------
        AssertionError
            A command failed, or did not print what the page shows.
        """
        return "".join(self.do(block) for block in blocks(TOP / page))

    def do(self, block: Block) -> str:
        """Do what a block says, and return what was printed."""
        file = FILE.match(block.text)
        if file and block.language in ("python", "yaml"):
            self.write(file[1], block.text[file.end() :], add=bool(file[2]))
            return ""
        if block.language == "python":
            return self.type_python(block.text)
        if block.language in ("sh", "bash"):
            return self.type_commands(block.text.strip().splitlines(), block.shows)
        return ""

    def write(self, name: str, content: str, *, add: bool = False) -> None:
        """Make a file, or add to it; a shell that is open would not see it."""
        self.close_shell()
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() + "\n\n" if add else "") + content)

    def type_commands(self, commands: list[str], shows: str | None) -> str:
        """Type commands, and compare what they print with what the page shows."""
        commands = [each for each in commands if not each.startswith(INSTALLS)]
        if not commands:
            return ""
        may_fail = "CommandError" in (shows or "")
        *before, last = commands
        printed = "".join(map(self.type, before))
        if shows is None:
            return printed + self.type(last)
        if not ASKS.match(last):
            printed += self.type(last, may_fail=may_fail)
            assert says(printed, shows), f"{last}\n{printed}\ndoes not say\n{shows}"
            return printed
        answers = [""]

        def said() -> bool:
            answers.append(self.type(last, may_fail=may_fail))
            return says(printed + answers[-1], shows)

        try:
            wait_for(last, said, ANSWER_TIMEOUT)
        except AssertionError as error:
            raise AssertionError(f"{error}: {answers[-1]}\ndoes not say\n{shows}") from None
        return printed + answers[-1]

    def type(self, command: str, *, may_fail: bool = False) -> str:
        """Type a command in a terminal, and return what it prints."""
        if command == DEV:
            return self.start_dev()
        if command == ADD_USER:  # it asks; a person types
            command += " --noinput --username ann --email ann@example.com"
        reader, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=self.folder,
            env=self.env,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        printed = _read_to_the_end(reader)
        code = process.wait(120)
        assert may_fail or code == 0, f"{command} exited with {code}\n{printed[-3000:]}"
        return printed

    def start_dev(self) -> str:
        """Start Dagster (again) on a free port, and wait until it says where to click."""
        self.stop_dev()
        log = self.folder / "dev.log"
        with log.open("wb") as file:
            self.dev = dev = subprocess.Popen(
                [self.python, "manage.py", "proctree", "dev", "--port", str(free_port())],
                cwd=self.folder,
                env=self.env,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

        def ready() -> bool:
            assert dev.poll() is None, log.read_text()[-3000:]
            return "Dagster is ready: open http://localhost:" in log.read_text()

        wait_for("Dagster to be ready", ready, 120)
        return log.read_text()

    def type_python(self, block: str) -> str:
        """Type Python into the shell that is open, or into a new one."""
        if self.shell is None:
            self.shell = subprocess.Popen(
                [self.python, "-c", SHELL],
                cwd=self.folder,
                env={**self.env, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(json.dumps(block) + "\n")
        self.shell.stdin.flush()
        printed = ""
        for line in self.shell.stdout:
            if line == "\x00\n":
                return printed
            printed += line
        raise AssertionError(f"The shell ended on\n{block}")

    def close_shell(self) -> None:
        """Leave the shell."""
        if self.shell is not None:
            self.shell.communicate(timeout=60)
            self.shell = None

    def stop_dev(self) -> None:
        """End Dagster as Ctrl-C does."""
        if self.dev is not None:
            self.dev.send_signal(signal.SIGINT)
            try:
                self.dev.wait(60)
            except subprocess.TimeoutExpired:
                self.dev.kill()
                raise
            finally:
                self.dev = None

    def leave(self) -> None:
        """End everything."""
        with ExitStack() as ends:
            ends.callback(self.bin.cleanup)
            ends.callback(self.warm_python.stop)
            ends.callback(self.stop_dev)
            ends.callback(self.close_shell)


def _read_to_the_end(reader: int) -> str:
    """Return what is printed in a terminal until nobody writes to it any more."""
    with os.fdopen(reader, "rb", buffering=0) as file:
        found = b""
        while True:
            try:
                part = file.read(65536)
            except OSError:  # Linux: the other end is closed
                part = b""
            if not part:
                return re.sub(r"\x1b\[[\d;]*m", "", found.decode().replace("\r\n", "\n"))
            found += part
