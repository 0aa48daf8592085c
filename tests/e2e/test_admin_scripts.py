"""What the admin's own scripts do in a real browser, and that its pages work without them."""

import os
from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, Page
from pytest_django.live_server_helper import LiveServer

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools import browser as browsers

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = browsers.chromium()
    if chromium is None:
        reason = "There is no Chromium here: apt-get install chromium."
        if os.environ.get("PROCTREE_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with browsers.open_browser(chromium) as browser:
        yield browser


@pytest.fixture(scope="module", autouse=True)
def rows_beside_a_browser() -> Iterator[None]:
    """Let the tests read rows while Playwright's event loop runs in their thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


def opened(
    browser: Browser, live_server: LiveServer, client: Client, path: str, *, scripts: bool = True
) -> Page:
    """Open a page as the user of a client."""
    context = browser.new_context(java_script_enabled=scripts)
    context.set_default_timeout(browsers.TIMEOUT_SECONDS * 1000)
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies(
        [{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": live_server.url}]
    )
    page = context.new_page()
    if scripts:
        page.clock.install()
    page.goto(f"{live_server.url}/admin/proctree_dagster/{path}")
    return page


def tree() -> ProcessTree:
    made = ProcessTreeInstance("t").add_process("first", func=processes.one)
    return made.add_process("second", func=processes.add, dependencies=["first"]).save()


def test_a_process_is_added_named_and_moved_and_others_depend_on_it(
    browser: Browser, live_server: LiveServer, admin_client: Client
) -> None:
    row = tree()
    page = opened(browser, live_server, admin_client, f"processtree/{row.pk}/change/")
    page.get_by_role("button", name="Add another process", exact=True).click()
    new = page.get_by_role("group", name="Process 4", exact=True)
    new.get_by_label("Name").fill("new")
    offered = page.locator("#pt-functions option").evaluate_all("all => all.map(o => o.value)")
    assert "tests.app.processes:one" in offered
    new.get_by_label("Function").fill("tests.app.processes:one")
    page.get_by_role("group", name="Process 1", exact=True).get_by_label("new").check()
    for _ in range(3):
        new.get_by_role("button", name="Move up").click()
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("was changed successfully").wait_for()
    page.context.close()
    saved = ProcessTree.objects.get().processes
    assert [each["name"] for each in saved] == ["new", "first", "second"]
    assert saved[1]["dependencies"] == ["new"]
    assert saved[2] == row.processes[1]


def test_without_scripts_a_process_is_added_and_removed(
    browser: Browser, live_server: LiveServer, admin_client: Client
) -> None:
    row = tree()
    path = f"processtree/{row.pk}/change/"
    page = opened(browser, live_server, admin_client, path, scripts=False)
    new = page.get_by_role("group", name="Process 3", exact=True)
    new.get_by_label("Name").fill("third")
    new.get_by_label("Function").fill("tests.app.processes:one")
    page.get_by_role("group", name="Process 2", exact=True).get_by_label("Remove").check()
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("was changed successfully").wait_for()
    page.context.close()
    assert [each["name"] for each in ProcessTree.objects.get().processes] == ["first", "third"]


def test_the_overview_fetches_itself_and_says_so_when_it_can_not(
    browser: Browser, live_server: LiveServer, admin_client: Client
) -> None:
    schedule = ProcessTreeSchedule.objects.create(process_tree=tree())
    page = opened(browser, live_server, admin_client, "overview/")
    paused = page.get_by_role("region", name="Paused")
    paused.get_by_text("every schedule is enabled").wait_for()
    link = page.get_by_role("link", name="0 Paused")
    link.focus()
    ProcessTreeSchedule.objects.update(enabled=False)
    page.clock.run_for(11_000)
    paused.get_by_role("link", name=schedule.process_tree.name).wait_for()
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#pt-paused"
    page.route("**/overview/?part=live", lambda route: route.abort())
    page.clock.run_for(11_000)
    page.get_by_text("could not be refreshed").wait_for()
    page.context.close()
