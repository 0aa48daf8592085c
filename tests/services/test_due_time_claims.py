"""Who runs a due time: requested at least once, started exactly once."""

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from django.core.management import call_command
from django.db import connection, connections
from pytest_django import Settings

from proctree_dagster.context import decode
from proctree_dagster.domain.due_times import EVERY_MINUTE
from proctree_dagster.models import Pause, ProcessTree, ProcessTreeSchedule, RunStatus
from proctree_dagster.services import due_time_claims
from proctree_dagster.services.due_time_claims import (
    REQUEST_AGAIN_AFTER,
    Due,
    Skip,
    Taken,
    end,
    request,
    request_together,
    resume,
    take,
)
from tests.tools.replicas import Replicated
from tests.tools.schedules import HOUR, MINUTE, Clock, register, row, update, utc

SECOND = dt.timedelta(seconds=1)

database = pytest.mark.django_db


SEVEN = utc("2026-06-10 07:00")
"""The first due time of an hourly schedule that starts at 09:00 in Johannesburg (TIME_ZONE)."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("proctree_dagster.services.due_time_claims.timezone.now", clock)
    return clock


class Runs:
    """How far a schedule's runs have come; remembers what was asked about."""

    def __init__(
        self,
        progress: Literal["none", "under way", "finished"] = "none",
        status: RunStatus = RunStatus.SUCCESS,
    ) -> None:
        self.progress = progress
        self.status = status
        self.asked: list[dt.datetime] = []
        self.asked_of_runs: list[str] = []

    def of_claim(self, due: dt.datetime) -> Literal["none", "under way", "finished"]:
        self.asked.append(due)
        return self.progress

    def of_run(self, run_id: str, worker: str) -> RunStatus:
        self.asked_of_runs.append(run_id)
        return self.status


def tick(
    schedule: ProcessTreeSchedule,
    clock: Clock,
    at: dt.datetime,
    progress: Literal["none", "under way", "finished"] = "none",
    delay: dt.timedelta = SECOND,
) -> Due | Skip:
    """Evaluate the tick of ``at``, a moment later."""
    clock.now = at + delay
    return request(schedule.pk, at, Runs(progress))


def started(schedule: ProcessTreeSchedule, due: dt.datetime, run_id: str) -> str | None:
    """Let a run take its claim; return why it may not go on, if so."""
    answer = take(schedule.process_tree.job_name, due, run_id)
    return answer.reason if isinstance(answer, Skip) else None


def reason(decision: Due | Skip) -> str:
    assert isinstance(decision, Skip), decision
    return decision.reason


def due(decision: Due | Skip) -> dt.datetime:
    assert isinstance(decision, Due), decision
    return decision.due


