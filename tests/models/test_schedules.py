"""The row of a schedule: when it is due, and what moves that."""

import copy
import datetime as dt
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.test import override_settings

from proctree_dagster.domain.due_times import EVERY_MINUTE
from proctree_dagster.domain.schedule_rules import MAX_INTERVAL
from proctree_dagster.exceptions import ContextError, ScheduleError
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from tests.app.models import Organisation
from tests.tools.schedules import HOUR, MINUTE, Clock, register, row, update, utc

pytestmark = pytest.mark.django_db

DAY = dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("proctree_dagster.models.schedules.timezone.now", clock)
    return clock


def values(schedule: ProcessTreeSchedule) -> dict[str, Any]:
    return dict(ProcessTreeSchedule.objects.values().get(pk=schedule.pk))


# --- The first registration -----------------------------------------------------------------------


def test_the_first_registration_is_due_at_the_next_start_time_and_keeps_it_as_the_anchor() -> None:
    schedule = register(start_time=dt.time(9, 0))
    assert schedule.next_run == schedule.anchor == utc("2026-06-10 07:00")
    assert schedule.last_run is None
    assert schedule.claim is None
    assert values(schedule)["next_run"] == utc("2026-06-10 07:00")
    assert register(start_time=dt.time(8, 20)).next_run == utc("2026-06-11 06:20")


@pytest.mark.parametrize("interval", [1, 50, 60, 1440, 10080, MAX_INTERVAL])
def test_the_first_due_time_is_the_start_time_whatever_the_interval(interval: int) -> None:
    assert register(interval_minutes=interval).next_run == utc("2026-06-10 07:00")


def test_the_start_time_is_meant_in_the_schedules_zone() -> None:
    assert register(timezone="America/New_York").next_run == utc("2026-06-10 13:00")
    assert register(timezone="Asia/Kathmandu").next_run == utc("2026-06-11 03:15")


def test_a_blank_zone_is_djangos_time_zone() -> None:
    assert register().rule.timezone == "Africa/Johannesburg"
    with override_settings(TIME_ZONE="Europe/London"):
        assert register().next_run == utc("2026-06-10 08:00")


def test_the_defaults_are_the_guides() -> None:
    tree = ProcessTree.objects.create(name="defaults", processes=[])
    schedule = ProcessTreeSchedule.objects.create(process_tree=tree)
    assert schedule.enabled is True
    assert schedule.interval_minutes == 60
    assert schedule.start_time is None
    assert schedule.context == {}
    assert schedule.next_run == utc("2026-06-10 07:00"), "every hour begins with the next hour"


def test_seconds_of_the_start_time_are_dropped(clock: Clock) -> None:
    schedule = register(start_time=dt.time(9, 0, 59, 5))
    assert schedule.next_run == utc("2026-06-10 07:00")
    clock.now = utc("2026-06-10 09:30")
    schedule.start_time = dt.time(9, 0, 30)  # the same minute: the same rule
    schedule.save()
    assert row(schedule).next_run == utc("2026-06-10 07:00")


def test_a_disabled_schedule_is_registered_with_its_due_time_too() -> None:
    schedule = register(enabled=False)
    assert schedule.next_run == utc("2026-06-10 07:00")
    assert not schedule.should_run()


# --- Saving again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [MINUTE, HOUR, 30 * DAY])
def test_saving_again_with_the_same_rule_moves_nothing(clock: Clock, later: dt.timedelta) -> None:
    schedule = register()
    before = values(schedule)
    clock.now += later
    schedule.save()
    row(schedule).save()
    stored = row(schedule)
    stored.context = {"tenant": 2}
    stored.save()
    assert values(schedule) == {**before, "context": {"tenant": 2}}


