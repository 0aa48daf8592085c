"""Isolation of tests: no run, fired trigger or reload reaches the real Dagster.

A daemon that runs beside a test works on the real database: it would run the tree of the same name
there. So a test's runs are executed in its own process, in an ephemeral Dagster instance, or
recorded in the outbox of the test's database (see ``proctree_dagster.testing``). Neither the real
Dagster instance nor the real webserver is opened.

A test that needs the real ones uses ``with testing.real_dagster():``.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.conf import settings
from django.core import mail
from django.db import connections

RECORDED = "A test asked for it: it is recorded here, and not run."
"""The reason in the outbox of a run that a test has requested."""

_forced: ContextVar[bool] = ContextVar("proctree_dagster.support.isolation", default=False)
_configured: dict[str, str] = {}
"""The names of the databases at the setup of Django, by alias."""


_lock = threading.Lock()
_blocks = 0
"""How many ``real_dagster()`` blocks are open, in all threads."""


def is_active() -> bool:
    """Return True if nothing may leave this process for the real Dagster."""
    return is_forced() or (_blocks == 0 and in_test())


def in_test() -> bool:
    """Return True if this process runs tests.

    Any of three signs is enough: Django's test environment is set up (as in ``manage.py test`` and
    pytest-django); this thread is inside a ``TestCase``; or a database is a test database (as in
    ``manage.py testserver``). An import of ``django.test`` is no sign.
    """
    return _has_test_environment() or _in_testcase() or _has_test_database()


@contextmanager
def forced() -> Iterator[None]:
    """Isolate the block from the real Dagster, in a test or not."""
    token = _forced.set(True)
    try:
        yield
    finally:
        _forced.reset(token)


def begin_real_dagster() -> None:
    """Let this process reach the real Dagster until ``end_real_dagster`` is called as often."""
    global _blocks
    with _lock:
        _blocks += 1


def end_real_dagster() -> None:
    """End what ``begin_real_dagster`` has begun."""
    global _blocks
    with _lock:
        _blocks -= 1


def is_forced() -> bool:
    """Return True inside ``forced()``."""
    return _forced.get()


def remember_databases() -> None:
    """Remember the databases' names as the settings give them; a test runner changes them."""
    _configured.update({alias: str(each.get("NAME")) for alias, each in settings.DATABASES.items()})


def _has_test_environment() -> bool:
    """Return True between ``setup_test_environment()`` and ``teardown_test_environment()``."""
    utils = sys.modules.get("django.test.utils")
    # The documented sign is ``mail.outbox``; but a site with the in-memory e-mail backend has one,
    # and a test may delete it. The reliable sign has no public name.
    state = getattr(utils, "_TestState", None)
    return hasattr(state, "saved_data") if state else utils is not None and hasattr(mail, "outbox")


def _in_testcase() -> bool:
    return any(
        getattr(block, "_from_testcase", False)
        for connection in connections.all(initialized_only=True)
        for block in connection.atomic_blocks
    )


def _has_test_database() -> bool:
    return any(
        _is_test_name(str(database.get("NAME")), _configured[alias], database.get("TEST", {}))
        for alias, database in settings.DATABASES.items()
        if alias in _configured
    )


def _is_test_name(name: str, configured: str, test: dict[str, object]) -> bool:
    """Return True if a database was renamed as a test runner does.

    A database that is *called* ``test_…`` in the settings is no sign, nor is a switch to another
    database while the process runs (one for each tenant).
    """
    if name == configured:
        return False
    wanted = str(test.get("NAME") or f"test_{configured}")
    return name == wanted or name.startswith("file:memorydb_")
