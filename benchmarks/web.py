"""What the gate before Dagster's UI adds to a request, against Dagster's bare webserver."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.tools.site import PASSWORD, Person, SiteStack
from tests.tools.stack import Stack

from .table import Row, tell

SMALL = "{ version }"
LARGE = """{ runsOrError(limit: 25) { ... on Runs { results { runId status tags { key value } } } }
  workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"""

AT_ONCE = 8
"""How many people ask at the same time, where requests in a second are counted."""

PER_ROUND = 20
"""Requests of a round."""


class Client:
    """Sends requests over one connection that stays open, as a browser does.

    Parameters
    ----------
    person:
        Who sends them, and where Dagster is served.
    """

    def __init__(self, person: Person) -> None:
        self._person = person
        self._connection = http.client.HTTPConnection("127.0.0.1", person.port, timeout=60)
        cookie = "; ".join(f"{key}={value}" for key, value in person.cookies.items())
        self._headers = {"Host": f"localhost:{person.port}", "Origin": person.origin}
        if cookie:
            self._headers["Cookie"] = cookie

    def ask(self, query: str) -> None:
        """Send a query."""
        headers = {**self._headers, "Content-Type": "application/json"}
        self._send("POST", "/graphql", json.dumps({"query": query}), headers)

    def page(self) -> None:
        """Fetch a page."""
        self._send("GET", "/runs", "", {**self._headers, "Accept": "text/html"})

    def _send(self, method: str, path: str, body: str, headers: dict[str, str]) -> None:
        self._connection.request(method, f"{self._person.path}{path}", body or None, headers)
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status}")


def rows(folder: Path, rounds: int) -> list[Row]:
    """Measure both."""
    with _served(folder) as people:
        clients = {name: Client(person) for name, person in people.items()}
        small = _in_turns(clients, lambda client: client.ask(SMALL), rounds)
        large = _in_turns(clients, lambda client: client.ask(LARGE), rounds)
        page = _in_turns(clients, lambda client: client.page(), rounds)
        at_once = _at_once(people, rounds)
    return [
        Row("a small query", "ms", "as fast as can be", *small),
        Row("a query for 25 runs and the workspace", "ms", "as fast as can be", *large),
        Row("a page", "ms", "as fast as can be", *page),
        Row(f"small queries of {AT_ONCE} people, each", "ms", "as fast as can be", *at_once),
    ]


@contextmanager
def _served(folder: Path) -> Iterator[dict[str, Person]]:
    """Serve both; return who asks each of them."""
    bare, site = Stack(folder / "bare"), SiteStack(folder / "site")
    try:
        tell("starting Dagster's webserver, and the site with Dagster behind its login")
        bare.manage("migrate", "-v0")
        bare.manage("setup_example", silently=True)
        bare.start_webserver()
        site.start_site(daemon=False)
        person = Person(site.port)
        person.log_in("administrator", PASSWORD)
        yield {"bare": Person(bare.port, path=""), "gated": person}
    finally:
        bare.stop()
        site.stop()


def _in_turns(
    clients: dict[str, Client], work: Callable[[Client], None], rounds: int
) -> list[list[float]]:
    """Return the milliseconds of each request, the bare webserver's first."""
    took: dict[str, list[float]] = {name: [] for name in clients}
    for client in clients.values():
        work(client)  # what is made once
    for _ in range(rounds):
        for name, client in clients.items():
            for _ in range(PER_ROUND):
                began = time.perf_counter()
                work(client)
                took[name].append((time.perf_counter() - began) * 1000)
    return list(took.values())


def _at_once(people: dict[str, Person], rounds: int) -> list[list[float]]:
    """Return the milliseconds between two answers, with several people asking at once."""
    took: dict[str, list[float]] = {name: [] for name in people}
    for _ in range(rounds):
        for name, person in people.items():
            clients = [Client(person) for _ in range(AT_ONCE)]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                began = time.perf_counter()
                list(pool.map(_ask_often, clients))
                seconds = time.perf_counter() - began
            took[name].append(seconds * 1000 / (AT_ONCE * PER_ROUND))
    return list(took.values())


def _ask_often(client: Client) -> None:
    for _ in range(PER_ROUND):
        client.ask(SMALL)
