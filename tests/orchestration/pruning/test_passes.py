"""What a pass over the history removes, and what it leaves."""

import datetime as dt
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunRecord,
    RunsFilter,
    job,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain import retention, run_tags
from proctree_dagster.domain.pace import Pace
from proctree_dagster.exceptions import RunError
from proctree_dagster.models import (
    Backfill,
    BackfillState,
    DagsterAction,
    OutboxRun,
    OutboxState,
    ProcessTree,
    ProcessTreeSchedule,
    RunWorker,
    TreeChange,
    TreeRevision,
)
from proctree_dagster.orchestration.pruning import passes
from proctree_dagster.orchestration.pruning.passes import Pruned
from proctree_dagster.orchestration.pruning.removal import LOGS
from proctree_dagster.orchestration.runs import details, removed, repeating
from proctree_dagster.orchestration.runs import history as run_log
from proctree_dagster.orchestration.runs.schedule_claims import due_tag
from proctree_dagster.running import tree_runs
from proctree_dagster.services import old_rows, run_outbox
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.orchestration.opening import yaml_of_postgres
from tests.orchestration.pruning.history import CANCELED, FAILURE, STARTED, History, run_of, tree

if TYPE_CHECKING:
    from tests.tools.postgres import Postgres

pytestmark = pytest.mark.django_db


@job
def other_job() -> None:
    """A job that is no tree."""


@pytest.fixture
def history() -> Iterator[History]:
    """Runs in memory."""
    with DagsterInstance.ephemeral() as instance:
        yield History(instance)


@pytest.fixture
def on_disk(instance: DagsterInstance) -> History:
    """Runs of a home, each with a file of its events."""
    return History(instance)


def prune(settings: Settings, history: History, keep: Mapping[str, Any], **options: Any) -> Pruned:
    settings.PROCTREE = {**settings.PROCTREE, "KEEP": keep}
    return passes.prune(history.instance, **options)


# --- Which runs go --------------------------------------------------------------------------------


def test_nothing_is_removed_unless_a_rule_says_so(history: History, settings: Settings) -> None:
    old = history.run(tree(), 10_000)
    history.run(tree())
    found = prune(settings, history, {})
    assert old in history.ids()
    assert found.counts.total() == 0
    assert str(found) == "Nothing to remove."


def test_runs_that_ended_before_go_with_every_trace_and_later_ones_stay_whole(
    on_disk: History, settings: Settings
) -> None:
    row = tree()
    old, new = on_disk.run(row, 91), on_disk.run(row, 89)
    before = on_disk.traces_of(new)
    assert {"runs", "run_tags", f"{new}.db", new} <= set(before)
    found = prune(settings, on_disk, {"runs": "90 days"})
    assert on_disk.traces_of(old) == []
    assert on_disk.traces_of(new) == before
    assert found.counts["runs"] == 1
    assert found.bytes > 2000, "the files of its events and its results"


def test_a_dry_run_counts_the_same_and_removes_nothing(
    on_disk: History, settings: Settings
) -> None:
    row = tree()
    old, _ = on_disk.run(row, 91), on_disk.run(row, 1)
    keep = {"runs": "90 days", "events": "30 days", "results": "30 days"}
    dry = prune(settings, on_disk, keep, dry_run=True)
    assert on_disk.traces_of(old)
    assert (+dry.counts, +dry.trees) == ({"runs": 1}, {row.job_name: 1})
    assert prune(settings, on_disk, keep).counts["runs"] == 1
    assert on_disk.traces_of(old) == []


def test_of_each_tree_the_last_ones_stay(history: History, settings: Settings) -> None:
    one, two = tree("one"), tree("two")
    of_one = [history.run(one, 10 - number, FAILURE if number == 2 else CANCELED)
              for number in range(4)]  # fmt: skip
    of_two = [history.run(two, 1)]
    prune(settings, history, {"runs": "last 2"})
    assert history.ids() == {*of_one[2:], *of_two}


