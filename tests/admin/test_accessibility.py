"""Every page of the admin: by keyboard, by screen reader, dark, narrow, and without JavaScript.

One visit of each page in Chromium measures everything; each test is a rule about the measurements.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import override_settings
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize
from pytest_django import DjangoDbBlocker
from pytest_django.live_server_helper import LiveServer

import proctree_dagster
from proctree_dagster import testing
from proctree_dagster.models import ProcessTree
from proctree_dagster.running import dagster_loading, tree_runs
from tests.admin import people
from tests.admin.routes import Rows, make_rows, routes
from tests.conftest import skip_without
from tests.tools import browser as browsers

pytestmark = [pytest.mark.e2e, pytest.mark.django_db]

WIDE = ViewportSize(width=1280, height=900)
NARROW = ViewportSize(width=390, height=844)

DJANGO_S_OWN = [
    "th.original",  # of a table of rows of another model: a heading without text
    "td.delete",  # in such a table: a box without a name
    ".delete-confirmation #content a",  # links in text that are seen by their colour alone
    ".delete-selected-confirmation #content a",
]
"""Parts of Django's admin itself, the same on any page of any app, in which axe finds something."""

COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules of axe that depend on colours."""

BY_SCRIPT = {"Move up", "Move down", "Add another process"}
"""Buttons that a script alone shows: without, there are boxes for positions, and a blank row."""

STATIC = Path(proctree_dagster.__file__).parent / "static" / "proctree_dagster"

CHECKS = Path(__file__).parent / "code" / "page_checks.js"

Act = Callable[[Page], None]


class Measured(NamedTuple):
    """What was measured on a page."""

    light: list[str]
    """What axe finds."""

    dark: list[str]
    too_wide: list[str]
    """What is wider than a narrow screen, if that scrolls sideways."""

    unreached: list[str]
    """Controls at which the tab key does not arrive."""

    missing: list[str]
    """Headings, labels and buttons that a browser without JavaScript lacks."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[None]:
    """A Dagster of this module's own."""
    home = tmp_path_factory.mktemp("accessibility") / "dagster_home"
    shutil.copytree(empty_home, home)
    named = {**settings.PROCTREE, "DAGSTER_HOME": str(home)}
    with override_settings(PROCTREE=named), testing.real_dagster():
        assert dagster_loading.wait(60)
        yield


@pytest.fixture(scope="module")
def rows(django_db_setup: None, django_db_blocker: DjangoDbBlocker, home: None) -> Iterator[Rows]:
    """A row of each model, and two runs, of which one has failed."""
    with django_db_blocker.unblock():
        made = make_rows()
        yield made
        call_command("flush", interactive=False, verbosity=0)


@pytest.fixture(scope="module")
def runs(rows: Rows) -> dict[str, str]:
    """The ids of two runs, by what became of them."""
    broken = [
        {"name": "first", "func": "tests.app.processes:one", "dependencies": []},
        {"name": "second", "func": "tests.app.processes:fail", "dependencies": ["first"]},
    ]
    tree = ProcessTree.objects.create(name="fails", processes=broken)
    return {
        "failed": tree_runs.execute_row(tree)["run_id"],
        "succeeded": tree_runs.execute_row(rows.tree)["run_id"],
    }


def runs_all_types() -> ProcessTree:
    """Return a tree whose form for a run has a field of each type."""
    every = {"name": "every", "func": "tests.app.annotated:everything", "dependencies": []}
    return ProcessTree.objects.get_or_create(name="every", defaults={"processes": [every]})[0]


def choose(action: str) -> Act:
    """Return what somebody does with a list: choose the first row, and an action."""

    def act(page: Page) -> None:
        page.locator("input.action-select").first.check()
        page.locator("select[name=action]").select_option(action)
        page.get_by_role("button", name="Go").click()
        page.wait_for_load_state()

    return act


def save(page: Page) -> None:
    """Send a form in which nothing was entered."""
    page.locator("#content input[type=submit]").first.click()
    page.wait_for_load_state()


def visits(client: Any, rows: Rows, runs: dict[str, str]) -> dict[str, tuple[str, Act | None]]:
    """Return the pages by their names: where they are, and what leads there."""
    pages: dict[str, tuple[str, Act | None]] = {}
    for route in routes():
        if route.endswith(("/history/", "<path:object_id>/delete/")):  # Django's own
            continue
        for name, run_id in runs.items() if "/run/<" in route else [("", "")]:
            address = rows.address(route).replace(rows.key("run"), run_id or rows.key("run"))
            answer = client.get(address)
            if answer.status_code == 200 and b"<!DOCTYPE html>" in answer.content[:100]:
                pages[f"{route} {name}".strip()] = address, None
    of = people.ADMIN
    pages["tree: delete?"] = f"{of}/processtree/{rows.tree.pk}/delete/", None
    pages["trees: delete?"] = f"{of}/processtree/", choose("delete_selected")
    pages["outbox: delete?"] = f"{of}/outboxrun/", choose("delete_selected")
    pages["runs: retry?"] = f"{of}/run/", choose("retry_all")
    pages["run now"] = f"{of}/processtree/{runs_all_types().pk}/run/", save
    for model in ("processtree", "processtreeschedule"):
        pages[f"{model}: errors"] = f"{of}/{model}/add/", save
    return pages


