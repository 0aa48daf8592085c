"""The output of commands: escapes what the console can't encode, prints no trace twice."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from typing import Any

from django.core.management.base import OutputWrapper

from ..domain.run_tags import RUN_LOGGER


@contextmanager
def escaping(*streams: Any) -> Iterator[None]:
    """Make streams escape characters that their encoding lacks, during the block.

    Parameters
    ----------
    streams:
        Django's wrappers, or streams; those that accept any text stay as they are.
    """
    with ExitStack() as afterwards:
        for stream in {id(each): each for each in map(_inner, streams)}.values():
            if isinstance(stream, TextIOWrapper) and not stream.closed:
                errors = stream.errors
                with suppress(OSError):  # the pipe is closed
                    stream.reconfigure(errors="backslashreplace")
                    afterwards.callback(_restore, stream, errors)
        yield


def _inner(stream: Any) -> Any:
    return getattr(stream, "_out", stream)


def _restore(stream: TextIOWrapper, errors: str | None) -> None:
    with suppress(OSError, ValueError):
        stream.reconfigure(errors=errors)


class Printer:
    """Prints lines until the pipe is closed (``| head``), which is no error.

    Parameters
    ----------
    stdout:
        Where to.
    """

    def __init__(self, stdout: OutputWrapper) -> None:
        self._stdout = stdout
        self._is_read = True

    def __call__(self, line: str) -> None:
        """Print a line at once."""
        if not self._is_read:
            return
        try:
            self._stdout.write(line)
            self._stdout.flush()
        except (OSError, ValueError, AttributeError):  # a closed pipe, a closed stream, none
            self._is_read = False
            if _inner(self._stdout) is sys.stdout:  # other streams are not ours to close
                _print_nowhere()


def _print_nowhere() -> None:
    """Prevent an error when Python flushes the buffer at its exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def run_log(show: bool) -> Iterator[None]:
    """Limit a run's log on the console while a command reports the run itself.

    Parameters
    ----------
    show:
        Whether to print all of the log, with each trace. Otherwise only warnings, as the command
        reports failures itself. Handlers that write elsewhere get everything in either case.
    """
    runs = logging.getLogger(RUN_LOGGER)
    handlers = [each for each in _handlers(runs) if _writes_to_console(each)]
    with ExitStack() as afterwards:
        if show and not handlers:
            shown = logging.StreamHandler(sys.stderr)
            runs.addHandler(shown)
            afterwards.callback(runs.removeHandler, shown)
        for handler in [] if show else handlers:
            handler.addFilter(_is_for_console)
            afterwards.callback(handler.removeFilter, _is_for_console)
        yield


def _is_for_console(record: logging.LogRecord) -> bool:
    return record.name != RUN_LOGGER or record.levelno == logging.WARNING


def _handlers(logger: logging.Logger) -> list[logging.Handler]:
    """Return the handlers of a logger and of those it propagates to."""
    found: list[logging.Handler] = []
    current: logging.Logger | None = logger
    while current is not None:
        found += current.handlers
        current = current.parent if current.propagate else None
    if not found and logging.lastResort is not None:
        found.append(logging.lastResort)
    return found


def _writes_to_console(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return getattr(handler, "stream", None) in streams
