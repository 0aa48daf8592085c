"""The tutorial, and the pages that go on in its project: what they say is what happens."""

import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import wheel
from tests.e2e.newcomer import Newcomer
from tests.tools import TOP
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, which the tutorial installs."""
    return wheel.build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the Python of an environment that has the wheel and sees no checkout."""
    return wheel.install(built, tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def bookshop(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Return somebody who has followed the tutorial: each command did what the page shows."""
    newcomer = Newcomer(tmp_path_factory.mktemp("bookshop"), python)
    try:
        newcomer.follow("docs/tutorial.md")
        yield newcomer
    finally:
        newcomer.leave()


ASK = """
import json
import sys
from importlib.metadata import requires, version
from packaging.requirements import Requirement
import proctree_dagster

needed = [Requirement(each) for each in requires("proctree-dagster")]
here = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
unmet = [str(each) for each in here if not each.specifier.contains(version(each.name), True)]
print(json.dumps({"file": proctree_dagster.__file__, "unmet": unmet, "needed": len(here)}))
"""


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(built: Path) -> None:
    files = {
        str(path.relative_to(TOP))
        for path in (TOP / wheel.PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(built).namelist() if ".dist-info/" not in name}
    assert names == files
    assert f"{wheel.PACKAGE}/py.typed" in names
    assert f"{wheel.PACKAGE}/orchestration/dagster_home/sqlite/dagster.yaml" in names


def test_what_the_wheel_asks_for_is_what_the_tests_run_with(python: str, tmp_path: Path) -> None:
    asked = subprocess.run(
        [python, "-I", "-c", ASK], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(asked.stdout)
    assert Path(found["file"]).is_relative_to(Path(python).parents[1])
    assert found["needed"] > 5
    assert found["unmet"] == []


def test_the_tutorial_does_what_it_says(bookshop: Newcomer) -> None:
    assert (bookshop.folder / "dagster_home" / "dagster.yaml").is_file()


def test_the_page_on_waiting_for_runs_does_what_it_says(bookshop: Newcomer) -> None:
    bookshop.follow("docs/howto/waiting.md")


@pytest.mark.parametrize("page", ["logging-and-progress", "trees-in-code", "test", "tenants"])
def test_a_page_that_needs_no_daemon_does_what_it_says(bookshop: Newcomer, page: str) -> None:
    bookshop.stop_dev()  # it would load each edited file anew
    bookshop.follow(f"docs/howto/{page}.md")


def test_what_the_page_on_alerts_makes_sends_a_mail(bookshop: Newcomer) -> None:
    bookshop.follow("docs/howto/alerts.md")
    mails = bookshop.folder / "mails"

    def said() -> str:
        found = mails.iterdir() if mails.is_dir() else ()
        return "".join(mail.read_text() for mail in found)

    wait_for("a mail", lambda: "till-nowhere.csv" in said(), 90)
    assert said().count("Subject: [Django] takings failed") == 1


def test_what_the_page_on_troubles_shows_is_what_commands_print(bookshop: Newcomer) -> None:
    bookshop.stop_dev()
    bookshop.type_python((code_of(__file__) / "bring_trouble.py").read_text())
    bookshop.follow("docs/troubleshooting.md")
