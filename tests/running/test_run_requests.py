"""Runs that a process which serves pages has requested are delivered by one thread at a time."""

import threading

import pytest

from proctree_dagster.running import run_requests


@pytest.fixture
def outside_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads deliver, as in a process that serves pages."""
    monkeypatch.setattr("proctree_dagster.support.isolation.is_active", lambda: False)
    monkeypatch.setattr(run_requests, "is_bound_to_thread", lambda: False)


def test_a_thread_that_delivers_takes_what_is_requested_meanwhile_and_ends(
    monkeypatch: pytest.MonkeyPatch, outside_a_test: None
) -> None:
    delivered: list[list[str]] = []
    begun, may_end = threading.Event(), threading.Event()

    def deliver(run_ids: list[str]) -> None:
        delivered.append(run_ids)
        begun.set()
        may_end.wait(60)

    monkeypatch.setattr("proctree_dagster.running.tree_runs.deliver", deliver)
    first = run_requests.deliver_soon(["a"])
    assert first is not None
    assert begun.wait(60)
    assert run_requests.deliver_soon(["b"]) is first
    assert run_requests.deliver_soon(["c"]) is first
    may_end.set()
    first.join(60)
    assert delivered == [["a"], ["b", "c"]]
    second = run_requests.deliver_soon(["d"])
    assert second is not None
    assert second is not first
    second.join(60)
    assert delivered[-1] == ["d"]
