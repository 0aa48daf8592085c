"""What a Django process pays that only has the app installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import TOP

SETTINGS = "from django.conf import settings; "


@pytest.mark.parametrize(
    "code",
    [
        "import proctree_dagster.tree_builder",
        "import proctree_dagster.tasks",
        "from django.core.management import call_command; call_command('check')",
        "from django.core.management import call_command; call_command('migrate', verbosity=0)",
    ],
)
def test_a_django_process_that_runs_no_tree_imports_no_dagster(code: str) -> None:
    program = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; "
        f"import django; django.setup(); {code}; "
        "print([name for name in sys.modules if name.split('.')[0].startswith('dagster')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr
    assert done.returncode == 0


def test_a_django_process_that_runs_no_tree_imports_no_processes_module() -> None:
    program = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; "
        "import django; django.setup(); "
        "print('tests.app.processes' in sys.modules, 'example.ledger.processes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False False", done.stderr


def test_no_page_of_the_admin_imports_dagster_in_its_request() -> None:
    program = Path(__file__).parent / "code" / "test_imports" / "admin_pages.py"
    env = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr
