"""Programs that run in forks of a Python that has imported what they need."""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def share() -> None:
    """In the process that forks: let no search for garbage touch what its forks share with it."""
    gc.collect()
    gc.freeze()


def run_and_end(program: Callable[[], object]) -> NoReturn:
    """Run a program, and end as an interpreter does, but leave its modules to the system.

    To take the modules of Django and Dagster down takes half a second, most of it for pages that
    the fork shares until then.
    """
    status = 0
    try:
        program()
    except SystemExit as error:
        status = _status_of(error)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        status = 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001  # as the interpreter does
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does: join threads
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _status_of(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1
