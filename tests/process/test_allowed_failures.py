"""Whatever failed but was allowed to is in the run's tag, also where each has a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proctree_dagster.domain import run_tags

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

NAMES = ["a", "b", "c"]

PROGRAM = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "failing_settings"
import django
django.setup()
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution.api import execute_run_iterator
from django.core.management import call_command
from proctree_dagster.orchestration import tree_records
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.runs import create, opening
from proctree_dagster.tree_builder import ProcessTreeInstance

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    tree = ProcessTreeInstance("failing").set_executor("multiprocess", 3)
    for name in NAMES:
        tree.add_process(name, "failing:fail", required=False)
    job = translator().job(tree_records.from_row(tree.save()))
    with opening.open_instance(persistent=True) as instance:
        run = create.create_run(instance, job, {}, {})
        pointer = run.job_code_origin.repository_origin.code_pointer
        served = ReconstructableJob(ReconstructableRepository(pointer), run.job_name)
        list(execute_run_iterator(served, run, instance))
        run = instance.get_run_by_id(run.run_id)
        print(json.dumps([run.status.value, run.tags]))
"""

FUNCTIONS = """
import time
from pathlib import Path

FOLDER = Path(__file__).parent

def fail():
    "Fail when all have begun: then they all end at the same moment."
    (FOLDER / f"begun-{time.time_ns()}").touch()
    deadline = time.monotonic() + 60
    while len(list(FOLDER.glob("begun-*"))) < COUNT and time.monotonic() < deadline:
        time.sleep(0.01)
    raise ValueError("\\ud800 as always")
"""


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
    (tmp_path / "failing.py").write_text(FUNCTIONS.replace("COUNT", str(len(NAMES))))
    (tmp_path / "program.py").write_text(PROGRAM.replace("NAMES", repr(NAMES)))
    (tmp_path / "failing_settings.py").write_text(
        "from tests.settings import *\n"
        f"PROCTREE = {{'DAGSTER_HOME': {str(home)!r}, 'FUNCTION_MODULES': ['failing']}}\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3',"
        f" 'NAME': {str(tmp_path / 'db.sqlite3')!r}}}}}\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    status, found = json.loads(done.stdout.splitlines()[-1])
    assert status == "SUCCESS"
    assert sorted(run_tags.split(found[run_tags.FAILED_OPTIONAL])) == NAMES