def test_failed_runs_stay_for_as_long_as_their_own_rule_says(
    history: History, settings: Settings
) -> None:
    row = tree()
    failed, failed_long_ago = history.run(row, 100, FAILURE), history.run(row, 400, FAILURE)
    canceled, _ = history.run(row, 100, CANCELED), history.run(row, 1)
    prune(settings, history, {"runs": "90 days", "failed_runs": "1 year"})
    assert failed in history.ids()
    assert history.ids().isdisjoint({failed_long_ago, canceled})


def test_a_trees_own_rule_comes_before_that_of_all(history: History, settings: Settings) -> None:
    ever, few, rest = tree("ever", "all"), tree("few", "last 1"), tree("rest")
    kept = [history.run(ever, 1000), history.run(ever, 999), history.run(few, 1)]
    gone = [history.run(rest, 100), history.run(few, 1.5)]
    kept += [history.run(rest, 1)]
    # The newest of a tree has the highest number, whenever it ended.
    kept[2], gone[1] = gone[1], kept[2]
    prune(settings, history, {"runs": "90 days"})
    assert history.ids() == set(kept)


def test_runs_of_a_tree_that_was_deleted_follow_the_rule_of_all(
    history: History, settings: Settings
) -> None:
    row = tree()
    _, new = history.run(row, 100), history.run(row, 1)
    ProcessTree.objects.all().delete()
    prune(settings, history, {"runs": "90 days"})
    assert history.ids() == {new}


def test_runs_of_jobs_that_are_no_trees_are_never_touched(
    history: History, settings: Settings
) -> None:
    foreign = history.instance.create_run_for_job(other_job, status=DagsterRunStatus.SUCCESS)
    history.end(foreign.run_id, 1000)
    history.run(tree(), 1)
    prune(settings, history, {"runs": "1 day", "events": "1 day", "results": "1 day"})
    assert foreign.run_id in history.ids()


# --- What is needed -------------------------------------------------------------------------------

KEEP = {"runs": "90 days"}


def kept_as(found: Pruned, reason: str) -> bool:
    return found.kept[reason] > 0


def test_unfinished_runs_stay(history: History, settings: Settings) -> None:
    row = tree()
    unfinished, _ = history.run(row, status=STARTED), history.run(row, 1)
    prune(settings, history, {"runs": "1 minute"})
    assert unfinished in history.ids()


def test_the_last_run_and_the_last_success_of_a_tree_stay_however_old(
    history: History, settings: Settings
) -> None:
    row = tree()
    runs = [history.run(row), history.run(row), history.run(row, status=FAILURE),
            history.run(row, status=FAILURE)]  # fmt: skip
    found = prune(settings, history, KEEP)
    assert history.ids() == {runs[1], runs[3]}
    assert kept_as(found, "it is the last success of its tree")


def test_attempts_stay_together_until_the_last_of_them_may_go(
    history: History, settings: Settings
) -> None:
    row = tree()
    first = history.run(row, 100, FAILURE)
    second = history.run(row, 95, FAILURE, repeats=first)
    third = history.run(row, 10, repeats=second, root=first)
    history.run(row, 1)
    found = prune(settings, history, {**KEEP, "results": "50 days"})
    assert {first, second, third} <= history.ids()
    assert kept_as(found, "another attempt of it is kept")
    assert (history.folder / first / "only" / "result").exists(), "the third may need it"
    history.end(third, 91)
    prune(settings, history, KEEP)
    assert history.ids().isdisjoint({first, second, third})


def test_an_attempt_that_goes_on_keeps_those_before_it(
    on_disk: History, settings: Settings
) -> None:
    row = tree()
    first = on_disk.run(row, 100, FAILURE)
    on_disk.run(row, status=STARTED, repeats=first)
    on_disk.run(row, 1)
    prune(settings, on_disk, {**KEEP, "events": "1 day", "results": "1 day"})
    assert first in on_disk.ids()
    assert on_disk.shard(first).exists()


