"""A run for each row, where whoever records or delivers the runs is killed: each row has one."""

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
ROWS, KILLS = (1000, 20) if FULL else (20, 3)


@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"] if FULL else ["sqlite"])
def test_each_row_has_one_run_whoever_is_killed_at_whatever_moment(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, empty_home: Path
) -> None:
    home = shutil.copytree(empty_home, tmp_path / "home")
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "db.sqlite3"),
        "OPTIONS": {"timeout": 60},
    }
    if kind == "postgresql":
        database = request.getfixturevalue("postgres").new_database()
    (tmp_path / "rows_settings.py").write_text(
        "from tests.settings import *\n"
        f"DATABASES = {{'default': {database!r}}}\nPROCTREE = {{}}\nLOGGING = {{}}\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "tests.services.rows_killed", str(ROWS), str(KILLS), "7"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "rows_settings",
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(TOP), str(tmp_path)]),
        },
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    print(ended.stdout)
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert seen["partly"] == 0, "all of them, or none"
    wanted = ("recorded", "runs", "organisations", "queued")
    assert [seen[each] for each in wanted] == [ROWS] * 4
