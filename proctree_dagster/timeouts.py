"""Calls that may take only so long."""

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

from .connections import own_connections
from .exceptions import ProcessTimeout


def call(func: Callable[[], Any], seconds: float | None, process: str) -> Any:
    """Call ``func`` and return its result, or give up on it.

    A thread can't be killed: a function that outlives its time is abandoned, not stopped. It runs
    in a daemon thread, which does not keep the worker from ending.

    Parameters
    ----------
    func:
        What is called.
    seconds:
        How long it may take; ``None`` for as long as it likes, in the calling thread.
    process:
        The process's name, for messages.

    Raises
    ------
    ProcessTimeout
        It took longer.
    """
    if seconds is None:
        return func()
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            with own_connections():
                result = context.run(func)
            answers.put((result, None))
        except BaseException as error:  # noqa: BLE001  # raised by the thread that waits
            answers.put((None, error))

    threading.Thread(target=work, name=f"process {process}", daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise ProcessTimeout(
            f"Process {process!r} took longer than its timeout of {seconds:g} seconds and was "
            "abandoned; what it is doing can't be stopped."
        ) from None
    if error is not None:
        raise error
    return result
