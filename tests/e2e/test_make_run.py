"""``make run``: the example with its Django site, in a copy of the checkout."""

import http.cookiejar
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tools import TOP
from tests.tools.stack import free_port, heed_interrupts, wait_for

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
        left_out = ("DJANGO_SETTINGS_MODULE", "DAGSTER_HOME", "PYTHONPATH", "MAKEFLAGS")
        self.env = {key: value for key, value in os.environ.items() if key not in left_out}
        self.env["DAGSTER_HOME"] = str(
            folder / "elsewhere"
        )  # the example's own is used all the same
        self.log = folder / "make.log"
        self.started: list[subprocess.Popen[bytes]] = []

    def make_run(self, dagster: int, django: int) -> subprocess.Popen[bytes]:
        command = ["make", "-o", "install", "run", f"BIN={Path(sys.executable).parent}"]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [*command, f"PORT={dagster}", f"DJANGO_PORT={django}"],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=heed_interrupts,
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


def log_in(site: str, name: str, password: str) -> urllib.request.OpenerDirector:
    """Log in to the admin as a person does, and return what keeps the session."""
    cookies = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    opener.open(f"{site}/admin/login/").close()
    token = next(each.value for each in cookies if each.name == "csrftoken")
    form = {"username": name, "password": password, "csrfmiddlewaretoken": token or ""}
    form["next"] = "/admin/"
    opener.open(f"{site}/admin/login/", urllib.parse.urlencode(form).encode()).close()
    return opener


def test_make_run_serves_dagster_and_an_admin_with_the_user_that_it_prints(
    checkout: Checkout,
) -> None:
    dagster, django = free_port(), free_port()
    make = checkout.make_run(dagster, django)

    def ready() -> bool:
        assert make.poll() is None, checkout.said()
        return "The Django site is at" in checkout.said()

    wait_for("the example", ready, 120)
    said = checkout.said()
    assert f"Dagster is ready: open http://localhost:{dagster}" in said
    user = re.search(r"The admin's user is '(\w+)', its password '(\w+)'", said)
    assert user is not None
    site = f"http://localhost:{django}"
    admin = log_in(site, user[1], user[2])
    # The link from Dagster leads to the tree's page in the admin.
    query = urllib.parse.quote(
        '{ pipelineOrError(params: {repositoryName: "process_trees", repositoryLocationName: '
        '"proctree", pipelineName: "monthly_close"}) { ... on Pipeline { metadataEntries { '
        "... on UrlMetadataEntry { url } } } } }"
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{dagster}/graphql?query={query}") as answer:
        link = re.search(rf"{site}/admin/[^\"]+", answer.read().decode())
    assert link is not None
    with admin.open(link[0]) as page:
        assert "monthly_close" in page.read().decode()
    # Another one says which port is taken, of Django's, too, and leaves this one alone.
    for ports, option in (((dagster, free_port()), "--port"), ((free_port(), django), "--django")):
        refused = checkout.make_run(*ports)
        assert refused.wait(60) != 0
        assert f"name another one with {option}" in checkout.said()
    assert make.poll() is None
    # make passes SIGTERM on; a terminal gives Ctrl-C to all of them.
    os.killpg(make.pid, signal.SIGINT)
    make.wait(60)
    wait_for("everything to end", lambda: not checkout.processes())
    assert not (checkout.folder / "elsewhere").exists()
