"""Calls with a timeout."""

import queue
import threading
from collections.abc import Callable
from typing import Any

from ..exceptions import ProcessTimeout, StillWorking
from ..support.call_context import carried
from ..support.connections import own_connections
from ..support.helper_threads import HelperThread
from .cancellation import Stop

GRACE_SECONDS = 2.0
"""Seconds that a cancelled coroutine may take to end."""

_working: dict[tuple[str, str], threading.Thread] = {}
"""Threads whose calls were abandoned, by run and process."""

_lock = threading.Lock()


def call(func: Callable[[], Any], seconds: float | None, process: str, run_id: str = "") -> Any:
    """Call ``func`` and return its result, or raise once the timeout has passed.

    A thread can't be killed: after its timeout a function is abandoned, not stopped. It runs in a
    daemon thread, which does not keep the worker alive. A coroutine is cancelled.

    Parameters
    ----------
    func:
        The function. It has the caller's surroundings (see ``support.call_context``).
    seconds:
        The timeout; ``None`` for none: the function then runs in the calling thread.
    process:
        The process's name.
    run_id:
        The run's id; retries of the process have the same.

    Raises
    ------
    ProcessTimeout
        It took longer than ``seconds``.
    StillWorking
        The function was not called: an earlier, abandoned try still runs.
    """
    if seconds is None:
        return func()
    _wait_for_earlier(seconds, process, run_id)
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    stop = Stop(ProcessTimeout)

    def work() -> None:
        try:
            with own_connections(), stop.heeded_by_coroutines():
                result = func()
            answers.put((result, None))
        except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
            answers.put((None, error))

    thread = HelperThread(carried(work), f"process {process}")
    thread.start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise _given_up(thread, stop, seconds, process, run_id) from None
    except BaseException:  # this thread was interrupted, as by Ctrl-C: the call is given up, too
        _given_up(thread, stop, seconds, process, run_id)
        raise
    if error is not None:
        raise error
    return result


def still_working(run_id: str) -> list[str]:
    """Return the processes of a run with abandoned calls that still run in this Python process."""
    with _lock:
        for key, thread in list(_working.items()):
            if not thread.is_alive():
                del _working[key]
        return sorted(process for run, process in _working if run == run_id)


def _given_up(
    thread: threading.Thread, stop: Stop, seconds: float, process: str, run_id: str
) -> ProcessTimeout:
    """Cancel a coroutine, abandon any other call, and return the error to raise."""
    if stop.ask():
        thread.join(GRACE_SECONDS)
    what = f"Process {process!r} took longer than its timeout of {seconds:g} seconds and was"
    if not thread.is_alive():
        return ProcessTimeout(f"{what} cancelled.")
    with _lock:
        _working[run_id, process] = thread
    return ProcessTimeout(f"{what} abandoned; what it is doing can't be stopped.")


def _wait_for_earlier(seconds: float, process: str, run_id: str) -> None:
    """Wait for the end of the previous try: two tries never run at once."""
    with _lock:
        earlier = _working.get((run_id, process))
    if earlier is None:
        return
    earlier.join(seconds)
    if earlier.is_alive():
        raise StillWorking(
            f"Process {process!r} was not tried again: the try before, which was abandoned after "
            f"its timeout, has still not ended {seconds:g} seconds later."
        )
