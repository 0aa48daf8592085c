"""What ``pyproject.toml`` allows is what ``make test-oldest`` and ``make test-newest`` use."""

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.tools import TOP

SCRIPT = TOP / "scripts" / "newest_python.py"


def project() -> dict[str, list[Requirement]]:
    """Return what the package requires, by its extra; of the package itself, blank."""
    said = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    groups = {"": said["dependencies"], **said["optional-dependencies"]}
    return {extra: list(map(Requirement, group)) for extra, group in groups.items()}


def oldest() -> dict[str, Version]:
    lines = (TOP / "constraints-oldest.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in found}


def test_each_lower_bound_is_the_release_that_the_oldest_are_tested_with() -> None:
    allowed = {
        canonicalize_name(each.name): Version(specifier.version)
        for extra, group in project().items()
        if extra != "check"  # the linters are not what is tested
        for each in group
        for specifier in each.specifier
        if specifier.operator == ">="
    }
    assert allowed == oldest()


def test_dagsters_packages_of_the_oldest_are_of_one_release() -> None:
    releases = oldest()
    ours = {name: each for name, each in releases.items() if name.startswith("dagster")}
    assert {each.micro for each in ours.values()} == {releases["dagster"].micro}


def test_what_the_tests_need_of_an_extra_they_take_from_the_extra() -> None:
    groups = project()
    (own,) = (each for each in groups["test"] if each.name == "proctree-dagster")
    assert own.extras == {"celery", "postgres"}
    twice = {each.name for each in groups["test"]} & {
        each.name for extra in own.extras for each in groups[extra]
    }
    assert not twice


def python(folder: Path, name: str, said: str) -> Path:
    """Write what answers as an interpreter does that is asked for its version."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{said}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def newest(pyenv: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT],
        env={"PYENV_ROOT": str(pyenv), "PATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
    )


def test_the_newest_python_is_found_under_pyenv_and_on_the_path(tmp_path: Path) -> None:
    pyenv, folder = tmp_path / "pyenv", tmp_path / "bin"
    python(pyenv, "versions/3.12.1/bin/python3", "echo 3 12 1")
    ours = python(pyenv, "versions/3.13.0/bin/python3", "echo 3 13 0")
    python(folder, "python3.9", "echo 3 9 1")
    python(folder, "python3-config", "echo 3 99 0")
    assert newest(pyenv, folder).stdout.strip() == str(ours)
    newer = python(folder, "python3.14", "echo 3 14 2")
    assert newest(pyenv, folder).stdout.strip() == str(newer)


def test_a_shim_that_refuses_and_a_preview_are_passed_over(tmp_path: Path) -> None:
    ours = python(tmp_path, "a/python3.12", "echo 3 12 1")
    python(tmp_path, "a/python3.14", "echo 'command not found' >&2; exit 127")
    python(tmp_path, "b/python3.15", "exit 1")
    assert newest(tmp_path, tmp_path / "a", tmp_path / "b").stdout.strip() == str(ours)


@pytest.mark.parametrize("there", ["echo 3 11 9", None])
def test_where_there_is_none_it_is_said_with_what_to_do(tmp_path: Path, there: str | None) -> None:
    if there is not None:
        python(tmp_path, "bin/python3.11", there)
    done = newest(tmp_path, tmp_path / "bin", tmp_path / "gone")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "There is no Python 3.12 or newer here" in done.stderr
    assert "NEWEST=" in done.stderr
