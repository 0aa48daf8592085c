"""What a function reports while it runs: log lines, progress, tables and pictures.

Outside a run these calls do nothing at next to no cost, so a test or a shell may call a function
as it is.
"""

import base64
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any, Protocol, TypeVar

from .. import conf
from ..exceptions import ReportError
from ..support.project_apps import project_modules
from . import masking

T = TypeVar("T")

SECONDS_BETWEEN = 1.0
"""Least seconds between two progress events of a process."""

MOST_ROWS = 500
"""Most rows of a table that are shown."""

MOST_IMAGE_BYTES = 2_000_000
"""Largest size of a picture in bytes: it is stored with the run's events."""

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Progress:
    """How far a process is."""

    done: int
    total: int | None
    """Out of how many; ``None``: nobody knows."""

    what: str
    """Of what, such as ``invoices``."""

    def __str__(self) -> str:
        if self.total is None:
            return f"{self.done} {self.what}".rstrip()
        share = f" ({100 * self.done // self.total} %)" if self.total > 0 else ""
        return f"{self.done} of {self.total} {self.what}".rstrip() + share


@dataclass(frozen=True)
class Table:
    """Rows for the output of a process."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    left_out: int
    """How many more rows there were."""


@dataclass(frozen=True)
class Image:
    """A picture for the output of a process."""

    name: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """The picture as a ``data:`` URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


class Listener(Protocol):
    """Receives the reports of one process."""

    def log(self, record: logging.LogRecord) -> None:
        """Receive a log record."""

    def progress(self, progress: Progress) -> None:
        """Receive its progress."""


@dataclass
class Report:
    """The reports of one call of a process."""

    listener: Listener
    attempt: int = 1
    """How often the process was begun in its run, this time included."""

    run_id: str = ""
    """The id of its run."""

    attachments: list[Table | Image] = field(default_factory=list)
    """Tables and pictures for its output."""

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _told_at: float = field(default=float("-inf"), repr=False)
    _completed_at: float = field(default=float("-inf"), repr=False)
    _held_back: Progress | None = field(default=None, repr=False)

    def take(self, progress: Progress) -> None:
        """Pass progress on, at most once a second, and once more when it is complete."""
        now = time.monotonic()
        with self._lock:
            is_complete = progress.total is not None and progress.done >= progress.total
            last = self._completed_at if is_complete else self._told_at
            if now - last < SECONDS_BETWEEN:
                self._held_back = progress
                return
            self._held_back, self._told_at = None, now
            if is_complete:
                self._completed_at = now
        self.listener.progress(progress)

    def end(self) -> None:
        """Pass on what came last, if that came too soon after what was passed on."""
        with self._lock:
            last, self._held_back = self._held_back, None
        if last is not None:
            self.listener.progress(last)


_report: ContextVar[Report | None] = ContextVar("proctree_report", default=None)
"""The report of the process that the current call belongs to."""


@contextmanager
def reporting(listener: Listener, attempt: int = 1, run_id: str = "") -> Iterator[Report]:
    """Send the logs and reports of the block to a listener, from any thread that has its context.

    Parameters
    ----------
    listener:
        Receives them.
    attempt:
        How often the process was begun in its run, this time included.
    run_id:
        The id of its run.
    """
    report = Report(listener, attempt, run_id)
    token = _report.set(report)
    try:
        with _capture.installed():
            yield report
    finally:
        report.end()
        _report.reset(token)


def attempt() -> int:
    """Return how often the current process was begun in its run; outside of one 1."""
    report = _report.get()
    return 1 if report is None else report.attempt


def run_id() -> str:
    """Return the id of the current process's run; outside of one it is blank."""
    report = _report.get()
    return "" if report is None else report.run_id


# --- The log --------------------------------------------------------------------------------------


