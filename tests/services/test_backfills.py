"""Backfills: a run for each due time of a range, oldest first, some at once, none twice."""

import datetime as dt
import json
from collections.abc import Collection
from typing import Any

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from django.core.management import CommandError, call_command
from django.utils import timezone

from proctree_dagster.context import decode
from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import ScheduleError
from proctree_dagster.models import (
    Backfill,
    BackfillState,
    OutboxRun,
    OutboxState,
    ProcessTree,
    ProcessTreeSchedule,
)
from proctree_dagster.orchestration.runs import backfill_runs, create, family_runs
from proctree_dagster.orchestration.runs.schedule_claims import due_tag
from proctree_dagster.services import backfills
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools.schedules import HOUR, utc

pytestmark = pytest.mark.django_db

FIRST = utc("2026-01-05 00:00")
DAY = dt.timedelta(days=1)


@pytest.fixture
def schedule() -> ProcessTreeSchedule:
    """Due at 09:00 UTC each day."""
    tree = ProcessTreeInstance("books").add_process("only", func=processes.echo)
    tree.save()
    return tree.register_schedule(cron="0 9 * * *", timezone="UTC", context={"firm": "harbour"})


def start(schedule: ProcessTreeSchedule, days: int = 5, **options: Any) -> Backfill:
    return backfills.start(schedule, FIRST, FIRST + days * DAY, **options)


Moments = Collection[dt.datetime]


def none_has(
    schedule: ProcessTreeSchedule, due: Collection[dt.datetime]
) -> Collection[dt.datetime]:
    return []


def due_of(run_ids: Collection[str]) -> list[str]:
    """Return the days of the due times of some runs, as recorded."""
    rows = OutboxRun.objects.filter(run_id__in=run_ids).order_by("pk")
    return [row.tags[run_tags.DUE_OF_ROW][:10] for row in rows]


def end_all(*days: str) -> None:
    """Let runs end: their rows hold their keys no more."""
    for row in OutboxRun.objects.all():
        if not days or row.tags[run_tags.DUE_OF_ROW][:10] in days:
            OutboxRun.objects.filter(pk=row.pk).update(key_held=None, state=OutboxState.STARTED)


class TestRequesting:
    def test_the_oldest_due_times_first_and_no_more_at_once_than_the_limit(
        self, schedule: ProcessTreeSchedule
    ) -> None:
        row = start(schedule, limit=2)
        assert due_of(backfills.request(row.pk, none_has)) == ["2026-01-05", "2026-01-06"]
        assert backfills.request(row.pk, none_has) == []
        end_all("2026-01-06")  # the older one takes long: the next oldest does not wait for it
        assert due_of(backfills.request(row.pk, none_has)) == ["2026-01-07"]

    def test_a_run_finds_its_due_time_in_its_context_in_the_schedules_zone(
        self, schedule: ProcessTreeSchedule
    ) -> None:
        schedule.timezone = "Africa/Johannesburg"
        schedule.save()
        [made] = backfills.request(start(schedule, limit=1).pk, none_has)
        context = decode(OutboxRun.objects.get(run_id=made).context)
        assert context["firm"] == "harbour"
        assert context["scheduled_for"].isoformat() == "2026-01-05T09:00:00+02:00"

    def test_a_due_time_that_the_schedule_has_run_is_left_out_and_counted(
        self, schedule: ProcessTreeSchedule
    ) -> None:
        def second_has(schedule: ProcessTreeSchedule, due: Moments) -> Moments:
            return [each for each in due if each.day == 6]

        row = start(schedule)
        made = backfills.request(row.pk, second_has)
        assert due_of(made) == ["2026-01-05", "2026-01-07", "2026-01-08", "2026-01-09"]
        row.refresh_from_db()
        assert (row.requested, row.left_out) == (4, 1)

    def test_no_due_time_is_run_twice_by_two_backfills(self, schedule: ProcessTreeSchedule) -> None:
        first, second = start(schedule, days=2), start(schedule, days=4)
        one, other = (due_of(backfills.request(each.pk, none_has)) for each in (first, second))
        assert one == ["2026-01-05", "2026-01-06"]
        assert other == ["2026-01-07", "2026-01-08"]

    def test_what_another_process_has_requested_meanwhile_is_not_requested_again(
        self, schedule: ProcessTreeSchedule
    ) -> None:
        row = start(schedule, limit=1)
        of_other: list[str] = []

        def meanwhile(schedule: ProcessTreeSchedule, due: Moments) -> Moments:
            of_other.extend(backfills.request(row.pk, none_has))
            return []

        assert backfills.request(row.pk, meanwhile) == []
        assert due_of(of_other) == ["2026-01-05"]

    def test_it_is_done_when_the_last_run_has_ended(self, schedule: ProcessTreeSchedule) -> None:
        row = start(schedule, days=2)
        backfills.request(row.pk, none_has)
        backfills.request(row.pk, none_has)
        row.refresh_from_db()
        assert row.state == BackfillState.RUNNING
        end_all()
        backfills.request(row.pk, none_has)
        row.refresh_from_db()
        assert row.state == BackfillState.DONE

    def test_stopped_it_requests_nothing_and_resumed_it_goes_on_where_it_was(
        self, schedule: ProcessTreeSchedule
    ) -> None:
        row = start(schedule, limit=1)
        backfills.request(row.pk, none_has)
        assert backfills.stop(row)
        end_all()
        assert backfills.running() == []
        assert backfills.request(row.pk, none_has) == []
        assert not backfills.stop(row)
        assert backfills.resume(row)
        assert due_of(backfills.request(row.pk, none_has)) == ["2026-01-06"]


