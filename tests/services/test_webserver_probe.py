"""Whether the webserver answers, for pages that must not wait for it."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pytest_django import Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.services import webserver_probe
from proctree_dagster.services.webserver_probe import Answer, Probe


class Webserver(ThreadingHTTPServer):
    """Stands where Dagster's webserver would."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.locations: list[dict[str, Any]] = [entry(run_tags.LOCATION)]
        self.plan: dict[str, Any] = {"__typename": "ExecutionPlan"}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/graphql"


class Handler(BaseHTTPRequestHandler):
    server: Webserver

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
        self.server.asked += 1
        self.server.may_answer.wait(30)
        data: dict[str, Any] = {"executionPlanOrError": self.server.plan}
        if "Locations" in query:
            data = {"workspaceOrError": {"locationEntries": self.server.locations}}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def entry(name: str, error: str | None = None) -> dict[str, Any]:
    loaded = {"__typename": "PythonError", "message": error} if error else None
    return {"name": name, "loadStatus": "LOADED", "locationOrLoadError": loaded}


@pytest.fixture
def server() -> Iterator[Webserver]:
    with Webserver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.may_answer.set()
        server.shutdown()


def test_a_webserver_and_a_code_server_that_answer_have_no_problem(server: Webserver) -> None:
    assert webserver_probe.ask(server.url, "job") == Answer(server.url)


@pytest.mark.parametrize(
    ("locations", "problem"),
    [
        ([entry("other")], "serves no code location 'proctree'"),
        ([entry(run_tags.LOCATION, "a module is missing")], "a module is missing"),
    ],
)
def test_a_code_location_that_is_missing_or_broken_is_the_code_servers_problem(
    server: Webserver, locations: list[dict[str, Any]], problem: str
) -> None:
    server.locations = locations
    answer = webserver_probe.ask(server.url, "job")
    assert answer.problem == ""
    assert problem in answer.code_server_problem


def test_a_code_server_that_has_ended_is_noticed(server: Webserver) -> None:
    ended = "dagster._core.errors.DagsterUserCodeUnreachableError: it has ended"
    server.plan = {"__typename": "PythonError", "message": ended}
    assert webserver_probe.ask(server.url, "job").code_server_problem == ended
    assert webserver_probe.ask(server.url, None).code_server_problem == ""


def test_a_webserver_that_is_not_there_says_why_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        answer = webserver_probe.ask(f"http://user:secret@127.0.0.1:{port}/graphql", "job")
    assert "refused" in answer.problem
    assert "secret" not in str(answer)


def test_a_page_does_not_wait_for_a_slow_webserver_and_asks_it_once(server: Webserver) -> None:
    server.may_answer.clear()
    probe = Probe()
    for _ in range(3):
        assert probe.answer(server.url, None, wait=0.01).is_pending
    server.may_answer.set()
    assert probe.answer(server.url, None, wait=30) == Answer(server.url)
    assert server.asked == 1


def test_an_answer_is_used_until_it_is_old(
    server: Webserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe()
    for _ in range(3):
        assert probe.answer(server.url, None, wait=30) == Answer(server.url)
    assert server.asked == 1
    monkeypatch.setattr(webserver_probe, "ASK_AGAIN_AFTER", 0.0)
    server.may_answer.clear()
    assert probe.answer(server.url, None, wait=0.01) == Answer(server.url)  # the last one


def test_a_test_asks_nobody(server: Webserver, settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": server.url}
    assert webserver_probe.answer(None) == Answer()
    assert server.asked == 0
