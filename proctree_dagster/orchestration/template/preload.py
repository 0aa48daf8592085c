"""What is done once in the template so that no run's process does it."""

from functools import cache

from alembic.config import Config
from alembic.script import ScriptDirectory

# Everything below is imported by Dagster when a run needs it, and so by each run's process anew.
from dagster._core.execution.plan import active  # noqa: F401
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager  # noqa: F401
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.sql import ALEMBIC_SCRIPTS_LOCATION, get_alembic_config
from dagster._core.workspace import autodiscovery  # noqa: F401
from watchdog.observers import polling  # noqa: F401

from .. import coordinator, homes, launcher  # noqa: F401
from ..execution import threads_executor  # noqa: F401


@cache
def read_migrations_once() -> None:
    """Let alembic read the migrations of Dagster's storages now, not whenever one is opened.

    Opening an instance and a run's file of events asks four times for the newest of some ninety
    scripts, and alembic executes all of them each time: 0.1 s of each launch. They don't change
    while this process lives. Other migrations, such as those of a process that runs alembic, are
    read whenever they are asked for.
    """
    read = ScriptDirectory.from_config.__func__  # type: ignore[attr-defined]
    dagsters = ScriptDirectory.from_config(get_alembic_config(sqlite_run_storage.__file__))
    dagsters.get_current_head()
    locations = (ALEMBIC_SCRIPTS_LOCATION, str(homes.SCRIPTS))

    def from_config(cls: type[ScriptDirectory], config: Config) -> ScriptDirectory:
        if config.get_main_option("script_location") in locations:
            return dagsters
        found: ScriptDirectory = read(cls, config)
        return found

    ScriptDirectory.from_config = classmethod(from_config)  # type: ignore[method-assign, assignment]
