"""Take the pictures of Dagster in ``docs/images``: ``.venv/bin/python -m scripts.screenshots``.

Starts the example in a temporary folder, with a Dagster of its own, and stops it.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.tools import browser as browsers
from tests.tools.browser import Tab
from tests.tools.interrupts import heed_interrupts
from tests.tools.stack import Stack

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
MAX_KILOBYTES = 150
WIDTH, HEIGHT = 1240, 780
"""Pixels. Narrower, and the graph no longer shows whole names."""


def main() -> None:
    """Start, take the pictures, stop."""
    heed_interrupts()
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
                browsers.open_tab(browser, stack.url, width=WIDTH, height=HEIGHT) as tab,
            ):
                take(tab, stack)
        finally:
            stack.stop()


def take(tab: Tab, stack: Stack) -> None:
    """Take the pictures."""
    tab.open_job("monthly_close")
    tab.page.get_by_role("button", name="Hide navigation").click()
    tab.open_job("monthly_close")  # fits the graph into the room that there is now
    tab.see_process("publish_statements")
    save(tab, "job")

    tab.open_launchpad("monthly_close")
    expect(tab.launch_button).to_be_enabled()
    tab.see("No errors")
    save(tab, "launchpad")

    run_id = tab.launch()
    stack.finished(run_id)
    tab.open_run(run_id)
    tab.see("Succeeded (5)")
    show_more_of_the_chart(tab)
    tab.page.get_by_placeholder("Filter…").fill("Yielded")
    tab.see("10965.41")
    save(tab, "run")

    tab.page.set_viewport_size({"width": WIDTH, "height": HEIGHT * 2 // 3})
    tab.open_schedules()
    tab.see("receivables_reminder_schedule")
    save(tab, "schedules")


def show_more_of_the_chart(tab: Tab, pixels: int = 90) -> None:
    """Drag the edge below the chart of a run, then move the mouse away from it."""
    box = tab.page.get_by_text("Events", exact=True).bounding_box()
    assert box is not None
    x, edge = box["x"], box["y"] - 20
    mouse = tab.page.mouse
    mouse.move(x, edge)
    mouse.down()
    mouse.move(x, edge + pixels, steps=5)
    mouse.up()
    mouse.move(0, 0)


def save(tab: Tab, name: str) -> None:
    """Write what the tab shows, once nothing is being loaded."""
    tab.page.wait_for_load_state("networkidle")
    write(tab.page, name)


def write(page: Page, name: str) -> None:
    """Write what a page shows, if it is no large file."""
    path = IMAGES / f"{name}.png"
    picture = page.screenshot(path=path, animations="disabled")
    print(f"{path.relative_to(IMAGES.parents[1])}: {len(picture) / 1000:.0f} kB")
    if len(picture) > MAX_KILOBYTES * 1000:
        sys.exit(f"{path.name} has more than {MAX_KILOBYTES} kB; take it in a smaller window.")


if __name__ == "__main__":
    main()
