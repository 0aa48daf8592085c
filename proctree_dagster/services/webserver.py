"""Client of Dagster's webserver: its URLs, and reload requests. Does not import dagster.

After the commit of a saved, changed or deleted tree, the webserver is requested to reload. That
never blocks or fails the save: a short-lived thread sends the request, at most once in two seconds,
and logs a failure. A reload that takes longer than ``REQUEST_TIMEOUT`` continues on its own.
Without ``PROCTREE["DAGSTER_URL"]`` no request is sent; the daemon then sees the change within a
minute.
"""

import base64
import ipaddress
import json
import logging
import os
import socket
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction
from django.db.models.signals import post_delete, post_save

from .. import conf
from ..domain import run_tags
from ..models import ProcessTree, ProcessTreeSchedule, TreeLink, Trigger, TriggerSubscription
from ..support import isolation, project
from ..support.connections import fresh_connections

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPConnection, HTTPResponse
    from urllib.request import OpenerDirector

logger = logging.getLogger(__name__)

RELOAD_INTERVAL = 2.0
"""Least seconds between two reloads, however many trees are saved."""

REQUEST_TIMEOUT = 15.0
"""Timeout of a request in seconds; a reload starts a new code server (3 to 6 s).

With thousands of trees it takes longer, but does not delay a script that saves a tree and ends.
"""

LONGEST_ANSWER = 1_000_000
"""Most bytes of an answer that are read; the answer to a reload has some hundred."""

_RELOAD = """
mutation Reload($location: String!) {
  reloadRepositoryLocation(repositoryLocationName: $location) {
    __typename
    ... on WorkspaceLocationEntry { locationOrLoadError { __typename } }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}
"""


def run_url(run_id: str) -> str | None:
    """Return the address of a run's page for people, if one is known (``project.public_url``)."""
    base = project.public_url()
    return None if base is None else f"{base.rstrip('/')}/runs/{run_id}"


def graphql_url() -> str | None:
    """Return the address of its GraphQL endpoint, if ``PROCTREE["DAGSTER_URL"]`` is set.

    That of a socket has the path after a second colon: ``unix:/run/dagster.sock:/graphql``.
    """
    base = project.webserver_url()
    if base is None:
        return None
    return f"{base}:/graphql" if base.startswith(conf.SOCKET) else f"{base.rstrip('/')}/graphql"


class Reloader:
    """Requests reloads in the background; many calls in a short time become one request.

    A failed request does not prevent the next one: a thread works until nothing is pending, and a
    later call starts another.
    """

    def __init__(self) -> None:
        self._begin()
        if hasattr(os, "register_at_fork"):  # a forked child has no thread of its parent
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._url: str | None = None
        self._running = False
        self._asked_at = float("-inf")

    def request(self, url: str) -> None:
        """Request a reload of the webserver at ``url``. Returns at once, and raises nothing."""
        with self._lock:
            self._url = url
            if self._running:
                return
            # Not a daemon thread: a script that saves a tree and ends still sends the request.
            thread = threading.Thread(target=self._work, name="proctree-reload")
            try:
                thread.start()
            except RuntimeError as error:  # the interpreter is ending, or has too many threads
                self._url = None
                logger.warning("Dagster's webserver was not asked to reload: %s", error)
            else:
                self._running = True

    def _work(self) -> None:
        try:
            while (url := self._next()) is not None:
                reload_location(url)
                self._asked_at = time.monotonic()  # after the request, which may be slow
        except BaseException:
            with self._lock:
                self._running = False
            raise

    def _next(self) -> str | None:
        """Wait until the next reload may be requested; return ``None`` when none is pending."""
        with self._lock:
            if self._url is None:
                self._running = False
                return None
        time.sleep(max(0.0, self._asked_at + RELOAD_INTERVAL - time.monotonic()))
        with self._lock:
            url, self._url = self._url, None
            return url


_reloader = Reloader()


def reload_location(graphql_url: str) -> bool:
    """Request the webserver to reload our code location; log failures, and raise nothing.

    Parameters
    ----------
    graphql_url:
        Address of its GraphQL endpoint.

    Returns
    -------
    bool
        Whether it reloaded, or was still reloading after ``REQUEST_TIMEOUT``.
    """
    shown = conf.without_login(graphql_url)
    try:
        answer = graphql(graphql_url, _RELOAD, {"location": run_tags.LOCATION})
    except TimeoutError:  # it has received the request; an unreachable server raises another error
        logger.info("Dagster's webserver at %s is still reloading.", shown)
        return True
    except (OSError, ValueError) as error:  # not running, restarting, answering something else
        logger.warning(
            "Dagster's webserver at %s was not asked to reload: %s: %s",
            *(shown, type(error).__name__, error),
        )
        return False
    except Exception:  # no answer may end the thread: the next save sends another request
        logger.exception("Dagster's webserver at %s was not asked to reload.", shown)
        return False
    if not _is_reloaded(answer):
        logger.warning("Dagster's webserver at %s did not reload: %.500s", shown, answer)
        return False
    return True


