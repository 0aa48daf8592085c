"""Many processes submit one key at once: one run is unfinished at any moment, and none is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools import TOP

FULL = os.environ.get("PROCTREE_ACCIDENTS") == "full"
COUNT, PROCESSES = (200, 16) if FULL else (6, 3)


@pytest.fixture(params=["sqlite", "postgresql"] if FULL else ["postgresql"])
def environment(request: pytest.FixtureRequest, tmp_path: Path, empty_home: Path) -> dict[str, str]:
    """The environment of processes that share a database and a Dagster home."""
    home = shutil.copytree(empty_home, tmp_path / "home")
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
    }
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres").new_database()
    (tmp_path / "one_key_settings.py").write_text(
        "from tests.settings import *\n"
        f"DATABASES = {{'default': {database!r}}}\nPROCTREE = {{}}\nLOGGING = {{}}\n"
    )
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "one_key_settings",
        "DAGSTER_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(TOP), str(tmp_path)]),
    }


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("on_conflict", ["queue", "return"] if FULL else ["queue"])
def test_one_run_with_a_key_is_unfinished_at_any_moment_and_none_is_lost(
    environment: dict[str, str], on_conflict: str
) -> None:
    program = ["-m", "tests.running.one_key_at_once"]
    ended = subprocess.run(
        [sys.executable, *program, str(COUNT), str(PROCESSES), on_conflict],
        env=environment,
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    print(ended.stdout)
    seen = json.loads(ended.stdout)
    assert seen["errors"] == []
    assert seen["most_unfinished"] == 1
    assert seen["is_in_order"]
    assert seen["made"] == seen["requested"]
    if on_conflict == "queue":
        assert seen["made"] == COUNT
