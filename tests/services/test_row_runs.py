"""Schedules with a run for each row: one claim, a run for each, recorded together."""

import datetime as dt
import itertools
from typing import Any

import pytest
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    build_schedule_context,
)
from django.db import models
from django.utils import timezone, translation
from pytest_django import Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import ContextError, ScheduleError, TreeFailed
from proctree_dagster.models import OutboxRun, OutboxState, ProcessTreeSchedule
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.runs import family_runs
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.running import row_execution, tree_runs
from proctree_dagster.services import due_time_claims, pauses, row_runs, run_outbox
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.app.models import Organisation

pytestmark = pytest.mark.django_db

DUE = dt.datetime(2026, 6, 10, 9, 0, tzinfo=dt.UTC)


class NoHistory:
    """Dagster's history without a run."""

    def of_claim(self, due: dt.datetime) -> Any:
        return "none"

    def of_run(self, run_id: str, worker: str) -> Any:
        raise AssertionError("no run of it is asked for")


@pytest.fixture
def organisations() -> list[Organisation]:
    names = ("harbour", "brook", "moor")
    return [Organisation.objects.create(name=name) for name in names]


def schedule(for_each: Any = "app.Organisation", func: Any = processes.echo, **options: Any) -> Any:
    tree = ProcessTreeInstance("books", overwrite=True).add_process("only", func=func)
    tree.save()
    return tree.register_schedule(cron="0 9 * * *", for_each=for_each, **options)


def fails_in_2025(year: int) -> int:
    if year == 2025:
        raise ValueError("not for 2025")
    return year


fails_in_2025.__module__ = processes.__name__


def make_due(due: dt.datetime = DUE) -> None:
    ProcessTreeSchedule.objects.update(next_run=due)


def decide(due: dt.datetime = DUE) -> Any:
    """Claim a due time, and record its runs as a tick does."""
    make_due(due)
    decision = due_time_claims.request(ProcessTreeSchedule.objects.get().pk, due, NoHistory())
    assert isinstance(decision, due_time_claims.Due)
    return row_runs.request(decision, due)


def names(rows: Any = None) -> list[str]:
    """Return the names of the organisations of recorded runs, in their order."""
    rows = OutboxRun.objects.order_by("pk") if rows is None else rows
    by_key = dict(Organisation.objects.values_list("pk", "name"))
    return [by_key[row.context["organisation"]["pk"]] for row in rows]