class _Handler(logging.Handler):
    """Passes a log record to the listener of the process that logged it."""

    def emit(self, record: logging.LogRecord) -> None:
        report = _report.get()
        if report is None or not _is_wanted(record):
            return
        token = _report.set(None)  # the listener's own log records are not passed on
        try:
            report.listener.log(record)
        except Exception:  # noqa: BLE001  # like every logging handler: logging must not fail the function
            self.handleError(record)
        finally:
            _report.reset(token)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Return whether a record belongs in a run's log: the project's own ones, and warnings."""
    if record.name.partition(".")[0] in ("dagster", "dagster_shared"):
        return False  # Dagster adds it to the run's log itself
    return record.levelno >= (_level() if _is_own(record.name) else logging.WARNING)


def _is_own(name: str) -> bool:
    return any(name == own or name.startswith(f"{own}.") for own in _own_loggers())


def _own_loggers() -> tuple[str, ...]:
    return conf.current().LOGGERS or (*project_modules(), "__main__")


def _level() -> int:
    return logging.getLevelNamesMapping()[conf.current().LOG_LEVEL]


class _Capture:
    """Attaches the handler to the project's loggers while any process runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._handler = _Handler()
        self._restore: list[Callable[[], None]] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        with self._lock:
            if self._count == 0:
                self._install()
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if self._count == 0:
                    while self._restore:
                        self._restore.pop()()

    def _install(self) -> None:
        root, level = logging.getLogger(), _level()
        self._add_to(root)
        # A logger with propagate=False does not reach the root.
        for name, found in list(root.manager.loggerDict.items()):
            if isinstance(found, logging.Logger) and not found.propagate and _reports(name):
                self._add_to(found)
        for name in _own_loggers():
            logger = logging.getLogger(name)
            # A level that the project has set stays.
            if logger.level == logging.NOTSET and logger.getEffectiveLevel() > level:
                logger.setLevel(level)
                self._restore.append(partial(logger.setLevel, logging.NOTSET))

    def _add_to(self, logger: logging.Logger) -> None:
        logger.addHandler(self._handler)
        self._restore.append(partial(logger.removeHandler, self._handler))


def _reports(name: str) -> bool:
    return name.partition(".")[0] not in ("dagster", "dagster_shared")


_capture = _Capture()


# --- Progress -------------------------------------------------------------------------------------


class _ProgressReporter:
    """``progress(done, total, "invoices")``, and ``progress.track(rows)``."""

    def __call__(self, done: int, total: int | None = None, what: str = "") -> None:
        """Report how far the process is; shown in Dagster's UI and in the command's table.

        It makes at most one event a second, and one more when it is complete or has ended, so it
        may be called for every item.

        Parameters
        ----------
        done:
            How many are done.
        total:
            How many there are in all, if that is known.
        what:
            What is counted, such as ``"invoices"``.
        """
        report = _report.get()
        if report is not None:
            report.take(
                Progress(int(done), None if total is None else int(total), masking.text(str(what)))
            )

    def track(self, items: Iterable[T], what: str = "", total: int | None = None) -> Iterator[T]:
        """Yield the items, and report how many are done.

        Parameters
        ----------
        items:
            The items to process: a queryset, a list, a generator.
        what:
            What they are.
        total:
            How many there are; left out, their length, if they have one.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        for done, item in enumerate(items, start=1):
            yield item
            self(done, total, what)


progress = _ProgressReporter()


# --- What is shown on the output ------------------------------------------------------------------


def log_table(rows: Iterable[Mapping[str, Any]], name: str = "table") -> None:
    """Put a table on the process's output in Dagster's UI.

    Parameters
    ----------
    rows:
        Dictionaries, one a row; the first 500 are shown. What is neither a number nor text is
        written as text.
    name:
        What it is called there.

    Raises
    ------
    ReportError
        A row is no dictionary.
    """
    report = _report.get()
    if report is None:
        return
    shown: list[Mapping[str, Any]] = []
    left_out = 0
    for row in rows:
        if not isinstance(row, Mapping):
            raise ReportError(
                f"log_table() takes dictionaries, one a row, not {type(row).__name__}."
            )
        if len(shown) < MOST_ROWS:
            shown.append(masking.masked({str(key): value for key, value in row.items()}))
        else:
            left_out += 1
    report.attachments.append(Table(masking.text(str(name)), shown, left_out))


def log_image(image: Any, name: str = "image") -> None:
    """Put a picture on the process's output in Dagster's UI.

    Parameters
    ----------
    image:
        A PNG as bytes, a path to one, or a figure of matplotlib's (whatever has ``savefig()``).
    name:
        What it is called there.

    Raises
    ------
    ReportError
        It is none of these, or larger than 2 MB.
    OSError
        The file can't be read.
    """
    report = _report.get()
    if report is None:
        return
    png = _png_of(image)
    if len(png) > MOST_IMAGE_BYTES:
        raise ReportError(
            f"log_image() takes up to {MOST_IMAGE_BYTES // 1_000_000} MB; this one has "
            f"{len(png) / 1_000_000:.1f}: make it smaller."
        )
    report.attachments.append(Image(masking.text(str(name)), png))


def _png_of(image: Any) -> bytes:
    if hasattr(image, "savefig"):
        file = BytesIO()
        image.savefig(file, format="png")
        return file.getvalue()
    found = image.read_bytes() if hasattr(image, "read_bytes") else image
    if not isinstance(found, bytes) or not found.startswith(PNG):
        raise ReportError("log_image() takes a PNG as bytes, a path to one, or a figure.")
    return found
