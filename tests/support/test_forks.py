"""A child that a function forks ends where it would leave the function, and writes nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.code_files import code_of

CODE = code_of(__file__)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> tuple[str, str, str]:
    """Run these functions as one tree; return what is printed, said, and noted."""
    shutil.copy(CODE / "forking.py", tmp_path)
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    notes = tmp_path / "notes"
    monkeypatch.setenv("NOTES", str(notes))
    done = subprocess.run(
        [sys.executable, "-c", (CODE / "run_tree.py").read_text(), str(tmp_path), *names],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr, notes.read_text()


def test_a_child_that_comes_out_of_its_function_ends_with_the_code_of_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("exits", "exits_with_a_message", "in_time", "raises", "returns", "yields", "awaits")
    printed, said, noted = run(tmp_path, monkeypatch, *names)
    assert printed == "True {} [7, 7, 1, 7, 1, 0, [0]]", "of awaits, exits, … in their order"
    assert "so long" in said
    assert "ZeroDivisionError" in said
    assert noted == "last\n", "what depends on them ran once"


def test_a_child_in_the_only_thread_of_a_run_is_contained_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, _, noted = run(tmp_path, monkeypatch, "raises")
    assert (printed, noted) == ("True {} [1]", "last\n")


def test_children_that_are_meant_to_live_on_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("becomes_a_daemon", "child_of_multiprocessing", "leaves_by_itself")
    printed, _, noted = run(tmp_path, monkeypatch, *names)
    assert printed == "True {} [0, 0, 9]"
    assert sorted(noted.split()) == ["child", "daemon", "last"]
