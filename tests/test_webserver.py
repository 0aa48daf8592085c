"""Asking Dagster's webserver to reload: after the commit, seldom, and never in the way."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from proctree_dagster import webserver
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

LOADED = {"data": {"reloadRepositoryLocation": {"__typename": "WorkspaceLocationEntry"}}}


class Server(ThreadingHTTPServer):
    """Stands where Dagster's webserver would, and notes when it was asked what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[float, dict[str, Any]]] = []
        self.answer: Any = LOADED
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((time.monotonic(), {**body, "path": self.path}))
        time.sleep(self.server.delay)
        answer = json.dumps(self.server.answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def reloader(monkeypatch: pytest.MonkeyPatch) -> Iterator[webserver.Reloader]:
    reloader = webserver.Reloader()
    monkeypatch.setattr(webserver, "_reloader", reloader)
    yield reloader
    settle()


def settle() -> None:
    """Wait until nothing is asked any more."""
    for thread in threading.enumerate():
        if thread.name == "proctree-reload":
            thread.join(10)


def save(name: str = "one") -> ProcessTree:
    tree = ProcessTreeInstance(name, overwrite=True).add_process("one", func=processes.one)
    return tree.save()


@pytest.mark.django_db
def test_a_saved_changed_or_deleted_tree_asks_for_a_reload_after_the_commit(
    server: Server,
    settings: Any,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webserver, "RELOAD_INTERVAL", 0.0)
    settings.PROCTREE = {"DAGSTER_URL": server.url}

    def asked(change: Any) -> int:
        before = len(server.asked)
        with django_capture_on_commit_callbacks(execute=True):
            change()
            assert len(server.asked) == before, "asked before the commit"
        settle()
        return len(server.asked) - before

    row = None

    def create() -> None:
        nonlocal row
        row = save()

    assert asked(create) == 1
    assert row is not None
    assert asked(lambda: save()) == 0  # nothing has changed
    assert asked(row.save) == 1
    assert asked(lambda: ProcessTreeInstance.load("one").register_schedule()) == 1
    assert asked(lambda: ProcessTreeSchedule.objects.get().delete()) == 1
    assert asked(row.delete) == 1
    request = server.asked[0][1]
    assert request["path"] == "/graphql"
    assert "reloadRepositoryLocation" in request["query"]
    assert request["variables"] == {"location": "proctree"}


@pytest.mark.django_db
def test_a_change_that_is_rolled_back_asks_for_nothing(
    server: Server,
    settings: Any,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    settings.PROCTREE = {"DAGSTER_URL": server.url}
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        save()
        transaction.set_rollback(True)
    settle()
    assert server.asked == []


def test_many_changes_in_a_short_time_become_two_reloads(
    server: Server, reloader: webserver.Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "RELOAD_INTERVAL", 0.5)
    for _ in range(50):
        reloader.request(f"{server.url}/graphql")
        time.sleep(0.005)
    settle()
    assert 1 <= len(server.asked) <= 3
    moments = [moment for moment, _ in server.asked]
    for one, next_one in pairwise(moments):
        assert next_one - one >= 0.49
    reloader.request(f"{server.url}/graphql")
    settle()
    assert len(server.asked) == len(moments) + 1, "the last change must be told, too"


def test_a_change_made_while_a_reload_is_under_way_is_told_afterwards(
    server: Server, reloader: webserver.Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "RELOAD_INTERVAL", 0.0)
    server.delay = 0.3
    reloader.request(f"{server.url}/graphql")
    while not server.asked:
        time.sleep(0.01)
    reloader.request(f"{server.url}/graphql")
    settle()
    assert len(server.asked) == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    "configuration",
    [
        {"DAGSTER_URL": "http://127.0.0.1:1"},
        {"DAGSTER_URL": "no address"},
        {"NO_SUCH_KEY": 1},
    ],
)
def test_a_webserver_that_is_away_costs_a_warning_not_the_save(
    configuration: dict[str, Any],
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    row = save("before")
    settings.PROCTREE = configuration
    with caplog.at_level(logging.WARNING), django_capture_on_commit_callbacks(execute=True):
        row.description = "changed"
        row.save()
    settle()
    assert ProcessTree.objects.get(name="before").description == "changed"
    assert "not told to reload" in caplog.text


def test_a_webserver_that_refuses_is_reported(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = {"data": {"reloadRepositoryLocation": {"__typename": "PythonError"}}}
    with caplog.at_level(logging.WARNING):
        assert not webserver.reload_location(f"{server.url}/graphql")
    assert "did not reload" in caplog.text


def test_a_reload_that_takes_long_goes_on_by_itself_and_is_no_failure(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webserver, "REQUEST_TIMEOUT", 0.1)
    server.delay = 0.5
    with caplog.at_level(logging.INFO):
        assert webserver.reload_location(f"{server.url}/graphql")
    assert "still reloading" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_save_does_not_wait_for_the_webserver(
    server: Server, reloader: webserver.Reloader
) -> None:
    server.delay = 1.0
    finished = threading.Event()

    def request() -> None:
        reloader.request(f"{server.url}/graphql")
        finished.set()

    threading.Thread(target=request).start()
    assert finished.wait(0.9), "the request was waited for"
