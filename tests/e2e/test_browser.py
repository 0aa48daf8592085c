"""What a person sees and clicks: the real Dagster UI, in a real browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from tests.tools import browser as browsers
from tests.tools.browser import Tab
from tests.tools.code_files import code_of
from tests.tools.stack import Stack, wait_for

pytestmark = pytest.mark.e2e

CODE = code_of(__file__)

SETTINGS = """
from example.settings import *

INSTALLED_APPS = [*INSTALLED_APPS, "e2e_app"]
"""


SAVE_TREES = """
from e2e_app import processes

ProcessTreeInstance("watched").add_process("watch", func=processes.watch).save()
ProcessTreeInstance("hen_and_egg").add_process("fetch", func=processes.fetch).save()
process = {"name": "work", "func": "e2e_app.unlicensed:work"}
ProcessTree(name="unlicensed", processes=[process]).save()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The example with one more app and its trees, one of which is due when Dagster starts."""
    stack = Stack(tmp_path_factory.mktemp("browser"))
    app = stack.folder / "e2e_app"
    app.mkdir()
    (app / "__init__.py").touch()
    shutil.copy(CODE / "processes.py", app)
    (app / "unlicensed.py").write_text('raise RuntimeError("the licence has expired")')
    (stack.folder / "e2e_settings.py").write_text(SETTINGS)
    stack.env["DJANGO_SETTINGS_MODULE"] = "e2e_settings"
    try:
        stack.set_up_example()
        # Each tree that is saved later has Dagster load its code again.
        for program in ("save_imports.py", "save_every_type.py", "save_nulls.py"):
            stack.shell(CODE / program, silently=True)
        stack.shell(SAVE_TREES, silently=True)
        stack.start_dagster()
        stack.graphql(browsers.SKIP_THE_WELCOME)
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    chromium = browsers.chromium()
    if chromium is None:
        reason = "There is no Chromium here: apt-get install chromium."
        if os.environ.get("PROCTREE_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with browsers.open_profile(chromium) as browser:
        yield browser


@pytest.fixture
def tab(browser: BrowserContext, stack: Stack) -> Iterator[Tab]:
    with browsers.open_tab_of(browser, stack.url) as tab:
        yield tab


@pytest.fixture(scope="module")
def commanded_run(stack: Stack) -> str:
    """A run that a management command started, and whose second process failed."""
    done = stack.type(
        "import_by_command", "--context", '{"name": "import_by_command"}', check=False
    )
    assert done.returncode == 1
    assert "the file is locked" in done.stderr
    [run] = stack.runs("import_by_command")
    return _failed_at_convert(stack, run, "command")


@pytest.fixture(scope="module")
def scheduled_run(stack: Stack) -> str:
    """A run that the daemon started when its schedule was due, and whose second process failed."""
    *_, run = wait_for("the daemon to start a run", lambda: stack.runs("import_by_schedule"), 150)
    return _failed_at_convert(stack, run, "schedule")


def _failed_at_convert(stack: Stack, run: dict[str, Any], triggered_by: str) -> str:
    run_id: str = run["runId"]
    ended = stack.finished(run_id)
    assert ended["tags"]["proctree/triggered_by"] == triggered_by
    assert steps(ended) == {"fetch": "SUCCESS", "convert": "FAILURE"}
    return run_id


def succeeded(tab: Tab, stack: Stack, run_id: str) -> dict[str, Any]:
    """Wait until a run has succeeded, and the tab says so; return the run."""
    run = stack.finished(run_id)
    assert run["status"] == "SUCCESS", errors(run)
    tab.see_status("Success")
    return run


def errors(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events that say why a run failed."""
    events: list[dict[str, Any]] = run["eventConnection"]["events"]
    return [event for event in events if event.get("error") or event.get("level") == "ERROR"]


def steps(run: dict[str, Any]) -> dict[str, str]:
    """Return what became of each process that a run called."""
    return {step["stepKey"]: step["status"] for step in run["stepStats"]}


def result(run: dict[str, Any], process: str) -> str:
    """Return what a run shows of a process's result."""
    texts: list[str] = [
        entry["text"]
        for event in run["eventConnection"]["events"]
        if event["__typename"] == "ExecutionStepOutputEvent" and event["stepKey"] == process
        for entry in event["metadataEntries"]
        if entry["label"] == "proctree/result"
    ]
    [text] = texts
    return text


