"""Dagster's history of runs, as pages read it."""

import datetime as dt
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from dagster import DagsterInstance, DagsterRunStatus, job
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.domain.runs import ProcessRun, RunQuery
from proctree_dagster.exceptions import HistoryUnavailable, RunNotFound
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration import dagster_features
from proctree_dagster.orchestration.dagster_internals import (
    EngineEventData,
    serializable_error_info_from_exc_info,
)
from proctree_dagster.orchestration.runs import summaries
from proctree_dagster.running import dagster_loading, run_history, tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db


@pytest.fixture
def history(dagster_home: Path) -> Iterator[run_history.History]:
    assert dagster_loading.wait(60)
    with run_history.opened() as opened:
        yield opened


@pytest.fixture
def statements(history: run_history.History) -> Iterator[list[str]]:
    """The statements that Dagster's storage executes."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.startswith("PRAGMA"):
            found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield found
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def tree(name: str = "t", func: Callable[..., Any] = processes.one) -> ProcessTree:
    return ProcessTreeInstance(name, overwrite=True).add_process("only", func=func).save()


def ran(row: ProcessTree, **options: Any) -> str:
    return tree_runs.execute_row(row, **options)["run_id"]


def recorded(
    instance: DagsterInstance, count: int, status: str = "SUCCESS", **tags: str
) -> list[str]:
    """Record runs that nothing has executed; return their ids, the oldest first."""
    found = []
    for _ in range(count):
        run = instance.create_run_for_job(
            nothing,
            status=DagsterRunStatus(status),
            tags={run_tags.TREE: "t", **tags},
        )
        found.append(run.run_id)
    return found


@job
def nothing() -> None:
    """Do nothing."""


def ids(history: run_history.History, **fields: Any) -> list[str]:
    return [run.run_id for run in history.recent(RunQuery(**fields)).runs]


def by_name(found: tuple[ProcessRun, ...]) -> dict[str, ProcessRun]:
    return {each.name: each for each in found}


# --- The list -------------------------------------------------------------------------------------


def test_runs_are_found_by_tree_status_trigger_tag_time_and_id(
    history: run_history.History,
) -> None:
    row, other = tree(), tree("other", processes.fail)
    start = timezone.now()
    first = ran(row, run_tags={"team": "books"}, triggered_by="admin")
    second = ran(other)
    third = ran(row)
    assert ids(history) == [third, second, first]
    assert ids(history, job_name=row.job_name) == [third, first]
    assert ids(history, statuses=("failure", "queued")) == [second]
    assert ids(history, triggered_by="admin") == [first]
    assert ids(history, tags={"team": "books"}) == [first]
    assert ids(history, run_ids=(first, second)) == [second, first]
    zone = dt.timezone(dt.timedelta(hours=9))
    assert ids(history, since=start.astimezone(zone)) == [third, second, first]
    assert ids(history, until=start.astimezone(zone)) == []
    assert history.ids_that_begin_with(second[:8]) == [second]
    assert history.ids_that_begin_with(second) == [second]


def test_a_run_that_the_ui_has_launched_has_no_trigger(
    history: run_history.History, instance: DagsterInstance
) -> None:
    ran(tree())
    [launched] = recorded(instance, 1)
    assert ids(history, triggered_by="") == [launched]


def test_runs_of_other_jobs_are_left_out_and_the_page_is_full(
    history: run_history.History, instance: DagsterInstance
) -> None:
    ours = recorded(instance, 3)
    for _ in range(5):
        instance.create_run_for_job(nothing)
    page = history.recent(most=2)
    assert [run.run_id for run in page.runs] == [ours[2], ours[1]]
    assert page.older == ours[1]


def test_pages_follow_each_other_in_both_directions(
    history: run_history.History, instance: DagsterInstance
) -> None:
    made = recorded(instance, 7)[::-1]

    def shown(page: Any) -> list[int]:
        return [made.index(run.run_id) for run in page.runs]

    first = history.recent(most=3)
    assert (shown(first), first.newer) == ([0, 1, 2], "")
    second = history.recent(most=3, before=first.older)
    assert shown(second) == [3, 4, 5]
    last = history.recent(most=3, before=second.older)
    assert (shown(last), last.older) == ([6], "")
    again = history.recent(most=3, after=last.newer)
    assert shown(again) == [3, 4, 5]
    newest = history.recent(most=3, after=again.newer)
    assert (shown(newest), newest.newer) == ([0, 1, 2], "")
    assert shown(history.recent(most=4, after=made[2])) == [0, 1, 2, 3], "the first page is full"


def test_a_search_in_contexts_says_how_far_it_went_and_goes_on_there(
    history: run_history.History, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tree(func=processes.echo)
    wanted = ran(row, context={"organisation": "Müller & Söhne"})
    recorded(instance, 10)
    monkeypatch.setattr("proctree_dagster.orchestration.runs.run_pages.CHUNK", 4)
    from proctree_dagster.orchestration.runs import run_pages

    query = RunQuery(text="MÜLLER")
    page = run_pages.page(instance, query, most=5, searched=8)
    assert (page.runs, page.searched) == ((), 8)
    assert page.searched_back_to is not None
    page = run_pages.page(instance, query, most=5, before=page.older, searched=8)
    assert [run.run_id for run in page.runs] == [wanted]
    assert page.older == ""
    assert page.searched_back_to is None


def test_a_secret_of_a_context_is_neither_shown_nor_found(history: run_history.History) -> None:
    context = {"api_key": "hunter2", "deep": [{"password": "hunter2"}], "plain": "seen"}
    run_id = ran(tree(func=processes.echo), context=context)
    shown = history.detail(run_id).context
    assert shown["plain"] == "seen"
    assert "hunter2" not in json.dumps(shown)
    assert ids(history, text="hunter2") == []
    assert ids(history, text="seen") == [run_id]


def test_what_failed_of_many_runs_is_read_in_as_many_queries_as_of_few(
    history: run_history.History, instance: DagsterInstance, statements: list[str]
) -> None:
    used = []
    for count in (2, 6):
        for run_id in recorded(instance, count, "STARTED"):
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_failed(run, "It failed on purpose.")
        history.recent()  # what the storage asks once
        statements.clear()
        page = history.recent()
        used.append(len(statements))
        assert all(run.failures[""].startswith("It failed on purpose.") for run in page.runs)
    assert used[0] == used[1] > 0


def test_where_that_is_off_each_failed_run_is_asked(
    history: run_history.History, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(tree(func=processes.fail))
    monkeypatch.setattr(
        summaries, "is_on", lambda feature: feature is not dagster_features.FAILURES_AT_ONCE
    )
    [run] = history.recent().runs
    assert run.failures == {"only": "ValueError: this process always fails"}


def test_of_several_processes_that_failed_the_first_says_why(
    history: run_history.History,
) -> None:
    two = ProcessTreeInstance("two").add_process("a", func=processes.fail)
    ran(two.add_process("b", func=processes.fail).save())
    [run] = history.recent().runs
    assert sorted(run.failures) == ["a", "b"]
    assert sorted(run.failures.values()) == ["", "ValueError: this process always fails"]


def test_runs_are_counted_by_status(
    history: run_history.History, instance: DagsterInstance
) -> None:
    recorded(instance, 2, "FAILURE")
    recorded(instance, 3, "STARTED")
    instance.create_run_for_job(nothing)
    asked = ("failure", "started", "success")
    assert history.counts(asked) == {"failure": 2, "started": 3, "success": 0}
    later = timezone.now() + dt.timedelta(hours=1)
    assert history.counts(asked, since=later) == {"failure": 0, "started": 0, "success": 0}


# --- One run --------------------------------------------------------------------------------------


def test_a_run_has_the_outcome_of_each_process(history: run_history.History) -> None:
    several = ProcessTreeInstance("several").add_process("one", func=processes.one)
    several.add_process("sum up", func=processes.add, dependencies=["one"])
    several.add_process("fresh", func=processes.one, outdated_check=processes.up_to_date)
    several.add_process("tried", func=processes.fail, required=False)
    several.add_process("fails", func=processes.fail, dependencies=["one"])
    several.add_process("after", func=processes.add, dependencies=["fails"])
    found = history.detail(ran(several.save()))
    assert found.summary.status == "failure"
    assert found.can_resume
    each = by_name(found.processes)
    assert {name: process.status for name, process in each.items()} == {
        **{"one": "completed", "sum up": "completed", "fresh": "skipped", "tried": "failed"},
        **{"fails": "failed", "after": "skipped"},
    }
    assert (each["sum up"].result, each["sum up"].dependencies) == ("1", ("one",))
    assert each["sum up"].seconds is not None
    assert each["fails"].error == "ValueError: this process always fails"
    assert 'raise ValueError("this process always fails")' in each["fails"].trace
    assert "ValueError" in each["tried"].error
    assert each["after"].note == "Dependency failed: fails"
    assert each["fresh"].note
    order = list(each)
    assert order.index("one") < order.index("fails") < order.index("after")


def test_a_process_that_failed_at_its_last_retry_has_its_own_error(
    history: run_history.History,
) -> None:
    row = ProcessTreeInstance("retried").add_process("fails", func=processes.fail, retries=1).save()
    found = history.detail(ran(row))
    assert found.summary.failures == {"fails": "ValueError: this process always fails"}
    [process] = found.processes
    assert process.error == "ValueError: this process always fails"
    assert process.attempts == 2
    raised = 'raise ValueError("this process always fails")\n'
    assert process.trace.endswith(f"{raised}ValueError: this process always fails")
    assert {(each.error, each.trace) for each in process.tries} == {(process.error, process.trace)}
    assert process.tries[0].started_at < process.tries[1].started_at


def test_a_run_that_could_not_be_launched_has_the_reason(
    history: run_history.History, instance: DagsterInstance
) -> None:
    [run_id] = recorded(instance, 1, "STARTING")
    run = instance.get_run_by_id(run_id)
    assert run is not None
    try:
        raise OSError("no code location")
    except OSError:
        error = serializable_error_info_from_exc_info(sys.exc_info())
    instance.report_engine_event("Can't launch.", run, EngineEventData(error=error))
    instance.report_run_failed(run)
    assert "OSError: no code location" in history.detail(run_id).fault


def test_a_log_is_cut_at_its_start_and_names_processes(history: run_history.History) -> None:
    run_id = ran(tree(func=processes.fail))
    full = history.log(run_id, most=1000)
    assert not full.is_cut
    assert any("always fails" in line.trace for line in full.lines)
    cut = history.log(run_id, most=3, names={"only": "the only one"})
    assert cut.is_cut
    assert [line.at for line in cut.lines] == [line.at for line in full.lines[-3:]]
    assert {line.process for line in history.log(run_id, most=99, names={"only": "O"}).lines} == {
        *("", "O")
    }


def test_a_run_that_dagster_does_not_have_is_not_found(history: run_history.History) -> None:
    with pytest.raises(RunNotFound):
        history.detail("00000000-0000-0000-0000-000000000000")


# --- Where there is no history --------------------------------------------------------------------


def test_without_a_home_it_says_why(settings: Settings, tmp_path: Path, real_dagster: None) -> None:
    assert dagster_loading.wait(60)
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "missing")}
    with pytest.raises(HistoryUnavailable, match="is not a folder"), run_history.opened():
        pass


def test_an_error_of_the_storage_is_told(
    history: run_history.History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("the disk is away")

    monkeypatch.setattr(DagsterInstance, "get_run_records", broken)
    with pytest.raises(HistoryUnavailable, match="the disk is away"):
        history.recent()


def test_the_instance_stays_open_for_the_next_page(dagster_home: Path) -> None:
    assert dagster_loading.wait(60)
    with run_history.opened() as first, run_history.opened() as second:
        assert first._instance is second._instance
    with run_history.opened() as third:
        assert third._instance is first._instance
