"""What a user's file, a stored result or another release names is found after the move."""

import base64
import datetime as dt
import importlib
import pickle
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from django.core.management import load_command_class
from django.utils.module_loading import import_string

from proctree_dagster.models.validation import executor_names
from proctree_dagster.orchestration.execution.threads_executor import threads_executor
from proctree_dagster.process.run import NotStored, Outcome
from proctree_dagster.support.moved import MOVED

# Written by the code before the move: pickle.dumps(outcome, 5).
STORED = (
    "gAWV9wAAAAAAAACMGHByb2N0cmVlX2RhZ3N0ZXIucHJvY2Vzc5SMB091dGNvbWWUk5QpgZR9lCiMBnN0YXR1c5SMCWNv"
    "bXBsZXRlZJSMBnJlc3VsdJR9lCiMBXRvdGFslIwHZGVjaW1hbJSMB0RlY2ltYWyUk5SMBTEwLjUwlIWUUpSMAm9ulIwI"
    "ZGF0ZXRpbWWUjARkYXRllJOUQwQH6gMflIWUUpR1jAVlcnJvcpROjAdzZWNvbmRzlEc/+AAAAAAAAIwGY2FjaGVklImM"
    "BG5vdGWUjAlhcyBpdCB3YXOUjBJyZXNwb25zZV92YXJpYWJsZXOUfZSMAWGUSwFzdWIu"
)
STORED_WITHOUT_RESULT = (
    "gAWV4QAAAAAAAACMGHByb2N0cmVlX2RhZ3N0ZXIucHJvY2Vzc5SMB091dGNvbWWUk5QpgZR9lCiMBnN0YXR1c5SMCWNv"
    "bXBsZXRlZJSMBnJlc3VsdJRoAIwJTm90U3RvcmVklJOUKYGUfZQojAdwcm9jZXNzlIwFZmV0Y2iUjAZyZWFzb26UjBhU"
    "eXBlRXJyb3I6IGNhbm5vdCBwaWNrbGWUdWKMBWVycm9ylE6MB3NlY29uZHOURwAAAAAAAAAAjAZjYWNoZWSUiYwEbm90"
    "ZZROjBJyZXNwb25zZV92YXJpYWJsZXOUfZR1Yi4="
)

COMMAND = """
from proctree_dagster.management.base import TreeCommand


class Command(TreeCommand):
    help = "Run the tree 'monthly close'."
    tree_name = "monthly close"
"""

DAGSTER_YAML = """
instance_class:
  module: proctree_dagster.orchestration.storage
  class: ProctreeInstance
run_launcher:
  module: proctree_dagster.orchestration.launcher
  class: WarmRunLauncher
run_coordinator:
  module: proctree_dagster.orchestration.coordinator
  class: StraightRunCoordinator
scheduler:
  module: proctree_dagster.orchestration.hosts
  class: LazyHostScheduler
storage:
  module: proctree_dagster.orchestration.postgres
  class: PostgresStorage
"""


def test_a_result_that_was_stored_before_the_move_is_read() -> None:
    found = pickle.loads(base64.b64decode(STORED))
    result = {"total": Decimal("10.50"), "on": dt.date(2026, 3, 31)}
    assert found == Outcome(
        "completed", result, seconds=1.5, note="as it was", response_variables={"a": 1}
    )
    lost = pickle.loads(base64.b64decode(STORED_WITHOUT_RESULT))
    assert lost.result == NotStored("fetch", "TypeError: cannot pickle")


def test_the_release_before_reads_what_is_stored_now() -> None:
    outcome = Outcome(
        "completed",
        {"total": Decimal("10.50"), "on": dt.date(2026, 3, 31)},
        seconds=1.5,
        note="as it was",
        response_variables={"a": 1},
    )
    assert base64.b64encode(pickle.dumps(outcome, 5)).decode() == STORED


def test_a_generated_command_of_before_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "old_app" / "management" / "commands"
    folder.mkdir(parents=True)
    (folder / "monthly_close.py").write_text(COMMAND)
    sys.path.insert(0, str(tmp_path))
    try:
        command = load_command_class("old_app", "monthly_close")
    finally:
        sys.path.remove(str(tmp_path))
    assert command.tree_name == "monthly close"  # type: ignore[attr-defined]


def test_every_class_of_an_old_dagster_yaml_is_found() -> None:
    for part in yaml.safe_load(DAGSTER_YAML).values():
        assert callable(getattr(importlib.import_module(part["module"]), part["class"]))


def test_an_executor_that_settings_name_as_before_is_found() -> None:
    old = "proctree_dagster.orchestration.threads.threads_executor"
    sys.modules.pop(old.rpartition(".")[0], None)
    with pytest.warns(DeprecationWarning, match="the old name goes"):
        assert import_string(old) is threads_executor


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_gives_the_module_itself_and_warns(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is called {MOVED[old]} now"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(MOVED[old])
    assert found.__name__ == MOVED[old]


def test_a_launcher_of_another_release_starts_the_template_by_the_name_of_before() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proctree_dagster.orchestration.template", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "--origin" in done.stdout


def test_what_migrations_name_is_there() -> None:
    for name in ("ContextField", "validate_timezone"):
        assert callable(import_string(f"proctree_dagster.models.{name}"))


def test_settings_that_name_the_executor_as_before_are_checked_as_before() -> None:
    old = "proctree_dagster.orchestration.threads.threads_executor"
    assert executor_names.runs_side_by_side(old)
    assert not executor_names.runs_on_several_machines(old)
    assert executor_names.problem_of_name(old) is None
