"""``make run``: the example with its Django site, in a copy of the checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tools import TOP, python_path
from tests.tools.site import Person
from tests.tools.stack import free_port, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("make") is None, reason="no make")]

COPIED = ("Makefile", "manage.py", "example", "proctree_dagster", "workspace.yaml", "definitions")


class Checkout:
    """A copy of this checkout that uses this Python, in which nothing needs to be installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy
            copy(TOP / name, folder / name)
        home = folder / "example" / "dagster_home"
        for left in home.iterdir():
            if left.name != "dagster.yaml":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        left_out = ("DJANGO_SETTINGS_MODULE", "DAGSTER_HOME", "MAKEFLAGS")
        self.env = {key: value for key, value in os.environ.items() if key not in left_out}
        self.env["PYTHONPATH"] = python_path()
        self.env["DAGSTER_HOME"] = str(
            folder / "elsewhere"
        )  # the example's own is used all the same
        self.log = folder / "make.log"
        self.started: list[subprocess.Popen[bytes]] = []

    def make_run(self, port: int) -> subprocess.Popen[bytes]:
        command = ["make", "-o", "install", "run", f"BIN={Path(sys.executable).parent}"]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [*command, f"PORT={port}"],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs from this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.folder):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        for each in self.processes():
            each.kill()
        for started in self.started:
            started.wait()


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    found = Checkout(tmp_path)
    try:
        yield found
    finally:
        found.close()


def test_make_run_serves_dagster_and_an_admin_with_the_user_that_it_prints(
    checkout: Checkout,
) -> None:
    port = free_port()
    make = checkout.make_run(port)

    def ready() -> bool:
        assert make.poll() is None, checkout.said()
        return "The Django site is at" in checkout.said()

    wait_for("the example", ready, 120)
    said = checkout.said()
    assert f"Dagster is ready: open http://localhost:{port}/dagster/" in said
    user = re.search(r"The admin's user is '(\w+)', its password '(\w+)'", said)
    assert user is not None
    person = Person(port)
    assert person.ask("{ version }")[0] == 401
    person.log_in(user[1], user[2])
    # The link from Dagster leads to the tree's page in the admin.
    query = """{ pipelineOrError(params: {repositoryName: "process_trees",
      repositoryLocationName: "proctree", pipelineName: "monthly_close"}) {
      ... on Pipeline { metadataEntries { ... on UrlMetadataEntry { url } } } } }"""
    link = re.search(r"/admin/[^\"]+", json.dumps(person.ask(query)))
    assert link is not None
    status, page = person.send("GET", link[0])
    assert (status, "monthly_close" in page) == (200, True)
    # Another one says that the port is taken, and leaves this one alone.
    refused = checkout.make_run(port)
    assert refused.wait(60) != 0
    assert "name another one with --port" in checkout.said()
    assert make.poll() is None
    # make passes SIGTERM on; a terminal gives Ctrl-C to all of them.
    os.killpg(make.pid, signal.SIGINT)
    make.wait(60)
    wait_for("everything to end", lambda: not checkout.processes())
