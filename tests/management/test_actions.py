"""``manage.py proctree``: what an operator types."""

import datetime as dt
import json
import uuid
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from django.core.management import CommandError, call_command
from django.utils import timezone

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import ContextError
from proctree_dagster.management.actions import ACTIONS
from proctree_dagster.management.typed_context import parse_pairs
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.models.context_schema import ContextKey, ContextSchema
from proctree_dagster.running import tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import annotated, processes
from tests.app.models import Organisation

pytestmark = pytest.mark.django_db


def typed(*args: str, code: int = 0) -> str:
    """Return what an action prints, where its output is piped; it ends with an exit code."""
    out = StringIO()
    found, error = _ended(out, out, *args)
    assert found == code, out.getvalue() + error
    return out.getvalue() + error


def as_json(*args: str, code: int = 0) -> Any:
    """Return what an action prints for programs: one document, whatever else is to be said."""
    out = StringIO()
    found, error = _ended(out, StringIO(), *args, "--json")
    assert found == code, error
    return json.loads(out.getvalue())


def _ended(out: StringIO, err: StringIO, *args: str) -> tuple[int, str]:
    """Type an action; return its exit code, and the error that it ends with."""
    try:
        call_command("proctree", *args, stdout=out, stderr=err, no_color=True)
    except CommandError as error:
        return error.returncode, f"{error}\n"
    return 0, ""


@pytest.fixture
def close() -> ProcessTree:
    """A tree of three processes."""
    tree = ProcessTreeInstance("close", description="Closes the month.")
    tree.add_process("one", func=processes.one)
    tree.add_process("two", func=processes.two, retries=2, timeout=60)
    tree.add_process("sum", func=processes.add, dependencies=["one", "two"])
    tree.save()
    return ProcessTree.objects.get(name="close")


def failing() -> None:
    tree = ProcessTreeInstance("failing").add_process("one", func=processes.one)
    tree.add_process("fail", func=processes.fail, dependencies=["one"]).save()


def only_run(instance: DagsterInstance) -> DagsterRun:
    [run] = instance.get_runs()
    return run


def test_each_action_has_a_name_a_help_and_a_place_in_the_list() -> None:
    names = [action.name for action in ACTIONS]
    assert len(set(names)) == len(names)
    assert all(action.help.endswith(".") for action in ACTIONS)


# --- run ------------------------------------------------------------------------------------------


def test_run_prints_the_results_and_exits_with_0(close: ProcessTree) -> None:
    said = typed("run", "close")
    assert "completed one" in said
    assert "  sum: 3\n" in said


def test_run_exits_with_1_and_names_what_failed(instance: DagsterInstance) -> None:
    failing()
    said = typed("run", "failing", code=1)
    assert "The process tree 'failing' failed:\n  fail: " in said


def test_run_prints_one_document_for_programs(close: ProcessTree) -> None:
    found = as_json("run", "close")
    assert found["success"] is True
    assert found["results"] == {"one": 1, "two": 2, "sum": 3}
    assert found["status"]["sum"] == "completed"


def test_run_submits(close: ProcessTree, instance: DagsterInstance) -> None:
    assert "Queued run" in typed("run", "close", "--submit")
    assert only_run(instance).status == DagsterRunStatus.QUEUED


def test_values_that_json_lacks_are_text_each_by_itself() -> None:
    tree = ProcessTreeInstance("sums").add_process("nan", func=processes.not_a_number)
    variables: dict[str, Any] = {"total": {"type": "decimal"}, "count": {"type": "int"}}
    tree.add_process("sum", func=processes.totals, response_vars=variables).save()
    found = as_json("run", "sums")
    assert found["results"]["nan"] == "nan"
    assert found["response_variables"] == {"sum": {"total": "1.50", "count": 2}}


def test_a_request_that_is_interrupted_does_not_say_that_nothing_runs(
    close: ProcessTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tree_runs, "submit_row", interrupted)
    assert "may have been requested" in typed("run", "close", "--submit", code=130)


def test_a_moment_before_all_time_is_refused(close: ProcessTree, instance: DagsterInstance) -> None:
    assert "before the year 1" in typed("runs", "--since", "999999d", code=2)
    assert "is saved now" in typed("revisions", "close", "--limit", "-1")