CHANGES: list[tuple[dict[str, Any], str]] = [
    # It is 14:20 in Johannesburg, 12:20 UTC; the last start time was 09:00.
    ({"interval_minutes": 30}, "2026-06-10 12:30"),
    ({"interval_minutes": 50}, "2026-06-10 12:50"),  # 09:00 + 7 × 50 min = 14:50
    ({"interval_minutes": 1440}, "2026-06-11 07:00"),
    ({"interval_minutes": 10080}, "2026-06-11 07:00"),
    ({"start_time": dt.time(9, 45)}, "2026-06-10 12:45"),
    ({"start_time": dt.time(14, 20)}, "2026-06-10 13:20"),
    ({"timezone": "Asia/Kathmandu"}, "2026-06-10 13:15"),
    ({"interval_minutes": 1440, "start_time": dt.time(15, 0)}, "2026-06-10 13:00"),
]


def by_save(schedule: ProcessTreeSchedule, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        setattr(schedule, name, value)
    schedule.save()


def by_save_of_the_field(schedule: ProcessTreeSchedule, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        setattr(schedule, name, value)
    schedule.save(update_fields=list(changes))


def by_update_or_create(schedule: ProcessTreeSchedule, changes: Mapping[str, Any]) -> None:
    ProcessTreeSchedule.objects.update_or_create(
        process_tree=schedule.process_tree, defaults=dict(changes)
    )


@pytest.mark.parametrize("save", [by_save, by_save_of_the_field, by_update_or_create])
@pytest.mark.parametrize(("changes", "expected"), CHANGES)
def test_changing_the_rule_moves_anchor_and_next_run_to_the_next_due_time_from_now(
    clock: Clock,
    changes: dict[str, Any],
    expected: str,
    save: Callable[[ProcessTreeSchedule, Mapping[str, Any]], None],
) -> None:
    schedule = register()
    clock.now = utc("2026-06-10 12:20")  # overdue for hours: that is no backlog
    save(schedule, changes)
    stored = row(schedule)
    assert stored.next_run == stored.anchor == utc(expected)
    assert not stored.should_run()
    assert {name: getattr(stored, name) for name in changes} == changes


@pytest.mark.parametrize("save", [by_save, by_save_of_the_field])
@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (60, "2026-06-12 13:00"),
        (50, "2026-06-12 13:10"),  # 65 × 50 min after 07:00 on the 10th
        (2880, "2026-06-14 07:00"),  # every second day from the 10th
        (10080, "2026-06-17 07:00"),  # still a Wednesday
    ],
)
def test_enabling_moves_next_run_to_its_next_due_time_from_now(
    clock: Clock,
    interval: int,
    expected: str,
    save: Callable[[ProcessTreeSchedule, Mapping[str, Any]], None],
) -> None:
    schedule = register(interval_minutes=interval)
    save(schedule, {"enabled": False})
    clock.now = utc("2026-06-12 12:20")
    assert not row(schedule).should_run()
    save(schedule, {"enabled": True})
    assert row(schedule).next_run == utc(expected)
    assert not row(schedule).should_run()


def test_another_time_zone_of_django_is_another_rule(clock: Clock) -> None:
    schedule = register()
    named = register(timezone="Africa/Johannesburg")
    clock.now = utc("2026-06-10 12:20")
    with override_settings(TIME_ZONE="Asia/Kathmandu"):
        schedule.save()
        named.save()
    assert row(schedule).next_run == utc("2026-06-10 13:15")
    assert row(named).next_run == utc("2026-06-10 07:00")


def test_a_tree_that_is_renamed_or_changed_leaves_its_schedule_alone(clock: Clock) -> None:
    schedule = register()
    before = values(schedule)
    clock.now += HOUR
    tree = schedule.process_tree
    tree.name, tree.description = "renamed", "changed"
    tree.save()
    assert values(schedule) == before


# --- What is due ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("enabled", "next_run", "expected"),
    [
        (True, None, True),
        (True, -DAY, True),
        (True, dt.timedelta(0), True),
        (True, dt.timedelta(microseconds=1), False),
        (True, HOUR, False),
        (False, None, False),
        (False, -DAY, False),
    ],
)
def test_it_is_due_when_it_is_enabled_and_next_run_has_come_or_is_none(
    clock: Clock, enabled: bool, next_run: dt.timedelta | None, expected: bool
) -> None:
    schedule = register(enabled=enabled)
    update(schedule, next_run=None if next_run is None else clock.now + next_run)
    assert row(schedule).should_run() is expected
    assert row(schedule).is_due(clock.now) is expected


