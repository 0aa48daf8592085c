"""A run in a terminal: what a person sees of it."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.tools import python_path
from tests.tools.code_files import code_of

CODE = code_of(__file__)
WIDTH = 100


class Terminal:
    """A terminal in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for file in CODE.glob("*.py"):
            shutil.copy(file, folder)
        left_out = ("DAGSTER_HOME", "COLUMNS", "LINES", "NO_COLOR")
        self.env = {key: value for key, value in os.environ.items() if key not in left_out}
        self.env["PYTHONPATH"] = python_path()
        self.env |= {"DJANGO_SETTINGS_MODULE": "mysettings", "TERM": "xterm-256color"}
        subprocess.run([sys.executable, "save_trees.py"], cwd=folder, env=self.env, check=True)

    def type(self, *args: str) -> tuple[int, str]:
        """Type an action of ``manage.py proctree``; return its exit code and all that was drawn."""
        screen, ours = pty.openpty()
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
        with subprocess.Popen(
            [sys.executable, "-m", "django", "proctree", *args],
            cwd=self.folder,
            env=self.env,
            stdin=ours,
            stdout=ours,
            stderr=ours,
        ) as process:
            os.close(ours)
            drawn = b""
            while True:
                try:
                    read = os.read(screen, 65536)
                except OSError:  # the other end is closed
                    break
                if not read:
                    break
                drawn += read
        os.close(screen)
        return process.returncode, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", drawn.decode())


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("terminal"))


def last_line(drawn: str, beginning: str) -> str:
    """Return the line of a process as it was drawn last, with single spaces."""
    lines = [line.strip() for line in drawn.splitlines() if line.strip().startswith(beginning)]
    return re.sub(r" +", " ", lines[-1]) if lines else ""


def test_a_table_shows_each_process_why_it_was_skipped_and_that_a_failure_is_optional(
    terminal: Terminal,
) -> None:
    code, drawn = terminal.type("run", "good")
    assert code == 0, drawn
    assert re.search(r"PROCESS +STATUS +SECONDS +WHY", drawn)
    table, _, results = drawn.rpartition("Results:")
    assert "count running" in re.sub(r" +", " ", table), "it is drawn while the run goes on"
    assert "of 3 invoices" in table
    assert re.match(r"count completed \d+\.\d", last_line(table, "count"))
    assert "skipped" in last_line(table, "fresh")
    assert last_line(table, "fresh").endswith("Up to date")
    assert "Trigger silent is silent: it has not fired" in last_line(table, "gated")
    assert "failed" in last_line(table, "newsletter")
    assert "ValueError: the bank is away (optional)" in last_line(table, "newsletter")
    # The results, each cut to a line of the screen.
    [long] = [line for line in results.splitlines() if line.startswith("  long: ")]
    assert long.endswith(" … (--full)")
    assert len(long) <= WIDTH
    assert "Traceback" not in drawn


def test_results_are_whole_with_full(terminal: Terminal) -> None:
    _, drawn = terminal.type("run", "good", "--full")
    assert "(--full)" not in drawn
    assert drawn.replace("\n", "").count('"xxxxxxxxxxxxxxxxxxxx"') == 100


def test_a_failure_says_which_process_what_it_said_and_where_the_trace_is(
    terminal: Terminal,
) -> None:
    code, drawn = terminal.type("run", "bad")
    assert code == 1
    assert "Dependency failed: bank" in last_line(drawn, "report")
    said = drawn[drawn.index("The process tree 'bad' failed:") :].strip().splitlines()
    assert said[0].endswith("The process tree 'bad' failed:")
    assert said[1] == "  bank: ValueError: the bank is away"
    assert "--verbosity 2" in said[2]
    assert len(said) == 3, "what may fail and what is behind a failure is no reason"
    assert "Traceback (most recent call last)" not in drawn
    code, drawn = terminal.type("run", "bad", "-v", "2")
    assert code == 1
    assert "Traceback (most recent call last)" in drawn