def test_a_run_that_dagster_is_going_to_repeat_stays_for_a_day(
    history: History, settings: Settings
) -> None:
    row = tree()
    tags = {run_tags.WILL_RETRY: "true"}
    soon, lost = history.run(row, 0.1, FAILURE, tags), history.run(row, 5, FAILURE, tags)
    history.run(row, 0)
    prune(settings, history, {"runs": "1 hour"})
    assert soon in history.ids()
    assert lost not in history.ids()


def test_the_last_run_of_a_schedule_stays(history: History, settings: Settings) -> None:
    row = tree()
    last, _ = history.run(row), history.run(row, 1)
    ProcessTreeSchedule.objects.create(process_tree=row, last_run_id=last)
    assert kept_as(prune(settings, history, KEEP), "it is the last run of its schedule")
    assert last in history.ids()


def test_the_runs_of_a_claimed_due_time_stay(history: History, settings: Settings) -> None:
    row = tree()
    due = timezone.now() - dt.timedelta(days=100)
    tags = {run_tags.DUE: due_tag(due)}
    claimed, named = history.run(row, tags=tags), history.run(
        row, tags={**tags, run_tags.SCHEDULE: "another"}
    )  # fmt: skip
    history.run(row, 1)
    ProcessTreeSchedule.objects.create(process_tree=row, claim=due, claimed_at=due)
    assert kept_as(prune(settings, history, KEEP), "its due time is claimed")
    assert claimed in history.ids()
    assert named not in history.ids(), "the claim is of another schedule"


def test_what_a_backfill_must_not_repeat_stays_until_it_is_done(
    history: History, settings: Settings
) -> None:
    row = tree()
    due = timezone.now() - dt.timedelta(days=100)
    run = history.run(row, tags={run_tags.DUE: due_tag(due)})
    history.run(row, 1)
    day = dt.timedelta(days=1)
    backfill = Backfill.objects.create(
        schedule=ProcessTreeSchedule.objects.create(process_tree=row),
        first=due - day,
        last=due + day,
        state=BackfillState.STOPPED,
    )
    prune(settings, history, KEEP)
    assert run in history.ids(), "it can be resumed"
    Backfill.objects.filter(pk=backfill.pk).update(state=BackfillState.DONE)
    prune(settings, history, KEEP)
    assert run not in history.ids()


@pytest.mark.parametrize("state", [OutboxState.WAITING, OutboxState.DELIVERED, OutboxState.DROPPED])
def test_a_family_stays_while_runs_of_it_may_still_follow(
    history: History, settings: Settings, state: str
) -> None:
    row, family = tree(), str(uuid.uuid4())
    first = history.run(row, tags={run_tags.FAMILY: family})
    history.run(row, 1)
    follower = run_outbox.add(row, {}, {run_tags.FAMILY: family}, after=[first])
    OutboxRun.objects.filter(pk=follower.pk).update(state=state)
    prune(settings, history, KEEP)
    assert first in history.ids()
    OutboxRun.objects.filter(pk=follower.pk).update(state=OutboxState.STARTED)
    prune(settings, history, KEEP)
    assert first not in history.ids()


def test_a_family_stays_while_one_of_its_runs_goes_on(history: History, settings: Settings) -> None:
    row, other, family = tree(), tree("other"), str(uuid.uuid4())
    first = history.run(row, tags={run_tags.FAMILY: family})
    history.run(other, status=STARTED, tags={run_tags.FAMILY: family})
    history.run(row, 1)
    prune(settings, history, KEEP)
    assert first in history.ids()


