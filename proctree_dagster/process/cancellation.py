"""Interrupting code that runs in another thread, as Ctrl-C interrupts the main thread.

The caller gives the thread a ``Stop``, and wraps each call of a user's function in
``stoppable()``. The exception is raised inside the innermost of these calls only: not while a
result is written, not while Django begins or ends a transaction, and not in cleanup code.
"""

import asyncio
import contextvars
import ctypes
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

from django.db import connections

logger = logging.getLogger(__name__)

PROTECTED = ("django.db.transaction", "django.db.backends.base.base", "weakref", __name__)
"""Modules whose functions are not interrupted: a commit must not be cut in half, and a callback
that Python runs between two lines would swallow the exception."""

POLL_SECONDS = 0.01
"""Interval of retries while a thread can't be interrupted safely."""

AGAIN_SECONDS = 0.5
"""Interval after which a thread is interrupted again: a finalizer may swallow the exception."""

Way = Callable[[], float | None]
"""Interrupts once, and returns the seconds until it is to be called again; ``None`` for never."""


class Stop:
    """Lets one thread interrupt the code of others.

    Parameters
    ----------
    error:
        The exception to raise there; a ``BaseException``, so that ``except Exception`` does not
        catch it.
    """

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.asked = False
        self._lock = threading.Lock()
        self._ways: list[Way] = []

    def ask(self) -> bool:
        """Interrupt the code; return whether there was any.

        Code that blocks in C (a socket, a sleep) stops when it returns from there; code that ends a
        transaction, after that. Code that does not stop is interrupted again.
        """
        with self._lock:
            self.asked = True
            way = self._ways[-1] if self._ways else None
            seconds = None if way is None else way()
        if way is not None and seconds is not None:
            threading.Thread(target=self._ask_again, args=(way, seconds), daemon=True).start()
        return way is not None

    def _ask_again(self, way: Way, seconds: float | None) -> None:
        """Interrupt repeatedly until the block has ended or needs no further attempt."""
        while seconds is not None:
            time.sleep(seconds)
            with self._lock:
                seconds = way() if way in self._ways else None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Make this the ``Stop`` of every ``stoppable()`` in the block and its callees."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextmanager
    def heeded_by_coroutines(self) -> Iterator[None]:
        """Make this a ``Stop`` of ``stoppable_await()`` in the block, too."""
        token = _of_coroutines.set(self)
        try:
            yield
        finally:
            _of_coroutines.reset(token)

    @contextmanager
    def reachable(self, way: Way) -> Iterator[None]:
        """Make ``ask()`` call ``way`` during the block; a nested block takes precedence.

        Raises
        ------
        BaseException
            The error, if it was asked before the block began.
        """
        with self._lock:
            if self.asked:
                raise self.error
            self._ways.append(way)
        try:
            yield
        finally:
            with self._lock:
                self._ways.remove(way)


_current: contextvars.ContextVar[Stop | None] = contextvars.ContextVar("stop", default=None)
_of_coroutines: contextvars.ContextVar[Stop | None] = contextvars.ContextVar(
    "stop_of_coroutines", default=None
)


def current() -> Stop | None:
    """Return the ``Stop`` of the calling code, if it has one."""
    return _current.get()


@contextmanager
def stoppable() -> Iterator[None]:
    """Make the block interruptible if its thread has a ``Stop``.

    Raises
    ------
    BaseException
        The error of the ``Stop``, if it was asked for, also before the block began.
    """
    stop = _current.get()
    if stop is None:
        yield
        return
    thread = threading.get_ident()
    before = _transactions()
    try:
        with stop.reachable(partial(_interrupt, thread, stop.error)):
            yield
    finally:
        if stop.asked:
            _take_back(thread)  # a late exception must not hit the code after the block
            _end_transactions(before)


async def stoppable_await(awaitable: Awaitable[Any]) -> Any:
    """Await something, and cancel it if its thread is interrupted."""
    stops = [stop for stop in (_current.get(), _of_coroutines.get()) if stop is not None]
    task = asyncio.current_task()
    if not stops or task is None:
        return await awaitable
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        loop.call_soon_threadsafe(task.cancel)

    try:
        with ExitStack() as reachable:
            for stop in stops:
                reachable.enter_context(stop.reachable(cancel))
            return await awaitable
    except asyncio.CancelledError as error:
        for stop in stops:
            if stop.asked:
                raise stop.error from error
        raise


def _interrupt(thread: int, error: type[BaseException]) -> float:
    """Raise an exception in a thread, at its next line of Python, unless that is not safe now.

    The thread must be at the same place when it is checked and when the exception is set. If it
    has moved, the exception is withdrawn.

    Returns
    -------
    float
        Seconds until the next attempt.
    """
    before = _position(thread)
    if before is None or _is_protected(before[0]) or _is_unwinding(thread, error):
        return POLL_SECONDS
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
    if _position(thread) == before:
        return AGAIN_SECONDS
    _take_back(thread)
    return POLL_SECONDS


def _take_back(thread: int) -> None:
    """Withdraw an exception that a thread has not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)


def _position(thread: int) -> tuple[FrameType, int] | None:
    """Return a thread's current frame and its position; ``None`` if the thread has ended."""
    frame = sys._current_frames().get(thread)
    return None if frame is None else (frame, frame.f_lasti)


def _is_protected(frame: FrameType | None) -> bool:
    while frame is not None:
        module, name = frame.f_globals.get("__name__"), frame.f_code.co_name
        if module in PROTECTED or name == "__del__" or (module, name) == ("contextlib", "__exit__"):
            return True
        frame = frame.f_back
    return False


def _is_unwinding(thread: int, error: type[BaseException]) -> bool:
    """Return whether a thread is handling the exception already, so that it runs cleanup code."""
    found = sys._current_exceptions().get(thread)
    active = found[1] if isinstance(found, tuple) else found  # a tuple before Python 3.12
    while active is not None:
        if isinstance(active, error):
            return True
        active = active.__context__
    return False


def _transactions() -> dict[str, int]:
    """Return how many transactions are nested in this thread, by the database's alias."""
    return {each.alias: len(each.atomic_blocks) for each in connections.all(initialized_only=True)}


def _end_transactions(before: dict[str, int]) -> None:
    """Roll back transactions that an interrupted thread has left open.

    An exception between the last statement of an ``atomic()`` block and its end leaves the block
    without ending the transaction.
    """
    for connection in connections.all(initialized_only=True):
        alias, usual = connection.alias, connection.settings_dict["AUTOCOMMIT"]
        begun = connection.connection is not None and connection.autocommit != usual
        if not before.get(alias) and (connection.in_atomic_block or begun):
            logger.warning("A transaction on %r was stopped before its end: rolled back.", alias)
            connection.close()
            del connections[alias]  # the next query opens a new connection, outside a transaction
