"""Opening the Dagster instance."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster import DagsterInstance, QueuedRunCoordinator

from ... import conf
from ...exceptions import InstanceError
from ...support import isolation, project
from .in_process import tame
from .shared_instances import shared

logger = logging.getLogger(__name__)


def dagster_home() -> str | None:
    """Return the instance's folder (see ``project.home``); ``None`` in a test (``isolation``)."""
    return None if isolation.is_active() else project.home()


@contextmanager
def open_instance(
    *,
    persistent: bool = False,
    ephemeral: bool = False,
    to_execute: bool = False,
    create: bool = True,
) -> Iterator[DagsterInstance]:
    """Open the Dagster instance, or use the one that this process has open; it stays open.

    Parameters
    ----------
    persistent:
        Whether the instance must have a folder.
    ephemeral:
        Whether to open one that stores nothing, whatever the settings are.
    to_execute:
        Whether a run will be executed with it, which then has it alone.
    create:
        Whether the default home is created, if it does not exist yet.

    Raises
    ------
    InstanceError
        The folder does not exist; or ``persistent`` is True, and no home is set or a test runs;
        or its storage can't be created.
    """
    if ephemeral:
        with DagsterInstance.ephemeral() as instance:
            yield tame(instance)
        return
    home = dagster_home()
    if home is None:
        is_isolated = project.home() is not None
        if persistent and is_isolated:
            raise InstanceError(
                "A test does not open the real Dagster instance. One that wants to says so: "
                "'with proctree_dagster.testing.real_dagster():', with a Dagster home of its own."
            )
        if persistent:
            raise InstanceError(
                'Dagster has no home: leave PROCTREE["DAGSTER_HOME"] out, or set it or the '
                "environment variable DAGSTER_HOME to the folder of the instance that the daemon "
                "uses."
            )
        if not is_isolated:
            logger.warning(
                "Dagster has no home (PROCTREE['DAGSTER_HOME'] is None, and DAGSTER_HOME is not "
                "set): the run's history is not kept."
            )
        with DagsterInstance.ephemeral() as instance:
            yield tame(instance)
        return
    if project.is_default_home(home):
        if not create and not Path(home).is_dir():
            raise InstanceError(
                f"Dagster's home {home!r} is not there yet: nothing has run, and "
                "'python manage.py proctree dev' has not been started."
            )
        project.create_home(home)
    if not Path(home).is_dir():
        raise InstanceError(f"Dagster's home {home!r} is not a folder; create it.")
    with shared(home, to_execute=to_execute) as instance:
        set_pool_sizes(instance)
        yield tame(instance)


def set_pool_sizes(instance: DagsterInstance) -> None:
    """Set the sizes of ``PROCTREE["POOLS"]`` on the instance: a pool without one limits nothing."""
    wanted = conf.current().POOLS
    if not wanted:
        return
    storage = instance.event_log_storage
    present = {pool.name: pool.limit for pool in storage.get_pool_limits()}
    for name, size in wanted.items():
        if present.get(name) != size:
            storage.set_concurrency_slots(name, size)


def check_queue(instance: DagsterInstance) -> None:
    """Refuse an instance that has no run queue.

    Raises
    ------
    InstanceError
        It has none.
    """
    coordinator = instance.run_coordinator
    if not isinstance(coordinator, QueuedRunCoordinator):
        raise InstanceError(
            f"This instance has no run queue (its run coordinator is "
            f"{type(coordinator).__name__}): set QueuedRunCoordinator in dagster.yaml."
        )