def test_a_run_that_holds_its_key_stays(history: History, settings: Settings) -> None:
    row = tree()
    run = history.run(row)
    history.run(row, 1)
    holding = run_outbox.add(row, {}, {}, run_id=run)
    OutboxRun.objects.filter(pk=holding.pk).update(state=OutboxState.STARTED, key_held="k")
    prune(settings, history, KEEP)
    assert run in history.ids()


def test_a_run_whose_process_has_not_ended_stays(history: History, settings: Settings) -> None:
    row, now = tree(), timezone.now()
    run = history.run(row)
    history.run(row, 1)
    RunWorker.objects.create(run_id=run, taken_at=now, beat_at=now)
    prune(settings, history, KEEP)
    assert run in history.ids()
    RunWorker.objects.update(ended_at=now)
    prune(settings, history, KEEP)
    assert run not in history.ids()


def test_in_the_daemon_what_has_just_ended_stays(history: History, settings: Settings) -> None:
    row = tree()
    just, before, _ = history.run(row, 0.001), history.run(row, 1), history.run(row, 0)
    prune(settings, history, {"runs": "1 minute"}, spare=dt.timedelta(minutes=10))
    assert just in history.ids()
    assert before not in history.ids()


# --- Logs and results alone -----------------------------------------------------------------------


def test_logs_go_before_their_runs_and_how_these_ended_stays(
    on_disk: History, settings: Settings
) -> None:
    row = tree()
    run, new = on_disk.run(row, 40, STARTED), on_disk.run(row, 1)
    on_disk.instance.report_run_failed(run_of(on_disk.instance, run), "It was lost.")
    on_disk.end(run, 40)
    found = prune(settings, on_disk, {"events": "30 days"})
    assert (run in on_disk.ids(), on_disk.shard(run).exists()) == (True, False)
    assert not (on_disk.folder / run / LOGS).exists()
    assert (on_disk.folder / run / "only" / "result").exists(), "results have a rule of their own"
    assert "event_logs" in on_disk.traces_of(run), "why it failed"
    assert on_disk.shard(new).exists()
    assert found.counts["logs"] == 1
    assert prune(settings, on_disk, {"events": "30 days"}).counts["logs"] == 0, "it is noted"


def test_results_go_before_their_runs(history: History, settings: Settings) -> None:
    row = tree()
    old, new = history.run(row, 40), history.run(row, 20)
    prune(settings, history, {"results": "30 days"})
    assert not (history.folder / old / "only").exists()
    assert (history.folder / old / LOGS).exists()
    assert (history.folder / new / "only" / "result").exists()


def test_what_was_needed_is_looked_at_again(history: History, settings: Settings) -> None:
    row, now = tree(), timezone.now()
    used, other = history.run(row, 40), history.run(row, 39)
    history.run(row, 1)
    RunWorker.objects.create(run_id=used, taken_at=now, beat_at=now)
    keep = {"results": "30 days"}
    prune(settings, history, keep)
    assert (history.folder / used / "only").exists()
    assert not (history.folder / other / "only").exists()
    RunWorker.objects.update(ended_at=now)
    prune(settings, history, keep)
    assert not (history.folder / used / "only").exists()


def test_a_run_that_took_long_is_looked_at_again_though_later_ones_are_done(
    history: History, settings: Settings
) -> None:
    row = tree()
    took_long, other, _ = history.run(row, 20), history.run(row, 40), history.run(row, 1)
    keep = {"results": "30 days"}
    prune(settings, history, keep)
    assert not (history.folder / other / "only").exists()
    history.end(took_long, 31)
    prune(settings, history, keep)
    assert not (history.folder / took_long / "only").exists()


