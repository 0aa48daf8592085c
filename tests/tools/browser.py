"""Dagster's UI in a real browser, in the words of the person in front of it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from .stack import SELECTOR, wait_for

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
]

TIMEOUT_SECONDS = 60.0
"""Seconds that a page may take: the machine has other things to do."""

REPOSITORY = "{repositoryName}@{repositoryLocationName}".format_map(SELECTOR)

# The person is asked once an instance, in a dialog that covers the page, to join the community.
SKIP_THE_WELCOME = "mutation { setNuxSeen }"

EDITOR_TEXT = "editor => editor.CodeMirror.getValue()"


def chromium() -> str | None:
    """Return where the system's Chromium is; Playwright must not download one."""
    return shutil.which("chromium")


@contextmanager
def open_browser(chromium: str) -> Iterator[Browser]:
    """Start the browser, and end it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_profile(chromium: str) -> Iterator[BrowserContext]:
    """Start the browser as a person does, and end it: it compiles the UI's scripts once.

    Of a page that is opened again, that is a third of the work.
    """
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=chromium,
            args=ARGUMENTS,
            viewport={"width": 1400, "height": 900},
        )
        try:
            yield context
        finally:
            context.close()


@contextmanager
def open_tab(
    browser: Browser, url: str, *, width: int = 1400, height: int = 900
) -> Iterator["Tab"]:
    """Open a tab that remembers nothing of the others, and close it."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(TIMEOUT_SECONDS * 1000)
    try:
        yield Tab(context.new_page(), url)
    finally:
        context.close()


@contextmanager
def open_tab_of(profile: BrowserContext, url: str) -> Iterator["Tab"]:
    """Open a tab in which the site finds nothing that it has stored, and close it."""
    profile.set_default_timeout(TIMEOUT_SECONDS * 1000)
    page = profile.new_page()
    try:
        stored = {"origin": url, "storageTypes": "cookies,local_storage,indexeddb"}
        profile.new_cdp_session(page).send("Storage.clearDataForOrigin", stored)
        yield Tab(page, url)
    finally:
        page.close()


class Tab:
    """A tab with Dagster's UI."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    # Pages

    def open_jobs(self) -> None:
        self._open("jobs", self.page.get_by_text("process_trees"))

    def open_schedules(self) -> None:
        self._open("automation", self.page.get_by_text("process_trees"))

    def open_job(self, job: str) -> None:
        """Open a job's page, with its graph and its description."""
        self._open(f"locations/{REPOSITORY}/jobs/{job}", self.page.locator("svg foreignObject"))

    def open_launchpad(self, job: str) -> str:
        """Open a job's Launchpad and return the configuration that is prefilled."""
        self._open(
            f"locations/{REPOSITORY}/jobs/{job}/playground", self.page.locator(".CodeMirror")
        )
        return wait_for("a prefilled Launchpad", lambda: self.editor_text, TIMEOUT_SECONDS)

    def open_run(self, run_id: str) -> None:
        self._open(f"runs/{run_id}", self._reexecute_button)

    def _open(self, path: str, landmark: Locator) -> None:
        self.page.goto(f"{self.url}/{path}")
        landmark.first.wait_for()

    # What is there

    def see(self, text: str, *, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until the tab shows ``text``, somewhere."""
        self.page.get_by_text(text).first.wait_for(timeout=seconds * 1000)

    def see_process(self, name: str) -> None:
        """Wait until the graph shows a process."""
        node = self.page.locator("svg foreignObject").get_by_text(name, exact=True)
        node.first.wait_for()

    def see_status(self, status: str) -> None:
        """Wait until the run's page says what has become of it."""
        self.page.get_by_text(status, exact=True).first.wait_for()

    def open_metadata(self, words: str) -> None:
        """Click what shows a value of an event that is too large for a line."""
        self.page.get_by_text(words).first.click()

    def filter_log(self, text: str) -> None:
        """Show those events of a run only that hold a text."""
        self.page.get_by_placeholder("Filter…").fill(text)

    def sees_picture(self, name: str) -> bool:
        """Wait until the tab shows a picture; return whether the browser could read it."""
        picture = self.page.get_by_role("img", name=name)
        picture.first.wait_for()
        width: int = picture.first.evaluate("image => image.naturalWidth")
        return width > 0

    # The Launchpad

    @property
    def _editor(self) -> Locator:
        return self.page.locator(".CodeMirror")

    @property
    def editor_text(self) -> str:
        """The Launchpad's configuration, as it is in the editor now."""
        text: str = self._editor.evaluate(EDITOR_TEXT)
        return text

    def type_config(self, text: str) -> None:
        """Replace the configuration, as a person does who pastes another."""
        self._editor.click()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.press("Delete")
        self.page.keyboard.insert_text(text)
        assert self.editor_text == text

    @property
    def launch_button(self) -> Locator:
        return self.page.get_by_role("button", name="Launch Run")

    def launch(self) -> str:
        """Click "Launch Run" and return the id of the run that it leads to."""
        self.launch_button.click()
        return self._new_run("")

    # The page of a run

    @property
    def _reexecute_button(self) -> Locator:
        return self.page.get_by_role("button", name="Re-execute all (*)")

    def reexecute_all(self) -> str:
        """Click "Re-execute all" and return the id of the new run."""
        before = self.page.url
        self._reexecute_button.click()
        return self._new_run(before)

    def reexecute_from_failure(self) -> str:
        """Choose "From failure" and return the id of the new run."""
        before = self.page.url
        self._reexecute_button.locator("xpath=following::button[1]").click()
        self.page.get_by_role("menuitem", name="From failure").click()
        return self._new_run(before)

    def _new_run(self, before: str) -> str:
        self.page.wait_for_url(lambda url: "/runs/" in url and url != before)
        run_id = self.page.url.partition("/runs/")[2].partition("?")[0]
        # Until the page is headed by the new run, it may still show what became of the old one.
        self.page.get_by_text(run_id[:8], exact=True).first.wait_for()
        return run_id
