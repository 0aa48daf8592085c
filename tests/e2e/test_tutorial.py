"""The tutorial, and the pages that go on in its project: what they say is what happens."""

from collections.abc import Iterator

import pytest

from tests.e2e.newcomer import Newcomer
from tests.e2e.stack import wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def bookshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Return somebody who has followed the tutorial: each command did what the page shows."""
    newcomer = Newcomer(tmp_path_factory.mktemp("bookshop"))
    try:
        newcomer.follow("docs/tutorial.md")
        yield newcomer
    finally:
        newcomer.leave()


def test_the_tutorial_does_what_it_says(bookshop: Newcomer) -> None:
    assert (bookshop.folder / "dagster_home" / "dagster.yaml").is_file()


@pytest.mark.parametrize("page", ["trees-in-code", "test", "tenants"])
def test_a_page_on_how_to_do_something_does_what_it_says(bookshop: Newcomer, page: str) -> None:
    bookshop.follow(f"docs/howto/{page}.md")


def test_what_the_page_on_alerts_makes_sends_a_mail(bookshop: Newcomer) -> None:
    bookshop.follow("docs/howto/alerts.md")
    mails = bookshop.folder / "mails"
    wait_for("a mail", lambda: mails.is_dir() and any(mails.iterdir()), 90)
    assert "till-nowhere.csv" in "".join(mail.read_text() for mail in mails.iterdir())


IN_TROUBLE = """
import datetime as dt
from django.utils import timezone
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.orchestration import runs

ProcessTree.objects.exclude(name='takings').delete()
ProcessTree.objects.create(name='renamed', processes=[
    {'name': 'sales', 'func': 'books.processes:count_the_sales', 'dependencies': []},
])
ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(hours=5))
with runs.open_instance(persistent=True) as instance:
    instance.wipe_daemon_heartbeats()
"""


def test_what_the_page_on_troubles_shows_is_what_commands_print(bookshop: Newcomer) -> None:
    bookshop.stop_dev()
    bookshop.type_python(IN_TROUBLE)
    bookshop.follow("docs/troubleshooting.md")
