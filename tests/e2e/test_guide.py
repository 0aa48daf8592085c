"""What a project writes itself, typed in by someone new; ``test_dev`` types the guide in."""

from collections.abc import Iterator

import pytest

from tests.e2e.newcomer import Newcomer

pytestmark = pytest.mark.e2e

SAVE = (
    "from bookkeeping import processes; "
    "from proctree_dagster.tree_builder import ProcessTreeInstance; "
    "ProcessTreeInstance('my_tree').add_process('one', func=processes.one).save()"
)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    newcomer.type("django-admin startproject mysite .")
    newcomer.type("python manage.py startapp bookkeeping")
    yield newcomer
    newcomer.leave()


def test_what_a_project_writes_for_itself_is_served_and_passes_dagsters_validation(
    newcomer: Newcomer,
) -> None:
    newcomer.follow("docs/install.md")
    newcomer.type("printf 'def one():\\n    return 1\\n' > bookkeeping/processes.py")
    newcomer.type(f'python manage.py shell -c "{SAVE}"')
    listed = newcomer.type(
        "DAGSTER_HOME=$PWD/dagster_home dagster job list -w workspace.yaml 2>/dev/null"
    )
    assert "Job: my_tree" in listed.splitlines()
    newcomer.type("DAGSTER_HOME=$PWD/dagster_home dagster definitions validate -w workspace.yaml")
