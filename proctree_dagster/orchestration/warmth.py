"""What is done once in the template so that no run's process does it."""

from alembic.config import Config
from alembic.script import ScriptDirectory

# Everything below is imported by Dagster when a run needs it, and so by each run's process anew.
from dagster._core.execution.plan import active  # noqa: F401
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager  # noqa: F401
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.sql import get_alembic_config
from dagster._core.workspace import autodiscovery  # noqa: F401
from watchdog.observers import polling  # noqa: F401

from . import coordinator, launcher, threads  # noqa: F401

_STORAGES = (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)


def read_migrations_once() -> None:
    """Let alembic read the migrations of Dagster's storages now, and not whenever one is opened.

    Opening an instance asks four times for the newest of some ninety scripts, and alembic executes
    every script each time. They don't change while this process lives.
    """
    original = ScriptDirectory.from_config
    known: dict[str | None, ScriptDirectory] = {}

    def from_config(config: Config) -> ScriptDirectory:
        location = config.get_main_option("script_location")
        if location not in known:
            known[location] = original(config)
        return known[location]

    ScriptDirectory.from_config = from_config  # type: ignore[method-assign]
    for storage in _STORAGES:
        from_config(get_alembic_config(storage.__file__)).get_current_head()
