"""Ending the process of a run: as an interpreter ends, but within a grace period.

A function may leave threads, a pool's work or child processes that it does not wait for. Python
waits for them when it ends, for as long as they take. So does a run's process, once its run has
ended and is recorded, up to ``PROCTREE["EXIT_GRACE"]`` seconds; then it logs what is left, also in
the run's log, and ends.
"""

import atexit
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from dagster import DagsterInstance

from ... import conf
from ...process import error_reports, tracing
from ...support.helper_threads import HelperThread
from ..dagster_internals import InstanceRef

logger = logging.getLogger(__name__)

_WORKERS = (["api", "execute_run"], ["api", "resume_run"])
"""Arguments of the processes that Dagster starts for one run each."""


def is_of_one_run() -> bool:
    """Return whether this process is a run's: started by a launcher, or by a code server."""
    arguments = sys.argv[1:3]
    if arguments in _WORKERS:
        return multiprocessing.parent_process() is None  # else it is a step's
    return arguments == ["api", "grpc"] and multiprocessing.parent_process() is not None


def in_forked_worker() -> None:
    """End this process without the ``atexit`` functions that were registered before its fork.

    They clean up what belongs to the parent. Functions are called in reverse order, so this is
    called after those that are registered from now on. It also saves the tear-down of all modules.
    """
    atexit.register(_leave)


_code = 0


def leave(code: int) -> NoReturn:
    """End a forked worker as an interpreter ends: joining threads, then calling ``atexit``'s."""
    global _code  # atexit passes no exit code
    _code = code
    sys.exit(code)


def _leave() -> NoReturn:
    try:
        children = multiprocessing.active_children()
        for child in children:
            if child.daemon:
                child.terminate()
        for child in children:
            child.join()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the pipe is closed
                stream.flush()
    finally:
        os._exit(_code)


def within_grace(reference: InstanceRef, run_id: str) -> None:
    """Limit the end of this process to the grace period from now on, whatever its run has left.

    What OpenTelemetry and Sentry have not sent yet is sent now.

    Parameters
    ----------
    reference:
        Of the run's instance.
    run_id:
        The run, for whose log this is.
    """
    grace = conf.current().EXIT_GRACE

    def report(message: str) -> None:
        with DagsterInstance.from_ref(reference) as opened:
            run = opened.get_run_by_id(run_id)
            if run is not None:
                opened.report_engine_event(message, run)

    watch = threading.Thread(target=_watch, args=(grace, report), name="exit grace", daemon=True)
    watch.start()
    # It may end without calling what its libraries have registered for the end.
    tracing.flush()
    error_reports.flush()


def _watch(grace: float, report: Callable[[str], None]) -> None:
    """End the process after the grace period, if it has not ended by then."""
    threading.Event().wait(grace)
    children = multiprocessing.active_children()
    try:
        message = (
            f"The run's process (pid {os.getpid()}) is ended {grace:g} seconds after its run, as "
            f'PROCTREE["EXIT_GRACE"] says. Cut off: {", ".join(_left()) or "an atexit function"}.'
        )
        logger.error("%s", message)
        report(message)
    except Exception:  # with any error of the storage the process must end
        logger.exception("What was cut off can't be written into the run's log.")
    finally:
        for child in children:
            child.terminate()
        os._exit(_code)


def _left() -> list[str]:
    threads = [
        f"thread {thread.name!r}"
        for thread in threading.enumerate()
        if not thread.daemon
        and not isinstance(thread, HelperThread)
        and thread is not threading.main_thread()
    ]
    return threads + [f"process {each.name!r}" for each in multiprocessing.active_children()]