# The page of a job, and the Launchpad


def test_a_job_page_shows_the_graph_of_its_tree(tab: Tab) -> None:
    tab.open_job("monthly_close")

    tab.see_process("fetch_journals")
    tab.see_process("fetch_manual_journals")
    tab.see_process("build_trial_balance")
    tab.see_process("build_profit_and_loss")
    tab.see_process("publish_statements")


def test_the_launchpad_is_prefilled_with_the_default_context(tab: Tab, stack: Stack) -> None:
    prefilled = tab.open_launchpad("monthly_close")

    assert prefilled == (
        "context:\n"
        "  organisation:\n"
        "    $model: ledger.Organisation\n"
        "    pk: 1\n"
        "  period_end:\n"
        "    $date: 2026-03-31\n"
    )
    run = succeeded(tab, stack, tab.launch())
    assert "10965.41" in result(run, "publish_statements")


def test_a_launch_uses_what_was_typed_into_the_launchpad(tab: Tab, stack: Stack) -> None:
    tab.open_launchpad("monthly_close")

    tab.type_config("context:\n  organisation: Harbour Lane Design\n  period_end: '2026-03-31'\n")

    run = succeeded(tab, stack, tab.launch())
    assert "5860.79" in result(run, "publish_statements")


def test_the_launchpad_refuses_a_misspelt_key_before_a_run_starts(tab: Tab) -> None:
    prefilled = tab.open_launchpad("monthly_close")

    tab.type_config(prefilled.replace("period_end", "periodend"))

    tab.see('Received unexpected config entry "periodend" at path root:context')
    tab.see('Missing required config entry "period_end" at path root:context')
    assert tab.launch_button.is_disabled()


def test_the_graph_shows_the_types_that_functions_are_annotated_with(tab: Tab) -> None:
    tab.open_job("monthly_close")

    tab.see("list[TrialBalanceRow]")


def test_what_a_function_says_is_seen_while_it_runs_and_what_it_shows_on_its_output(
    tab: Tab, stack: Stack
) -> None:
    run_id = stack.launch("watched")

    tab.open_run(run_id)
    tab.see("opening the ledger")
    tab.see("Progress: 1 of 3 invoices (33 %)")
    assert stack.run(run_id)["status"] == "STARTED"
    (stack.folder / "e2e_app" / "go_on").touch()

    tab.see("Progress: 3 of 3 invoices (100 %)")
    assert stack.finished(run_id)["status"] == "SUCCESS"
    tab.filter_log("Yielded")
    tab.see("INV-77")
    tab.open_metadata("[Show Markdown]")
    assert tab.sees_picture("chart")


SAVE_MEANWHILE = """
from e2e_app import processes

ProcessTreeInstance("saved_meanwhile").add_process("fetch", func=processes.fetch).save()
"""

BREAK_HEN_AND_EGG = """
trees = ProcessTree.objects.filter(name="hen_and_egg")
[process] = trees.get().processes
hen = {**process, "name": "hen", "dependencies": ["egg"]}
egg = {**process, "name": "egg", "dependencies": ["hen"]}
trees.update(processes=[hen, egg])
"""


def written_down(stack: Stack) -> list[str]:
    """Return what the process wrote down, line by line, and forget it."""
    file = stack.folder / "e2e_app" / "written_down"
    lines = file.read_text(encoding="utf-8").split("\n")
    file.unlink()
    return lines


def test_every_type_comes_through_the_launchpad_as_through_a_command(
    tab: Tab, stack: Stack
) -> None:
    stack.type("write_down")
    from_command = written_down(stack)

    prefilled = tab.open_launchpad("write_down")
    succeeded(tab, stack, tab.launch())

    assert len(from_command) == 35
    assert "amount = Decimal('1.50')" in from_command
    assert "organisation = <Organisation: Harbour Lane Design>" in from_command
    assert written_down(stack) == from_command, prefilled


def test_a_null_or_an_empty_dictionary_is_not_prefilled_and_comes_through(
    tab: Tab, stack: Stack
) -> None:
    """Dagster leaves both out of what it prefills, except in lists; a launch has them again."""
    stack.type("nulls")
    from_command = written_down(stack)

    assert tab.open_launchpad("nulls") == (
        "context:\n  in_a_dictionary:\n    kept: 1\n  in_a_list:\n  - null\n  - {}\n"
    )
    succeeded(tab, stack, tab.launch())

    assert from_command == [
        "empty = {}",
        "in_a_dictionary = {'empty': {}, 'kept': 1, 'null': None}",
        "in_a_list = [None, {}]",
        "null = None",
    ]
    assert written_down(stack) == from_command


