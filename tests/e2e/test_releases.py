"""Two releases of a project and one Dagster home, as in a rolling deploy: real processes."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctree_dagster.domain import run_tags
from tests.tools import TOP, python_path
from tests.tools.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

FUNCTIONS = """
import os
import threading

FOLDER = os.path.dirname(__file__)
if os.path.exists(os.path.join(FOLDER, "threads")):
    threading.Thread(target=threading.Event().wait, daemon=True).start()

def speak(name, **context):
    with open(os.path.join(os.environ["SAID"], name + ".part"), "w") as file:
        file.write("%s %s" % (os.path.basename(FOLDER), os.getcwd() == FOLDER))
    os.replace(file.name, file.name.removesuffix(".part"))
"""


class Released(Stack):
    """A stack whose project is in folders of releases; its PATH knows no ``dagster``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env |= {
            "DJANGO_SETTINGS_MODULE": "e2e_settings",
            "PYTHONPATH": python_path(TOP),
            "PATH": "/usr/bin:/bin",
            "SAID": str(folder),
        }

    def deploy(self, name: str) -> Path:
        """Make a release and use it from now on; return its folder."""
        self.top = self.folder / "rel" / name
        shutil.copytree(TOP / "definitions", self.top / "definitions")
        for file in ("manage.py", "workspace.yaml"):
            shutil.copy(TOP / file, self.top)
        (self.top / "spoken.py").write_text(FUNCTIONS)
        (self.top / "e2e_settings.py").write_text(
            "from example.settings import *\n"
            "PROCTREE = {**PROCTREE, 'FUNCTION_MODULES': ['spoken']}\n"
        )
        return self.top

    def said(self, name: str) -> str:
        path = self.folder / name
        wait_for(f"{name} to speak", path.exists, 120)
        return path.read_text()

    def launch_named(self, name: str) -> str:
        return self.launch("speak", {"context": {"name": name}})

    def last_pass(self) -> float:
        """Return when the last pass over the outbox began that has ended."""
        data = self.graphql(
            """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
              ... on Sensor { sensorState { ticks(limit: 1, statuses: [SKIPPED]) {
                timestamp } } } } }""",
            selector={**self.selector, "sensorName": run_tags.OUTBOX_SENSOR},
        )
        ticks = data["sensorOrError"]["sensorState"]["ticks"]
        return float(ticks[0]["timestamp"]) if ticks else 0.0

    def submit(self, name: str) -> None:
        """Queue the tree from a Django process, right after a pass: it delivers the run itself."""
        before = self.last_pass()
        wait_for("a pass over the outbox", lambda: self.last_pass() > before, 90)
        self.shell(f"ProcessTreeManager.submit_tree('speak', context={{'name': {name!r}}})")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Released]:
    stack = Released(tmp_path)
    try:
        yield stack
    finally:
        stack.stop()


def test_each_run_executes_the_release_that_it_was_requested_from_or_the_one_that_replaced_it(
    stack: Released,
) -> None:
    first = stack.deploy("A")
    stack.migrate()
    stack.shell("ProcessTreeInstance('speak').add_process('speak', 'spoken:speak').save()")
    stack.start_dagster(as_services=True)
    stack.launch_named("of A")
    assert stack.said("of A") == "A True"

    stack.deploy("B")  # its processes come up one by one; the daemon is still A's
    stack.submit("of B, by A's daemon")
    assert stack.said("of B, by A's daemon") == "B True"
    stack.launch_named("of A again")
    assert stack.said("of A again") == "A True"

    daemon = stack.processes.pop()
    daemon.terminate()
    daemon.wait(60)
    waits = stack.launch_named("of A, which is gone")
    stack.stop()
    shutil.rmtree(first)
    stack.start_dagster(as_services=True)
    assert stack.said("of A, which is gone") == "B True"
    run = stack.finished(waits)
    assert run["status"] == "SUCCESS"
    log = json.dumps(run)
    assert "release that this run was requested from is gone" in log
    assert f"in '{stack.top}'" in log

    (stack.top / "threads").touch()
    os.utime(stack.top / "spoken.py")
    plain = stack.launch_named("in a plain process")
    assert stack.said("in a plain process") == "B True"
    assert "It is started in a plain process" in json.dumps(stack.finished(plain))
