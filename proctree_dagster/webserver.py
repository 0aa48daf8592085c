"""The Dagster webserver seen from Django: its URLs, and asking it to reload (no dagster import).

A saved, changed or deleted tree asks the webserver to reload after the transaction has committed.
That never blocks or fails the save: a short-lived thread asks, at most once in two seconds, and a
failure is logged; a reload that takes longer than ``REQUEST_TIMEOUT`` goes on by itself. Without
``PROCTREE["DAGSTER_URL"]`` nothing is asked; the daemon then sees the change within a minute.
"""

import json
import logging
import threading
import time
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models.signals import post_delete, post_save

from . import conf, tags
from .models import ProcessTree, ProcessTreeSchedule, TreeLink, Trigger, TriggerSubscription

logger = logging.getLogger(__name__)

RELOAD_INTERVAL = 2.0
"""Seconds from one reload to the next, however many trees are saved."""

REQUEST_TIMEOUT = 15.0
"""Seconds that an answer is waited for; a reload starts a fresh code server (3 to 6 s).

With thousands of trees it takes longer. A script that saves a tree and ends is not held up by it.
"""

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
    """Return the address of a run's page, if ``PROCTREE["DAGSTER_URL"]`` is set."""
    return _url(f"runs/{run_id}")


def graphql_url() -> str | None:
    """Return the address of its GraphQL endpoint, if ``PROCTREE["DAGSTER_URL"]`` is set."""
    return _url("graphql")


def _url(path: str) -> str | None:
    base = conf.current().DAGSTER_URL
    return None if base is None else f"{base.rstrip('/')}/{path}"


class Reloader:
    """Asks for reloads in the background; many requests in a short time become one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._url: str | None = None
        self._running = False
        self._asked_at = float("-inf")

    def request(self, url: str) -> None:
        """Ask the webserver at ``url`` to reload, soon. Returns at once."""
        with self._lock:
            self._url = url
            if not self._running:
                self._running = True
                # Not a daemon thread: a script that saves a tree and ends still asks.
                threading.Thread(target=self._work, name="proctree-reload").start()

    def _work(self) -> None:
        while True:
            time.sleep(max(0.0, self._asked_at + RELOAD_INTERVAL - time.monotonic()))
            with self._lock:
                url, self._url = self._url, None
                if url is None:
                    self._running = False
                    return
            reload_location(url)
            self._asked_at = time.monotonic()  # not before: it may have been slow to get there
            with self._lock:
                if self._url is None:
                    self._running = False
                    return


_reloader = Reloader()


def reload_location(graphql_url: str) -> bool:
    """Ask the webserver to reload our code location; log what goes wrong.

    Parameters
    ----------
    graphql_url:
        Address of its GraphQL endpoint.

    Returns
    -------
    bool
        Whether it did, or was still at it after ``REQUEST_TIMEOUT``.
    """
    try:
        answer = graphql(graphql_url, _RELOAD, {"location": tags.LOCATION})
    except TimeoutError:  # it has the request; one that can't be reached is another error
        logger.info("Dagster's webserver at %s is still reloading.", graphql_url)
        return True
    except (OSError, ValueError) as error:  # not running, restarting, answering something else
        logger.warning("Dagster's webserver at %s was not told to reload: %s", graphql_url, error)
        return False
    entry = (answer.get("data") or {}).get("reloadRepositoryLocation") or {}
    if entry.get("__typename") != "WorkspaceLocationEntry":
        logger.warning("Dagster's webserver at %s did not reload: %s", graphql_url, answer)
        return False
    return True


def graphql(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Ask a GraphQL endpoint and return its answer.

    Raises
    ------
    OSError
        It can't be reached, or answers with an error.
    ValueError
        The address or the answer makes no sense.
    """
    import urllib.request  # 25 ms, which a process that asks nothing does not pay

    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(  # noqa: S310  # the address is the project's own setting
        url, body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT) as response:  # noqa: S310
        answer = json.load(response)
    if not isinstance(answer, dict):
        raise ValueError(f"the answer is no JSON object: {answer!r}")
    return answer


def connect_receivers() -> None:
    """Ask for a reload whenever a tree, a link, a schedule or a trigger is saved or deleted."""
    for model in (ProcessTree, TreeLink, ProcessTreeSchedule, Trigger, TriggerSubscription):
        for signal in (post_save, post_delete):
            signal.connect(_changed, sender=model, dispatch_uid="proctree_dagster.reload")


def _changed(sender: type[Any], using: str = "default", **kwargs: Any) -> None:
    transaction.on_commit(_ask_to_reload, using=using, robust=True)


def _ask_to_reload() -> None:
    try:
        url = graphql_url()
    except ImproperlyConfigured as error:  # ``manage.py check`` reports it; the save stands
        logger.warning("Dagster was not told to reload: %s", error)
        return
    if url is not None:
        _reloader.request(url)
