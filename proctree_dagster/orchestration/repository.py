"""The live repository: it serves the present rows to Dagster, without restarts.

``repository_data`` answers Dagster's queries; definitions modules call the functions here.
"""

import logging
import os
from typing import Any  # as the overridden method says it

from dagster import (
    Definitions,
    MetadataValue,
    RepositoryDefinition,
)

from .. import conf
from ..domain import run_tags
from ..services import webserver
from ..support import project
from . import kept_servers
from .configured import translator
from .execution import remote_steps, run_console
from .launching import releases, template_client
from .repository_data import LiveRepositoryData
from .runs import opening
from .serving.merged_repository import MergedRepositoryData
from .template import preload

logger = logging.getLogger(__name__)


class LiveRepository(RepositoryDefinition):
    """The repository of the code location.

    Parameters
    ----------
    trees:
        The trees of the database.
    own:
        The project's own definitions, if any.
    """

    def __init__(self, trees: LiveRepositoryData, own: RepositoryDefinition | None = None) -> None:
        super().__init__(
            run_tags.REPOSITORY,
            repository_data=trees if own is None else MergedRepositoryData(trees, own),
            description="The process trees in Django's database, as they are now.",
            metadata={
                run_tags.ENVIRONMENT: MetadataValue.text(_environment_key()),
                run_tags.TICKS_APART: MetadataValue.bool(not trees.evaluates_together),
            },
            repository_load_data=None if own is None else own.repository_load_data,
        )
        self._trees = trees
        self._own = own

    @property
    def is_live(self) -> bool:
        """Whether all that it serves is read from the database, and nothing made once."""
        return self._own is None

    @property
    def asset_graph(self) -> Any:
        """The project's own: trees have no assets."""
        return super().asset_graph if self._own is None else self._own.asset_graph

    def warm_up(self) -> None:
        """Import what any run may need, so that this process can be forked for each."""
        self._trees.import_functions()


def build_repository(extra: Definitions | None = None) -> LiveRepository:
    """Return the repository of the code location; ``definitions`` hands it to Dagster.

    Parameters
    ----------
    extra:
        Assets, sensors, schedules and jobs of the project's own, which are served beside the trees.

    Raises
    ------
    DagsterInvalidDefinitionError
        They are invalid, or have a sensor with the name of the outbox's.
    """
    remote_steps.note_release()
    home = project.home()
    if home and not os.environ.get("DAGSTER_HOME"):
        logger.warning(
            "Dagster was started without DAGSTER_HOME, and Django's runs are kept in %r: those "
            "from here are kept in another history. 'python manage.py proctree dev' sets it.",
            home,
        )
    run_console.heed_level()
    _prepare_home()
    if template_client.is_code_server():
        preload.keep_migrations()  # each tick of a project's own sensor may open the instance
    if template_client.is_daemons_code_server():
        # In a thread: it may take long, while the daemon waits for this code server.
        kept_servers.repeat(webserver.replace_dead_code_server)
    own = None if extra is None else extra.get_repository_def()
    return LiveRepository(LiveRepositoryData(translator()), own)


def _environment_key() -> str:
    return releases.environment_key(releases.environment_at_start())


def _prepare_home() -> None:
    """Set the sizes of the pools, and make the template import again."""
    home = opening.dagster_home()
    if home is None:
        return
    for prepare in (_set_pool_sizes, lambda: template_client.tell_reloaded(home)):
        try:
            prepare()
        except Exception:  # without the code location nothing would run at all
            logger.exception("Dagster's home %r could not be prepared.", home)


def _set_pool_sizes() -> None:
    if conf.current().POOLS:
        with opening.open_instance():
            pass  # opening it sets them