def test_a_due_time_need_not_be_on_the_rules_grid(clock: Clock) -> None:
    schedule = register()
    schedule.next_run = utc("2026-06-10 06:19")
    schedule.save()
    assert row(schedule).should_run()


def test_update_next_run_time_computes_next_run_from_now_saves_and_returns_it(
    clock: Clock,
) -> None:
    schedule = register()
    clock.now = utc("2026-06-10 12:20")
    assert schedule.update_next_run_time() == utc("2026-06-10 13:00")
    stored = row(schedule)
    assert stored.next_run == schedule.next_run == utc("2026-06-10 13:00")
    assert stored.anchor == utc("2026-06-10 07:00")
    assert stored.last_run is None


def test_update_next_run_time_sets_a_next_run_that_was_none(clock: Clock) -> None:
    schedule = register(interval_minutes=50)
    update(schedule, next_run=None)
    clock.now = utc("2026-06-10 07:10")
    assert row(schedule).update_next_run_time() == utc("2026-06-10 07:50")


def test_update_next_run_time_counts_from_the_anchor_and_works_without_one(clock: Clock) -> None:
    schedule = register(interval_minutes=2880)
    clock.now = utc("2026-06-11 12:00")
    assert schedule.update_next_run_time() == utc("2026-06-12 07:00")
    update(schedule, anchor=None)
    assert row(schedule).update_next_run_time() == utc("2026-06-12 07:00")


def test_update_next_run_time_leaves_the_other_fields_alone(clock: Clock) -> None:
    schedule = register()
    stale = row(schedule)
    update(schedule, context={"changed": True}, claim=clock.now, claimed_at=clock.now)
    stale.update_next_run_time()
    assert row(schedule).context == {"changed": True}
    assert row(schedule).claim == clock.now


# --- Two who save ---------------------------------------------------------------------------------


def test_a_stale_full_save_does_not_undo_a_claim_made_meanwhile(clock: Clock) -> None:
    schedule = register()
    stale = row(schedule)
    claimed = {
        "last_run": utc("2026-06-10 07:00"),
        "next_run": utc("2026-06-10 08:00"),
        "claim": utc("2026-06-10 07:00"),
        "claimed_at": utc("2026-06-10 07:00"),
        "last_run_id": "abc",
    }
    update(schedule, **claimed)
    clock.now = utc("2026-06-10 07:01")
    stale.context = {"tenant": 2}
    stale.save()
    assert values(schedule) == {**values(schedule), **claimed, "context": {"tenant": 2}}


def test_a_stale_full_save_that_changes_the_rule_leaves_the_open_claim(clock: Clock) -> None:
    schedule = register()
    stale = row(schedule)
    claim = utc("2026-06-10 07:00")
    update(schedule, claim=claim, claimed_at=claim, last_run=claim)
    clock.now = utc("2026-06-10 07:01")
    stale.interval_minutes = 30
    stale.save()
    stored = row(schedule)
    assert (stored.claim, stored.last_run) == (claim, claim)
    assert stored.next_run == utc("2026-06-10 07:30")


@pytest.mark.parametrize("save", [by_save, by_save_of_the_field])
@pytest.mark.parametrize("stale", [False, True])
def test_disabling_withdraws_an_open_claim(
    clock: Clock,
    stale: bool,
    save: Callable[[ProcessTreeSchedule, Mapping[str, Any]], None],
) -> None:
    schedule = register()
    loaded_before = row(schedule)
    update(schedule, claim=clock.now, claimed_at=clock.now)
    save(loaded_before if stale else row(schedule), {"enabled": False})
    stored = row(schedule)
    assert (stored.claim, stored.claimed_at) == (None, None)