def test_run_submits_with_a_key_a_time_and_a_priority(
    close: ProcessTree, instance: DagsterInstance
) -> None:
    first = typed("run", "close", "--submit", "--key=k", "--priority=3")
    run_id = first.split()[2]
    assert [run.tags["dagster/priority"] for run in instance.get_runs()] == ["3"]
    assert f"run {run_id} with the key 'k'" in typed("run", "close", "--submit", "--key=k")
    skipped = ("--key=k", "--on-conflict=skip", "--json")
    said = json.loads(typed("run", "close", "--submit", *skipped))
    assert said == {"run": None, "url": None, "outcome": "skipped", "unfinished": run_id}
    queued = typed("run", "close", "--submit", "--key=k", "--on-conflict=queue")
    assert f"behind run {run_id}" in queued
    assert "not before 2099-01-01" in typed("run", "close", "--submit", "--run-after=2099-01-01")
    for wrong, why in [
        (("--run-after=soon", "--submit"), "--run-after is a time"),
        (("--key=k",), "add --submit"),
        (("--on-conflict=skip", "--submit"), "needs a key"),
    ]:
        assert why in typed("run", "close", *wrong, code=1)


def test_a_tree_that_is_not_there_is_said(close: ProcessTree) -> None:
    for action in ("run", "show", "enable", "disable", "runs"):
        assert "There is no process tree called 'nope'" in typed(action, "nope", code=1)


@pytest.mark.parametrize(
    ("pairs", "context"),
    [
        (["year=2026"], {"year": 2026}),
        (["name=Quiver Tree"], {"name": "Quiver Tree"}),
        (["flag=true", "nothing=null"], {"flag": True, "nothing": None}),
        (["list=[1, 2]", 'text="5"'], {"list": [1, 2], "text": "5"}),
        (["formula=a=b", "empty="], {"formula": "a=b", "empty": ""}),
        (["org=app.Organisation:1"], {"org": {"$model": "app.Organisation", "pk": 1}}),
        (["org=APP.organisation:a-b"], {"org": "APP.organisation:a-b"}),
        (["url=localhost:80", "when=a.b:c"], {"url": "localhost:80", "when": "a.b:c"}),
    ],
)
def test_set_takes_json_text_and_rows(pairs: list[str], context: dict[str, Any]) -> None:
    assert parse_pairs(pairs, ContextSchema()) == context


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["year"], "--set takes key=value, such as --set year=2026, not 'year'"),
        (["=5"], "--set takes key=value"),
        (["a=1", "a=2"], "--set gives 'a' twice"),
    ],
)
def test_what_set_cannot_take_is_said(pairs: list[str], said: str) -> None:
    with pytest.raises(ContextError, match=said):
        parse_pairs(pairs, ContextSchema())


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "5", "5"),
        (int | str, "5", 5),
        (dt.date, "2026-03-31", {"$date": "2026-03-31"}),
        (dt.date | None, "null", None),
        (dt.date | str, "2026-03-31", "2026-03-31"),
        (Decimal, "0.25", {"$decimal": "0.25"}),
        (Decimal, "2", 2),
        (uuid.UUID, "5", {"$uuid": "5"}),
        (Organisation, "5", {"$model": "app.Organisation", "pk": 5}),
        (Organisation | None, "a-b", {"$model": "app.Organisation", "pk": "a-b"}),
        (Organisation | int, "5", 5),
        (Organisation, "true", True),
        (list[int], "[1]", [1]),
    ],
    ids=str,
)
def test_what_is_typed_is_read_as_the_annotation_says(
    annotation: Any, text: str, value: Any
) -> None:
    schema = ContextSchema({"key": ContextKey("key", annotation)})
    assert parse_pairs([f"key={text}"], schema) == {"key": value}


def test_a_schedule_is_given_its_context_on_the_command_line() -> None:
    organisation = Organisation.objects.create(name="Quiver Tree Coffee")
    ProcessTreeInstance("named").add_process("name", func=annotated.name_of).save()
    said = typed("schedule", "named", "--every", "60", code=1)
    assert "lacks 'organisation'" in said
    typed("schedule", "named", "--every", "60", "--set", f"organisation={organisation.pk}")
    row = ProcessTree.objects.get(name="named")
    reference = {"$model": "app.Organisation", "pk": organisation.pk}
    assert row.default_context == {"organisation": reference}
    typed("schedule", "named", "--every", "30")
    assert ProcessTree.objects.get(name="named").default_context == row.default_context