def _is_reloaded(answer: dict[str, Any]) -> bool:
    data = answer.get("data")
    entry = data.get("reloadRepositoryLocation") if isinstance(data, dict) else None
    return isinstance(entry, dict) and entry.get("__typename") == "WorkspaceLocationEntry"


_PLAN = """
query Plan($job: PipelineSelector!) {
  executionPlanOrError(pipeline: $job, mode: "default") {
    __typename
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
  }
}
"""


_LOCATIONS = """
query Locations { workspaceOrError { __typename
  ... on PythonError { message }
  ... on Workspace { locationEntries { name loadStatus
    locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""


def code_locations(url: str, *, timeout: float | None = None) -> dict[str, str]:
    """Return the webserver's code locations by name, each with why it can't be loaded, or blank.

    Parameters
    ----------
    url, timeout:
        As for ``graphql``, with its errors.
    """
    answer = graphql(url, _LOCATIONS, {}, timeout=timeout)
    workspace = (answer.get("data") or {}).get("workspaceOrError") or {}
    found = {}
    for entry in workspace.get("locationEntries", ()):
        loaded = entry["locationOrLoadError"] or {}
        has_failed = loaded.get("__typename") == "PythonError"
        message = str(loaded.get("message", "")).strip() or "it says no reason."
        found[entry["name"]] = message if has_failed else ""
    return found


def some_job() -> str | None:
    """Return the name of a job, by which a code server is asked; ``None`` if there is no tree."""
    return ProcessTree.objects.values_list("job_name", flat=True).first()


def code_server_problem(
    url: str, job_name: str | None, *, timeout: float | None = None
) -> str | None:
    """Return why the webserver can't reach its code server, or ``None`` if it does.

    The webserver serves cached data and does not notice that its code server has ended. So the
    query is one that only the code server can answer: the execution plan of a part of a job, which
    is never kept (``kept_plans``), even if the part is all of it. Without trees there is nothing to
    query.

    Parameters
    ----------
    url, timeout:
        As for ``graphql``, with its errors.
    job_name:
        A job (see ``some_job``).
    """
    if job_name is None:
        return None
    job = {
        "pipelineName": job_name,
        "repositoryName": run_tags.REPOSITORY,
        "repositoryLocationName": run_tags.LOCATION,
        "solidSelection": ["*"],
    }
    from urllib.error import HTTPError

    try:
        answer = graphql(url, _PLAN, {"job": job}, timeout=timeout)
    except HTTPError as error:
        if error.code != HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        answer = json.load(error)  # errors in Dagster's own processes have this type
    plan = (answer.get("data") or {}).get("executionPlanOrError") or {}
    message = str(plan.get("message", "")).strip()
    return message if "DagsterUserCodeUnreachableError" in message else None


def replace_dead_code_server() -> None:
    """Make the webserver start a new code server if its own has ended; log what happens.

    Dagster's webserver starts none until somebody reloads the location in the UI, and every launch
    fails until then. The daemon replaces its own code server every minute, and each new one calls
    this.
    """
    try:
        url = graphql_url()
        with fresh_connections():
            name = some_job()
        problem = None if url is None else code_server_problem(url, name)
    except (OSError, ValueError, ImproperlyConfigured) as error:
        logger.info("Dagster's webserver was not asked for its code server: %s", error)
        return
    except DatabaseError as error:  # not migrated yet, or unreachable: the code location reports it
        logger.info("The webserver's code server was not examined: %s", error)
        return
    if url is not None and problem is not None:
        logger.warning("The webserver's code server has ended: it is replaced. (%s)", problem)
        reload_location(url)


def graphql(
    url: str, query: str, variables: dict[str, Any], *, timeout: float | None = None
) -> dict[str, Any]:
    """Send a query to a GraphQL endpoint and return its answer.

    Parameters
    ----------
    url:
        Its address. A user and a password in it (``https://user:password@host/graphql``) are sent
        as basic authentication; no error names them.
    query, variables:
        The query and its variables.
    timeout:
        How many seconds to wait for the answer; left out, ``REQUEST_TIMEOUT``.

    Raises
    ------
    OSError
        It can't be reached, its answer is cut off or no HTTP, or it answers with an error or a
        redirection (to a login, say).
    TimeoutError
        There was no answer in time, or only a part of it.
    ValueError
        The address or the answer is invalid.
    """
    import urllib.request  # 25 ms, only for a process that sends a query
    from http.client import HTTPException

    body = json.dumps({"query": query, "variables": variables}).encode()
    headers = {"Content-Type": "application/json", **_authorization(url)}
    address = conf.without_login(url)
    request = urllib.request.Request(address, body, headers)  # noqa: S310  # the project's setting
    try:
        seconds = REQUEST_TIMEOUT if timeout is None else timeout
        with _opener(address).open(request, timeout=seconds) as response:
            text, kind = _read(response, seconds), response.headers.get("Content-Type")
    except HTTPException as error:
        raise ConnectionError(f"the answer is cut off, or is no HTTP: {error!r:.200}") from error
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the answer is no JSON, its type is {kind!r:.100}") from error
    if not isinstance(answer, dict):
        raise ValueError(f"the answer is no JSON object: {answer!r:.100}")
    return answer


def _authorization(url: str) -> dict[str, str]:
    """Return the ``Authorization`` header for the user and the password in an address."""
    parts = urlsplit(url)
    if not parts.username and not parts.password:
        return {}
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _opener(url: str) -> "OpenerDirector":
    """Return a URL opener that follows no redirection, and uses no proxy for this machine."""
    import urllib.error
    import urllib.request

    class SocketHandler(urllib.request.AbstractHTTPHandler):
        """Opens ``unix:/run/dagster.sock:/graphql``."""

        def unix_request(self, request: urllib.request.Request) -> urllib.request.Request:
            _, request.selector = _parts_of_socket(request.full_url)
            request.host = "localhost"
            return self.do_request_(request)

        def unix_open(self, request: urllib.request.Request) -> Any:
            path, _ = _parts_of_socket(request.full_url)
            return self.do_open(_connection_to(path), request)

    class NoRedirection(urllib.request.HTTPRedirectHandler):
        """Refuses redirections: to a login page, or to a host that must not get the password."""

        def redirect_request(self, req: Any, fp: Any, code: int, *args: Any) -> None:
            headers = args[1]
            reason = "it redirects: to a login, or to the address that should be set"
            raise urllib.error.HTTPError(req.full_url, code, reason, headers, fp)

    proxies = [urllib.request.ProxyHandler({})] if _is_loopback(urlsplit(url).hostname) else []
    return urllib.request.build_opener(NoRedirection, SocketHandler, *proxies)


def _parts_of_socket(url: str) -> tuple[str, str]:
    """Return the socket and the path of ``unix:/run/dagster.sock:/graphql``."""
    socket_path, _, selector = url.removeprefix(conf.SOCKET).rpartition(":")
    return socket_path, selector


def _connection_to(path: str) -> "Callable[..., HTTPConnection]":
    """Return what makes a connection to a socket, as ``do_open`` calls it."""
    from http.client import HTTPConnection

    class Connection(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(path)

    return Connection


def _is_loopback(host: str | None) -> bool:
    if host is None or host == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _read(response: "HTTPResponse", seconds: float) -> bytes:
    """Read an answer, limited in time and size."""
    ends = time.monotonic() + seconds
    answer = b""
    while part := response.read1(65536):
        answer += part
        if len(answer) > LONGEST_ANSWER:
            raise ValueError(f"the answer is longer than {LONGEST_ANSWER:,} bytes")
        if time.monotonic() > ends:
            raise TimeoutError("the answer does not end")
    if response.length:  # read1() mistakes a connection that closed half-way for the end
        import http.client

        raise http.client.IncompleteRead(answer, response.length)
    return answer


def connect_receivers() -> None:
    """Request a reload whenever a tree, a link, a schedule or a trigger is saved or deleted."""
    for model in (ProcessTree, TreeLink, ProcessTreeSchedule, Trigger, TriggerSubscription):
        for signal in (post_save, post_delete):
            signal.connect(_changed, sender=model, dispatch_uid="proctree_dagster.reload")


def _changed(sender: type[Any], using: str = "default", **kwargs: Any) -> None:
    transaction.on_commit(_ask_to_reload, using=using, robust=True)


def _ask_to_reload() -> None:
    if isolation.is_active():
        logger.debug("A test has changed a process tree: the webserver is not asked to reload.")
        return
    try:
        url = graphql_url()
    except ImproperlyConfigured as error:  # ``manage.py check`` reports it; the save stands
        logger.warning("Dagster was not asked to reload: %s", error)
        return
    if url is not None:
        _reloader.request(url)
