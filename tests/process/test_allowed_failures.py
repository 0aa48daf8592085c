"""Whatever failed but was allowed to is in the run's tag, also where each has a process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proctree_dagster.domain import run_tags
from tests.tools import python_path
from tests.tools.code_files import code_of

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

CODE = code_of(__file__)

NAMES = ["a", "b", "c"]


@pytest.mark.apart
@pytest.mark.parametrize("storage", ["sqlite", "postgresql"])
def test_all_that_fail_at_once_in_processes_of_their_own_are_in_the_runs_tag(
    storage: str, tmp_path: Path, postgres: "Postgres"
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    yaml = "telemetry:\n  enabled: false\n"
    if storage == "postgresql":
        database = postgres.new_database()
        url = f"postgresql+psycopg2://postgres@/{database['NAME']}?host={database['HOST']}"
        yaml += f"storage:\n  postgres:\n    postgres_url: {url}\n"
    (home / "dagster.yaml").write_text(yaml)
    for file in CODE.glob("*.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "failing_settings.py").write_text(
        "from tests.settings import *\n"
        f"PROCTREE = {{'DAGSTER_HOME': {str(home)!r}, 'FUNCTION_MODULES': ['failing']}}\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3',"
        f" 'NAME': {str(tmp_path / 'db.sqlite3')!r}}}}}\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *NAMES],
        env={
            **os.environ,
            "PYTHONPATH": python_path(tmp_path, Path.cwd()),
            "TEST_COUNT": str(len(NAMES)),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    status, found = json.loads(done.stdout.splitlines()[-1])
    assert status == "SUCCESS"
    assert sorted(run_tags.split(found[run_tags.FAILED_OPTIONAL])) == NAMES