def test_a_bare_key_will_do_where_the_annotation_names_the_model() -> None:
    tree = ProcessTreeInstance("named").add_process("name", func=annotated.name_of)
    tree.save()
    row = ProcessTree.objects.get(name="named")
    reference = {"$model": "app.Organisation", "pk": 5}
    assert parse_pairs(["organisation=5", "other=5"], row.context_schema) == {
        "organisation": reference,
        "other": 5,
    }
    organisation = Organisation.objects.create(name="Quiver Tree Coffee")
    said = typed("run", "named", "--set", f"organisation={organisation.pk}")
    assert 'name: "Quiver Tree Coffee"' in said


# --- show -----------------------------------------------------------------------------------------


def test_show_says_everything_of_a_tree(close: ProcessTree, instance: DagsterInstance) -> None:
    tree = ProcessTreeInstance("close", overwrite=True)
    ProcessTreeInstance.load("close").register_schedule(interval_minutes=60)
    del tree
    said = typed("show", "close")
    assert said.startswith("close: Closes the month.\n")
    assert "two\t\ttests.app.processes:two\tretries=2, timeout=60\n" in said
    assert "sum\tone, two\ttests.app.processes:add\t\n" in said
    assert "Schedule: every hour in " in said
    assert "Last runs: none" in said
    assert "Problems" not in said
    typed("run", "close")
    found = as_json("show", "close")
    assert len(found["due_times"]) == 5
    assert found["rule"].startswith("every hour")
    assert [run["status"] for run in found["runs"]] == ["success"]
    assert [each["name"] for each in found["processes"]] == ["one", "two", "sum"]


def test_show_says_what_a_tree_takes() -> None:
    ProcessTreeInstance("yearly").add_process("fetch", func=annotated.fetch_invoices).save()
    said = typed("show", "yearly")
    assert "year\tint\tfetch\t\tThe year that they are of.\n" in said
    assert "kind\t'sale' | 'bill'\t\t'sale'\tWhich of them.\n" in said
    assert as_json("show", "yearly")["context"][1] == {
        "name": "year",
        "type": "int",
        "required_by": ["fetch"],
        "default": None,
        "description": "The year that they are of.",
    }


def test_show_names_the_problems_of_a_broken_tree(close: ProcessTree) -> None:
    ProcessTree.objects.update(
        processes=[
            {"name": "a", "func": "tests.app.processes:gone", "dependencies": ["b"]},
            {"name": "b", "func": "tests.app.processes:one", "dependencies": ["a"]},
        ]
    )
    problems = as_json("show", "close")["problems"]
    assert any("circle" in each for each in problems), problems
    assert any("'gone'" in each for each in problems)


def test_show_draws_the_graph_for_mermaid() -> None:
    tree = ProcessTreeInstance("odd").add_process('a "b"', func=processes.one)
    tree.add_process("次", func=processes.add, dependencies=['a "b"']).save()
    assert typed("show", "odd", "--mermaid").splitlines() == [
        "flowchart LR",
        '  p0["a #34;b#34;"]',
        '  p1["次"]',
        "  p0 --> p1",
    ]


# --- runs, logs, cancel, retry --------------------------------------------------------------------


def test_runs_lists_what_failed_and_why(close: ProcessTree, instance: DagsterInstance) -> None:
    failing()
    typed("run", "close")
    typed("run", "failing", code=1)
    [failed, succeeded] = [line.split("\t") for line in typed("runs").splitlines()]
    assert failed[1:3] == ["failing", "failure"]
    assert failed[5] == "command"
    assert failed[6].startswith("fail: ")
    assert succeeded[1:3] == ["close", "success"]
    assert typed("runs", "close").count("\n") == 1
    assert typed("runs", "--failed").count("\n") == 1
    assert typed("runs", "--limit", "1").count("\n") == 1
    assert typed("runs", "--since", "1m").count("\n") == 2
    tomorrow = timezone.localdate() + dt.timedelta(days=1)
    assert typed("runs", "--since", str(tomorrow)) == ""
    found = as_json("runs", "failing")
    assert list(found[0]["failures"]) == ["fail"]
    assert found[0]["seconds"] >= 0


@pytest.mark.parametrize("since", ["yesterday", "5", "5y", "2026-02-30", "1 h", ""])
def test_a_since_that_is_no_moment_is_refused(since: str, instance: DagsterInstance) -> None:
    assert "is no moment: write 30m, 12h" in typed("runs", "--since", since, code=2)


