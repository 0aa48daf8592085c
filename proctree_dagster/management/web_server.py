"""``manage.py proctree web``: the Django site and Dagster's UI, served by uvicorn."""

from functools import partial
from pathlib import Path

from django.utils import autoreload

from .. import conf
from ..web.application import Application
from ..web.gate import MAX_MESSAGE
from .dev_server import Address

LEVELS = {0: "warning", 1: "info", 2: "info", 3: "debug"}
"""uvicorn's level by the verbosity of the command."""


def serve(
    address: Address,
    *,
    with_site: bool,
    workspace: Path | None,
    socket: Path | None,
    verbosity: int,
    reload: bool,
) -> None:
    """Serve until a signal ends the process.

    Parameters
    ----------
    address:
        Where to listen.
    with_site:
        Whether the Django site is served, too.
    workspace:
        The file that names Dagster's code locations; ``None``: the project's own.
    socket:
        Where Django itself asks Dagster; ``None``: one of its own, which is noted in the home.
    verbosity:
        The command's, from 0 to 3.
    reload:
        Whether to start again when a Python file has changed.
    """
    settings = conf.current()
    public = settings.DAGSTER_PUBLIC_URL or f"{address.url}{settings.DAGSTER_PATH}"
    application = Application(
        with_site=with_site,
        public=public,
        site_url=address.url if with_site else None,
        workspace=workspace,
        socket=socket,
        log_level=LEVELS[verbosity],
    )
    run = partial(_run, application, address, verbosity)
    if reload:
        autoreload.run_with_reloader(run)
    else:
        run()


def _run(application: Application, address: Address, verbosity: int) -> None:
    import uvicorn  # a tenth of a second, for this action only

    uvicorn.run(
        application,
        host=address.host,
        port=address.port,
        log_level=LEVELS[verbosity],
        access_log=verbosity > 0,
        ws_max_size=MAX_MESSAGE,
        server_header=False,
    )
