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


PRELOADED = Path(__file__).parent / "code" / "test_imports" / "preloaded.py"


@pytest.mark.parametrize(
    ("how", "is_loaded"),
    [
        (["wsgi"], True),
        (["asgi"], True),
        (["command", "check"], False),
        (["command", "runserver"], False),  # the parent of the one that serves
        (["command", "runserver", "--noreload"], True),
        (["off"], False),
    ],
)
def test_dagster_is_imported_at_start_where_pages_are_served_if_it_is_to_be(
    how: list[str], is_loaded: bool
) -> None:
    env = {**os.environ, "PYTHONPATH": str(TOP)}
    command = [sys.executable, str(PRELOADED), *how]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == f"loaded: {is_loaded}", done.stderr


def test_what_is_imported_at_start_is_all_that_imports_dagster_for_a_run() -> None:
    env = {**os.environ, "PYTHONPATH": str(TOP)}
    command = [sys.executable, str(PRELOADED), "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    *_, grpc, more = done.stdout.splitlines()
    assert more == "more: []", done.stderr
    assert grpc == "gRPC: False", "only what asks a code server needs it"


def test_no_page_of_the_admin_imports_dagster_in_its_request() -> None:
    program = Path(__file__).parent / "code" / "test_imports" / "admin_pages.py"
    env = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr
