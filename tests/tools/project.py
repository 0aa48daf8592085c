"""A project for programs that a test starts: settings, a database and a Dagster home of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tools import TOP, python_path


class Project:
    """What several processes of one project share."""

    def __init__(
        self,
        folder: Path,
        empty_home: Path,
        database: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Write the settings, and copy the home.

        Parameters
        ----------
        folder:
            Where all of it is.
        empty_home:
            The fixture of that name.
        database:
            Django's; left out, one of SQLite.
        settings:
            What differs from those of the tests; ``PROCTREE`` is empty unless it is among them.
        """
        on_sqlite = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(folder / "db.sqlite3"),
            "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
        }
        given = {"DATABASES": {"default": database or on_sqlite}, "LOGGING": {}, "PROCTREE": {}}
        lines = [f"{name} = {value!r}\n" for name, value in {**given, **settings}.items()]
        (folder / "project_settings.py").write_text(
            "".join(["from tests.settings import *\n", *lines])
        )
        self.folder = folder
        self.env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project_settings",
            "DAGSTER_HOME": str(shutil.copytree(empty_home, folder / "home")),
            "PYTHONPATH": python_path(TOP, folder),
        }

    def run(self, *args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run Python with these arguments, and return what it came to."""
        return subprocess.run(
            [sys.executable, *args],
            env={**self.env, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def print_of(self, *args: str, **environment: str) -> str:
        """Run Python with these arguments, which must end well; return what it prints."""
        ended = self.run(*args, **environment)
        assert ended.returncode == 0, ended.stderr[-3000:]
        print(ended.stdout)
        return ended.stdout
