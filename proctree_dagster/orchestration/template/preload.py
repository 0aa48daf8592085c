"""Work that the template does once, so that no run's process repeats it."""

import importlib
import threading
from contextlib import suppress
from functools import cache

from alembic.config import Config
from alembic.script import ScriptDirectory

from .. import dagster_internals as internals
from .. import homes
from ..dagster_features import (
    EVENT_BATCHING,
    HOMES,
    IMPORTED_ONCE,
    MIGRATIONS_READ_ONCE,
    OUTPUT_IN_THREADS,
    OUTPUT_TAIL,
    QUIET_CONSOLE,
    RUN_FILES,
    SQLITE_KEEPALIVE,
    TEMPLATE,
    THREADS,
    is_on,
)

OF_A_RUN = (
    *(EVENT_BATCHING, HOMES, OUTPUT_IN_THREADS, OUTPUT_TAIL, QUIET_CONSOLE, RUN_FILES),
    *(SQLITE_KEEPALIVE, TEMPLATE, THREADS),
)
"""The features that a run's process asks for."""


def import_once() -> None:
    """Import what Dagster would import lazily in each run's process."""
    from watchdog.observers import polling  # noqa: F401

    from .. import coordinator, launcher  # noqa: F401  # what dagster.yaml names

    for feature in OF_A_RUN:
        is_on(feature)  # to examine one imports its names
    if is_on(IMPORTED_ONCE):
        for name in IMPORTED_ONCE.names:
            internals.find(name)
    with suppress(ImportError):  # it is a library of Dagster's, which may use another
        importlib.import_module("upath.implementations.local")


def read_migrations_once() -> None:
    """Make alembic read the migrations of Dagster's storages now, not whenever one is opened."""
    keep_migrations()
    if is_on(MIGRATIONS_READ_ONCE):
        ScriptDirectory.from_config(_config_of_dagster())


def _config_of_dagster() -> Config:
    return internals.get_alembic_config(internals.sqlite_run_storage.__file__)


@cache
def keep_migrations() -> None:
    """Make alembic read the migrations of Dagster's storages when they are first asked for only.

    Opening an instance and a run's file of events asks four times for the newest of some ninety
    scripts, and alembic executes all of them each time: 0.1 s of each launch. They don't change
    while this process lives. Other migrations, such as those of a process that runs alembic, are
    read whenever they are asked for.
    """
    if not is_on(MIGRATIONS_READ_ONCE):
        return
    read = ScriptDirectory.from_config.__func__  # type: ignore[attr-defined]
    locations = (internals.ALEMBIC_SCRIPTS_LOCATION, str(homes.scripts()))

    lock = threading.Lock()  # a code server's ticks ask in threads
    kept: list[ScriptDirectory] = []

    def dagsters() -> ScriptDirectory:
        with lock:
            if not kept:
                kept.append(read(ScriptDirectory, _config_of_dagster()))
                kept[0].get_current_head()
            return kept[0]

    def from_config(cls: type[ScriptDirectory], config: Config) -> ScriptDirectory:
        if config.get_main_option("script_location") in locations:
            return dagsters()
        found: ScriptDirectory = read(cls, config)
        return found

    ScriptDirectory.from_config = classmethod(from_config)  # type: ignore[method-assign, assignment]