def test_logs_prints_what_a_run_has_logged(close: ProcessTree, instance: DagsterInstance) -> None:
    failing()
    typed("run", "failing", code=1)
    run_id = only_run(instance).run_id
    said = typed("logs", run_id[:8])
    assert "ERROR" in said
    assert "fail: " in said
    assert "STEP_START" not in said
    assert len(typed("logs", run_id, "-v", "2").splitlines()) > len(said.splitlines())
    assert {"at", "level", "process", "message", "trace"} == set(as_json("logs", run_id)[0])


def test_logs_prints_the_traceback_of_a_failure_from_its_function_on(
    instance: DagsterInstance,
) -> None:
    failing()
    said = typed("run", "failing", code=1)
    run_id = only_run(instance).run_id
    assert f"Traceback: 'python manage.py proctree logs {run_id}'" in said
    [trace] = [line["trace"] for line in as_json("logs", run_id) if line["trace"]]
    first, *frames, last = trace.splitlines()
    assert first == "Traceback (most recent call last):"
    assert "tests/app/processes.py" in frames[0]
    assert last == "ValueError: this process always fails"
    assert f"    {last}\n" in typed("logs", run_id)


@pytest.mark.parametrize("run_id", ["", "abc", "ffffffff", "%", "no such run"])
@pytest.mark.parametrize("action", ["logs", "cancel", "retry"])
def test_a_run_that_is_not_there_is_said(
    action: str, run_id: str, instance: DagsterInstance
) -> None:
    assert "There is no run" in typed(action, run_id, code=1)


def test_a_run_whose_tree_has_lost_what_failed_is_not_repeated_and_others_are(
    close: ProcessTree, instance: DagsterInstance
) -> None:
    failing()
    typed("run", "failing", code=1)
    run_id = only_run(instance).run_id
    ProcessTreeInstance("also").add_process("fail", func=processes.fail).save()
    typed("run", "also", code=1)
    tree = ProcessTreeInstance("failing", overwrite=True).add_process("one", func=processes.one)
    tree.save()
    said = typed("retry", run_id, code=1)
    assert "has changed since, and lacks 'fail'. Run the tree again." in said
    said = typed("retry", "--failed", "--since", "1h", code=1)
    assert "lacks 'fail'" in said
    assert [run.job_name for run in instance.get_runs() if run.parent_run_id] == ["also"]


def test_cancel_takes_a_run_from_the_queue(close: ProcessTree, instance: DagsterInstance) -> None:
    typed("run", "close", "--submit")
    run = only_run(instance)
    assert "is being canceled" in typed("cancel", run.run_id[:8])
    assert only_run(instance).status == DagsterRunStatus.CANCELED
    assert "has ended: canceled" in typed("cancel", run.run_id, code=1)


def test_retry_queues_what_failed_from_where_it_failed(instance: DagsterInstance) -> None:
    failing()
    typed("run", "failing", code=1)
    failed = only_run(instance)
    [repeated] = as_json("retry", failed.run_id)
    run = instance.get_run_by_id(repeated["run"])
    assert run is not None
    assert run.status == DagsterRunStatus.QUEUED
    assert run.parent_run_id == failed.run_id
    assert run.step_keys_to_execute == ["fail"]
    assert run.tags["proctree/triggered_by"] == "command"
    assert run_tags.WORKER not in run.tags


def test_retry_of_what_has_not_failed_is_refused(
    close: ProcessTree, instance: DagsterInstance
) -> None:
    typed("run", "close")
    said = typed("retry", only_run(instance).run_id, code=1)
    assert "has not failed, it is success" in said
    tree_runs.get_row("close")


def test_retry_of_many_takes_the_trees_whose_last_run_failed(
    close: ProcessTree, instance: DagsterInstance
) -> None:
    failing()
    for _ in range(2):
        typed("run", "failing", code=1)
    typed("run", "close")
    assert len(as_json("retry", "--failed", "--since", "1h")) == 1
    assert "Say since when" in typed("retry", "--failed", code=2)
    assert "Name a run, or say --failed" in typed("retry", code=2)


def test_without_a_home_the_actions_that_need_one_say_so(
    close: ProcessTree, real_dagster: None
) -> None:
    for action in (["runs"], ["logs", "abcd"], ["cancel", "abcd"], ["retry", "abcd"]):
        assert "Dagster has no home" in typed(*action, code=1)
    assert "Last runs: Dagster has no home" in typed("show", "close")


