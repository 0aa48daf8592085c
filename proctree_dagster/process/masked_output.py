"""Masking of secrets in what this process logs and prints, in whatever thread.

Dagster keeps what a run's process prints. So the logging of the whole process, and its standard
output and error as Python writes them, are masked from the first secret on. What is written past
them (``os.write``, a child process) is not.
"""

import logging
import sys
import threading
import traceback
from typing import Any

from ..exceptions import MaskedError
from . import masking

_lock = threading.Lock()


def install() -> None:
    """Mask what is logged and printed from now on; does nothing where that is so already."""
    with _lock:
        _install_in_logging()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            _install_in(stream)


# Logging


class _MaskedRecords:
    """A factory of log records without secrets."""

    def __init__(self, create: Any) -> None:
        self._create = create

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._create(*args, **kwargs)
        mask(record)
        return record


def _install_in_logging() -> None:
    create = logging.getLogRecordFactory()
    if not isinstance(create, _MaskedRecords):
        logging.setLogRecordFactory(_MaskedRecords(create))


def mask(record: logging.LogRecord) -> None:
    """Mask the message of a log record, and its trace."""
    try:
        said = record.getMessage()
    except Exception:  # noqa: BLE001  # the handlers report arguments that don't fit
        return
    if (shown := masking.text(said)) != said:
        record.msg, record.args = shown, None
    if record.exc_info and record.exc_info[1] is not None:
        _mask_trace(record, record.exc_info[1])


def _mask_trace(record: logging.LogRecord, error: BaseException) -> None:
    """Mask a record's trace; the error itself stays as it is, for the function may handle it."""
    try:
        said = "".join(traceback.format_exception(error)).rstrip("\n")
    except Exception:  # noqa: BLE001  # the error's own code
        return
    if (shown := masking.text(said)) != said:
        record.exc_text = shown
        stands_in = MaskedError(f"{type(error).__name__}: (masked)")
        record.exc_info = (MaskedError, stands_in, error.__traceback__)


# Standard output and error


def _install_in(stream: Any) -> None:
    write = getattr(stream, "write", None)
    if write is None or getattr(write, "masks_secrets", False):
        return

    def write_masked(text: str) -> int:
        write(masking.text(text) if isinstance(text, str) else text)
        return len(text)

    write_masked.masks_secrets = True  # type: ignore[attr-defined]
    try:
        stream.write = write_masked
    except AttributeError:  # a stream of its own kind that takes no attributes
        logging.getLogger(__name__).warning(
            "What is printed to %s is not masked.", type(stream).__name__
        )