def test_what_the_clock_writes_is_saved_where_it_was_changed_on_the_object() -> None:
    schedule = register()
    schedule.next_run = None
    schedule.last_run_id = "abc"
    schedule.save()
    assert (row(schedule).next_run, row(schedule).last_run_id) == (None, "abc")
    stored = row(schedule)
    stored.next_run = utc("2026-06-10 06:00")
    stored.save()
    assert row(schedule).next_run == utc("2026-06-10 06:00")


def test_a_change_is_still_saved_after_other_fields_were_refreshed() -> None:
    schedule = register()
    schedule.next_run = None
    schedule.refresh_from_db(fields=["context"])
    schedule.save()
    assert row(schedule).next_run is None


def test_a_change_is_still_saved_after_other_fields_were_saved() -> None:
    schedule = register()
    schedule.next_run = None
    schedule.save(update_fields=["context"])
    assert row(schedule).next_run is not None
    schedule.save()
    assert row(schedule).next_run is None


@pytest.mark.parametrize(
    "load",
    [
        lambda pk: ProcessTreeSchedule.objects.only("pk").get(pk=pk),
        lambda pk: ProcessTreeSchedule.objects.defer("next_run", "claim", "context").get(pk=pk),
        lambda pk: copy.copy(ProcessTreeSchedule.objects.get(pk=pk)),
        lambda pk: pickle.loads(pickle.dumps(ProcessTreeSchedule.objects.get(pk=pk))),
        lambda pk: ProcessTree.objects.with_default_schedule().get(schedule=pk).schedule,
    ],
    ids=["only", "defer", "copy", "pickle", "prefetched"],
)
def test_however_it_was_loaded_a_save_writes_what_was_changed_and_nothing_stale(
    clock: Clock, load: Callable[[int], ProcessTreeSchedule]
) -> None:
    schedule = register()
    loaded = load(schedule.pk)
    update(schedule, claim=clock.now, last_run=clock.now)
    loaded.context = {"tenant": 2}
    loaded.save()
    stored = row(schedule)
    assert stored.context == {"tenant": 2}
    assert (stored.claim, stored.last_run) == (clock.now, clock.now)
    assert stored.next_run == utc("2026-06-10 07:00")
    again = load(schedule.pk)
    again.next_run = None
    again.save()
    assert row(schedule).next_run is None


def test_a_schedule_is_saved_when_only_its_row_is_known_to_exist() -> None:
    schedule = register()
    rebuilt = ProcessTreeSchedule(
        pk=schedule.pk, process_tree=schedule.process_tree, interval_minutes=30
    )
    rebuilt.save()
    assert ProcessTreeSchedule.objects.count() == 1
    assert row(schedule).interval_minutes == 30


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, 7, 1440, MAX_INTERVAL])
def test_an_interval_from_a_minute_to_a_year_is_taken(interval: int) -> None:
    register(interval_minutes=interval).full_clean()


@pytest.mark.parametrize("interval", [0, -5, MAX_INTERVAL + 1])
def test_an_interval_out_of_range_is_refused_by_validation(interval: int) -> None:
    schedule = register()
    schedule.interval_minutes = interval
    with pytest.raises(ValidationError) as raised:
        schedule.full_clean()
    assert "interval_minutes" in raised.value.message_dict


@pytest.mark.parametrize("interval", [0, -5, MAX_INTERVAL + 1])
def test_an_interval_out_of_range_is_refused_by_the_database(interval: int) -> None:
    schedule = register()
    with transaction.atomic(), pytest.raises(IntegrityError):
        update(schedule, interval_minutes=interval)
    tree = ProcessTree.objects.create(name="bulk", processes=[])
    with transaction.atomic(), pytest.raises(IntegrityError):
        ProcessTreeSchedule.objects.bulk_create(
            [ProcessTreeSchedule(process_tree=tree, interval_minutes=interval)]
        )