@contextmanager
def others_get_in(
    before: Callable[[], object] | None = None, after: Callable[[], object] | None = None
) -> Iterator[None]:
    """Let another process act just before or just after each UPDATE that this one sends."""
    busy = False

    def around(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        nonlocal busy
        if busy or not sql.startswith("UPDATE"):
            return execute(sql, *args)
        busy = True
        try:
            if before is not None:
                before()
            result = execute(sql, *args)
            if after is not None:
                after()
            return result
        finally:
            busy = False

    with connection.execute_wrapper(around):
        yield


# --- Claiming -------------------------------------------------------------------------------------


@database
def test_what_is_due_is_claimed_by_one_update(clock: Clock) -> None:
    schedule = register()
    decision = tick(schedule, clock, SEVEN)
    assert isinstance(decision, Due)
    assert decision.due == SEVEN
    assert decision.schedule == schedule
    stored = row(schedule)
    assert stored.last_run == SEVEN  # the tick's time, not the clock's
    assert stored.next_run == SEVEN + HOUR
    assert stored.claim == SEVEN
    assert stored.claimed_at == SEVEN + SECOND
    assert stored.last_run_id == ""


@database
def test_what_is_not_due_is_skipped_and_says_until_when(clock: Clock) -> None:
    schedule = register()
    assert reason(tick(schedule, clock, SEVEN - MINUTE)) == "Not due until 2026-06-10 07:00 UTC."
    assert row(schedule).claim is None


@database
def test_a_next_run_that_is_none_is_due_now(clock: Clock) -> None:
    schedule = register()
    update(schedule, next_run=None)
    at = utc("2026-06-10 06:42")
    assert due(tick(schedule, clock, at)) == at
    stored = row(schedule)
    assert (stored.claim, stored.last_run, stored.next_run) == (at, at, SEVEN)


@database
def test_a_tick_need_not_be_on_the_grid(clock: Clock) -> None:
    schedule = register(interval_minutes=1440)
    assert due(tick(schedule, clock, utc("2026-06-10 11:37"))) == SEVEN
    assert row(schedule).next_run == SEVEN + 24 * HOUR


@database
def test_however_long_the_downtime_one_run_catches_up(clock: Clock) -> None:
    schedule = register()
    late = utc("2026-06-24 10:30")
    assert due(tick(schedule, clock, late)) == SEVEN
    assert started(schedule, SEVEN, "a") is None
    stored = row(schedule)
    assert stored.last_run == late
    assert stored.next_run == utc("2026-06-24 11:00")
    assert reason(tick(schedule, clock, late + MINUTE)).startswith("Not due until")


@database
def test_the_interval_does_not_drift_by_the_duration_of_a_run_nor_by_a_late_tick(
    clock: Clock,
) -> None:
    schedule = register(interval_minutes=50)
    claimed = []
    for hours in range(4):
        at = SEVEN + hours * 50 * MINUTE + 3 * MINUTE
        claimed.append(due(tick(schedule, clock, at)))
        clock.now += 7 * MINUTE
        assert started(schedule, claimed[-1], f"run {hours}") is None
    assert claimed == [SEVEN + number * 50 * MINUTE for number in range(4)]


@database
def test_the_tick_of_a_schedule_that_was_deleted_skips(clock: Clock) -> None:
    schedule = register()
    key = schedule.pk
    schedule.process_tree.delete()
    assert request(key, SEVEN, Runs()) == Skip("The tree or its schedule was deleted.")


# --- One winner -----------------------------------------------------------------------------------


@database
def test_a_second_request_for_a_due_time_is_skipped(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    # Another process: check_and_run_scheduled_tasks(), say, which asks with its own time.
    before = row(schedule).claimed_at
    answer = tick(schedule, clock, SEVEN + 5 * SECOND)
    assert reason(answer) == "The run for 2026-06-10 07:00 UTC has just been requested."
    assert row(schedule).claimed_at == before


@database
def test_of_two_who_see_the_same_due_time_one_wins(clock: Clock) -> None:
    schedule = register()
    clock.now = SEVEN + 2 * SECOND
    other: list[Due | Skip] = []
    with others_get_in(
        before=lambda: other.append(request(schedule.pk, SEVEN + SECOND, Runs("under way")))
    ):
        answer = request(schedule.pk, SEVEN, Runs())
    assert reason(answer) == "The due time 2026-06-10 07:00 UTC was claimed by another process."
    assert due(other[0]) == SEVEN
    assert row(schedule).last_run == SEVEN + SECOND


@database
@pytest.mark.parametrize(
    "changes",
    [
        {"enabled": False},
        {"next_run": utc("2026-06-10 07:30")},
        {"next_run_rule": "another"},
        {"claim": utc("2026-06-10 05:00")},
    ],
)
def test_a_claim_is_not_made_on_a_row_that_has_changed_since_it_was_looked_at(
    clock: Clock, changes: dict[str, Any]
) -> None:
    schedule = register()
    before = ProcessTreeSchedule.objects.values().get()
    clock.now = SEVEN + SECOND
    with others_get_in(before=lambda: update(schedule, **changes)):
        assert isinstance(request(schedule.pk, SEVEN, Runs()), Skip)
    assert ProcessTreeSchedule.objects.values().get() == {**before, **changes}


@database
def test_one_schedules_claim_leaves_the_others_alone(clock: Clock) -> None:
    one, other = register(), register()
    due(tick(one, clock, SEVEN))
    assert row(other).claim is None
    assert due(tick(other, clock, SEVEN)) == SEVEN
    assert started(one, SEVEN, "a") is None
    assert row(other).claim == SEVEN


# --- An open claim --------------------------------------------------------------------------------


@database
def test_the_same_tick_evaluated_again_gives_the_same_due_time(clock: Clock) -> None:
    schedule = register()
    first = due(tick(schedule, clock, SEVEN))
    again = due(tick(schedule, clock, SEVEN, delay=2 * SECOND))
    assert again == first
    stored = row(schedule)
    assert stored.next_run == SEVEN + HOUR
    assert stored.claimed_at == SEVEN + 2 * SECOND


@database
def test_an_open_claim_without_a_run_is_requested_again_when_it_is_a_minute_old(
    clock: Clock,
) -> None:
    schedule = register(interval_minutes=1440)
    due(tick(schedule, clock, SEVEN, delay=dt.timedelta(0)))
    young = SEVEN + REQUEST_AGAIN_AFTER - SECOND
    assert "has just been requested" in reason(tick(schedule, clock, young, delay=dt.timedelta(0)))
    old = SEVEN + REQUEST_AGAIN_AFTER
    assert due(tick(schedule, clock, old, delay=dt.timedelta(0))) == SEVEN
    stored = row(schedule)
    assert stored.claimed_at == old
    assert stored.last_run == SEVEN
    assert stored.next_run == SEVEN + 24 * HOUR
    # From then on it is young again.
    assert "has just been requested" in reason(tick(schedule, clock, old + 30 * SECOND))


@database
def test_of_two_who_request_an_old_claim_again_one_wins(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    at = SEVEN + 2 * MINUTE
    other: list[Due | Skip] = []

    class OtherGetsIn(Runs):
        def of_claim(self, due: dt.datetime) -> Literal["none", "under way", "finished"]:
            other.append(request(schedule.pk, at, Runs()))
            return "none"

    runs = OtherGetsIn()
    clock.now = at
    assert "was requested by another process" in reason(request(schedule.pk, at + SECOND, runs))
    assert due(other[0]) == SEVEN


@database
def test_a_claim_whose_run_is_under_way_is_skipped_however_old_it_is(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    for later in (30 * SECOND, 5 * MINUTE, 3 * HOUR):
        answer = tick(schedule, clock, SEVEN + later, "under way")
        assert reason(answer) == "The run for 2026-06-10 07:00 UTC is on its way."
    assert row(schedule).claim == SEVEN
    assert row(schedule).next_run == SEVEN + HOUR


@database
def test_the_runs_are_asked_about_the_open_claim_and_only_then(clock: Clock) -> None:
    schedule = register()
    runs = Runs()
    clock.now = SEVEN
    request(schedule.pk, SEVEN - MINUTE, runs)
    request(schedule.pk, SEVEN, runs)
    assert runs.asked == []
    request(schedule.pk, SEVEN + MINUTE, runs)
    assert runs.asked == [SEVEN]


@database
def test_a_claim_whose_run_ended_without_taking_it_is_settled_and_the_next_is_made_normally(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    # Cancelled in the queue. Nothing else is due yet …
    answer = tick(schedule, clock, SEVEN + 2 * MINUTE, "finished")
    assert reason(answer) == "Not due until 2026-06-10 08:00 UTC."
    assert (row(schedule).claim, row(schedule).claimed_at) == (None, None)
    # … and the next due time is claimed as ever.
    assert due(tick(schedule, clock, SEVEN + HOUR)) == SEVEN + HOUR


@database
def test_what_came_due_behind_a_run_that_ended_without_taking_its_claim_is_claimed_at_once(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    at = SEVEN + 61 * MINUTE
    assert due(tick(schedule, clock, at, "finished")) == SEVEN + HOUR
    stored = row(schedule)
    assert (stored.claim, stored.last_run, stored.next_run) == (
        SEVEN + HOUR,
        at,
        SEVEN + 2 * HOUR,
    )


@database
def test_while_a_claim_is_open_no_new_one_is_made_and_its_run_stands_for_what_passes(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    for hours in (1, 2, 3):
        assert isinstance(tick(schedule, clock, SEVEN + hours * HOUR, "under way"), Skip)
    assert row(schedule).claim == SEVEN
    clock.now = SEVEN + 3 * HOUR + 10 * MINUTE
    assert started(schedule, SEVEN, "a") is None
    assert row(schedule).next_run == SEVEN + 4 * HOUR
    assert "Not due until" in reason(tick(schedule, clock, clock.now))


@database
def test_no_due_time_that_passed_while_the_claim_was_open_is_claimed_while_its_run_takes_it(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    clock.now = at = SEVEN + HOUR + 10 * MINUTE
    answers: list[Due | Skip] = []

    def daemon() -> None:
        answers.append(request(schedule.pk, at, Runs("under way")))

    with others_get_in(before=daemon, after=daemon):
        assert started(schedule, SEVEN, "a") is None
    # The run stands for 08:00 too.
    assert [each for each in answers if isinstance(each, Due)] == []
    assert row(schedule).claim is None
    assert row(schedule).next_run == SEVEN + 2 * HOUR


@database
def test_an_open_claim_is_served_every_minute_until_it_is_taken(clock: Clock) -> None:
    schedule = register(interval_minutes=1440)
    due(tick(schedule, clock, SEVEN))
    assert row(schedule).cover(clock.now)[0] == [EVERY_MINUTE]
    started(schedule, SEVEN, "a")
    assert row(schedule).cover(clock.now)[0] == ["0 9 * * *"]


# --- Taking a claim -------------------------------------------------------------------------------


@database
def test_a_run_takes_its_claim_and_only_one_does(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    assert started(schedule, SEVEN, "first") is None
    stored = row(schedule)
    assert (stored.claim, stored.claimed_at, stored.last_run_id) == (None, None, "first")
    assert stored.last_run == SEVEN
    assert stored.next_run == SEVEN + HOUR
    second = started(schedule, SEVEN, "second")
    assert second is not None
    assert "Already run by run first" in second
    assert "2026-06-10 07:00 UTC" in second
    assert row(schedule).last_run_id == "first"


@database
def test_of_two_runs_that_take_a_claim_at_once_one_wins_and_the_other_names_it(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    assert started(schedule, SEVEN, "run-of-seven") is None
    due(tick(schedule, clock, SEVEN + HOUR))
    other: list[str | None] = []
    with others_get_in(before=lambda: other.append(started(schedule, SEVEN + HOUR, "winner"))):
        answer = started(schedule, SEVEN + HOUR, "loser")
    assert other[0] is None
    assert row(schedule).last_run_id == "winner"
    assert answer is not None
    assert "winner" in answer
    assert "run-of-seven" not in answer


@database
def test_a_run_that_has_taken_its_claim_goes_on_even_if_the_next_is_taken_at_that_moment(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    clock.now = SEVEN + HOUR - SECOND
    others: list[Any] = []

    def next_due_time() -> None:
        if not others:
            clock.now = SEVEN + HOUR
            others.append(request(schedule.pk, SEVEN + HOUR, Runs()))
            others.append(started(schedule, SEVEN + HOUR, "run of eight"))

    with others_get_in(after=next_due_time):
        answer = started(schedule, SEVEN, "run of seven")
    assert due(others[0]) == SEVEN + HOUR
    assert others[1] is None
    assert answer is None


@database
def test_the_same_run_may_take_its_claim_again_when_its_worker_is_started_again(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    assert started(schedule, SEVEN, "first") is None
    assert started(schedule, SEVEN, "first") is None


@database
def test_a_run_does_not_take_the_claim_on_another_due_time(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    assert started(schedule, SEVEN, "first") is None
    due(tick(schedule, clock, SEVEN + HOUR))
    assert started(schedule, SEVEN, "late") is not None
    assert row(schedule).claim == SEVEN + HOUR
    assert started(schedule, SEVEN + HOUR, "second") is None


@database
def test_a_claim_is_taken_to_the_microsecond(clock: Clock) -> None:
    schedule = register()
    at = utc("2026-06-10 06:42") + dt.timedelta(microseconds=123456)
    update(schedule, next_run=None)
    claimed = due(tick(schedule, clock, at))
    assert started(schedule, dt.datetime.fromisoformat(claimed.isoformat()), "a") is None


@database
def test_a_run_whose_schedule_was_deleted_may_not_go_on(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    job_name = schedule.process_tree.job_name
    schedule.delete()
    assert take(job_name, SEVEN, "a") == Skip(
        "The schedule that was due at 2026-06-10 07:00 UTC is gone."
    )


@database
def test_a_run_that_nobody_claimed_for_may_not_go_on() -> None:
    schedule = register()
    answer = started(schedule, SEVEN, "a")
    assert answer is not None
    assert "2026-06-10 07:00 UTC" in answer
    assert row(schedule).last_run_id == ""


@database
def test_a_claim_that_was_withdrawn_is_not_said_to_have_been_run_by_an_earlier_run(
    clock: Clock,
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    assert started(schedule, SEVEN, "run-of-seven") is None
    due(tick(schedule, clock, SEVEN + HOUR))
    stored = row(schedule)
    stored.enabled = False
    stored.save()
    answer = started(schedule, SEVEN + HOUR, "run-of-eight")
    assert answer is not None
    assert "run-of-seven" not in answer


# --- Disabled -------------------------------------------------------------------------------------


def save_enabled(schedule: ProcessTreeSchedule, enabled: bool) -> None:
    stored = row(schedule)
    stored.enabled = enabled
    stored.save()


def update_enabled(schedule: ProcessTreeSchedule, enabled: bool) -> None:
    update(schedule, enabled=enabled)


means = pytest.mark.parametrize("set_enabled", [save_enabled, update_enabled])
SetEnabled = Callable[[ProcessTreeSchedule, bool], None]


@database
@means
def test_a_disabled_due_tick_moves_next_run_on_without_running(
    clock: Clock, set_enabled: SetEnabled
) -> None:
    schedule = register()
    set_enabled(schedule, False)
    answer = tick(schedule, clock, SEVEN)
    assert reason(answer) == "Disabled in Django: the schedule's 'enabled' is off."
    stored = row(schedule)
    assert stored.next_run == SEVEN + HOUR
    assert (stored.last_run, stored.claim) == (None, None)
    assert isinstance(tick(schedule, clock, SEVEN + 5 * HOUR), Skip)
    assert row(schedule).next_run == SEVEN + 6 * HOUR


@database
def test_a_disabled_tick_that_is_not_due_moves_nothing(clock: Clock) -> None:
    schedule = register(enabled=False)
    before = ProcessTreeSchedule.objects.values().get()
    assert isinstance(tick(schedule, clock, SEVEN - MINUTE), Skip)
    assert ProcessTreeSchedule.objects.values().get() == before


@database
def test_a_disabled_schedule_that_is_due_now_is_moved_on_too(clock: Clock) -> None:
    schedule = register(enabled=False)
    update(schedule, next_run=None)
    assert isinstance(tick(schedule, clock, SEVEN - MINUTE), Skip)
    assert row(schedule).next_run == SEVEN


@database
@means
def test_a_tick_withdraws_the_open_claim_of_a_disabled_schedule(
    clock: Clock, set_enabled: SetEnabled
) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    set_enabled(schedule, False)
    assert isinstance(tick(schedule, clock, SEVEN + 2 * MINUTE), Skip)
    stored = row(schedule)
    assert (stored.claim, stored.claimed_at) == (None, None)
    assert stored.next_run == SEVEN + HOUR
    assert started(schedule, SEVEN, "a") is not None
    set_enabled(schedule, True)
    assert isinstance(tick(schedule, clock, SEVEN + 3 * MINUTE), Skip)


@database
@means
def test_a_schedule_that_is_enabled_again_has_no_backlog(
    clock: Clock, set_enabled: SetEnabled
) -> None:
    schedule = register()
    set_enabled(schedule, False)
    tick(schedule, clock, SEVEN)
    clock.now = SEVEN + 5 * HOUR + 20 * MINUTE  # nobody ticked meanwhile
    set_enabled(schedule, True)
    assert "Not due until" in reason(tick(schedule, clock, clock.now))
    assert row(schedule).next_run == SEVEN + 6 * HOUR
    assert due(tick(schedule, clock, SEVEN + 6 * HOUR)) == SEVEN + 6 * HOUR


@database
def test_a_weekly_schedule_keeps_its_day_when_it_is_disabled_and_enabled(clock: Clock) -> None:
    schedule = register(interval_minutes=7 * 1440)
    update(schedule, enabled=False)
    tick(schedule, clock, SEVEN + 26 * HOUR)
    update(schedule, enabled=True)
    tick(schedule, clock, SEVEN + 50 * HOUR)
    assert row(schedule).next_run == SEVEN + 7 * 24 * HOUR


# --- A rule that was changed behind save()'s back -------------------------------------------------


@database
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"interval_minutes": 30}, "2026-06-10 12:30"),
        ({"interval_minutes": 50}, "2026-06-10 12:50"),
        ({"interval_minutes": 1440}, "2026-06-11 07:00"),
        ({"start_time": dt.time(9, 45)}, "2026-06-10 12:45"),
        ({"timezone": "Asia/Kathmandu"}, "2026-06-10 13:15"),
    ],
)
def test_a_rule_changed_by_update_moves_to_its_next_due_time_from_now_without_a_backlog(
    clock: Clock, changes: dict[str, Any], expected: str
) -> None:
    schedule = register()
    update(schedule, **changes)
    at = utc("2026-06-10 12:20")  # overdue for hours
    assert "Not due until" in reason(tick(schedule, clock, at))
    stored = row(schedule)
    assert stored.next_run == stored.anchor == utc(expected)
    assert stored.next_run_rule == stored.current_rule
    assert stored.last_run is None
    assert due(tick(schedule, clock, utc(expected))) == utc(expected)


@database
def test_a_rule_changed_and_changed_back_between_two_ticks_is_none(clock: Clock) -> None:
    schedule = register()
    update(schedule, interval_minutes=30)
    update(schedule, interval_minutes=60)
    assert due(tick(schedule, clock, SEVEN)) == SEVEN


@database
def test_a_row_that_was_made_behind_saves_back_is_registered_at_its_first_tick(
    clock: Clock,
) -> None:
    tree = ProcessTree.objects.create(name="bulk", processes=[])
    [schedule] = ProcessTreeSchedule.objects.bulk_create(
        [ProcessTreeSchedule(process_tree=tree, start_time=dt.time(9, 0))]
    )
    assert row(schedule).next_run is None
    assert "Not due until" in reason(tick(schedule, clock, utc("2026-06-10 06:30")))
    assert row(schedule).next_run == row(schedule).anchor == SEVEN


@database
def test_an_open_claim_stays_open_when_the_rule_is_changed(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    update(schedule, interval_minutes=1440)
    assert isinstance(tick(schedule, clock, SEVEN + 10 * SECOND), Skip)
    assert row(schedule).claim == SEVEN
    assert row(schedule).next_run == SEVEN + 24 * HOUR
    assert due(tick(schedule, clock, SEVEN + 2 * MINUTE)) == SEVEN
    assert started(schedule, SEVEN, "a") is None


@database
def test_an_edit_by_an_object_loaded_before_the_claim_leaves_it_open(clock: Clock) -> None:
    schedule = register()
    stale = row(schedule)
    due(tick(schedule, clock, SEVEN))
    stale.context = {"tenant": 2}
    stale.save()
    assert isinstance(tick(schedule, clock, SEVEN + 10 * SECOND), Skip)
    assert started(schedule, SEVEN, "a") is None
    assert "Not due until" in reason(tick(schedule, clock, SEVEN + MINUTE))


# --- At once, with real connections ---------------------------------------------------------------


@pytest.fixture
def database_file(tmp_path: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Put the default database into a file of its own, so that each thread has a connection."""
    kept, settings = connections["default"], connections.settings["default"]
    changed = {
        **settings,
        "NAME": str(tmp_path / "claims.sqlite3"),
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
    with django_db_blocker.unblock():
        connections.settings["default"] = changed
        del connections["default"]
        try:
            call_command("migrate", verbosity=0)
            yield
        finally:
            connections["default"].close()
            connections.settings["default"] = settings
            connections["default"] = kept


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Return what ``count`` threads get that call at the same moment."""
    barrier = threading.Barrier(count)
    answers: list[Any] = [None] * count

    def work(number: int) -> None:
        try:
            barrier.wait()
            answers[number] = call(number)
        except Exception as error:  # noqa: BLE001  # shown by the test
            answers[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.usefixtures("database_file")
def test_of_many_processes_that_ask_at_once_one_claims_and_one_takes(clock: Clock) -> None:
    schedule = register()
    job_name = schedule.process_tree.job_name
    connections["default"].close()
    for hours in range(3):
        claim = SEVEN + hours * HOUR
        clock.now = claim + SECOND
        # Each asks with a time of its own, as several schedulers do.
        ticks = [claim + number * dt.timedelta(milliseconds=1) for number in range(8)]
        answers = at_once(8, lambda number: request(schedule.pk, ticks[number], Runs()))  # noqa: B023
        assert [each.due for each in answers if isinstance(each, Due)] == [claim], answers
        assert all(isinstance(each, (Due, Skip)) for each in answers), answers
        taken = at_once(8, lambda number: take(job_name, claim, f"run {hours}.{number}"))  # noqa: B023
        assert taken.count(Taken(claim, 1)) == 1, taken
        assert all(isinstance(each, (Taken, Skip)) for each in taken), taken
        assert row(schedule).last_run_id == f"run {hours}.{taken.index(Taken(claim, 1))}"
        connections["default"].close()


@database
def test_a_run_does_not_take_a_claim_of_a_schedule_that_was_switched_off(clock: Clock) -> None:
    schedule = register()
    due(tick(schedule, clock, SEVEN))
    update(schedule, enabled=False)
    reason = started(schedule, SEVEN, "queued")
    assert reason is not None
    assert "switched off" in reason


# --- Catching up ----------------------------------------------------------------------------------


@database
def test_a_run_knows_for_how_many_due_times_it_stands(clock: Clock) -> None:
    schedule = register()
    job_name = schedule.process_tree.job_name
    assert due(tick(schedule, clock, SEVEN)) == SEVEN
    taken = take(job_name, SEVEN, "a")
    assert taken == Taken(SEVEN, 1)
    assert str(taken) == "This run is for the due time 2026-06-10 07:00 UTC."
    # The scheduler was away until the evening, and the run waited in the queue for an hour.
    eight = SEVEN + HOUR
    assert due(tick(schedule, clock, SEVEN + 11 * HOUR)) == eight
    clock.now = SEVEN + 12 * HOUR
    taken = take(job_name, eight, "b")
    assert taken == Taken(eight, 12)
    assert str(taken) == (
        "This run stands for 12 due times: that of 2026-06-10 08:00 UTC, and those that have "
        "passed since."
    )
    assert row(schedule).next_run == SEVEN + 13 * HOUR


@database
def test_after_a_year_of_downtime_a_run_says_that_it_stands_for_many(clock: Clock) -> None:
    schedule = register(interval_minutes=1)
    assert schedule.next_run is not None
    first = schedule.next_run
    now = first + dt.timedelta(days=365)
    assert due(tick(schedule, clock, now)) == first
    taken = take(schedule.process_tree.job_name, first, "a")
    assert isinstance(taken, Taken)
    assert str(taken).startswith("This run stands for more than 1,000 due times: that of 2026-06-")
    assert row(schedule).next_run == now + MINUTE


@database
def test_a_run_finds_its_due_time_in_its_context_if_its_schedule_passes_it(clock: Clock) -> None:
    schedule = register(context={"tenant": 1}, pass_scheduled_for=True, timezone="Asia/Kathmandu")
    nine = utc("2026-06-11 03:15")
    decision = tick(schedule, clock, nine)
    assert isinstance(decision, Due)
    context = decode(decision.context)
    assert context == {"tenant": 1, "scheduled_for": nine}
    assert str(context["scheduled_for"]) == "2026-06-11 09:00:00+05:45"  # as its own clock shows it
    update(schedule, pass_scheduled_for=False, claim=None)
    decision = tick(schedule, clock, nine + HOUR)
    assert isinstance(decision, Due)
    assert decision.context == {"tenant": 1}


# --- The tick that is evaluated again -------------------------------------------------------------


@database
def test_a_tick_that_is_evaluated_again_gives_the_same_run_also_when_that_has_started(
    clock: Clock,
) -> None:
    schedule = register()
    for _ in range(2):
        assert due(tick(schedule, clock, SEVEN)) == SEVEN
    assert started(schedule, SEVEN, "a") is None
    for _ in range(2):
        assert due(tick(schedule, clock, SEVEN)) == SEVEN  # Dagster finds the run by its key
    assert started(schedule, SEVEN, "b") is not None  # and if it did not, this one does nothing
    assert reason(tick(schedule, clock, SEVEN + MINUTE)).startswith("Not due until")


# --- Overlap --------------------------------------------------------------------------------------


def run_is_started(schedule: ProcessTreeSchedule, clock: Clock, at: dt.datetime) -> None:
    assert started(schedule, due(tick(schedule, clock, at)), f"run of {at:%H:%M}") is None


@database
def test_what_is_due_while_the_last_run_is_still_running_is_kept_and_runs_when_it_ends(
    clock: Clock,
) -> None:
    schedule = register()
    run_is_started(schedule, clock, SEVEN)
    running = Runs(status=RunStatus.STARTED)
    clock.now = SEVEN + HOUR
    assert reason(request(schedule.pk, SEVEN + HOUR, running)) == (
        "The last run (run of 07:00) is still running; the due time 2026-06-10 08:00 UTC is kept "
        "until it ends."
    )
    assert running.asked_of_runs == ["run of 07:00"]
    assert row(schedule).next_run == SEVEN + HOUR
    end("run of 07:00", RunStatus.SUCCESS)
    assert due(tick(schedule, clock, SEVEN + HOUR + MINUTE)) == SEVEN + HOUR


@database
def test_several_kept_due_times_become_one_run(clock: Clock) -> None:
    schedule = register()
    run_is_started(schedule, clock, SEVEN)
    for hours in (1, 2, 3):
        at = clock.now = SEVEN + hours * HOUR
        assert "is kept" in reason(request(schedule.pk, at, Runs(status=RunStatus.STARTED)))
    end("run of 07:00", RunStatus.FAILURE)
    assert due(tick(schedule, clock, SEVEN + 3 * HOUR + MINUTE)) == SEVEN + HOUR
    assert take(schedule.process_tree.job_name, SEVEN + HOUR, "b") == Taken(SEVEN + HOUR, 3)
    assert "Not due until 2026-06-10 11:00" in reason(tick(schedule, clock, SEVEN + 3.5 * HOUR))


@database
def test_with_allow_overlap_the_next_run_does_not_wait(clock: Clock) -> None:
    schedule = register(allow_overlap=True)
    run_is_started(schedule, clock, SEVEN)
    clock.now = SEVEN + HOUR
    decision = request(schedule.pk, SEVEN + HOUR, Runs(status=RunStatus.STARTED))
    assert due(decision) == SEVEN + HOUR


@database
def test_a_last_run_that_ended_without_a_word_keeps_nothing_back(clock: Clock) -> None:
    schedule = register()
    run_is_started(schedule, clock, SEVEN)
    clock.now = SEVEN + HOUR
    decision = request(schedule.pk, SEVEN + HOUR, Runs(status=RunStatus.FAILURE))
    assert due(decision) == SEVEN + HOUR
    assert row(schedule).last_run_status == RunStatus.FAILURE


@database
def test_a_run_that_has_said_how_it_ended_is_not_asked_about(clock: Clock) -> None:
    schedule = register()
    run_is_started(schedule, clock, SEVEN)
    end("run of 07:00", RunStatus.SUCCESS)
    history = Runs()
    clock.now = SEVEN + HOUR
    assert due(request(schedule.pk, SEVEN + HOUR, history)) == SEVEN + HOUR
    assert history.asked_of_runs == []


@database
def test_a_schedule_whose_run_takes_long_is_looked_at_every_minute(clock: Clock) -> None:
    schedule = register(interval_minutes=10080)
    at = utc("2026-06-10 07:00")
    run_is_started(schedule, clock, at)
    assert row(schedule).cover(at + MINUTE)[0] != [EVERY_MINUTE]
    assert row(schedule).cover(at + 3 * MINUTE)[0] == [EVERY_MINUTE]
    end("run of 07:00", RunStatus.SUCCESS)
    assert row(schedule).cover(at + 3 * MINUTE)[0] != [EVERY_MINUTE]


@database
def test_the_end_of_an_earlier_run_says_nothing_of_the_last_one(clock: Clock) -> None:
    schedule = register(allow_overlap=True)
    run_is_started(schedule, clock, SEVEN)
    run_is_started(schedule, clock, SEVEN + HOUR)
    end("run of 07:00", RunStatus.FAILURE)
    assert row(schedule).last_run_status == RunStatus.STARTED
    assert row(schedule).last_run_id == "run of 08:00"


@database
def test_a_run_that_another_worker_goes_on_with_is_watched_there(clock: Clock) -> None:
    schedule = register()
    take(schedule.process_tree.job_name, due(tick(schedule, clock, SEVEN)), "a", "host 1 10")
    assert row(schedule).last_run_worker == "host 1 10"
    assert resume(SEVEN, "a", "host 2 20") == Taken(SEVEN, 1)
    assert row(schedule).last_run_worker == "host 2 20"


# Many at once


STATES: dict[str, dict[str, Any]] = {
    "due": {"enabled": True},
    "not due": {"next_run": SEVEN + HOUR},
    "due now": {"next_run": None},
    "disabled": {"enabled": False},
    "claimed a moment ago": {"claim": SEVEN - HOUR, "claimed_at": SEVEN},
    "claimed long ago": {"claim": SEVEN - HOUR, "claimed_at": SEVEN - HOUR},
    "still running": {"last_run_status": RunStatus.STARTED, "last_run_id": "r"},
    "ticked before": {"last_run": SEVEN, "last_due": SEVEN},
    "too late": {"not_after_minutes": 30, "next_run": SEVEN - HOUR},
    "another rule": {"interval_minutes": 30},
    "at its end": {"end_date": dt.date(2026, 1, 1)},
    "an impossible zone": {"timezone": "No/Where"},
}


@database
@pytest.mark.parametrize("state", STATES)
def test_several_are_decided_on_as_each_by_itself(clock: Clock, state: str) -> None:
    def seen(decision: Due | Skip | Exception) -> tuple[object, ...]:
        if isinstance(decision, Due):
            return "due", decision.due
        return type(decision).__name__, getattr(decision, "reason", "")

    alone, together, neighbour = register(), register(), register()
    for schedule in (alone, together):
        update(schedule, **STATES[state])
    clock.now = SEVEN + SECOND

    def running(pk: int) -> Runs:
        return Runs("none", RunStatus.STARTED)

    try:
        expected: Due | Skip | Exception = request(alone.pk, SEVEN, running(alone.pk))
    except Exception as error:  # noqa: BLE001  # it is compared
        expected = error
    found = request_together(dict.fromkeys([together.pk, neighbour.pk, 0], SEVEN), running)
    assert seen(found[together.pk]) == seen(expected)
    columns = [each.attname for each in ProcessTreeSchedule._meta.concrete_fields]
    differ = {"id", "process_tree_id", "dagster_name", "name"}
    rows = ProcessTreeSchedule.objects.filter(pk__in=[alone.pk, together.pk])
    mine, theirs = rows.order_by("pk").values(*[each for each in columns if each not in differ])
    assert mine == theirs
    assert seen(found[neighbour.pk]) == ("due", SEVEN)
    assert seen(found[0]) == seen(Skip("The tree or its schedule was deleted."))


@database
def test_a_paused_one_is_held_among_others_that_run(clock: Clock) -> None:
    paused, other = register(), register()
    clock.now = SEVEN + SECOND
    Pause.objects.create(schedule=paused, since=SEVEN - HOUR, reason="stock-taking")
    found = request_together({paused.pk: SEVEN, other.pk: SEVEN}, lambda pk: Runs())
    assert isinstance(found[other.pk], Due)
    held = found[paused.pk]
    assert isinstance(held, Skip)
    assert "stock-taking" in held.reason


@database
def test_a_hundred_are_claimed_with_a_query_and_an_update_each(
    clock: Clock, django_assert_max_num_queries: Any
) -> None:
    schedules = [register() for _ in range(100)]
    clock.now = SEVEN + SECOND
    with django_assert_max_num_queries(100 + 4):
        found = request_together({each.pk: SEVEN for each in schedules}, lambda pk: Runs())
    assert all(isinstance(each, Due) for each in found.values())


@database
def test_one_that_another_process_claims_between_is_its_own(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = register(), register()
    clock.now = SEVEN + SECOND
    real = due_time_claims._is_simple

    def outrun(schedule: ProcessTreeSchedule, *args: Any) -> bool:
        simple = real(schedule, *args)
        if schedule.pk == theirs.pk:
            assert isinstance(request(theirs.pk, SEVEN + SECOND, Runs()), Due)
        return simple

    monkeypatch.setattr(due_time_claims, "_is_simple", outrun)
    found = request_together({mine.pk: SEVEN, theirs.pk: SEVEN}, lambda pk: Runs())
    assert isinstance(found[mine.pk], Due)
    lost = found[theirs.pk]
    assert isinstance(lost, Skip)
    assert "has just been requested" in lost.reason


@pytest.mark.django_db(databases=["default", "north"])
def test_a_claim_that_a_replica_has_not_seen_yet_is_taken(clock: Clock, settings: Settings) -> None:
    schedule = register()
    due = tick(schedule, clock, SEVEN)
    assert isinstance(due, Due)
    tree = ProcessTree.objects.get()
    tree.save(using="north", force_insert=True)  # as it was before
    settings.DATABASE_ROUTERS = [Replicated()]
    assert isinstance(take(tree.job_name, SEVEN, "run"), Taken)
    end("run", RunStatus.SUCCESS)
    clock.now += HOUR
    assert isinstance(request(schedule.pk, SEVEN + HOUR, Runs()), Due)