# The list of jobs


def test_a_tree_saved_meanwhile_appears_in_an_open_list_of_jobs_without_a_reload(
    tab: Tab, stack: Stack
) -> None:
    tab.open_jobs()
    tab.see("monthly_close")

    stack.shell(SAVE_MEANWHILE)

    tab.see("saved_meanwhile", seconds=30)
    tab.page.reload()
    tab.see("saved_meanwhile")


def test_a_tree_saved_meanwhile_appears_where_webserver_and_daemon_run_by_themselves(
    browser: BrowserContext, tmp_path: Path
) -> None:
    stack = Stack(tmp_path / "services")
    try:
        stack.set_up_example()
        stack.start_dagster(as_services=True)
        stack.graphql(browsers.SKIP_THE_WELCOME)
        with browsers.open_tab_of(browser, stack.url) as tab:
            tab.open_jobs()
            tab.see("monthly_close")
            stack.shell(
                "ProcessTreeInstance('saved_meanwhile').add_process("
                "'list', 'example.ledger.processes:list_overdue_invoices').save()"
            )
            tab.see("saved_meanwhile", seconds=30)
            tab.page.reload()
            tab.see("saved_meanwhile")
    finally:
        stack.stop()


# Broken trees


def test_a_tree_whose_module_fails_says_why_on_its_page_and_its_neighbour_runs(
    tab: Tab, stack: Stack
) -> None:
    tab.open_job("unlicensed")
    tab.see_process("broken_tree")
    tab.see("the licence has expired")

    tab.open_launchpad("receivables_reminder")
    succeeded(tab, stack, tab.launch())


def test_a_run_of_a_tree_that_goes_round_in_a_circle_says_so_and_its_neighbour_runs(
    tab: Tab, stack: Stack
) -> None:
    tab.open_launchpad("hen_and_egg")
    stack.shell(BREAK_HEN_AND_EGG, silently=True)

    tab.launch()
    tab.see_status("Failure")
    tab.see("The dependencies go round in a circle: 'hen' → 'egg' → 'hen'.")

    tab.open_launchpad("receivables_reminder")
    succeeded(tab, stack, tab.launch())


# Re-execution


def test_re_execute_all_repeats_a_run_that_a_command_started(tab: Tab, stack: Stack) -> None:
    stack.type("monthly_close", "--context", '{"organisation": "Harbour Lane Design"}')
    run_id = stack.runs("monthly_close")[0]["runId"]
    tab.open_run(run_id)

    run = succeeded(tab, stack, tab.reexecute_all())

    assert run["parentRunId"] == run_id
    assert steps(run) == dict.fromkeys(
        [
            "fetch_journals",
            "fetch_manual_journals",
            "build_trial_balance",
            "build_profit_and_loss",
            "publish_statements",
        ],
        "SUCCESS",
    )
    assert "5860.79" in result(run, "publish_statements")


def test_from_failure_mends_a_run_that_a_command_started(
    tab: Tab, stack: Stack, commanded_run: str
) -> None:
    tab.open_run(commanded_run)

    run = succeeded(tab, stack, tab.reexecute_from_failure())

    assert run["parentRunId"] == commanded_run
    assert steps(run) == {"convert": "SUCCESS", "publish": "SUCCESS"}
    assert result(run, "publish") == "'published converted a file'"


def test_from_failure_mends_a_run_that_a_schedule_started(
    tab: Tab, stack: Stack, scheduled_run: str
) -> None:
    tab.open_run(scheduled_run)

    run = succeeded(tab, stack, tab.reexecute_from_failure())

    assert run["parentRunId"] == scheduled_run
    assert steps(run) == {"convert": "SUCCESS", "publish": "SUCCESS"}
    assert result(run, "publish") == "'published converted a file'"


def test_re_execute_all_repeats_a_run_that_a_schedule_started(
    tab: Tab, stack: Stack, scheduled_run: str
) -> None:
    tab.open_run(scheduled_run)

    run = succeeded(tab, stack, tab.reexecute_all())

    assert run["parentRunId"] == scheduled_run
    assert steps(run) == {"fetch": "SUCCESS", "convert": "SUCCESS", "publish": "SUCCESS"}