# --- schedule, enable, disable --------------------------------------------------------------------


def test_schedule_sets_a_rule_and_says_it_in_words(close: ProcessTree) -> None:
    said = typed("schedule", "close", "--every", "45", "--at", "09:00", "--timezone", "UTC")
    assert said.startswith("'close' runs every 45 minutes from 09:00 in UTC.\nNext due time: ")
    said = typed("schedule", "close", "--cron", "0 9 * * 1-5")
    assert "runs at 09:00 on Monday through Friday in UTC." in said


def test_disable_and_enable_switch_a_schedule(close: ProcessTree) -> None:
    assert "'manage.py proctree schedule' gives it one" in typed("enable", "close", code=1)
    typed("schedule", "close", "--every", "60")
    assert "does not run by itself any more" in typed("disable", "close")
    assert not ProcessTreeSchedule.objects.get().enabled
    assert "is switched off" in typed("schedule", "close", "--every", "30")
    assert "runs every 30 minutes" in typed("enable", "close")
    assert ProcessTreeSchedule.objects.get().enabled


def test_what_is_broken_can_be_disabled_and_not_enabled(close: ProcessTree) -> None:
    typed("schedule", "close", "--every", "60")
    ProcessTree.objects.update(processes=[{"name": "a", "func": "tests.app.processes:gone"}])
    typed("disable", "close")
    assert "'gone'" in typed("enable", "close", code=1)


@pytest.mark.parametrize(
    "broken",
    [
        {"cron": "61 * * * *", "interval_minutes": None},
        {"timezone": "Nowhere/Land"},
        {"calendar": "tests.app.processes:gone", "business_days": "skip"},
        {"calendar": "holidays:XX", "business_days": "skip"},
    ],
)
def test_a_schedule_whose_rule_is_broken_can_be_disabled(
    close: ProcessTree, broken: dict[str, Any]
) -> None:
    typed("schedule", "close", "--every", "60")
    ProcessTreeSchedule.objects.update(**broken)
    assert "does not run by itself any more" in typed("disable", "close")
    assert not ProcessTreeSchedule.objects.get().enabled


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        (["--at", "25:00"], "--at takes a time such as 09:00", 2),
        (["--every", "0"], "whole number of minutes from 1", 1),
        (["--cron", "never"], "A cron has five fields", 1),
        (
            ["--cron", "0 9 * * *", "--every", "5"],
            "Give interval_minutes and start_time, or cron",
            1,
        ),
        (["--timezone", "Mars/Olympus"], "is not an IANA time zone", 1),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    args: list[str], said: str, code: int, close: ProcessTree
) -> None:
    assert said in typed("schedule", "close", *args, code=code)
    assert not ProcessTreeSchedule.objects.exists()


# --- check ----------------------------------------------------------------------------------------


def test_check_names_every_problem_and_exits_with_1(close: ProcessTree) -> None:
    assert "fits the code" in typed("check")
    ProcessTree.objects.update(
        processes=[
            {"name": "a", "func": "tests.app.processes:gone", "dependencies": ["nowhere"]},
        ]
    )
    said = typed("check", code=1)
    assert "process 'a' of tree 'close': " in said
    assert "'nowhere'" in said
    assert "2 problems: runs fail for them." in said
    assert len(as_json("check", code=1)) == 2


# --- How it is printed ----------------------------------------------------------------------------


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "160")
    return Terminal()


def test_a_terminal_gets_a_table_with_headings(close: ProcessTree, terminal: Terminal) -> None:
    call_command("proctree", "list", stdout=terminal, stderr=StringIO(), no_color=True)
    heading, line, row = terminal.getvalue().splitlines()
    assert " ".join(heading.split()) == "TREE RULE NEXT RUN LAST RUN STATUS RUN HELD BACK BY"
    assert set(line) == {"─"}
    assert row.split() == ["close", "no", "schedule"]


def test_what_is_piped_keeps_to_one_line_a_row(
    close: ProcessTree, instance: DagsterInstance
) -> None:
    ProcessTreeInstance("two\nlines\tand a tab").add_process("a", func=processes.one).save()
    assert [line.split("\t")[0] for line in typed("list").splitlines()[:2]] == [
        "close",
        "two lines and a tab",
    ]
