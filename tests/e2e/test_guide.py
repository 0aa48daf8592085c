"""The documentation, typed in from top to bottom by someone new, in a new project."""

from collections.abc import Iterator

import pytest

from tests.e2e.newcomer import Newcomer

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    newcomer.type("django-admin startproject mysite .")
    newcomer.type("python manage.py startapp bookkeeping")
    yield newcomer
    newcomer.leave()


def test_the_guide_does_what_it_says_from_top_to_bottom(newcomer: Newcomer) -> None:
    newcomer.follow("docs/install.md")
    printed = newcomer.follow("docs/guide.md")

    assert "Scheduled! Next run: 20" in printed
    commands = newcomer.folder / "bookkeeping" / "management" / "commands"
    assert {path.name for path in commands.glob("*.py")} == {
        "__init__.py",
        "my_scheduled_tree.py",
        "run_my_tree.py",
        "hourly_journals_sync.py",
    }
    assert (newcomer.folder / "some" / "other" / "commands" / "my_scheduled_tree.py").is_file()
    assert 'step1: "hello, tenant 123"' in printed
    assert 'step1: "hello, tenant 456"' in printed  # the schedule's default context
    # The model instance in the context, fetched again.
    assert 'sync: {"status": "success", "organisation": "Quiver Tree Coffee"}' in printed
    assert "True {'step1': 'hello, tenant 123'}" in printed
    assert "Queued run" in printed

    listed = newcomer.type(
        "DAGSTER_HOME=$PWD/dagster_home dagster job list -w workspace.yaml 2>/dev/null"
    )
    assert {line for line in listed.splitlines() if line.startswith("Job: ")} == {
        "Job: hourly_journals_sync",
        "Job: my_scheduled_tree",
    }
    newcomer.type("DAGSTER_HOME=$PWD/dagster_home dagster definitions validate -w workspace.yaml")
