"""Check-ins of scheduled runs with Sentry, as its SDK sends them, kept in memory."""

import datetime as dt
import logging
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster import signals
from proctree_dagster.domain.runs import RunSummary
from proctree_dagster.models import ProcessTree
from proctree_dagster.services import sentry_crons
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.tools.sentry import Kept, in_use

pytestmark = pytest.mark.django_db

RUN_ID = str(uuid.UUID(int=7))
DUE = dt.datetime(2026, 11, 27, 9, tzinfo=dt.UTC)


@pytest.fixture
def sentry(settings: Settings) -> Iterator[Kept]:
    """Sentry, with check-ins switched on."""
    settings.PROCTREE = {**settings.PROCTREE, "SENTRY": ["errors", "crons"]}
    with in_use() as kept:
        sentry_crons.connect()
        yield kept
        for name in sentry_crons._STATUSES:
            signals.SIGNALS[name].disconnect(dispatch_uid=f"proctree_dagster.{name}")


def scheduled(**rule: Any) -> None:
    tree = ProcessTreeInstance("monthly_close").add_process("one", "tests.app.processes:one")
    tree.save()
    tree.register_schedule(**rule)


def send(name: str, *, due: dt.datetime | None = DUE, seconds: int | None = None) -> None:
    """Send the signal of a run of the tree's schedule."""
    row = ProcessTree.objects.get()
    started, ended = timezone.now(), None
    if seconds is not None:
        ended = started + dt.timedelta(seconds=seconds)
    run = RunSummary(
        *(RUN_ID, row.name, "started", "schedule" if due else "command", due, "schedule"),
        *(started, started, ended, None),
        job_name=row.job_name,
    )
    signals.SIGNALS[name].send(ProcessTree, run=run, tree=row.name, at=timezone.now())


@pytest.mark.parametrize(
    ("rule", "schedule"),
    [
        ({"cron": "0 9 * * 1-5"}, {"type": "crontab", "value": "0 9 * * 1-5"}),
        ({"interval_minutes": 60}, {"type": "interval", "value": 60, "unit": "minute"}),
    ],
)
def test_a_scheduled_run_checks_in_as_it_starts_and_ends_with_the_schedule_itself(
    sentry: Kept, rule: dict[str, Any], schedule: dict[str, Any]
) -> None:
    scheduled(timezone="Africa/Johannesburg", **rule)
    ProcessTree.objects.update(expected_minutes=20)
    send("run_started")
    send("run_succeeded", seconds=3)
    began, ended = sentry.check_ins
    assert (began["status"], ended["status"], ended["duration"]) == ("in_progress", "ok", 3)
    assert began["check_in_id"] == ended["check_in_id"]
    assert began["monitor_slug"] == "monthly_close_schedule"
    assert began["monitor_config"] == {
        "schedule": schedule,
        "timezone": "Africa/Johannesburg",
        "checkin_margin": 5,
        "max_runtime": 20,
    }


@pytest.mark.parametrize("name", ["run_failed", "run_canceled"])
def test_a_run_that_failed_or_was_canceled_checks_in_with_an_error(sentry: Kept, name: str) -> None:
    scheduled(interval_minutes=60)
    send(name, seconds=1)
    [check_in] = sentry.check_ins
    assert check_in["status"] == "error"


def test_a_run_that_no_schedule_has_requested_does_not_check_in(sentry: Kept) -> None:
    scheduled(interval_minutes=60)
    send("run_started", due=None)
    assert sentry.check_ins == []


def test_a_schedule_that_sentry_cannot_follow_is_named_once_in_the_log(
    sentry: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    scheduled(cron="0 9 * * *", business_days="next")
    with caplog.at_level(logging.WARNING, "proctree_dagster"):
        send("run_started")
        send("run_succeeded")
    assert sentry.check_ins == []
    [said] = caplog.messages
    assert "Sentry knows no business days" in said


def test_no_receiver_is_connected_unless_the_settings_say_so(settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SENTRY": ["errors"]}
    before = [len(each.receivers) for each in signals.SIGNALS.values()]
    sentry_crons.connect()
    assert [len(each.receivers) for each in signals.SIGNALS.values()] == before


@pytest.mark.parametrize("wrong", [True, 5, "crons", None])
def test_a_wrong_setting_is_left_to_the_checks(settings: Settings, wrong: Any) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "SENTRY": wrong}
    before = {name: len(each.receivers) for name, each in signals.SIGNALS.items()}
    sentry_crons.connect()
    assert {name: len(each.receivers) for name, each in signals.SIGNALS.items()} == before


def test_names_that_differ_in_their_case_have_monitors_of_their_own() -> None:
    slugs = {sentry_crons.slug(name) for name in ("Daily_schedule", "daily_schedule")}
    assert len(slugs) == 2
    assert "daily_schedule" in slugs


def test_a_schedule_with_an_end_has_no_check_in(
    sentry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    scheduled(cron="0 9 * * *", end_date=dt.date(2099, 1, 1))
    send("run_started")
    assert sentry.check_ins == []
    assert "Sentry knows no end date" in caplog.text


def test_the_slug_of_a_long_name_is_cut_and_stays_unique() -> None:
    long = "a" * 60
    assert re.fullmatch("close-all-_schedule-[0-9a-f]+", sentry_crons.slug("Close (all)_schedule"))
    assert len(sentry_crons.slug(long)) == 50
    assert sentry_crons.slug(long) != sentry_crons.slug(long + "b")
