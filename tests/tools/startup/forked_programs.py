"""Programs that run in forks of a Python that has imported what they need."""

import atexit
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

IMPORTED_ONCE = (
    *("alembic.autogenerate", "dagster", "dagster._cli", "dagster._core.storage.legacy_storage"),
    *("dagster._core.storage.sqlite_storage", "dagster._daemon.controller"),
    *("dagster_graphql.schema", "django.contrib.admin", "django.db.models", "django.test"),
    *("django.core.management.commands.migrate", "django.views.generic", "requests"),
)
"""What programs import of other packages, but for what needs settings."""


def import_once() -> None:
    """In the process that forks: import what most programs import of other packages."""
    for name in IMPORTED_ONCE:
        importlib.import_module(name)


def share() -> None:
    """In the process that forks: let no search for garbage touch what its forks share with it."""
    gc.collect()
    gc.freeze()


def run_and_end(program: Callable[[], object]) -> NoReturn:
    """Run a program, and end as an interpreter does, but leave its modules to the system.

    To take the modules of Django and Dagster down takes half a second, most of it for pages that
    the fork shares until then.
    """
    status = 1
    try:
        status = _status_of(program)
        threading._shutdown()  # type: ignore[attr-defined]  # threads are waited for
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(status)


def _status_of(program: Callable[[], object]) -> int:
    """Run a program, and return the exit status that the interpreter would have."""
    try:
        program()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        return 128 + signal.SIGINT
    except BaseException:  # noqa: BLE001  # as the interpreter does
        sys.excepthook(*sys.exc_info())
        return 1
    return 0