class TestWhatIsRefused:
    def test_what_is_overdue_or_to_come_is_the_schedules_own(
        self, schedule: ProcessTreeSchedule
    ) -> None:
        now = timezone.now().replace(second=0, microsecond=0)
        ProcessTreeSchedule.objects.update(next_run=now - 3 * DAY)
        schedule.refresh_from_db()
        row = backfills.start(schedule, now - 5 * DAY, now + 5 * DAY)
        left = list(row.due_times_left(now))
        assert left
        assert max(left) < now - 3 * DAY
        ProcessTreeSchedule.objects.update(enabled=False)  # it runs nothing then
        row = Backfill.objects.get(pk=row.pk)
        assert max(row.due_times_left(now)) > now - 2 * DAY

    @pytest.mark.parametrize(("first", "last"), [(3, 1), (0.5, 0.6)])
    def test_a_range_in_which_nothing_was_due(
        self, schedule: ProcessTreeSchedule, first: float, last: float
    ) -> None:
        with pytest.raises(ScheduleError, match=r"ends|Nothing was due"):
            backfills.start(schedule, FIRST + first * DAY, FIRST + last * DAY)
        assert not Backfill.objects.exists()

    def test_a_schedule_with_a_run_for_each_row(self, schedule: ProcessTreeSchedule) -> None:
        ProcessTreeSchedule.objects.update(for_each={"model": "app.Organisation"})
        schedule.refresh_from_db()
        with pytest.raises(ScheduleError, match="submit_tree"):
            start(schedule)


@pytest.mark.parametrize("minutes", [50, 45, 2880])
def test_due_times_before_the_schedule_was_saved_follow_its_rhythm(minutes: int) -> None:
    """Counted back from the first due time, as those after it are counted on."""
    tree = ProcessTreeInstance("rhythm").add_process("only", func=processes.one)
    tree.save()
    schedule = tree.register_schedule(
        interval_minutes=minutes, start_time=dt.time(9, 0), timezone="UTC"
    )
    anchor = schedule.anchor
    assert anchor is not None
    step = dt.timedelta(minutes=minutes)
    found = []
    for due in schedule.due_times_since(anchor - 5 * step):
        found.append(due)
        if due > anchor:
            break
    assert anchor in found
    if minutes != 45:  # it divides a day: the same wall-clock times each day
        assert found == [anchor + number * step for number in range(-5, 2)]
    else:
        assert all((due - due.replace(hour=0, minute=0)) % step == dt.timedelta(0) for due in found)


def test_business_days_hold_for_what_has_passed_too(schedule: ProcessTreeSchedule) -> None:
    schedule = schedule.process_tree.schedule
    schedule.business_days, schedule.calendar = "skip", "weekdays"
    schedule.save()
    days = [due.day for due in start(schedule, days=9).due_times_left(timezone.now())]
    assert days == [5, 6, 7, 8, 9, 12, 13]


