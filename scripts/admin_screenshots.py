"""Take the pictures of the admin: ``.venv/bin/python -m scripts.admin_screenshots``.

Starts the example's site in a temporary folder, with a Dagster of its own, lets some runs succeed
and one fail, and stops it.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize

from scripts.screenshots import write
from tests.tools import browser as browsers
from tests.tools.site import PASSWORD, SiteStack
from tests.tools.stack import wait_for

WIDE, NARROW = ViewportSize(width=1240, height=860), ViewportSize(width=390, height=760)
TREE = "monthly_close"
REQUEST_RUNS = (
    "manager = ProcessTreeManager\n"
    "print(manager.submit_tree('receivables_reminder').run_id)\n"
    f"print(manager.submit_tree({TREE!r}).run_id)\n"
    f"print(manager.submit_tree({TREE!r}, {{'period_end': '2026-13-31'}}).run_id)\n"
    f"print(ProcessTree.objects.get(name={TREE!r}).pk)\n"
)


def main() -> None:
    """Start, take the pictures, stop."""
    chromium = browsers.chromium()
    if chromium is None:
        sys.exit("There is no Chromium here: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as folder:
        stack = SiteStack(Path(folder))
        try:
            stack.start_site()
            *run_ids, tree = stack.shell(REQUEST_RUNS).splitlines()[-4:]
            wait_for("the runs to end", lambda: all(map(ended, map(stack.status, run_ids))), 180)
            with browsers.open_browser(chromium) as browser:
                take(browser, stack, tree, run_ids[-1])
        finally:
            stack.stop()


def ended(status: str) -> bool:
    """Return whether a run of this status has ended."""
    return status in ("SUCCESS", "FAILURE")


def take(browser: Browser, stack: SiteStack, tree: str, failed: str) -> None:
    """Take the pictures: each page in light, some of them in dark and narrow, too."""
    page = browser.new_context(viewport=WIDE).new_page()
    site = f"http://localhost:{stack.port}/admin"
    page.goto(site)
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    pages = {
        "overview": "overview/",
        "tree": f"processtree/{tree}/change/",
        "failed-run": f"run/{failed}/change/",
        "run-now": f"processtree/{tree}/run/",
    }
    for name, path in pages.items():
        page.goto(f"{site}/proctree_dagster/{path}")
        save(page, f"admin-{name}")
        if name == "tree":
            save(page, "admin-tree-dark", dark=True)
        if name in ("overview", "failed-run"):
            save(page, f"admin-{name}-narrow", size=NARROW)


def save(page: Page, name: str, *, dark: bool = False, size: ViewportSize = WIDE) -> None:
    """Write what a page shows, in light or dark, wide or narrow."""
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.set_viewport_size(size)
    page.wait_for_load_state("networkidle")
    write(page, name)


if __name__ == "__main__":
    main()
