"""Django's own tests of ``django.tasks`` pass with our backend in place of the one they are for.

They come with Django's source, which pip downloads for the installed release; ``LEFT_OUT`` lists
what can't pass. The backport's source distribution has no tests.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import django
import pytest

from tests.conftest import skip_without
from tests.tools import TOP, python_path
from tests.tools.code_files import code_of

pytestmark = [
    pytest.mark.skipif(
        django.VERSION < (6,),
        reason="Django has django.tasks from 6.0 on; the source of the backport has no tests",
    ),
    pytest.mark.timeout(600),
]

DUMMY, IMMEDIATE, CUSTOM, TASK = (
    "test_dummy_backend.DummyBackendTestCase",
    "test_immediate_backend.ImmediateBackendTestCase",
    "test_custom_backend.CustomBackendTestCase",
    "test_tasks.TaskTestCase",
)
LEFT_OUT = {
    f"{DUMMY}.test_clear": "The dummy forgets results by clear(): ours are pruned with their runs.",
    f"{DUMMY}.test_refresh_result": "It changes the dummy's own copy of a result, in its list.",
    f"{DUMMY}.test_refresh_result_async": "As test_refresh_result.",
    f"{IMMEDIATE}.test_cannot_get_result": "Ours gets results.",
    f"{IMMEDIATE}.test_cannot_refresh_result": "Ours refreshes results.",
    f"{IMMEDIATE}.test_cannot_pass_run_after": "Ours takes run_after.",
    f"{IMMEDIATE}.test_throws_keyboard_interrupt": (
        "The caller executes the task, so Ctrl-C is the caller's: with ours it is the worker's, "
        "and the task has failed."
    ),
    "test_immediate_backend.ImmediateBackendTransactionTestCase."
    "test_doesnt_wait_until_transaction_commit_by_default": (
        "The task is executed in the open transaction: ours is enqueued by the commit, and by no "
        "rollback."
    ),
    f"{CUSTOM}.test_backend_does_not_support_priority": "Ours takes a priority.",
    f"{CUSTOM}.test_no_enqueue": "A class derived from ours can enqueue.",
    f"{TASK}.test_refresh_result": (
        "It calls refresh() in an event loop, where Django refuses each query; arefresh() does it."
    ),
}
"""Tests of Django's that fail with our backend, and why that is right."""

Outcomes = Mapping[str, str | None]


@pytest.fixture(scope="module")
def core(pytestconfig: pytest.Config) -> Path:
    """Return the folder that has Django's tests of tasks, as the package ``tasks``."""
    version = django.get_version()
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(f"django-{version}")
    if not (folder / "tasks").is_dir():
        download(f"django=={version}", folder)
    return folder


def download(source: str, folder: Path) -> None:
    """Put the package with the tests of a Django into a folder."""
    with tempfile.TemporaryDirectory(dir=folder) as written:
        options = ("--quiet", "--no-deps", "--no-binary", "django", "--dest", written)
        command = [sys.executable, "-m", "pip", "download", *options, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(written).glob("*.tar.gz"))
        if done.returncode or not archives:
            skip_without(f"The source of {source} (pip: {done.stderr.strip()[-300:]})")
        with tarfile.open(archives[0]) as archive:
            inside = [each for each in archive.getmembers() if "/tests/tasks/" in each.name]
            archive.extractall(written, inside, filter="data")
        [tests] = Path(written).glob("*/tests/tasks")
        try:
            tests.rename(folder / "tasks")
        except OSError:  # another process was as fast
            if not (folder / "tasks").is_dir():
                raise


@pytest.fixture(scope="module")
def outcomes(core: Path, tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Outcomes:
    """Why each of Django's tests did not pass with our backend; ``None`` if it did."""
    folder, code = tmp_path_factory.mktemp("core"), code_of(__file__)
    home, written = shutil.copytree(empty_home, folder / "home"), folder / "outcomes.json"
    done = subprocess.run(
        [sys.executable, code / "run_core_tests.py", core / "tasks", written],
        env={
            **os.environ,
            "PYTHONPATH": python_path(TOP, code, core),
            "DJANGO_SETTINGS_MODULE": "core_settings",
            "DAGSTER_HOME": str(home),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert written.exists(), done.stderr[-3000:]
    found: Outcomes = json.loads(written.read_text())
    return found


def test_every_test_of_django_passes_but_for_those_that_are_left_out(outcomes: Outcomes) -> None:
    assert len(outcomes) > 60, "Django's tests were not found."
    said = {name: why for name, why in outcomes.items() if why is not None}
    failed = "\n".join(f"{name}\n{why}" for name, why in said.items() if name not in LEFT_OUT)
    assert not failed, failed


def test_what_is_left_out_of_django_s_tests_is_there_and_fails(outcomes: Outcomes) -> None:
    assert set(LEFT_OUT) <= set(outcomes), "No tests of Django's any more: remove them."
    assert not [each for each in LEFT_OUT if outcomes[each] is None], "They pass now: remove them."
