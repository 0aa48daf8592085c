"""Checks of installed packages, here and in each code location's own Python.

``pyproject.toml`` has the supported ones: the bounds of our requirements, and as classifiers the
releases that the tests were run with. Dagster's packages require each other's exact release. All
of it is read from pip's metadata.
"""

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ... import __version__
from ...domain import run_tags
from ...domain.texts import explain
from ...support import project
from .. import dagster_internals as internals
from ..dagster_features import WORKSPACE_CHECK, is_on
from .findings import Finding, Subject

if TYPE_CHECKING:
    from ..dagster_internals import CodeLocationOrigin

logger = logging.getLogger(__name__)

OURS = "proctree-dagster"

NOT_OF_USERS = ("test", "check")
"""Extras that only a checkout of this package needs."""

TESTED = {"Python": "Programming Language :: Python :: ", "Django": "Framework :: Django :: "}
"""Prefixes of the classifiers with the releases that the tests were run with."""

ANSWER_SECONDS = 60.0
"""Timeout of listing the packages of a code location's Python, in seconds."""

QUESTION = f"""
import importlib.util, json, platform
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
found = {{name: version(name) for name in ("dagster", "django")}}
found["Python"] = platform.python_version()
found["{OURS}"] = None
if importlib.util.find_spec("proctree_dagster"):
    from proctree_dagster import __version__
    found["{OURS}"] = __version__
print(json.dumps(found))
"""


def check_versions(_: Subject) -> Iterator[Finding]:
    """Compare the installed packages with the requirements of proctree-dagster and Dagster."""
    problems = [*_unmet_of_ours(), *_unmet_of_dagsters()]
    for problem in problems:
        yield Finding("error", problem, _remedy())
    untested = list(_untested())
    for release in untested:
        yield Finding(
            "warning",
            f"{release} is none of the releases that proctree-dagster {__version__} was tested "
            "with.",
            "Take one that README.md lists, or run your own trees' tests with it first.",
        )
    if not problems and not untested:
        yield Finding(
            "ok",
            f"Python {platform.python_version()}, Django {django.get_version()}, Dagster "
            f"{metadata.version('dagster')} and proctree-dagster {__version__} fit each other.",
        )


def _unmet_of_ours() -> Iterator[str]:
    """Yield our unmet requirements; optional ones only where they are installed."""
    try:
        ours = metadata.distribution(OURS)
    except metadata.PackageNotFoundError:  # a checkout on the path
        return
    extras = set(ours.metadata.get_all("Provides-Extra") or ()) - set(NOT_OF_USERS)
    yield from _unmet(ours, _requirements(ours, {"", *extras}))


def _unmet_of_dagsters() -> Iterator[str]:
    """Yield Dagster's packages whose releases don't match each other."""
    for package in _dagsters():
        on_dagster = [
            each for each in _requirements(package, {""}) if each.name.startswith("dagster")
        ]
        yield from _unmet(package, on_dagster)


def _dagsters() -> list[metadata.Distribution]:
    """Return the installed packages of Dagster's, each once, in the order of their names."""
    found: dict[str, metadata.Distribution] = {}
    for each in metadata.distributions():
        found.setdefault(
            canonicalize_name(each.name), each
        )  # the first is the one that is imported
    return [
        package
        for name, package in sorted(found.items())
        if name == "dagster" or name.startswith("dagster-")
    ]


def _requirements(package: metadata.Distribution, extras: Iterable[str]) -> list[Requirement]:
    """Return what a package requires on this Python, also for some of its extras."""
    found = [Requirement(text) for text in package.requires or ()]
    return [
        each
        for each in found
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
    ]


def _unmet(package: metadata.Distribution, required: Iterable[Requirement]) -> Iterator[str]:
    for each in required:
        installed = _version(each.name)
        is_optional = each.marker is not None and not each.marker.evaluate({"extra": ""})
        if installed is None and not is_optional:
            yield f"{package.name} {package.version} needs {each.name}, which is not installed."
        elif installed is not None and not each.specifier.contains(installed, prereleases=True):
            yield (
                f"{package.name} {package.version} needs {each.name}{each.specifier}, and "
                f"{installed} is installed."
            )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _remedy() -> str:
    names = [OURS, *(each.name for each in _dagsters())]
    return (
        "Install them together, so that pip chooses releases that fit: "
        f"python -m pip install --upgrade {' '.join(names)}"
    )


