"""The live table of a run in a terminal."""

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from ..process.reporting import Progress
from ..process.run import Status

COLOURS: Mapping[str, str] = {
    "running": "cyan",
    "completed": "green",
    "cached": "green",
    "failed": "red",
    "skipped": "yellow",
    "pending": "dim",
}

BAR_WIDTH = 20

REFRESHES = 4
"""Redraws a second."""


class LiveTable:
    """A table of a tree's processes: status, seconds, and why one was skipped or has failed.

    Parameters
    ----------
    names:
        The processes, in the order of the tree.
    """

    def __init__(self, names: Iterable[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._lock = threading.Lock()  # processes run in several threads
        self._status: dict[str, str] = dict.fromkeys(names, "pending")
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._why: dict[str, str] = {}
        self._progress: dict[str, Progress] = {}
        self._live = Live(
            get_renderable=self._table,
            console=Console(highlight=False),
            refresh_per_second=REFRESHES,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, process: str, status: Status) -> None:
        """Show that a process has started or ended; may be called from any thread."""
        with self._lock:
            self._status[process] = status
            if status == "running":
                self._since[process] = time.monotonic()
            elif process in self._since:
                self._seconds[process] = time.monotonic() - self._since.pop(process)

    def report(self, process: str, progress: Progress) -> None:
        """Show how far a process is."""
        with self._lock:
            self._progress[process] = progress

    def end(
        self, results: Mapping[str, Any], why: Mapping[str, str], optional: Collection[str]
    ) -> None:
        """Show the outcome of each process, with the reason."""
        with self._lock:
            self._since.clear()
            self._status.update(results["status"])
            self._seconds.update(results["execution_times"])
            self._why = dict(why)

    def _table(self) -> Any:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for heading in ("PROCESS", "STATUS", "SECONDS", "WHY"):
            table.add_column(heading, justify="right" if heading == "SECONDS" else "left")
        now = time.monotonic()
        with self._lock:
            for name, status in self._status.items():
                since = self._since.get(name)
                seconds = self._seconds.get(name) if since is None else now - since
                why = self._why.get(name, "")
                table.add_row(
                    Text(name),
                    Text(status, style=COLOURS.get(status, "")),
                    "" if seconds is None else f"{seconds:.1f}",
                    Text(_first_line(why)) if why else self._bar(name),
                )
        return table

    def _bar(self, name: str) -> Any:
        """Return a process's progress: as a bar, if the total is known."""
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar

        progress = self._progress.get(name)
        if progress is None:
            return ""
        if not progress.total:
            return str(progress)
        bar = ProgressBar(total=progress.total, completed=progress.done, width=BAR_WIDTH)
        return Columns([bar, str(progress)])


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""
