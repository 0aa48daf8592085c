"""Trees that are due run side by side: a long one keeps no other waiting."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus

pytestmark = pytest.mark.apart


class Place:
    """A database with trees that are due, and a Dagster home."""

    def __init__(self, folder: Path, empty_home: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        shutil.copytree(empty_home, self.home)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, concurrent: int = 4) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.beside.settings",
            "BESIDE_HOME": str(self.home),
            "BESIDE_DATABASE": str(self.folder / "db.sqlite3"),
            "BESIDE_CONCURRENT": str(concurrent),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.beside.due", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def make_due(self, trees: Mapping[str, list[str]]) -> None:
        """Save trees that are due, in this order, with the files that each waits for."""
        made = self.start("migrate", json.dumps(trees))
        _, log = made.communicate(timeout=250)
        assert made.returncode == 0, log

    def wait_for(self, name: str) -> None:
        ends = time.monotonic() + 250
        while not (self.folder / name).exists():
            assert time.monotonic() < ends, f"{name} has not begun"
            time.sleep(0.05)


def results(process: "subprocess.Popen[str]") -> dict[str, bool]:
    out, log = process.communicate(timeout=250)
    assert process.returncode == 0, log
    found: dict[str, bool] = json.loads(out.splitlines()[-1])
    return found


@pytest.fixture
def place(tmp_path: Path, empty_home: Path) -> Iterator[Place]:
    place = Place(tmp_path, empty_home)
    yield place
    for process in place.processes:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def test_a_long_tree_keeps_no_other_waiting(place: Place) -> None:
    place.make_due({"z_long": ["y_short", "x_short"], "y_short": [], "x_short": []})
    found = results(place.start("run"))
    assert list(found.items()) == [("z_long", True), ("y_short", True), ("x_short", True)]


def test_a_call_beside_one_that_still_works_runs_what_is_due_and_has_not_begun(
    place: Place,
) -> None:
    place.make_due({"long": ["go"], "next": []})
    first = place.start("run", concurrent=1)
    place.wait_for("long")
    assert results(place.start("run", concurrent=1)) == {"next": True}
    (place.folder / "go").touch()
    assert results(first) == {"long": True}


def test_one_that_is_interrupted_begins_nothing_else(place: Place) -> None:
    place.make_due({"long": ["go"], "next": []})
    process = place.start("run", concurrent=1)
    place.wait_for("long")
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=250)
    assert "KeyboardInterrupt" in log
    assert not (place.folder / "next").exists()
    with DagsterInstance.from_config(str(place.home)) as instance:
        assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.CANCELED]
