"""Saving the same thing from several processes at once: one wins, the others update; no error."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools import TOP, python_path

TIMES = int(os.environ.get("PROCTREE_SAVES_AT_ONCE", "10"))
"""How often each thing is saved by four processes at once; 30 is what is promised."""


@pytest.mark.parametrize("kind", ["sqlite", "sqlite with a write-ahead log", "postgresql"])
def test_what_is_saved_by_several_processes_at_once_is_saved(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    # On SQLite with Django's own ``transaction_mode``: a transaction that reads first may fail.
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "OPTIONS": {"timeout": 60},
    }
    if kind == "postgresql":
        database = request.getfixturevalue("postgres").new_database()
    elif "write-ahead" in kind:
        database["OPTIONS"]["init_command"] = "PRAGMA journal_mode=WAL;"
    (tmp_path / "at_once_settings.py").write_text(
        f"from tests.settings import *\nDATABASES = {{'default': {database!r}}}\nLOGGING = {{}}\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "tests.tree_builder.saving_at_once", str(TIMES)],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "at_once_settings",
            "PYTHONPATH": python_path(TOP, tmp_path),
        },
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["errors"] == [], "\n".join(found["errors"])
    assert ended.stderr == "", "what could not be written is logged"
    assert found["rows"] == {
        "ProcessTree": 2 * TIMES + 2,
        "ProcessTreeSchedule": 2 * TIMES,
        "TreeLink": 3 * TIMES,
        **dict.fromkeys(["Trigger", "TriggerSubscription"], 2 * TIMES),
        **dict.fromkeys(["TriggerPassage", "TreeSource"], TIMES),
        "CodeSync": 1,
    }
