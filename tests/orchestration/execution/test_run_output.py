"""What a run prints is printed on, and in its file; by one program for each stream."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dagster._core.execution import compute_logs

from proctree_dagster.orchestration.execution import run_output
from tests.tools import TOP
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for

PROGRAM = code_of(__file__) / "prints.py"

pytestmark = pytest.mark.skipif(
    not run_output._ends_with_a_process(), reason="tail is not GNU's here"
)


def start(file: Path, seconds: int, output: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), str(file), str(seconds)]
    return subprocess.Popen(command, stdout=output, text=True, cwd=TOP)


def children(file: Path) -> list[str]:
    """Wait until the program has said which programs it has started; return them."""

    def said() -> str:
        lines = file.read_text().splitlines() if file.exists() else []
        return next((line for line in lines if line.startswith("children")), "")

    return wait_for("its children", said).split()[1:]


def test_output_is_in_the_file_and_is_printed_by_a_tail_and_no_other_program(
    tmp_path: Path,
) -> None:
    file = tmp_path / "out"
    with start(file, 2) as process:
        [child] = children(file)
        printed, _ = process.communicate(timeout=60)
    assert child.startswith("tail:")
    assert printed.splitlines()[0] == file.read_text().splitlines()[0] == "printed"
    assert not psutil.pid_exists(int(child.split(":")[1]))


def test_the_tail_ends_when_the_process_is_killed(tmp_path: Path) -> None:
    with start(tmp_path / "out", 600) as process:
        [child] = children(tmp_path / "out")
        process.kill()
        process.wait()
        wait_for("the tail to end", lambda: not psutil.pid_exists(int(child.split(":")[1])))


def test_what_nobody_sees_is_not_printed_and_is_in_the_file(tmp_path: Path) -> None:
    with start(tmp_path / "out", 0, subprocess.DEVNULL) as process:
        assert process.wait(60) == 0
    assert children(tmp_path / "out") == []


def test_a_tail_that_is_not_gnus_is_left_to_dagster(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compute_logs.tail_to_stream
    monkeypatch.setattr(run_output, "_ends_with_a_process", lambda: False)
    run_output.follow_by_tail_alone()
    assert compute_logs.tail_to_stream is before


def test_dagsters_variable_gives_the_tail_time_for_the_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("DAGSTER_COMPUTE_LOG_TAIL_WAIT_AFTER_FINISH", "0.25")
    with (tmp_path / "printed").open("w") as printed, run_output._tail(str(tmp_path), printed):
        pass
    assert waited[0] == 0.25  # then subprocess may sleep, too