class TestRecording:
    def test_one_due_time_is_a_run_for_each_row_and_closes_its_claim(
        self, organisations: list[Organisation], django_assert_max_num_queries: Any
    ) -> None:
        schedule(context={"year": 2026}, tags={"team": "books"}, pass_scheduled_for=True)
        with django_assert_max_num_queries(30):
            requested = decide()
        assert requested.count == 3
        assert requested.reason == "Requested 3 runs, one for each app.Organisation."
        row = ProcessTreeSchedule.objects.get()
        assert (row.claim, row.last_due, row.last_run_status) == (None, DUE, "")
        first = OutboxRun.objects.first()
        assert first is not None
        assert names() == ["harbour", "brook", "moor"]
        assert first.context["year"] == 2026
        assert "scheduled_for" in first.context
        assert first.state == OutboxState.WAITING
        wanted = {
            "team": "books",
            "context/organisation": f"app.Organisation:{organisations[0].pk}",
            run_tags.TRIGGERED_BY: "schedule",
            run_tags.SCHEDULE_NAME: "books_schedule",
        }
        assert wanted.items() <= first.tags.items()

    @pytest.mark.django_db(databases=["default", "north"])
    def test_rows_of_two_databases_with_the_same_key_are_two_runs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for alias in ("default", "north"):
            Organisation.objects.using(alias).create(pk=1, name=alias)

        def both() -> Any:
            return [Organisation.objects.using(alias).get(pk=1) for alias in ("default", "north")]

        both.__module__, both.__qualname__ = processes.__name__, "both"
        monkeypatch.setattr(processes, "both", both, raising=False)
        schedule({"function": "tests.app.processes:both"}, as_="organisation")
        assert decide().reason.startswith("Requested 2 runs")
        rows = [row.context["organisation"] for row in OutboxRun.objects.order_by("pk")]
        assert [row.get("using") for row in rows] == [None, "north"]

    def test_a_function_of_rows_leaves_no_language_and_no_zone_behind(
        self, organisations: list[Organisation], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def moves() -> Any:
            translation.activate("de")
            timezone.activate("Asia/Tokyo")
            yield from organisations

        moves.__module__, moves.__qualname__ = processes.__name__, "moves"
        monkeypatch.setattr(processes, "moves", moves, raising=False)
        schedule({"function": "tests.app.processes:moves"}, as_="organisation")
        before = translation.get_language(), timezone.get_current_timezone_name()
        assert decide().count == 3
        assert (translation.get_language(), timezone.get_current_timezone_name()) == before

    def test_what_is_recorded_twice_is_one_run(self, organisations: list[Organisation]) -> None:
        schedule()
        decide()
        ids = set(OutboxRun.objects.values_list("run_id", flat=True))
        ProcessTreeSchedule.objects.update(claim=DUE)  # whoever wrote them had not closed it
        found = ProcessTreeSchedule.objects.select_related("process_tree").get()
        row_runs.request(due_time_claims.Due(found, DUE), DUE)
        assert set(OutboxRun.objects.values_list("run_id", flat=True)) == ids
        again = row_runs.request(due_time_claims.Due(found, DUE), DUE)
        assert isinstance(again, due_time_claims.Skip)
        decide(DUE + dt.timedelta(days=1))
        assert OutboxRun.objects.count() == 3, "those of the day before wait still"

    def test_rows_come_filtered_and_ordered_and_are_spread_over_minutes(
        self, organisations: list[Organisation]
    ) -> None:
        chosen = {"model": "app.Organisation", "filter": {"name__contains": "oo"}}
        schedule(chosen, as_="organisation", order_by="-name", spread_minutes=10)
        requested = decide()
        assert "2 runs, one for each app.Organisation, spread over 10 minutes." in requested.reason
        assert names() == ["moor", "brook"]
        times = list(OutboxRun.objects.order_by("pk").values_list("run_after", flat=True))
        assert times == [None, DUE + dt.timedelta(minutes=5)]

    def test_after_a_downtime_they_are_spread_from_now_on(
        self, organisations: list[Organisation]
    ) -> None:
        schedule(spread_minutes=30)
        make_due()
        now = DUE + dt.timedelta(hours=8)
        decision = due_time_claims.request(ProcessTreeSchedule.objects.get().pk, now, NoHistory())
        assert isinstance(decision, due_time_claims.Due)
        row_runs.request(decision, now)
        times = list(OutboxRun.objects.order_by("pk").values_list("run_after", flat=True))
        minutes = [now + dt.timedelta(minutes=each) for each in (10, 20)]
        assert times == [None, *minutes]

    def test_rows_that_come_or_go_count_at_the_next_due_time(
        self, organisations: list[Organisation]
    ) -> None:
        schedule(allow_overlap=True)
        decide()
        organisations[1].delete()
        Organisation.objects.create(name="dale")
        tomorrow = DUE + dt.timedelta(days=1)
        OutboxRun.objects.all().delete()
        decide(tomorrow)
        assert names() == ["harbour", "moor", "dale"]

    def test_a_function_yields_contexts(self, organisations: list[Organisation]) -> None:
        schedule(processes.tenants, context={"region": "north"})
        requested = decide()
        assert "one for each context of tests.app.processes:tenants" in requested.reason
        found = [row.context for row in OutboxRun.objects.order_by("pk")]
        expected = {"region": "north", "place": "north"}
        assert found == [{**expected, "tenant": name} for name in ("brook", "harbour", "moor")]

    def test_what_a_function_yields_twice_counts_once_and_that_is_said(
        self, organisations: list[Organisation]
    ) -> None:
        Organisation.objects.create(name="brook")
        schedule(processes.tenants)
        requested = decide()
        assert requested.reason.endswith("tenants. Left out, as it was yielded before: 1.")
        assert (requested.count, OutboxRun.objects.count()) == (3, 3)

    @pytest.mark.parametrize(
        ("func", "why"),
        [(processes.no_contexts, "must yield contexts"), (processes.exits, "raised SystemExit")],
    )
    def test_a_function_that_yields_no_contexts_is_an_error_and_the_claim_stays_open(
        self, organisations: list[Organisation], func: Any, why: str
    ) -> None:
        schedule(func)
        with pytest.raises(ScheduleError, match=why):
            decide()
        assert ProcessTreeSchedule.objects.get().claim == DUE
        assert not OutboxRun.objects.exists()

    def test_an_open_claim_of_a_process_that_was_killed_is_taken_up_again(
        self, organisations: list[Organisation]
    ) -> None:
        schedule()
        make_due()
        pk = ProcessTreeSchedule.objects.get().pk
        due_time_claims.request(pk, DUE, NoHistory())  # and no more
        later = due_time_claims.request(pk, DUE + dt.timedelta(minutes=1), NoHistory())
        assert isinstance(later, due_time_claims.Skip)
        ProcessTreeSchedule.objects.update(claimed_at=timezone.now() - dt.timedelta(minutes=2))
        decision = due_time_claims.request(pk, DUE + dt.timedelta(minutes=2), NoHistory())
        assert isinstance(decision, due_time_claims.Due)
        assert decision.due == DUE
        assert row_runs.request(decision, DUE).count == 3  # type: ignore[union-attr]

    def test_a_rule_that_sql_has_written_reads_nothing_that_is_not_allowed(
        self, organisations: list[Organisation]
    ) -> None:
        schedule()
        for wrong, why in [
            ({"function": "os:system"}, "not allowed"),
            ({"model": "sessions.Session"}, "TRIGGER_MODELS"),
            ({"model": "auth.User", "filter": {"password__startswith": "a"}}, "secret"),
            ([1], "must be a dictionary"),
            ({"model": "app.Organisation", "function": "x:y"}, "one of them only"),
        ]:
            as_it_is = models.Value(wrong, output_field=models.JSONField())
            models.QuerySet(ProcessTreeSchedule).update(for_each=as_it_is, claim=None)
            with pytest.raises(ScheduleError, match=why):
                decide()
        assert not OutboxRun.objects.exists()


class TestOverlap:
    def test_of_each_row_one_run_goes_on_and_one_more_waits_at_most(
        self, organisations: list[Organisation], instance: DagsterInstance
    ) -> None:
        schedule()
        decide()
        tree_runs.deliver()
        ended, *_ = (str(each) for each in OutboxRun.objects.values_list("run_id", flat=True))
        run = instance.get_run_by_id(ended)
        assert run is not None
        for kind in (DagsterEventType.RUN_START, DagsterEventType.RUN_SUCCESS):
            event = DagsterEvent(kind.value, run.job_name)
            instance.report_dagster_event(event, run_id=ended)
        family_runs.end(instance, ended)
        second = decide(DUE + dt.timedelta(days=1))
        assert "2 of them begin when the previous run for the same one has ended." in second.reason
        tree_runs.deliver()
        assert len(instance.get_runs()) == 4
        third = decide(DUE + dt.timedelta(days=2))
        assert third.count == 1
        assert "Not requested for 2, whose run for an earlier due time still waits" in third.reason
        assert f"app.Organisation:{organisations[1].pk}" in third.reason

    def test_with_allow_overlap_they_are_not_kept_waiting(
        self, organisations: list[Organisation], instance: DagsterInstance
    ) -> None:
        schedule(allow_overlap=True)
        for day in range(2):
            decide(DUE + dt.timedelta(days=day))
            tree_runs.deliver()
        assert len(instance.get_runs()) == 6


def test_a_tick_of_the_daemon_records_the_runs_and_says_how_many(
    organisations: list[Organisation], instance: DagsterInstance
) -> None:
    schedule()
    make_due()
    definition = LiveRepositoryData(ProcessTreeTranslator()).get_schedule("books_schedule")
    for said in ("Requested 3 runs, one for each app.Organisation.", "were requested before"):
        context = build_schedule_context(instance=instance, scheduled_execution_time=DUE)
        ticked = definition.evaluate_tick(context)
        assert said in str(ticked.skip_message)
    assert OutboxRun.objects.count() == 3
    tree_runs.deliver()
    launched = {run.tags[run_tags.SCHEDULE_NAME] for run in instance.get_runs()}
    assert launched == {"books_schedule"}


def test_what_is_recorded_waits_for_the_end_of_a_pause(
    organisations: list[Organisation], instance: DagsterInstance
) -> None:
    schedule()
    decide()
    pause = pauses.begin(ProcessTreeSchedule.objects.get(), reason="migrating")
    assert tree_runs.deliver() == []
    assert all("migrating" in row.reason for row in OutboxRun.objects.all())
    assert check_and_run_scheduled_tasks() == {}
    pauses.end([pause])
    assert len(tree_runs.deliver()) == 3


class TestHere:
    def test_the_runs_of_rows_are_executed_where_due_times_are_checked(
        self, organisations: list[Organisation], settings: Settings
    ) -> None:
        schedule(func=processes.fails_for_brook, spread_minutes=0)
        make_due(timezone.now())
        [results] = check_and_run_scheduled_tasks().values()
        labels = [f"app.Organisation:{each.pk}" for each in organisations]
        assert list(results["status"].items()) == list(
            zip(labels, ("completed", "failed", "completed"), strict=True)
        )
        assert not results["success"]
        assert "not for brook" in results["errors"][labels[1]]
        assert set(OutboxRun.objects.values_list("state", "key_held")) == {("started", None)}
        assert check_and_run_scheduled_tasks() == {}

    def test_one_that_another_process_has_begun_since_is_left_alone(
        self, organisations: list[Organisation], instance: DagsterInstance
    ) -> None:
        schedule(func=processes.fails_for_brook, spread_minutes=0)
        decide()
        [row, *_] = OutboxRun.objects.order_by("pk")
        other = OutboxRun.objects.get(pk=row.pk)
        long_ago = timezone.now() - dt.timedelta(minutes=5)
        assert run_outbox.lease(other, long_ago)  # it has it, and its lease has ended
        asked: list[str] = []

        def has_run(run_id: str) -> bool:
            asked.append(run_id)
            return True

        assert row_execution._execute(row, has_run) is None
        assert asked == [str(row.run_id)]
        row.refresh_from_db()
        assert row.state == OutboxState.WAITING
        assert row.key_held == row.key

    def test_two_runs_of_one_row_are_two_results_and_the_failed_one_counts(
        self, organisations: list[Organisation], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def years() -> Any:
            for year in (2025, 2026):
                yield {"organisation": organisations[0], "year": year}

        years.__module__, years.__qualname__ = processes.__name__, "years"
        monkeypatch.setattr(processes, "years", years, raising=False)
        monkeypatch.setattr(processes, "fails_in_2025", fails_in_2025, raising=False)
        schedule({"function": "tests.app.processes:years"}, fails_in_2025, as_="organisation")
        make_due(timezone.now())
        [results] = check_and_run_scheduled_tasks().values()
        assert list(results["status"].values()) == ["failed", "completed"]
        assert not results["success"]
        label = f"app.Organisation:{organisations[0].pk}"
        assert all(each.startswith(label) for each in results["status"])

    def test_those_of_a_later_time_are_executed_by_a_later_call(
        self, organisations: list[Organisation], instance: DagsterInstance
    ) -> None:
        schedule(spread_minutes=30)
        make_due(timezone.now())
        [results] = check_and_run_scheduled_tasks().values()
        assert len(results["status"]) == 1
        assert check_and_run_scheduled_tasks() == {}
        OutboxRun.objects.update(run_after=timezone.now())
        [results] = check_and_run_scheduled_tasks().values()
        assert len(results["status"]) == 2
        runs = instance.get_runs()
        assert {run.run_id for run in runs} == {
            str(each) for each in OutboxRun.objects.values_list("run_id", flat=True)
        }
        assert all(run.is_success for run in runs)

    def test_a_row_that_was_deleted_meanwhile_fails_alone_and_says_so(
        self, organisations: list[Organisation], instance: DagsterInstance
    ) -> None:
        schedule()
        decide()
        gone = f"app.Organisation:{organisations[0].pk}"
        organisations[0].delete()
        [results] = check_and_run_scheduled_tasks().values()
        assert results["status"].pop(gone) == "failed"
        assert set(results["status"].values()) == {"completed"}
        assert "Organisation" in results["errors"][gone]

    def test_a_task_function_runs_each_row_and_raises_if_one_fails(
        self, organisations: list[Organisation]
    ) -> None:
        schedule(func=processes.fails_for_brook)
        make_due(timezone.now())
        task = ProcessTreeInstance.load("books").create_task_function()
        with pytest.raises(TreeFailed, match="not for brook"):
            task()
        assert task() is None


class TestRegistering:
    @pytest.mark.parametrize(
        ("given", "saved"),
        [
            ("app.Organisation", {"model": "app.Organisation"}),
            (Organisation, {"model": "app.Organisation"}),
            (processes.tenants, {"function": "tests.app.processes:tenants"}),
            ("tests.app.processes:tenants", {"function": "tests.app.processes:tenants"}),
            (
                {"model": Organisation, "filter": {"name": "x"}},
                {"model": "app.Organisation", "filter": {"name": "x"}},
            ),
        ],
    )
    def test_it_may_be_a_model_a_filter_or_a_function(self, given: Any, saved: Any) -> None:
        assert schedule(given).for_each == saved
        assert ProcessTreeSchedule.objects.get().for_each == saved

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"for_each": "app.Nothing"}, "Nothing"),
            ({"for_each": "os:system"}, "not allowed"),
            ({"for_each": lambda: []}, "can't find it|lambda"),
            ({"for_each": 5}, "a model, a function or a dictionary"),
            ({"for_each": {"model": "app.Organisation", "filter": {"nothing": 1}}}, "nothing"),
            ({"for_each": "app.Organisation", "order_by": "nothing"}, "nothing"),
            ({"for_each": "app.Organisation", "order_by": "--name"}, "order_by"),
            ({"for_each": "app.Organisation", "order_by": ["name", 3]}, "a list of fields"),
            ({"for_each": "app.Organisation", "order_by": 3}, "a list of fields"),
            ({"for_each": "auth.User", "order_by": "password"}, "secret|CONTEXT_MODELS"),
            ({"for_each": "app.Organisation", "as_": "not a name"}, "name of an argument"),
            ({"for_each": "app.Organisation", "spread_minutes": 99999}, "spread_minutes"),
            ({"for_each": None, "spread_minutes": 5}, "need one"),
        ],
    )
    def test_what_is_invalid_is_refused(self, given: Any, why: str) -> None:
        with pytest.raises(ScheduleError, match=why):
            schedule(**given)
        assert not ProcessTreeSchedule.objects.exists()

    def test_a_queryset_is_refused_with_what_to_write_instead(self, db: None) -> None:
        with pytest.raises(ScheduleError, match="read again at each due time"):
            schedule(Organisation.objects.all())

    def test_a_function_that_needs_the_row_is_content_and_one_that_needs_another_is_not(
        self, db: None
    ) -> None:
        assert schedule(func=processes.fails_for_brook).row_name == "organisation"
        with pytest.raises(ContextError, match="lacks 'organisation'"):
            schedule(func=processes.fails_for_brook, as_="firm")

    def test_registering_it_again_changes_nothing_and_blank_takes_it_away(self, db: None) -> None:
        first = schedule(spread_minutes=5, order_by=["-name", "pk"])
        assert first.order_by == "-name, pk"
        tree = ProcessTreeInstance.load("books")
        again = tree.register_schedule()
        assert (again.for_each, again.spread_minutes) == (first.for_each, 5)
        assert again.process_tree.edited == []
        none = tree.register_schedule(for_each="")
        assert (none.for_each, none.spread_minutes, none.order_by) == ({}, 0, "")


def test_a_thousand_rows_take_few_queries(db: None, django_assert_max_num_queries: Any) -> None:
    Organisation.objects.bulk_create(Organisation(name=str(number)) for number in range(1000))
    schedule(spread_minutes=30)
    make_due()
    with django_assert_max_num_queries(40):
        assert decide().count == 1000
    times = OutboxRun.objects.order_by("pk").values_list("run_after", flat=True)
    later = [each for each in times if each is not None]
    gaps = {after - before for before, after in itertools.pairwise(later)}
    assert gaps == {dt.timedelta(seconds=1.8)}
