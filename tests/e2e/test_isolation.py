"""A project's tests beside a real daemon, which serves real trees of the same names."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus

from tests.tools.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

REAL_TREES = """
from tests.beside import suite
from proctree_dagster.triggers import create_trigger, subscribe_tree_to_trigger
for name in ("report", "notify", "busy"):
    suite.tree(name)
suite.tree("close", is_followed=True)
create_trigger("paid", "event")
subscribe_tree_to_trigger("report", "paid")
"""

SUBMIT = "print(ProcessTreeManager.submit_tree('notify').run_id)"

OUTBOX = """
from proctree_dagster.models import OutboxRun
print(*OutboxRun.objects.values_list("run_id", flat=True))
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, told_to_reload=False)
    settings = stack.home / "dagster.yaml"
    # What starts the runs is not to outlive the daemon for longer than a moment.
    launcher = "WarmRunLauncher\n"
    settings.write_text(
        settings.read_text().replace(launcher, f"{launcher}  config:\n    linger_seconds: 1\n")
    )
    stack.env |= {
        "DJANGO_SETTINGS_MODULE": "tests.beside.settings",
        "BESIDE_HOME": str(stack.home),
        "BESIDE_DATABASE": str(tmp_path / "real.sqlite3"),
    }
    try:
        stack.migrate()
        stack.shell(REAL_TREES)
        stack.start_daemon()
        yield stack
    finally:
        stack.stop()


def test_a_daemon_beside_a_projects_tests_is_given_nothing_to_do(stack: Stack) -> None:
    with DagsterInstance.from_config(str(stack.home)) as instance:

        def runs() -> dict[str, DagsterRunStatus]:
            return {run.run_id: run.status for run in instance.get_runs()}

        def run_by_daemon() -> str:
            run_id = stack.shell(SUBMIT)
            wait_for("the daemon", lambda: runs()[run_id] == DagsterRunStatus.SUCCESS, 120)
            return run_id

        first = run_by_daemon()
        stack.manage("test", "tests.beside.suite")
        assert runs().keys() == {first}
        assert stack.shell(OUTBOX) == first
        second = run_by_daemon()  # it was there all the time
        assert runs().keys() == {first, second}
