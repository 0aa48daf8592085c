"""Asking Dagster's webserver to reload: after the commit, seldom, and never in the way."""

import base64
import gzip
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from proctree_dagster import conf
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.running import submitted_run
from proctree_dagster.services import webserver
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools.code_files import code_of

pytestmark = pytest.mark.usefixtures("real_dagster")

CODE = code_of(__file__)

LOADED = {"data": {"reloadRepositoryLocation": {"__typename": "WorkspaceLocationEntry"}}}


class Server(ThreadingHTTPServer):
    """Stands where Dagster's webserver would, and notes when it was asked what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[float, dict[str, Any]]] = []
        self.logins: list[str | None] = []
        self.answer: Any = LOADED
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.logins.append(self.headers["Authorization"])
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
    assert "not asked to reload" in caplog.text


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


# --- Whatever answers, the next save asks again ---------------------------------------------------


class Peer:
    """A socket that is given each request and answers as it likes, or not at all."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = 0
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.recv(65536)
                self.requests += 1
                self._answer(connection)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Callable[[Callable[[socket.socket], None]], Peer]]:
    peers: list[Peer] = []

    def start(answer: Callable[[socket.socket], None]) -> Peer:
        peers.append(Peer(answer))
        return peers[-1]

    yield start
    for each in peers:
        each.close()


WHOLE = json.dumps(LOADED).encode()