@pytest.mark.parametrize("kind", ["results", "events"])
def test_a_run_that_ends_after_later_ones_were_done_is_looked_at_again(
    history: History, settings: Settings, kind: str
) -> None:
    row, keep = tree(), {kind: "last 1"}
    slow = history.run(row, 0, STARTED)
    old = history.run(row, 2)
    history.run(row, 1)
    prune(settings, history, keep)
    lost, kept = (run_record(history, each) for each in (old, slow))
    if kind == "results":
        assert removed.has_no_results(history.instance, lost)
        assert not removed.has_no_results(history.instance, kept)
    history.instance.report_run_failed(run_of(history.instance, slow), "It was lost.")
    history.end(slow, 0)
    called = {"results": "results of runs", "events": "logs"}[kind]
    assert prune(settings, history, keep).counts[called] == 1
    assert prune(settings, history, keep).counts[called] == 0


def run_record(history: History, run_id: str) -> RunRecord:
    [found] = history.instance.get_run_records(RunsFilter(run_ids=[run_id]))
    return found


def test_what_an_earlier_release_has_removed_is_known(history: History) -> None:
    runs = [run_record(history, history.run(tree(), 3)) for _ in range(2)]
    first = {"results": {runs[0].dagster_run.job_name: runs[0].storage_id}}
    storage = history.instance.daemon_cursor_storage
    storage.set_cursor_values({removed.EARLIER_NOTES: json.dumps(first)})
    assert [removed.has_no_results(history.instance, each) for each in runs] == [True, False]


