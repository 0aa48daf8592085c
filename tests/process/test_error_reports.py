"""Errors of processes as Sentry's SDK sends them, kept in memory."""

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DagsterInstance
from pytest_django import Settings

from proctree_dagster.process import error_reports, masking
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.tools.sentry import Kept, in_use

pytestmark = pytest.mark.django_db


@pytest.fixture
def sentry() -> Iterator[Kept]:
    with in_use() as kept:
        yield kept


def run(*, required: bool = True, retries: int = 0, func: str = "fail") -> dict[str, Any]:
    tree = ProcessTreeInstance("reported")
    tree.add_process("step", f"tests.app.processes:{func}", required=required, retries=retries)
    tree.save()
    return dict(tree.execute())


def test_the_error_of_a_process_is_reported_once_with_tree_process_and_run(
    sentry: Kept, instance: DagsterInstance
) -> None:
    run_id = run(retries=1)["run_id"]
    [event] = sentry.events
    assert event["tags"] == {
        "proctree.tree": "reported",
        "proctree.process": "step",
        "proctree.run_id": run_id,
    }
    assert event["transaction"] == "reported / step"
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ValueError", "this process always fails")
    assert error["mechanism"] == {"type": "proctree_dagster", "handled": False}
    assert error["stacktrace"]["frames"][-1]["function"] == "fail"


def test_a_process_that_may_fail_is_a_warning(sentry: Kept, instance: DagsterInstance) -> None:
    assert run(required=False)["success"]
    [event] = sentry.events
    assert event["level"] == "warning"


def test_a_run_that_succeeds_reports_nothing(sentry: Kept, instance: DagsterInstance) -> None:
    assert run(func="one")["success"]
    assert sentry.events == []


def test_nothing_is_reported_where_the_setting_leaves_errors_out(
    sentry: Kept, instance: DagsterInstance, settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SENTRY": []}
    run()
    assert [event for event in sentry.events if "exception" in event] == []


def test_without_sentry_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sentry_sdk")
    error_reports.report(ValueError("never sent"), {"tree": "any"})
    error_reports.flush()
    assert "sentry_sdk" not in sys.modules


def test_a_secret_is_in_no_report_neither_in_the_error_nor_in_a_frames_variables(
    sentry: Kept, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANK_TOKEN", "s3cr3t-of-the-bank")
    tree = ProcessTreeInstance("reported")
    tree.add_process("step", "tests.app.secret_functions:fail").save()
    assert not tree.execute(context={"token": {"$secret": "BANK_TOKEN"}})["success"]
    [event] = sentry.events
    assert "s3cr3t-of-the-bank" not in json.dumps(event, default=str)
    assert "(secret BANK_TOKEN)" in json.dumps(event, default=str)


class Client:
    """What a logger's ``extra`` may hold."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __repr__(self) -> str:
        return f"Client({self.token})"


def test_a_secret_is_in_nothing_that_a_logger_is_given_beside_its_message(sentry: Kept) -> None:
    masking.learn("BANK_TOKEN", token := "s3cr3t-of-the-bank")
    error_reports.begin()
    given = {
        "pair": (token, 1),
        "client": Client(token),
        "set": {token},
        "bytes": token.encode(),
        token: "a key",
        "whole": Client("of the public"),
        "number": 1,
    }
    logging.getLogger("tests.bank").error("Refused", extra=given)
    [event] = sentry.events
    assert token not in json.dumps(event, default=str)
    assert event["extra"]["client"] == "Client((secret BANK_TOKEN))"
    assert event["extra"]["whole"] == "Client(of the public)"
    assert event["extra"]["number"] == 1
