"""Forked children of a function: one that returns from the function must end, as it is no worker.

It is a copy of the worker in the middle of a run: it would continue the run, record a failure, and
break its parent's connections.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn


@contextmanager
def contained() -> Iterator[None]:
    """End every child that was forked in the block and leaves it, by a return or by an exception.

    It ends like a program: with the code of ``sys.exit()``, with 0 if the block returns, with a
    traceback and 1 if it raises. It waits for the threads that it has started itself. It calls no
    ``atexit`` function, and writes nothing to the run.
    """
    worker = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != worker:
            _end(error)
        raise
    if os.getpid() != worker:
        _end(None)


def _end(error: BaseException | None) -> NoReturn:
    code = 1
    try:
        code = _exit_code(error)
        for thread in threading.enumerate():  # its own threads; the parent's were not forked
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the pipe is closed
                stream.flush()
    finally:
        os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    """Return the exit code of a program that ends so, and print what Python would print."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
