"""Take the pictures in ``docs/images``: ``.venv/bin/python -m scripts.screenshots``.

Starts the example in a temporary folder, with a Dagster of its own, and stops it.
"""

import sys
import tempfile
from pathlib import Path

from tests.e2e import browser as browsers
from tests.e2e.browser import Tab
from tests.e2e.stack import Stack

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
MAX_KILOBYTES = 150


def main() -> None:
    """Start, take the pictures, stop."""
    chromium = browsers.chromium()
    if chromium is None:
        sys.exit("There is no Chromium here: apt-get install chromium.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        try:
            stack.start()
            stack.graphql(browsers.SKIP_THE_WELCOME)
            with (
                browsers.open_browser(chromium) as browser,
                browsers.open_tab(browser, stack.url, width=1240, height=780) as tab,
            ):
                take(tab, stack)
        finally:
            stack.stop()


def take(tab: Tab, stack: Stack) -> None:
    """Take the pictures."""
    tab.open_job("monthly_close")
    tab.see_process("publish_statements")
    save(tab, "job")

    tab.open_launchpad("monthly_close")
    tab.see("No errors")
    save(tab, "launchpad")

    run_id = tab.launch()
    stack.finished(run_id)
    tab.see_status("Success")
    tab.page.get_by_placeholder("Filter…").fill("profit")
    tab.see("10965.41")
    save(tab, "run")

    tab.open_schedules()
    tab.see("receivables_reminder_schedule")
    save(tab, "schedules")


def save(tab: Tab, name: str) -> None:
    """Write what the tab shows, once nothing moves in it."""
    tab.page.wait_for_load_state("networkidle")
    path = IMAGES / f"{name}.png"
    picture = tab.page.screenshot(path=path, animations="disabled")
    print(f"{path.relative_to(IMAGES.parents[1])}: {len(picture) / 1000:.0f} kB")
    if len(picture) > MAX_KILOBYTES * 1000:
        sys.exit(f"{path.name} has more than {MAX_KILOBYTES} kB; take it in a smaller window.")


if __name__ == "__main__":
    main()
