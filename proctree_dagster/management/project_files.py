"""The files of ``manage.py proctree init``: what is packaged, written into the project."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from django.conf import ENVIRONMENT_VARIABLE, settings

from .. import project, tags

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
      attribute: {tags.REPOSITORY}
      location_name: {tags.LOCATION}
      working_directory: .
"""


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
    }


def write(folder: Path) -> tuple[list[str], list[str]]:
    """Write the files that are not there; return those that were written, and those that were."""
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