class Chromium:
    """Two tabs of somebody who is logged in: one runs scripts, the other does not.

    Parameters
    ----------
    browser:
        The browser.
    url:
        Where the site is.
    session:
        The key of the session.
    """

    def __init__(self, browser: Browser, url: str, session: str) -> None:
        self._url = url
        cookie = {"name": settings.SESSION_COOKIE_NAME, "value": session, "url": url}
        self._tab = self._open(browser.new_context(viewport=WIDE, reduced_motion="reduce"), cookie)
        plain = browser.new_context(viewport=WIDE, java_script_enabled=False)
        self._plain_tab = self._open(plain, cookie)
        self._checks = CHECKS.read_text()

    def _open(self, context: BrowserContext, cookie: Any) -> Page:
        context.set_default_timeout(30_000)
        context.add_cookies([cookie])
        return context.new_page()

    def measure(self, address: str, act: Act | None) -> Measured:
        """Visit a page, and measure everything."""
        tab = self._visit(self._tab, address, act)
        tab.evaluate(AXE_SCRIPT)
        light, dark = self._violations(tab, "light"), self._violations(tab, "dark", COLOURS)
        unreached = self._unreached(tab)
        names = tab.evaluate("pageChecks.names()")
        tab.set_viewport_size(NARROW)
        too_wide = tab.evaluate("pageChecks.tooWide()")
        tab.set_viewport_size(WIDE)
        there = self._visit(self._plain_tab, address, act).evaluate("pageChecks.names()")
        missing = [name for name in names if name not in there and name not in BY_SCRIPT]
        return Measured(light, dark, too_wide, unreached, missing)

    def _visit(self, tab: Page, address: str, act: Act | None) -> Page:
        answer = tab.goto(f"{self._url}{address}")
        assert answer is not None
        assert answer.ok, address
        if act is not None:
            act(tab)
        tab.evaluate(self._checks)
        return tab

    def _unreached(self, tab: Page) -> list[str]:
        count = tab.evaluate("pageChecks.beginTabbing()")
        found: list[str] = []
        for _ in range(3):  # Tab stops at what scrolls, too
            for _ in range(count):
                tab.keyboard.press("Tab")
            found = tab.evaluate("pageChecks.unreached()")
            count = len(found)
        return found

    def _violations(self, tab: Page, scheme: Any, rules: list[str] | None = None) -> list[str]:
        tab.emulate_media(color_scheme=scheme)
        asked = [DJANGO_S_OWN, rules]
        found: list[str] = tab.evaluate(
            "([own, rules]) => pageChecks.violations(own, rules)", asked
        )
        return found


@pytest.fixture(scope="module")
def measured(rows: Rows, runs: dict[str, str]) -> dict[str, Measured]:
    """What was measured on each page, by their names."""
    chromium = browsers.chromium()
    if chromium is None:
        skip_without("chromium")
    assert chromium is not None
    client = people.browser(User.objects.create_superuser("superuser"))
    pages = visits(client, rows, runs)
    server = LiveServer("127.0.0.1")
    try:
        with (
            override_settings(ALLOWED_HOSTS=["127.0.0.1"]),
            browsers.open_browser(chromium) as browser,
        ):
            tabs = Chromium(browser, server.url, client.cookies[settings.SESSION_COOKIE_NAME].value)
            return {name: tabs.measure(*page) for name, page in pages.items()}
    finally:
        server.stop()


def of(measured: dict[str, Measured], what: str) -> str:
    """Return what was found on the pages, as text; blank if nothing."""
    found = {name: getattr(each, what) for name, each in measured.items()}
    return "\n".join(f"\n{name}\n  " + "\n  ".join(lines) for name, lines in found.items() if lines)


@pytest.mark.parametrize("sheet", sorted(STATIC.glob("*.css")), ids=lambda sheet: sheet.name)
def test_each_block_of_a_style_sheet_is_closed(sheet: Path) -> None:
    """Else a browser ignores, without a word, what follows."""
    depth = 0
    for number, line in enumerate(sheet.read_text().splitlines(), 1):
        assert depth == 0 or line.startswith((" ", "}", ")")) or not line, number
        depth += line.count("{") - line.count("}")
    assert depth == 0


def test_every_page_is_measured(measured: dict[str, Measured]) -> None:
    assert len(measured) > 20
    for model in ("overview", "processtree", "run", "processtreeschedule", "trigger", "outboxrun"):
        assert f"proctree_dagster/{model}/" in measured


def test_axe_finds_no_violation_in_light(measured: dict[str, Measured]) -> None:
    assert of(measured, "light") == ""


def test_axe_finds_no_violation_in_dark(measured: dict[str, Measured]) -> None:
    assert of(measured, "dark") == ""


def test_no_page_scrolls_sideways_on_a_narrow_screen(measured: dict[str, Measured]) -> None:
    assert of(measured, "too_wide") == ""


def test_the_tab_key_arrives_at_every_control(measured: dict[str, Measured]) -> None:
    assert of(measured, "unreached") == ""


def test_a_page_has_its_content_without_javascript(measured: dict[str, Measured]) -> None:
    assert of(measured, "missing") == ""