@pytest.mark.parametrize("interval", [0, -5, MAX_INTERVAL + 1])
def test_an_interval_out_of_range_is_refused_by_save_with_an_error_that_says_so(
    interval: int,
) -> None:
    schedule = register()
    schedule.interval_minutes = interval
    with transaction.atomic(), pytest.raises((IntegrityError, ScheduleError, ValidationError)):
        schedule.save()
    with transaction.atomic(), pytest.raises((IntegrityError, ScheduleError, ValidationError)):
        register(interval_minutes=interval)


@pytest.mark.parametrize(
    "zone", ["Nowhere/None", "Africa", "../../etc/passwd", "/etc/localtime", "UTC+2", "a\x00b", " "]
)
def test_an_unknown_time_zone_is_refused_by_validation(zone: str) -> None:
    schedule = register()
    schedule.timezone = zone
    with pytest.raises(ValidationError) as raised:
        schedule.full_clean()
    assert "is not an IANA time zone" in str(raised.value.message_dict["timezone"])


@pytest.mark.parametrize("zone", ["", "UTC", "Africa/Johannesburg", "America/Argentina/Salta"])
def test_an_iana_time_zone_or_none_is_taken(zone: str) -> None:
    register(timezone=zone).full_clean()


def test_a_tree_has_one_schedule() -> None:
    schedule = register()
    with transaction.atomic(), pytest.raises(IntegrityError):
        ProcessTreeSchedule.objects.create(process_tree=schedule.process_tree)


def test_a_schedule_goes_with_its_tree() -> None:
    register().process_tree.delete()
    assert not ProcessTreeSchedule.objects.exists()


# --- The default context --------------------------------------------------------------------------


def test_a_model_instance_in_the_context_is_stored_as_a_reference() -> None:
    organisation = Organisation.objects.create(name="Quiver Tree Coffee")
    schedule = register(context={"organisation": organisation, "on": dt.date(2026, 3, 31)})
    stored = {
        "organisation": {"$model": "app.Organisation", "pk": organisation.pk},
        "on": {"$date": "2026-03-31"},
    }
    assert row(schedule).context == stored
    assert schedule.context == stored
    update(schedule, context={"organisation": organisation})
    assert row(schedule).context == {"organisation": stored["organisation"]}


def test_a_context_that_can_not_be_stored_is_refused_with_its_path() -> None:
    with pytest.raises(ContextError, match=r"context\['a'\]\[0\] is set"):
        register(context={"a": [{1}]})
    assert not ProcessTreeSchedule.objects.exists()
    schedule = register()
    schedule.context = {"a": [{1}]}
    with pytest.raises(ValidationError) as raised:
        schedule.full_clean()
    assert "context['a'][0] is set" in str(raised.value.message_dict["context"])
    with pytest.raises(ContextError):
        update(schedule, context={"a": [{1}]})


@pytest.mark.parametrize("context", [[], "a", 5])
def test_a_context_that_is_no_dictionary_is_refused(context: Any) -> None:
    schedule = register()
    schedule.context = context
    with pytest.raises(ValidationError) as raised:
        schedule.full_clean()
    assert "context" in raised.value.message_dict


def test_the_trees_revision_changes_with_the_context_and_not_with_the_clock(clock: Clock) -> None:
    schedule = register()
    before = schedule.process_tree.revision
    update(schedule, next_run=None, claim=clock.now)
    assert ProcessTree.objects.get().revision == before
    update(schedule, context={"tenant": 2})
    assert ProcessTree.objects.get().revision != before


# --- The cron that Dagster ticks by ---------------------------------------------------------------


def test_a_settled_schedule_is_served_with_the_coarsest_cron_in_its_zone(clock: Clock) -> None:
    assert register().cover(clock.now) == (["0 * * * *"], "Africa/Johannesburg")
    schedule = register(interval_minutes=1440, timezone="Europe/London")
    assert schedule.cover(clock.now) == (["0 9 * * *"], "Europe/London")
    assert register(interval_minutes=10080).cover(clock.now) == (
        ["0 9 * * 3"],
        "Africa/Johannesburg",
    )