def test_a_rule_that_became_invalid_holds_up_no_other_backfill_and_is_said(
    instance: DagsterInstance, schedule: ProcessTreeSchedule, caplog: pytest.LogCaptureFixture
) -> None:
    other = ProcessTreeInstance("other").add_process("only", func=processes.one)
    other.save()
    broken, good = start(schedule), start(other.register_schedule(cron="0 9 * * *"))
    ProcessTreeSchedule.objects.filter(pk=schedule.pk).update(cron="often")
    backfill_runs.advance(instance)
    assert f"Backfill {broken.pk} can't go on now." in caplog.text
    assert OutboxRun.objects.filter(backfill=good).count() == good.limit
    assert "often" in Backfill.objects.get(pk=broken.pk).left_in_words(timezone.now())


class TestInDagster:
    def test_runs_are_queued_as_others_end_and_found_by_the_backfills_tag(
        self, instance: DagsterInstance, schedule: ProcessTreeSchedule
    ) -> None:
        row = start(schedule, days=3, limit=1, made_by="ann")
        for day in (5, 6, 7):
            backfill_runs.advance(instance)
            [run] = [each for each in instance.get_runs() if not each.is_finished]
            assert run.tags[run_tags.BACKFILL] == str(row.pk)
            assert run.tags[run_tags.TRIGGERED_BY] == "backfill"
            assert run.tags[run_tags.USER] == "ann"
            assert run.tags[run_tags.DUE_OF_ROW].startswith(f"2026-01-0{day}")
            for name in ("RUN_START", "RUN_FAILURE" if day == 5 else "RUN_SUCCESS"):
                event = DagsterEvent(DagsterEventType[name].value, run.job_name)
                instance.report_dagster_event(event, run_id=run.run_id)
            family_runs.end(instance, run.run_id)
        row.refresh_from_db()
        assert row.state == BackfillState.DONE
        assert len(instance.get_runs()) == 3

    def test_a_due_time_with_a_run_of_the_schedule_is_left_out_whatever_came_of_it(
        self, instance: DagsterInstance, schedule: ProcessTreeSchedule
    ) -> None:
        from proctree_dagster.orchestration.configured import translator
        from proctree_dagster.orchestration.tree_records import from_row

        job = translator().job(from_row(ProcessTree.objects.with_links().get()))
        due = {run_tags.DUE: due_tag(FIRST + 9 * HOUR)}
        create.create_run(instance, job, {}, due)
        create.create_run(instance, job, {}, {**due, run_tags.SCHEDULE: "another"})
        row = start(schedule, days=2)
        backfill_runs.advance(instance)
        row.refresh_from_db()
        assert (row.requested, row.left_out) == (1, 1)


class TestCommandLine:
    def test_it_is_begun_listed_stopped_and_resumed(
        self, schedule: ProcessTreeSchedule, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command(
            *("proctree", "backfill", "books", "--from", "2026-01-05", "--to", "2026-01-07"),
            *("--limit", "2"),
        )
        assert "3 due times of books, 2 at once" in capsys.readouterr().out
        row = Backfill.objects.get()
        call_command("proctree", "backfill", "--stop", str(row.pk))
        assert "is stopped" in capsys.readouterr().out
        call_command("proctree", "backfills", "--json")
        [shown] = json.loads(capsys.readouterr().out)
        assert (shown["tree"], shown["state"], shown["left"]) == ("books", "stopped", "3")
        call_command("proctree", "backfill", "--resume", str(row.pk))
        assert "3 due times are left" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["books"], "--from and --to"),
            (["books", "--from", "yesterday", "--to", "2026-01-07"], "'yesterday' is no moment"),
            (["books", "--from", "2026-02-30", "--to", "2026-03-07"], "'2026-02-30' is no moment"),
            (["--stop", "77"], "no backfill 77"),
            (["books", "--stop", "77"], "Name a tree, or"),
            (["books", "--from", "2026-01-01", "--to", "2026-01-07", "--limit", "0"], "--limit"),
        ],
    )
    def test_what_is_mistyped_is_said(
        self, schedule: ProcessTreeSchedule, given: list[str], said: str
    ) -> None:
        with pytest.raises(CommandError, match=said):
            call_command("proctree", "backfill", *given)
        assert not Backfill.objects.exists()
