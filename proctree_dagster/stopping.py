"""Telling code that runs in another thread to stop, as Ctrl-C tells the main thread.

Whoever starts the thread gives it a ``Stop``; the functions that it calls are wrapped in
``stoppable()``. The exception is raised in the innermost of them, and nowhere else: not while a
result is being written, nor in code that only cleans up.
"""

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class Stop:
    """Lets one thread ask what runs in others to stop.

    Parameters
    ----------
    error:
        What is raised there; best a ``BaseException``, which ``except Exception`` lets pass.
    """

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.asked = False
        self._lock = threading.Lock()
        self._ways: list[Callable[[], object]] = []

    def ask(self) -> None:
        """Ask; what blocks in C code (a socket, a sleep) stops when it returns from there."""
        with self._lock:
            self.asked = True
            if self._ways:
                self._ways[-1]()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let ``stoppable()`` in the block, and in what it calls, listen to this."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @contextmanager
    def _reachable(self, way: Callable[[], object]) -> Iterator[None]:
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


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the block be stopped, if somebody may ask its thread to.

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
    try:
        with stop._reachable(partial(_raise_in, thread, stop.error)):
            yield
    finally:
        if stop.asked:
            _raise_in(thread, None)  # one that has come too late must not hit what follows


async def stoppable_await(awaitable: Awaitable[Any]) -> Any:
    """Await something, which is cancelled if its thread is asked to stop."""
    stop = _current.get()
    task = asyncio.current_task()
    if stop is None or task is None:
        return await awaitable
    cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
    try:
        with stop._reachable(cancel):
            return await awaitable
    except asyncio.CancelledError as error:
        if stop.asked:
            raise stop.error from error
        raise


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread, at its next line of Python; ``None`` takes it back."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