def test_a_schedule_is_served_every_minute_on_the_day_that_its_clock_changes(clock: Clock) -> None:
    clock.now = utc("2026-03-27 12:00")
    london = register(timezone="Europe/London", start_time=dt.time(1, 30), interval_minutes=1440)
    elapsed = register(timezone="Europe/London", interval_minutes=50)
    change = utc("2026-03-29 01:00")  # 01:30 does not exist that day: it is due at 02:00
    update(london, next_run=change)
    for hours, crons in [(-30, ["30 1 * * *"]), (-20, [EVERY_MINUTE]), (0, [EVERY_MINUTE])]:
        assert row(london).cover(change + hours * HOUR)[0] == crons
    update(london, next_run=change + 24 * HOUR)
    assert row(london).cover(change + 2 * HOUR)[0] == ["30 1 * * *"]
    update(elapsed, next_run=change)
    assert row(elapsed).cover(change - HOUR)[0] != [EVERY_MINUTE]


def test_a_schedule_that_is_overdue_is_served_every_minute(clock: Clock) -> None:
    schedule = register(interval_minutes=1440)
    assert schedule.cover(utc("2026-06-10 07:00"))[0] == ["0 9 * * *"]
    # The tick at the due time itself needs a moment.
    assert schedule.cover(utc("2026-06-10 07:00") + dt.timedelta(seconds=20))[0] == ["0 9 * * *"]
    assert schedule.cover(utc("2026-06-10 07:01"))[0] == [EVERY_MINUTE]
    assert schedule.cover(utc("2026-06-17 07:00"))[0] == [EVERY_MINUTE]
    schedule.next_run = None
    assert schedule.cover(clock.now)[0] == [EVERY_MINUTE]


def test_a_schedule_with_an_open_claim_is_served_every_minute(clock: Clock) -> None:
    schedule = register(interval_minutes=1440)
    update(schedule, claim=utc("2026-06-09 07:00"))
    assert row(schedule).cover(clock.now)[0] == [EVERY_MINUTE]


@pytest.mark.parametrize(
    "changes",
    [
        {"interval_minutes": 30},
        {"start_time": dt.time(10, 0)},
        {"timezone": "Europe/London"},
        {"enabled": False},
    ],
)
def test_a_schedule_whose_rule_was_changed_by_update_is_served_every_minute(
    clock: Clock, changes: dict[str, Any]
) -> None:
    schedule = register(interval_minutes=1440)
    update(schedule, **changes)
    crons, _ = row(schedule).cover(clock.now)
    assert crons == [EVERY_MINUTE]
    row(schedule).save()
    assert row(schedule).cover(clock.now)[0] != [EVERY_MINUTE]


def test_a_disabled_schedule_is_served_too(clock: Clock) -> None:
    assert register(enabled=False).cover(clock.now) == (["0 * * * *"], "Africa/Johannesburg")


def test_a_schedule_says_what_it_is() -> None:
    schedule = register(interval_minutes=90, timezone="Europe/London")
    assert str(schedule) == "tree_0: every 90 minutes from 09:00 in Europe/London"


def test_a_new_row_may_say_when_it_is_due_first(clock: Clock) -> None:
    schedule = ProcessTreeSchedule.objects.create(
        process_tree=ProcessTree.objects.create(name="another"),
        next_run=clock.now,
    )
    assert row(schedule).next_run == clock.now
    assert row(schedule).should_run()


def test_what_django_takes_as_a_time_and_a_number_is_saved_as_one() -> None:
    schedule = register()
    schedule.start_time = "10:30"
    schedule.interval_minutes = "30"
    schedule.save()
    assert (row(schedule).interval_minutes, str(row(schedule).start_time)) == (30, "10:30:00")


def test_a_rule_that_was_changed_behind_its_back_is_not_due_by_the_old_one(clock: Clock) -> None:
    schedule = register()
    update(schedule, next_run=clock.now, interval_minutes=45)
    assert not row(schedule).should_run()
