"""A run in somebody's process leaves the process as it was."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proctree_dagster.orchestration.runs.in_process import signals_kept
from tests.tools import python_path
from tests.tools.code_files import code_of

CODE = code_of(__file__)


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the first lines of a program that executes a tree."""
    home = tmp_path / "home"
    home.mkdir()
    # Any setting makes Dagster configure the logging of the process that a run is in.
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    shutil.copy(CODE / "set_up.py", tmp_path)
    monkeypatch.setenv("PYTHONPATH", python_path(tmp_path))
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    return "import logging, os, signal, threading\nfrom set_up import execute\n"


def run(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_hosts_logging_goes_on(setup: str, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    program = f"""
logging.getLogger("host").addHandler(logging.FileHandler({str(log)!r}, mode="w"))
logging.getLogger("host").warning("before")
print(execute())
logging.getLogger("host").warning("after")
"""
    assert run(setup + program) == ["True"]
    assert log.read_text().split() == ["before", "after"]


def test_the_hosts_signal_handlers_stay(setup: str) -> None:
    program = """
mine = lambda number, frame: None
signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
print(execute(), signal.getsignal(signal.SIGTERM) is mine)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    assert run(setup + program) == ["True True", "True"]


def test_runs_in_several_threads_end_and_leave_the_output_where_it_was(setup: str) -> None:
    program = """
before = [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)]
done = []
def work():
    for _ in range(3):
        done.append(execute())
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join(100) for thread in threads]
print(done == [True] * 9)
print(before == [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)])
"""
    assert run(setup + program) == ["True", "True"]


def test_several_processes_may_be_the_first_to_open_a_home(setup: str) -> None:
    run(setup)  # the database, not the home
    several = [
        subprocess.Popen(
            [sys.executable, "-c", setup + "print(execute())"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = [process.communicate(timeout=120) for process in several]
    assert [out.strip() for out, _ in answers] == ["True"] * 4, answers


def test_an_interrupt_that_was_swallowed_meanwhile_is_raised_again() -> None:
    seen: list[int] = []

    def mine(number: int, frame: object) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGINT, mine)
    try:
        with signals_kept():
            signal.signal(signal.SIGINT, lambda number, frame: None)
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == []
        assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is mine
        with signals_kept():
            pass
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
