"""The Django site and Dagster's UI in one ASGI application."""

import asyncio
import logging
import os
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from .. import conf
from ..services.dagster_access import ADMINISTER, VIEW, VISITOR, Visitor
from ..support import project
from .gate import ASGIApp, Gate, Receive, Scope, Send, respond, respond_to_person

logger = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""How long after a failure a request lets Dagster be opened again."""

STOP_SECONDS = 20.0
"""How long the workspace may take to close its code server."""


class Application:
    """Serves the Django site, and Dagster's UI under ``PROCTREE["DAGSTER_PATH"]``.

    Dagster is imported and opened in a thread when the server starts, or at the first request; the
    site never waits for it, and is served if it can't be opened.

    Parameters
    ----------
    with_site:
        Whether the Django site is served, too. Without it this is the gate alone, for a site that
        another server serves: both read the same sessions.
    public:
        The address for people, recorded for links; left out, that of the settings.
    site_url:
        The address of the site, recorded for links from Dagster; left out, that of the settings.
    workspace:
        The file that names the code locations; left out, the project's own.
    socket:
        Where Django itself asks Dagster, known by ``PROCTREE["DAGSTER_URL"]``; left out, a socket
        of its own, which is noted in Dagster's home.
    log_level:
        The lowest level that Dagster's code servers log.
    """

    def __init__(
        self,
        *,
        with_site: bool = True,
        public: str | None = None,
        site_url: str | None = None,
        workspace: Path | None = None,
        socket: Path | None = None,
        log_level: str = "info",
    ) -> None:
        self._with_site = with_site
        self._dagster = Dagster(public, site_url, workspace, socket, log_level)
        self._lock = threading.Lock()
        self._parts: tuple[ASGIApp, Gate, str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or start and stop with the server."""
        site, gate, path = self._made()
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self._dagster.begin()
        if scope["path"] == path or scope["path"].startswith(f"{path}/"):
            await gate(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4404})
        elif self._with_site:
            await site(scope, receive, send)
        else:
            await _not_here(path, send)

    def _made(self) -> tuple[ASGIApp, Gate, str]:
        """Return the parts, which need Django's settings: they are made when first asked for."""
        with self._lock:
            if self._parts is None:
                site: Any = get_asgi_application()  # sets Django up, too
                if settings.DEBUG and apps.is_installed("django.contrib.staticfiles"):
                    site = ASGIStaticFilesHandler(site)  # as runserver serves them
                path = conf.current().DAGSTER_PATH
                self._parts = (site, Gate(self._dagster, path), path)
            return self._parts

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open Dagster as the server starts, and close it as it ends."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._dagster.begin()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(self._dagster.end)
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _not_here(path: str, send: Send) -> None:
    text = f"Dagster's UI is at {path}/; the Django site is served elsewhere.\n".encode()
    await respond(send, 404, text, [(b"content-type", b"text/plain; charset=utf-8")])


class Dagster:
    """Dagster's webserver, an ASGI application that is opened and closed in a thread of its own.

    Parameters
    ----------
    public, site_url, workspace, socket, log_level:
        See ``Application``.
    """

    def __init__(
        self,
        public: str | None,
        site_url: str | None,
        workspace: Path | None,
        socket: Path | None,
        log_level: str,
    ) -> None:
        self._public, self._site_url = public, site_url
        self._workspace, self._socket, self._log_level = workspace, socket, log_level
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._app: ASGIApp | None = None
        self._problem = ""
        self._failed_at = float("-inf")
        self._stop = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; say so while there is nothing to serve it yet."""
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        starting = "Dagster is starting: this page shows it when it is ready."
        reason = f"Dagster can't be served: {self._problem}" if self._problem else starting
        await respond_to_person(scope, receive, send, 503, reason, refresh=2)

    def begin(self) -> None:
        """Open it in a thread, unless that was done, or has failed a moment ago."""
        with self._lock:
            rests = time.monotonic() - self._failed_at < RETRY_SECONDS
            if self._thread is None and not rests and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="proctree-dagster-web")
                self._thread.daemon = True
                self._thread.start()

    def end(self) -> None:
        """Close it, with its code server."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                app = self._opened(stack)
                self._app, self._problem = app, ""
                logger.info("Dagster's UI is ready.")
                self._stop.wait()
        except Exception as error:  # the site is served all the same; a later request tries again
            logger.exception("Dagster can't be served.")
            self._problem = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._app, self._thread = None, None
                self._failed_at = time.monotonic()

    def _opened(self, stack: ExitStack) -> ASGIApp:
        from ..orchestration import dagster_features as features

        if not features.is_on(features.GATED_WEBSERVER):
            raise RuntimeError(
                features.GATED_WEBSERVER.message([features.why_off(features.GATED_WEBSERVER) or ""])
            )
        from ..orchestration import webserver_app

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proctree-web-")))
        workspace = self._workspace or project.workspace(folder)
        path = conf.current().DAGSTER_PATH
        private = self._socket or folder / "dagster.sock"
        if self._socket is None:
            self._note_addresses(private, stack)
        served = stack.enter_context(webserver_app.opened((path, ""), workspace, self._log_level))
        _serve_privately(served[1], private, stack)
        app: ASGIApp = served[0]
        return app

    def _note_addresses(self, private: Path, stack: ExitStack) -> None:
        """Record where this serves, before a code server is asked for links to it."""
        home = project.home()
        if home is not None:
            public = self._public or conf.current().DAGSTER_PUBLIC_URL
            address = f"{conf.SOCKET}{private}"
            project.note_webserver(home, address, os.getpid(), site=self._site_url, public=public)
            stack.callback(project.forget_webserver, home, os.getpid())


def _serve_privately(app: ASGIApp, path: Path, stack: ExitStack) -> None:
    """Serve Django's own requests on a socket that only this user of the system can open."""
    import uvicorn

    config = uvicorn.Config(
        Private(app), log_level="warning", lifespan="off", access_log=False, loop="asyncio"
    )
    server = uvicorn.Server(config)
    listener = _private_listener(path)
    thread = threading.Thread(
        target=server.run, args=([listener],), name="proctree-dagster-private", daemon=True
    )
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(STOP_SECONDS)
        path.unlink(missing_ok=True)

    stack.callback(stop)


def _private_listener(path: Path) -> socket.socket:
    """Return a socket that is bound, which this user of the system alone may open."""
    path.unlink(missing_ok=True)  # of a process that was killed
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
    except OSError as error:  # its path is too long, often, and then the message does not name it
        listener.close()
        raise RuntimeError(
            f"Nothing can listen on the socket {path}, whose path has {len(os.fsencode(path))} "
            f"bytes: {error}. Let TMPDIR or --socket name a shorter path, of at most 103 bytes."
        ) from error
    path.chmod(0o600)  # it does not listen yet
    return listener


class Private:
    """Serves what Django itself asks of Dagster: to reload, and whether its code server answers.

    Parameters
    ----------
    inner:
        Dagster's webserver.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as Django itself."""
        granted = frozenset({VIEW, ADMINISTER})
        django = Visitor("django", "", granted, False, lambda _: False, lambda _: False)
        await self._inner({**scope, VISITOR: django}, receive, send)