def _untested() -> Iterator[str]:
    """Yield the Python and the Django in use whose release no classifier names."""
    try:
        classifiers = metadata.metadata(OURS).get_all("Classifier") or []
    except metadata.PackageNotFoundError:  # a checkout on the path: it has no classifiers
        return
    for name, version in (("Python", platform.python_version()), ("Django", django.get_version())):
        release = ".".join(map(str, Version(version).release[:2]))
        if TESTED[name] + release not in classifiers:
            yield f"{name} {version}"


def check_locations(subject: Subject) -> Iterator[Finding]:
    """Check the packages in the Python of each code location of ``workspace.yaml``."""
    path = (project.root() or Path.cwd()) / project.WORKSPACE
    if not path.is_file() or not is_on(WORKSPACE_CHECK):
        return
    try:
        origins = internals.location_origins_from_yaml_paths([str(path)])
    except Exception as error:  # whatever Dagster raises for what it can't read
        logger.debug("workspace.yaml can't be read.", exc_info=True)
        yield Finding(
            "error",
            f"{str(path)!r} can't be used: {explain(error)}",
            "Mend it; Dagster can't start with it. Where there is none, 'manage.py proctree init' "
            "writes one that can be used.",
        )
        return
    ours = _classes_of_ours(subject)
    for origin in origins:
        yield from _of_location(origin, path.parent, ours)


def _of_location(origin: "CodeLocationOrigin", folder: Path, ours: list[str]) -> Iterator[Finding]:
    """Examine one location of a folder; ``ours`` are the classes that each of its runs imports."""
    name = f"The code location {origin.location_name!r}"
    if isinstance(origin, internals.GrpcServerCodeLocationOrigin):
        yield Finding(
            "ok",
            f"{name} is served at {origin.host}:{origin.port or origin.socket}, by a Python that "
            "was not examined: proctree-dagster must be installed there as well.",
        )
        return
    target = origin.loadable_target_origin
    python = target.executable_path
    if python is None or Path(python) == Path(sys.executable):
        return
    try:
        found = _ask(python, folder / (target.working_directory or ""))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield Finding(
            "error",
            f"{name} has a Python of its own, {python!r}, which can't be asked what it has: "
            f"{explain(error)}",
            "Mend its executable_path in workspace.yaml.",
        )
        return
    yield from _of_environment(name, python, found, ours, origin.location_name == run_tags.LOCATION)


def _of_environment(
    name: str, python: str, found: Mapping[str, str | None], ours: list[str], has_trees: bool
) -> Iterator[Finding]:
    """Compare the packages of a location's own Python with those that are installed here."""
    here = {OURS: __version__, "dagster": _version("dagster"), "django": django.get_version()}
    install = f"{python} -m pip install {OURS}=={__version__}"
    if found[OURS] is None and (ours or has_trees):
        why = f"dagster.yaml names {', '.join(ours)}" if ours else "it serves the trees"
        yield Finding(
            "error",
            f"{name} has a Python of its own, {python!r}, without proctree-dagster: {why}, so "
            "every run of it fails.",
            f"Install it there: {install}",
        )
        return
    compared = (OURS, "dagster", "django") if has_trees else (OURS,)
    differing = [
        f"{package} is {found[package]} there and {here[package]} here"
        for package in compared
        if found[package] != here[package] and found[OURS] is not None
    ]
    if differing:
        yield Finding(
            "warning",
            f"{name} has a Python of its own, {python!r}: {'; '.join(differing)}.",
            "Install the same releases in both.",
        )
    else:
        yield Finding("ok", f"{name} has a Python of its own, {python!r}, with what runs need.")


def _ask(python: str, folder: Path) -> dict[str, Any]:
    """Return the releases that another Python has, as it finds them in a folder."""
    done = subprocess.run(  # noqa: S603  # the program that workspace.yaml names, as Dagster runs it
        [python, "-c", QUESTION],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=ANSWER_SECONDS,
    )
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _classes_of_ours(subject: Subject) -> list[str]:
    """Return the classes of this package that ``dagster.yaml`` names: each run imports them."""
    if subject.home is None:
        return []
    return sorted(
        str(entry["class"])
        for entry in _entries(project.dagster_yaml(subject.home))
        if str(entry.get("module")).split(".")[0] == "proctree_dagster" and "class" in entry
    )


def _entries(node: object) -> Iterator[dict[str, Any]]:
    """Yield every dictionary in a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _entries(value)
