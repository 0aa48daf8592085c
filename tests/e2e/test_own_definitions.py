"""A project's own assets, sensors and jobs beside the trees, with Dagster's own launcher.

With ours: ``test_dev``.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterInstance

from tests.tools import TOP, python_path
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for

pytestmark = pytest.mark.e2e

WORKSPACE = """
load_from:
  - python_module:
      module_name: own_definitions
      attribute: process_trees
      location_name: proctree
      working_directory: .
"""

HOME = """
telemetry: {enabled: false}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
"""
"""Dagster's own launcher, and no queue, for which there is no daemon."""


class Project:
    """The example, with definitions of its own, and no daemon and no webserver."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(HOME)
        shutil.copy(code_of(__file__) / "own_definitions.py", folder)
        (folder / "workspace.yaml").write_text(WORKSPACE)
        self.env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "example.settings",
            "DAGSTER_HOME": str(self.home),
            "EXAMPLE_DATABASE": str(folder / "db.sqlite3"),
            "PYTHONPATH": python_path(folder, TOP),
        }
        self.python("django", "migrate", "-v0")
        self.python("django", "setup_example")

    def python(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *args],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def statuses(self) -> dict[str, str]:
        """Return how each job's run has ended."""
        with DagsterInstance.from_config(str(self.home)) as instance:
            return {run.job_name: run.status.value for run in instance.get_runs()}


def test_an_asset_job_runs_from_the_code_location_of_the_trees(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.python("dagster", "job", "launch", "-w", "workspace.yaml", "-j", "refresh")

    def ended() -> bool:
        return set(project.statuses().values()) <= {"SUCCESS", "FAILURE"}

    wait_for("the run", ended, 60)
    assert project.statuses() == {"refresh": "SUCCESS"}
    asked = project.python("dagster", "sensor", "preview", "look", "-w", "workspace.yaml")
    assert "Sensor returning run requests for 1 run" in asked