def http(body: bytes, status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


STRANGE = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "half a status line": b"HTTP/1.1 2",
    "half the headers": b"HTTP/1.1 200 OK\r\nContent-Len",
    "half a body": http(WHOLE[:20], length=len(WHOLE)),
    "half a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no UTF-8": http(b"\xff\xfe\xfd"),
    "a list": http(b"[1]"),
    "data that is a list": http(b'{"data": ["reload"]}'),
    "deep": http(b"[" * 100_000),
    "compressed": http(gzip.compress(WHOLE), Content_Encoding="gzip"),
    "a page": http(b"<html>Please log in</html>", Content_Type="text/html"),
    "a redirection": http(b"", "302 Found", Location="http://127.0.0.1:1/login?next=/graphql"),
    "a refusal": http(b"", "401 Unauthorized", WWW_Authenticate="Basic"),
    "an error": http(b"oops", "500 Internal Server Error"),
    "TLS": b"\x15\x03\x01\x00\x02\x02\x28",
}


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_the_webserver_answers_the_next_save_asks_again(
    name: str,
    peer: Callable[[Callable[[socket.socket], None]], Peer],
    reloader: webserver.Reloader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(webserver, "RELOAD_INTERVAL", 0.0)
    strange = peer(lambda connection: connection.sendall(STRANGE[name]))
    for number in (1, 2):
        reloader.request(f"{strange.url}/graphql")
        settle()
        assert strange.requests == number
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "reload" in warnings[0].getMessage()


def test_an_address_of_tls_that_answers_without_is_a_warning(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    assert not webserver.reload_location(f"{server.url.replace('http', 'https')}/graphql")
    assert "not asked to reload" in caplog.text


def test_an_answer_that_does_not_end_is_given_up(
    peer: Callable[[Callable[[socket.socket], None]], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "REQUEST_TIMEOUT", 0.5)
    given_up = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while not given_up.wait(0.05):
                connection.sendall(b" ")
        except OSError:  # the other side has closed
            given_up.set()

    try:
        assert webserver.reload_location(f"{peer(drip).url}/graphql")
        assert given_up.wait(30), "the connection was not closed"
    finally:
        given_up.set()


def test_many_saves_beside_a_webserver_that_never_answers_start_one_thread(
    peer: Callable[[Callable[[socket.socket], None]], Peer], reloader: webserver.Reloader
) -> None:
    hang_up = threading.Event()
    silent = peer(lambda connection: waited(hang_up))
    try:
        for _ in range(200):
            reloader.request(f"{silent.url}/graphql")
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("proctree-reload") == 1
    finally:
        hang_up.set()


def waited(event: threading.Event) -> None:
    event.wait(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_whatever_for_does_not_keep_the_next_save_from_asking(
    reloader: webserver.Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def die(url: str) -> bool:
        asked.append(url)
        raise MemoryError

    monkeypatch.setattr(webserver, "RELOAD_INTERVAL", 0.0)
    monkeypatch.setattr(webserver, "reload_location", die)
    for _ in range(2):
        reloader.request("http://127.0.0.1:1/graphql")
        settle()
    assert len(asked) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads: it is meant
def test_a_process_forked_during_a_reload_asks_for_its_own_saves(
    server: Server, reloader: webserver.Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver, "RELOAD_INTERVAL", 0.0)
    server.delay = 1.0
    reloader.request(f"{server.url}/graphql")
    while not server.asked:
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        reloader.request(f"{server.url}/graphql")
        settle()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    settle()
    assert len(server.asked) == 2


def test_a_save_while_the_interpreter_ends_is_no_error(server: Server) -> None:
    script = (CODE / "save_at_exit.py").read_text()
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    ended = subprocess.run(
        [sys.executable, "-c", script, f"{server.url}/graphql"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0
    assert ended.stdout.split() == ["saved", "saved"]
    assert "Traceback" not in ended.stderr


def test_a_webserver_on_this_machine_is_asked_past_any_proxy(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert webserver.reload_location(f"{server.url}/graphql")
    assert webserver.reload_location(f"{server.url.replace('127.0.0.1', 'localhost')}/graphql")


# --- A password in the address --------------------------------------------------------------------

SECRET = "s3cret"


def with_login(url: str) -> str:
    return url.replace("http://", f"http://us%40er:{SECRET}%2F@")


@pytest.mark.django_db
def test_a_password_in_the_address_is_sent_and_shown_nowhere(
    server: Server,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    settings.PROCTREE = {"DAGSTER_URL": with_login(server.url)}
    with caplog.at_level(logging.DEBUG), django_capture_on_commit_callbacks(execute=True):
        save()
    settle()
    expected = base64.b64encode(f"us@er:{SECRET}/".encode()).decode()
    assert server.logins == [f"Basic {expected}"]
    run = submitted_run.SubmittedRun("1", webserver.run_url("1"))
    assert run.url == f"{server.url}/runs/1"
    assert SECRET not in f"{caplog.text} {run!r} {conf.current()!r}"


@pytest.mark.parametrize(
    "answer", [STRANGE[name] for name in ("nothing", "a redirection", "a refusal", "half a body")]
)
def test_a_request_that_fails_names_no_password(
    answer: bytes,
    peer: Callable[[Callable[[socket.socket], None]], Peer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    strange = peer(lambda connection: connection.sendall(answer))
    for url in (strange.url, "http://127.0.0.1:1", "http://no.such.host.invalid"):
        assert not webserver.reload_location(f"{with_login(url)}/graphql")
    assert "not asked to reload" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("key", ["DAGSTER_URL", "SITE_URL"])
@pytest.mark.parametrize(
    "value",
    [
        f"user:{SECRET}@host",
        f"htp://user:{SECRET}@host",
        f"http://user:{SECRET}",
        f"http://user:{SECRET}/x@host",
        f"http://user:{SECRET}#x@host",
        f"http://user:{SECRET}@",
        f"http://user:{SECRET}@host:port",
        f"http://user:{SECRET}@[::1",
        f"http://user:{SECRET}\n@host",
        f"http://host?token={SECRET}",
        f"http://host/#{SECRET}",
        [f"http://user:{SECRET}@host"],
        f"http://user:{SECRET}@host".encode(),
    ],
)
def test_an_address_that_is_refused_is_not_shown_with_its_secrets(key: str, value: Any) -> None:
    [problem] = conf.problems({key: value})
    assert key in problem
    assert SECRET not in problem


def test_a_password_in_the_address_of_the_site_is_refused() -> None:
    [problem] = conf.problems({"SITE_URL": f"https://user:{SECRET}@books.example.com"})
    assert "without a user and a password" in problem
    assert SECRET not in problem
    assert conf.problems({"DAGSTER_URL": f"https://user:{SECRET}@dagster.example.com/x"}) == []