@pytest.mark.parametrize("most", [10_000, 0])
def test_what_was_removed_once_is_not_removed_again_though_an_earlier_run_stays(
    history: History, settings: Settings, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(passes, "MOST_STAYED", most)
    row, now, keep = tree(), timezone.now(), {"results": "30 days"}
    used, others = history.run(row, 50), [history.run(row, 49 - n) for n in range(5)]
    history.run(row, 1)
    RunWorker.objects.create(run_id=used, taken_at=now, beat_at=now)
    counts = [prune(settings, history, keep).counts["results of runs"] for _ in range(2)]
    assert counts == ([5, 0] if most else [5, 5])
    records = {each: run_record(history, each) for each in (used, *others)}
    lost = {each for each in records if removed.has_no_results(history.instance, records[each])}
    assert lost == (set(others) if most else set())
    RunWorker.objects.update(ended_at=now)
    later = prune(settings, history, keep)
    assert later.counts["results of runs"] == (1 if most else 6)
    assert prune(settings, history, keep).counts["results of runs"] == 0


def test_a_row_of_the_outbox_that_is_revived_meanwhile_stays(settings: Settings) -> None:
    row = OutboxRun.objects.create(process_tree=tree(), state=OutboxState.DROPPED, family="1")
    OutboxRun.objects.update(created_at=timezone.now() - dt.timedelta(days=40))
    rules = retention.Rules(outbox=retention.Keep(age=dt.timedelta(days=30)))
    [old] = old_rows.find(rules, timezone.now(), lambda revisions: set())
    run_outbox.revive("1")
    assert old_rows.delete(old, Pace(60)) == 0
    assert OutboxRun.objects.get() == row


def failed_run(row: ProcessTree, history: History, days: float) -> str:
    """Execute a tree that fails after a process that succeeds; as if that was so long ago."""
    run_id: str = tree_runs.execute_row(row)["run_id"]
    history.end(run_id, days)
    return run_id


def test_without_its_log_a_run_says_so_and_is_only_repeated_in_full(
    on_disk: History, settings: Settings
) -> None:
    made = ProcessTreeInstance("failing").add_process("one", func=processes.one)
    row = made.add_process("fail", func=processes.fail, dependencies=["one"]).save()
    no_log, no_results = failed_run(row, on_disk, 40), failed_run(row, on_disk, 20)
    newest = failed_run(row, on_disk, 1)
    prune(settings, on_disk, {"events": "30 days", "results": "10 days"})
    instance = on_disk.instance
    assert next(run_log.log(instance, no_log)).message == removed.NO_LOG
    assert details.log(instance, no_log, most=10).lines[0].message == removed.NO_LOG
    known = details.detail(instance, no_log)
    assert (known.processes, known.summary.status) == ((), "failure")
    assert len(details.detail(instance, no_results).processes) == 2
    for run_id, why in ((no_log, removed.NO_LOG), (no_results, removed.NO_RESULTS)):
        with pytest.raises(RunError, match=re.escape(why)):
            repeating.again(instance, run_of(instance, run_id))
    assert repeating.again(instance, run_of(instance, newest)).step_keys_to_execute == ["fail"]
    assert repeating.again(instance, run_of(instance, no_log), everything=True)


# --- A pass ---------------------------------------------------------------------------------------


def test_a_pass_whose_time_is_up_says_with_which_tree_the_next_one_goes_on(
    history: History, settings: Settings
) -> None:
    row = tree()
    old, _ = history.run(row), history.run(row, 1)
    found = prune(settings, history, KEEP, seconds=0)
    assert found.next_job == row.job_name
    assert old in history.ids()
    assert prune(settings, history, KEEP, first_job=found.next_job).next_job == ""
    assert old not in history.ids()


def test_a_row_that_sql_has_broken_keeps_the_runs_of_its_tree_and_of_no_other(
    history: History, settings: Settings
) -> None:
    bad, good = tree("bad"), tree("good")
    due = {run_tags.DUE: due_tag(timezone.now())}
    old = [history.run(bad, tags=due), history.run(good, tags=due)]
    history.run(bad, 1), history.run(good, 1)
    ProcessTreeSchedule.objects.create(process_tree=bad, claim=timezone.now())
    with connection.cursor() as cursor:
        broken = "2026-13-45 00:00:00"
        cursor.execute("UPDATE proctree_dagster_processtreeschedule SET claim = %s", [broken])
    found = prune(settings, history, KEEP)
    assert history.ids() & set(old) == {old[0]}
    assert [each.split(":")[0] for each in found.problems] == ["Those of 'bad' stay"]


def test_a_rule_that_sql_has_broken_keeps_the_runs_of_its_tree(
    history: History, settings: Settings
) -> None:
    row = tree()
    old, _ = history.run(row), history.run(row, 1)
    ProcessTree.objects.update(keep_runs="soon")
    assert prune(settings, history, KEEP).counts.total() == 0
    assert old in history.ids()


def test_files_of_runs_that_are_gone_go_a_day_later(on_disk: History, settings: Settings) -> None:
    row = tree()
    gone, fresh, there = on_disk.run(row, 1), on_disk.run(row, 1), on_disk.run(row, 1)
    for run_id in (gone, fresh):
        on_disk.instance.delete_run(run_id)  # as Dagster's UI does it
    assert on_disk.shard(gone).exists(), "Dagster leaves it"
    long_ago = time.time() - 2 * 24 * 3600
    for run_id in (gone, there):
        os.utime(on_disk.shard(run_id), (long_ago, long_ago))
        os.utime(on_disk.folder / run_id, (long_ago, long_ago))
    other = on_disk.folder / "of_somebody_else"
    other.mkdir()
    prune(settings, on_disk, {"failed_runs": "1 year"})
    assert on_disk.traces_of(gone) == []
    assert on_disk.shard(fresh).exists(), "it may be of a run that begins"
    assert on_disk.shard(there).exists()
    assert other.exists()


def test_no_batch_takes_long_and_others_write_between_them(
    history: History, settings: Settings
) -> None:
    row = tree()
    for _ in range(3):
        history.run(row)
    assert prune(settings, history, KEEP).longest > 0


# --- Ticks and rows -------------------------------------------------------------------------------


def test_old_ticks_go_but_for_the_newest_of_each(on_disk: History, settings: Settings) -> None:
    now = time.time()

    def tick(selector: str, days: float) -> int:
        data = TickData(f"origin {selector}", selector, InstigatorType.SCHEDULE,
                        TickStatus.SKIPPED, now - days * 86400, selector_id=selector)  # fmt: skip
        return int(on_disk.instance.create_tick(data).tick_id)

    def left(selector: str) -> set[int]:
        found = on_disk.instance.get_ticks(f"origin {selector}", selector)
        return {int(each.tick_id) for each in found}

    for days in (50, 40):
        tick("gone", days)
        tick("there", days)
    last = {tick("gone", 35)}, {tick("there", 31), tick("there", 1)}
    assert prune(settings, on_disk, {"ticks": "30 days"}).counts["ticks"] == 5
    assert left("gone") == last[0]
    assert left("there") == {max(last[1])}


def test_old_records_of_actions_and_closed_rows_of_the_outbox_go(
    history: History, settings: Settings
) -> None:
    row, now = tree(), timezone.now()
    for days in (1, 100):
        action = DagsterAction.objects.create(username="ann", action="launchRun", allowed=True)
        written = {"created_at": now - dt.timedelta(days=days)}
        DagsterAction.objects.filter(pk=action.pk).update(**written)
        for state in (OutboxState.WAITING, OutboxState.STARTED):
            made = run_outbox.add(row, {}, {})
            OutboxRun.objects.filter(pk=made.pk).update(state=state, **written)
    found = prune(settings, history, {"actions": "90 days", "outbox": "all"})
    assert (DagsterAction.objects.count(), OutboxRun.objects.count()) == (1, 4)
    assert found.counts["actions"] == 1
    prune(settings, history, {})
    states = OutboxRun.objects.order_by("pk").values_list("state", flat=True)
    assert list(states) == ["waiting", "started", "waiting"], "30 days, if nothing is said"


def test_old_revisions_go_but_for_the_present_one_and_those_that_runs_name(
    history: History, settings: Settings
) -> None:
    revisions = []
    for number in range(4):
        made = ProcessTreeInstance("close", f"number {number}", overwrite=True)
        row = made.add_process("only", func=processes.one).save()
        revisions.append(row.revision)
    history.run(row, 1, tags={run_tags.REVISION: revisions[1]})
    long_ago = timezone.now() - dt.timedelta(days=400)
    _set_times(long_ago)
    found = prune(settings, history, {"revisions": "1 year"}, dry_run=True)
    assert (found.counts["changes"], found.counts["revisions"]) == (3, 2)
    found = prune(settings, history, {"revisions": "1 year"})
    assert (found.counts["changes"], found.counts["revisions"]) == (3, 2)
    left = set(TreeRevision.objects.values_list("revision", flat=True))
    assert left == {revisions[1], revisions[3]}
    assert [each.revision for each in TreeChange.objects.all()] == [revisions[3]]


def _set_times(at: dt.datetime) -> None:
    """Set when trees were changed, as SQL does: the model refuses it."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE proctree_dagster_treechange SET at = %s", [at])


# --- PostgreSQL -----------------------------------------------------------------------------------


def test_on_postgresql_the_same_goes_and_stays(
    tmp_path: Path, settings: Settings, postgres: "Postgres", real_dagster: None
) -> None:
    (tmp_path / "dagster.yaml").write_text(yaml_of_postgres(postgres.new_database()))
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        history, row = History(instance), tree()
        old, failed = history.run(row), history.run(row, 100, FAILURE)
        log_only, new = history.run(row, 40, STARTED), history.run(row, 1)
        instance.report_run_failed(run_of(instance, log_only), "It was lost.")
        history.end(log_only, 40)
        keep = {"runs": "90 days", "failed_runs": "1 year", "events": "30 days", "ticks": "1 day"}
        found = prune(settings, history, keep)
        assert history.ids() == {failed, log_only, new}
        assert history.traces_of(old) == []
        kinds = [each.dagster_event_type for each in instance.all_logs(log_only)]
        assert kinds == [DagsterEventType.PIPELINE_FAILURE]
        assert len(instance.all_logs(new)) == 1
        assert (found.counts["runs"], found.counts["logs"]) == (1, 2)
