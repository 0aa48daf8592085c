"""The files of ``manage.py proctree init``: packaged files that are written into the project."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from django.conf import ENVIRONMENT_VARIABLE, settings

from ..domain import run_tags
from ..support import project

DEFINITIONS = '''"""Dagster's code location: sets Django up and hands over the trees."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", {settings!r})
django.setup()

from proctree_dagster.orchestration.repository import build_repository  # noqa: E402  # after setup

process_trees = build_repository()
'''

WORKSPACE = f"""# What Dagster's webserver and daemon load; 'manage.py proctree dev' reads it, too.
load_from:
  - python_module:
      module_name: {project.OWN}
      attribute: {run_tags.REPOSITORY}
      location_name: {run_tags.LOCATION}
      working_directory: .
"""


FOR_TESTS = "settings_for_tests"
"""The module with the unit tests' settings, beside the project's."""

SETTINGS_FOR_TESTS = '''"""Settings for tests: python manage.py test --settings {module}

Whatever the settings, nothing that a test submits or fires leaves it: it is recorded in the test's
database (proctree_dagster.testing). With these a test needs neither Dagster's home nor a cache.
"""

from {settings} import *  # noqa: F403

# A test that wants Dagster itself brings its own home: proctree_dagster.testing.real_dagster().
PROCTREE = {{**globals().get("PROCTREE", {{}}), "DAGSTER_HOME": None, "DAGSTER_URL": None}}

# What processes cache ends with the tests.
CACHES = {{
    alias: {{"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": alias}}
    for alias in {{"default", *globals().get("CACHES", {{}})}}
}}
'''


def files() -> Mapping[str, str]:
    """Return the content of each file, by its path in the project's folder."""
    module = getattr(settings, "SETTINGS_MODULE", None) or os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not re.fullmatch(r"[\w.]+", module):
        raise ValueError(f"The settings have no module that a file could name: {module!r}.")
    return {
        f"{project.OWN}/__init__.py": DEFINITIONS.format(settings=module),
        "workspace.yaml": WORKSPACE,
        f"{project.HOME}/dagster.yaml": project.TEMPLATE.read_text(encoding="utf-8"),
        f"{project.HOME}/.gitignore": project.IGNORED,
        **_for_tests(module),
    }


def _for_tests(settings_module: str) -> Mapping[str, str]:
    """Return the unit tests' settings, if the project's settings are in its folder."""
    root = project.root()
    file = getattr(sys.modules.get(settings_module), "__file__", None)
    if root is None or file is None:
        return {}
    path, root = Path(file).resolve(), root.resolve()
    if not path.is_relative_to(root):
        return {}
    package = settings_module.rpartition(".")[0]
    module = f"{package}.{FOR_TESTS}" if package else FOR_TESTS
    if path.stem == "__init__":  # a package of settings: beside what it holds
        module = f"{settings_module}.{FOR_TESTS}"
    name = str((path.parent / f"{FOR_TESTS}.py").relative_to(root))
    return {name: SETTINGS_FOR_TESTS.format(settings=settings_module, module=module)}


def write(folder: Path) -> tuple[list[str], list[str]]:
    """Write missing files; return the files that were written, and those that existed."""
    written, left_alone = [], []
    for name, content in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError:
            left_alone.append(name)
        else:
            written.append(name)
    return written, left_alone
