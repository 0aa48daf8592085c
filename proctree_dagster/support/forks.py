"""Children that a function forks: one that comes out of the function is not the worker, and ends.

It is a copy of the worker, in the middle of a run: it would go on with the run, write a failure
into it, and take its parent's connections with it.
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
    """End every child that was forked in the block and comes out of it, however it does.

    It ends as a program does that has come to its end: with the code of ``sys.exit()``, with 0 if
    the block returns, with a traceback and 1 if it raises. It waits for threads that it has
    started itself. Nothing else happens in it: no ``atexit`` function, no write to the run.
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
        for thread in threading.enumerate():  # others than its own were not forked with it
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
    finally:
        os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    """Return the code that Python ends with, and print what it would print."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
