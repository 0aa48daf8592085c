"""A worker's run under OpenTelemetry and Sentry: a real template, a real receiver of reports."""

import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus

from tests.orchestration.launching.test_launcher import Place, opened
from tests.orchestration.launching.test_worker_ends import launch
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for
from tests.tools.warm_python import forks_of_these_tests

pytestmark = pytest.mark.timeout(300)

CODE = code_of(__file__)


class Receiver(BaseHTTPRequestHandler):
    """Takes what Sentry's SDK sends."""

    received: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_packed = self.headers.get("Content-Encoding") == "gzip"
        self.received.append(gzip.decompress(body) if is_packed else body)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def reports() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a receiver, and what it has received."""
    received: list[bytes] = []
    handler = type("OneReceiver", (Receiver,), {"received": received})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://key@127.0.0.1:{server.server_port}/1", received
        server.shutdown()


def events(received: list[bytes]) -> list[dict[str, Any]]:
    """Return the events of Sentry's envelopes: a line of JSON each, after one that says so."""
    lines = [line for body in received for line in body.split(b"\n") if line]
    parsed = [json.loads(line) for line in lines]
    return [each for before, each in pairwise(parsed) if is_event(before)]


def is_event(header: Any) -> bool:
    return isinstance(header, dict) and header.get("type") == "event"


def test_a_forked_worker_sends_its_spans_and_its_errors_before_it_ends(
    tmp_path: Path,
    empty_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    reports: tuple[str, list[bytes]],
) -> None:
    address, received = reports
    monkeypatch.setenv("TEST_SENTRY", address)
    for place in opened(tmp_path, empty_home, monkeypatch):
        run_id = _run(place)
    spans = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    ids = {span["name"]: span["context"]["span_id"] for span in spans}
    assert {span["name"]: span["parent_id"] for span in spans} == {
        "run observed": None,
        "process works": ids["run observed"],
        "inside": ids["process works"],
        "process fails": ids["run observed"],
    }
    wait_for("the report", lambda: events(received))
    [event] = events(received)
    assert event["tags"]["proctree.run_id"] == run_id
    assert event["exception"]["values"][0]["value"] == "the bank is closed"


def _run(place: Place) -> str:
    for file in CODE.glob("*.py"):
        shutil.copy(file, place.folder)
    forks_of_these_tests().run(["save_trees.py"], place.folder, os.environ)
    run_id = launch(place, "observed")
    assert place.ended(run_id) == DagsterRunStatus.FAILURE
    assert "plain process" not in place.failure(run_id), "the exporter's thread allows a fork"
    wait_for("the spans", (place.folder / "spans").exists)
    return run_id
