"""The wheel, in an empty virtual environment: all that the package needs is in it.

Its dependencies are those of the tests' environment, seen through a path file, and the versions
that the wheel asks for are compared with them: to download them again would take minutes.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.e2e.stack import TOP

pytestmark = pytest.mark.e2e

PACKAGE = "proctree_dagster"
SOURCES = (PACKAGE, "pyproject.toml", "README.md", "LICENSE")

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


def _pip(*args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *args],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built in a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = TOP / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copy(source, folder / name)
    made = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(made), str(folder))
    [found] = made.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the Python of an environment with the wheel, which sees no checkout."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    found = str(folder / "bin" / "python")
    _pip("--python", found, "install", "--quiet", "--no-deps", str(wheel))
    # A path file within a folder that a path file names is not read: so no editable checkout.
    [site_packages] = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    files = {
        str(path.relative_to(TOP))
        for path in (TOP / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files
    assert f"{PACKAGE}/py.typed" in names
    assert f"{PACKAGE}/dagster_home/sqlite/dagster.yaml" in names


def test_what_the_wheel_asks_for_is_what_the_tests_run_with(python: str, tmp_path: Path) -> None:
    asked = subprocess.run(
        [python, "-I", "-c", ASK], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(asked.stdout)
    environment = Path(python).parents[1]
    assert Path(found["file"]).is_relative_to(environment)
    assert found["needed"] > 5
    assert found["unmet"] == []


def test_a_tree_runs_in_a_new_project_with_nothing_but_the_wheel(
    python: str, tmp_path: Path
) -> None:
    def type_in(*args: str) -> str:
        done = subprocess.run(
            [python, *args], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=env
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    type_in("-m", "django", "startproject", "mysite", ".")
    type_in("manage.py", "startapp", "books")
    (tmp_path / "books" / "processes.py").write_text("def count():\n    return 3\n")
    with (tmp_path / "mysite" / "settings.py").open("a") as settings:
        settings.write('INSTALLED_APPS += ["proctree_dagster", "books"]\n')
    type_in("manage.py", "migrate", "-v0")
    type_in(
        "manage.py",
        "shell",
        "-c",
        "from books.processes import count\n"
        "from proctree_dagster.tree_builder import ProcessTreeInstance\n"
        "ProcessTreeInstance('tally').add_process('count', func=count).save()",
    )
    assert "count: 3" in type_in("manage.py", "proctree", "run", "tally")
    # The packaged home was written, and the packaged code location loads.
    assert (tmp_path / "dagster_home" / "dagster.yaml").is_file()
    env |= {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
    listed = type_in(
        "-m",
        "dagster",
        "job",
        "list",
        *("-m", "proctree_dagster.definitions", "-a", "process_trees"),
    )
    assert "Job: tally" in listed
