"""The whole way, with real processes: ``dagster dev``, its daemon, its code server, commands."""

import json
import shutil
import signal
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from proctree_dagster.domain import run_tags
from proctree_dagster.management.tag_pairs import os_user
from tests.tools import TOP
from tests.tools.code_files import code_of
from tests.tools.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

BAD_CONTEXT = '{"organisation": "Acme"}'
TOKEN = "a token that nobody sees"
REMINDER = "receivables_reminder"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    shutil.copy(code_of(__file__) / "e2e_functions.py", stack.folder)
    (stack.folder / "e2e_settings.py").write_text(
        "from example.settings import *\n"
        "PROCTREE = {**PROCTREE, 'FUNCTION_MODULES': ['example.ledger', 'e2e_functions']}\n"
    )
    stack.env["DJANGO_SETTINGS_MODULE"] = "e2e_settings"
    stack.env["E2E_TOKEN"] = TOKEN
    try:
        stack.set_up_example()
        save_trees(stack)
        stack.start_dagster()
        save_what_nobody_tells_dagster_of(stack)
        yield stack
    finally:
        assert stack.stop() == [], "processes outlived Ctrl-C"


def save_trees(stack: Stack) -> None:
    """Save the trees before Dagster starts: each that is saved later has it load its code again.

    The daemon needs a minute or two to come to some of the schedules; the last tests look at them.
    """
    path = str(stack.folder / "go_on")
    stack.shell(
        "ProcessTreeSchedule.objects.filter(process_tree__name='receivables_reminder')"
        ".update(next_run=timezone.now() - datetime.timedelta(hours=3))\n"
        "tree = ProcessTreeInstance('takes_long')\n"
        "tree.add_process('waits', func='e2e_functions:waits').save()\n"
        f"tree.register_schedule(cron='* * * * *', context={{'path': {path!r}}})\n"
        "for name in ['follows', 'beside', 'was_due']:\n"
        "    tree = ProcessTreeInstance(name).add_process('quick', func='e2e_functions:quick')\n"
        "    tree.save()\n"
        "tree = ProcessTreeInstance('leads').add_process('quick', func='e2e_functions:quick')\n"
        "tree.add_dependent_tree('follows').add_sibling_tree('beside')\n"
        "tree.set_run_tags(['year', 'missing']).save()\n",
        silently=True,
    )
    stack.shell(code_of(__file__) / "save_requests.py", silently=True)


def save_what_nobody_tells_dagster_of(stack: Stack) -> None:
    """Save schedules while Dagster is up, and do not ask it to reload."""
    stack.shell(
        "ProcessTreeInstance.load('was_due').register_schedule(interval_minutes=600)\n"
        "for name in ['held_back', 'unannounced']:\n"
        "    tree = ProcessTreeInstance(name).add_process('quick', func='e2e_functions:quick')\n"
        "    tree.save()\n"
        "    tree.register_schedule(interval_minutes=1)\n"
        "ProcessTreeSchedule.objects.filter(process_tree__name='held_back').update(enabled=False)\n"
        "ProcessTreeSchedule.objects.filter(process_tree__name__in=['unannounced', 'was_due'])"
        ".update(next_run=timezone.now() - datetime.timedelta(hours=3))",
        silently=True,
    )


def output(run: dict[str, Any], step: str) -> str:
    """Return what the UI shows as the result of a process."""
    [event] = [
        event
        for event in run["eventConnection"]["events"]
        if event["__typename"] == "ExecutionStepOutputEvent" and event["stepKey"] == step
    ]
    metadata = {entry["label"]: entry.get("text") for entry in event["metadataEntries"]}
    return metadata["proctree/result"] or ""


def test_every_saved_tree_is_served_as_a_job(stack: Stack) -> None:
    assert {"monthly_close", "receivables_reminder"} <= set(stack.job_names())


def test_a_launch_uses_the_schedules_default_context(stack: Stack) -> None:
    run = stack.finished(stack.launch("monthly_close"))
    assert run["status"] == "SUCCESS"
    assert "10965.41" in output(run, "publish_statements")


def test_a_launch_with_a_changed_context_uses_it(stack: Stack) -> None:
    context = {"organisation": "Harbour Lane Design", "period_end": "2026-03-31"}
    run = stack.finished(stack.launch("monthly_close", {"context": context}))
    assert run["status"] == "SUCCESS"
    assert "5860.79" in output(run, "publish_statements")


def test_the_value_of_a_secret_is_in_no_file_of_a_run_that_prints_it(stack: Stack) -> None:
    context = {"token": {"$secret": "E2E_TOKEN"}}
    run = stack.finished(stack.launch("has_a_secret", {"context": context}))
    assert run["status"] == "FAILURE"
    assert output(run, "says") == "{'header': 'Bearer (secret E2E_TOKEN)'}"
    files = [each for each in stack.folder.rglob("*") if each.is_file()]
    said = {each: each.read_bytes() for each in files}
    assert [each for each, content in said.items() if TOKEN.encode() in content] == []
    printed = [each for each in files if each.suffix in (".out", ".err")]
    assert sum(b"(secret E2E_TOKEN)" in said[each] for each in printed) >= 2


def test_a_launch_is_followed_and_a_person_finds_the_way_there_and_back(stack: Stack) -> None:
    first = stack.launch("leads", {"context": {"year": 2026}})
    for job in ("follows", "beside"):
        [made] = wait_for(f"a run of {job}", lambda: stack.runs(job))  # noqa: B023
        follower = stack.finished(made["runId"])
        assert follower["status"] == "SUCCESS"
        assert "2026" in output(follower, "quick")
        assert follower["tags"]["proctree/family"] == first
        assert stack.tags(made["runId"])[run_tags.FOLLOWS] == first
        assert follower["tags"]["dagster/sensor_name"] == run_tags.OUTBOX_SENSOR
        assert made["runId"] in stack.tags(first)[run_tags.FOLLOWED_BY]
    shown = stack.run(first)["tags"]
    assert shown["context/year"] == "2026"
    assert {name for name in shown if name.startswith((".dagster/", "proctree/"))} == {
        "proctree/family",
        "proctree/tree",
    }


def test_a_command_appears_in_the_same_history_and_is_executed_again(stack: Stack) -> None:
    done = stack.type("monthly_close")
    run_id = done.stdout.split()[-1].rpartition("/")[2]
    run = stack.run(run_id)
    assert run["status"] == "SUCCESS"
    assert run["tags"]["proctree/triggered_by"] == "command"
    assert run["tags"]["user"] == os_user()
    again = stack.finished(stack.reexecute(run_id, "ALL_STEPS"))
    assert again["status"] == "SUCCESS"
    assert again["parentRunId"] == run_id


def test_a_command_that_fails_exits_with_1_and_is_tried_again_from_failure(stack: Stack) -> None:
    done = stack.type("monthly_close", "--context", BAD_CONTEXT, check=False)
    assert done.returncode == 1
    assert "There is no organisation 'Acme'" in done.stderr
    run_id = done.stdout.split()[-1].rpartition("/")[2]
    assert stack.run(run_id)["status"] == "FAILURE"
    again = stack.finished(stack.reexecute(run_id, "FROM_FAILURE"))
    assert {step["stepKey"] for step in again["stepStats"]} == {
        "fetch_journals",
        "fetch_manual_journals",
    }


def test_a_submitted_run_is_run_by_the_daemon(stack: Stack) -> None:
    done = stack.manage("monthly_close", "--submit")
    _, _, run_id, url = done.stdout.split()
    assert url == f"{stack.url}/runs/{run_id}"
    run = stack.finished(run_id)
    assert run["status"] == "SUCCESS"
    assert run["tags"]["proctree/triggered_by"] == "command"


def test_a_tree_saved_while_dagster_is_up_is_launched_without_a_restart(stack: Stack) -> None:
    stack.shell(
        "ProcessTreeInstance('saved meanwhile', overwrite=True)"
        ".add_process('quick', func='e2e_functions:quick').save()"
    )

    def job() -> str | None:
        return next((name for name in stack.job_names() if "saved_meanwhile" in name), None)

    name = wait_for("the new job", job, 30)
    run = stack.finished(stack.launch(name, {"context": {"a": [1, None]}}))
    assert run["status"] == "SUCCESS"
    assert output(run, "quick") == "{'a': [1, None]}"


def test_a_tree_that_is_broken_shows_its_reason_while_its_neighbours_run(stack: Stack) -> None:
    assert "broken" in stack.job_names()
    run = stack.finished(stack.launch("broken"))
    assert run["status"] == "FAILURE"
    [failure] = [
        event
        for event in run["eventConnection"]["events"]
        if event["__typename"] == "ExecutionStepFailureEvent"
    ]
    text = json.dumps(failure, ensure_ascii=False)
    assert "circle: 'a' → 'b' → 'a'" in text
    assert "'os:system' is not allowed" in text
    assert stack.finished(stack.launch("monthly_close"))["status"] == "SUCCESS"


def test_a_re_execution_whose_step_is_gone_is_refused_with_its_reason(stack: Stack) -> None:
    executed = stack.shell("print(ProcessTreeManager.execute_tree('shrunk')['run_id'])")
    run_id = executed.split()[-1]
    stack.shell("ProcessTreeInstance.load('shrunk').remove_process('bad').save()", silently=True)

    def refusal() -> str | None:
        answer = stack.reexecution(run_id, "FROM_FAILURE")
        return answer.get("message") if answer["__typename"] == "PythonError" else None

    assert "unknown step: bad" in wait_for("the refusal", refusal)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_leaves_its_run_canceled(
    stack: Stack, ending: signal.Signals
) -> None:
    stack.shell(
        "tree = ProcessTreeInstance('slow', overwrite=True)"
        ".add_process('slow', func='e2e_functions:slow')\n"
        "tree.save()\n"
        f"tree.create_command('slow_tree', {str(stack.folder / 'slow_tree.py')!r})",
        silently=True,
    )
    script = (
        "import os, sys, django\n"
        "django.setup()\n"
        "from slow_tree import Command\n"
        "Command().run_from_argv(['manage.py', 'slow_tree'])\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", script],
        env=stack.env,
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    for line in command.stdout:
        if "running" in line:
            break
    command.send_signal(ending)
    _, errors = command.communicate(timeout=30)
    assert command.returncode == 130, errors
    assert "Interrupted; the run is canceled." in errors
    assert stack.runs("slow")[0]["status"] == "CANCELED"


ACTIONS = """
import io, json
from django.core.management import CommandError, call_command

def typed(*args):
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("proctree", *args, stdout=out, stderr=err)
    except CommandError as error:
        return [error.returncode, out.getvalue(), err.getvalue() + str(error)]
    return [0, out.getvalue(), err.getvalue()]

"""


def typed(stack: Stack, *actions: list[str], silently: bool = False) -> list[tuple[int, str, str]]:
    """Type actions of ``manage.py proctree``, all of them in one process."""
    printed = stack.shell(
        f"{ACTIONS}print(json.dumps([typed(*each) for each in {actions!r}]))", silently=silently
    )
    return [tuple(each) for each in json.loads(printed.splitlines()[-1])]


def test_each_action_works_beside_a_running_daemon(stack: Stack) -> None:
    stack.shell(
        "for name in ['slow', 'fails']:\n"
        "    ProcessTreeInstance(f'{name} beside it', overwrite=True)"
        ".add_process(name, func=f'e2e_functions:{name}').save()\n",
        silently=True,
    )
    failed, slow, listed, shown, doctor, reloaded = typed(
        stack,
        ["run", "fails beside it", "--json"],
        ["run", "slow beside it", "--submit", "--json"],
        ["list", "--json"],
        ["show", "monthly_close", "--json"],
        ["doctor", "--json"],
        ["reload"],
    )
    assert failed[0] == 1
    failed_run = json.loads(failed[1])["run_id"]
    slow_run = json.loads(slow[1])["run"]
    assert json.loads(listed[1])["daemon_seen_at"] is not None
    assert "daemon" not in listed[2]
    assert len(json.loads(shown[1])["due_times"]) == 5
    errors = [each for each in json.loads(doctor[1]) if each["level"] == "error"]
    assert not [each for each in errors if "tree 'broken'" not in each["what"]]  # of another test
    assert reloaded[0] == 0, reloaded
    wait_for("the slow run", lambda: stack.run(slow_run)["status"] == "STARTED")
    again, all_again, canceled, logged, runs = typed(
        stack,
        ["retry", failed_run, "--json"],
        ["retry", "--failed", "--since", "5m", "--json"],
        ["cancel", slow_run],
        ["logs", failed_run],
        ["runs", "fails beside it", "--json"],
    )
    [repeated] = json.loads(again[1])
    assert repeated["repeats"] == failed_run
    new = stack.finished(repeated["run"])
    assert (new["status"], new["parentRunId"]) == ("FAILURE", failed_run)
    assert failed_run not in {each["repeats"] for each in json.loads(all_again[1])}, (
        "it is not last"
    )
    assert canceled[0] == 0, canceled
    assert stack.finished(slow_run)["status"] == "CANCELED"
    assert "on purpose" in logged[1]
    assert {each["run_id"] for each in json.loads(runs[1])} >= {failed_run, repeated["run"]}
    # Of each tree whose last run has failed, that run: the one that has just been repeated.
    [[_, printed, _]] = typed(stack, ["retry", "--failed", "--since", "5m", "--json"])
    assert repeated["run"] in {each["repeats"] for each in json.loads(printed)}


def test_what_changes_when_trees_run_works_beside_a_running_daemon(stack: Stack) -> None:
    stack.shell(
        "from proctree_dagster.triggers import create_trigger\n"
        "create_trigger('by hand', 'event')\n"
        "ProcessTreeInstance('typed', overwrite=True)"
        ".add_process('quick', func='e2e_functions:quick', cache_key='typed')"
        ".subscribe_to_trigger('by hand').save()\n",
        silently=True,
    )
    scheduled, disabled, off, enabled, checked, home, cleared, fired = typed(
        stack,
        ["schedule", "typed", "--every", "525600", "--at", "00:00"],
        ["disable", "typed"],
        ["show", "typed", "--json"],
        ["enable", "typed"],
        ["check", "--json"],
        ["home"],
        ["clear-cache", "typed"],
        ["fire", "by hand", "--json"],
        silently=True,
    )
    assert scheduled[0] == 0, scheduled
    assert "Next due time: " in scheduled[1]
    assert disabled[:2] == (0, "'typed' does not run by itself any more.\n")
    assert json.loads(off[1])["held_back_by"] == "Django"
    assert enabled[0] == 0, enabled
    assert "typed" not in checked[1]
    assert "is ready" in home[1]
    assert cleared[1] == "Cleared the cached results of 'typed'\n"
    [run] = json.loads(fired[1])
    assert (run["tree"], stack.finished(run["run"])["status"]) == ("typed", "SUCCESS")


def test_the_command_line_of_dagster_knows_the_jobs(stack: Stack) -> None:
    for arguments, expected in [
        (["job", "list"], "Job: monthly_close"),
        (["definitions", "validate"], "All code locations passed validation"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "dagster", *arguments, "-w", "workspace.yaml"],
            env=stack.env,
            cwd=TOP,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout + done.stderr


def scheduled_runs(stack: Stack, job: str) -> list[dict[str, Any]]:
    """Return the runs of a job that its schedule asked for."""
    return [run for run in stack.runs(job) if "proctree/due" in run["tags"]]


def test_a_schedule_that_is_due_is_run_by_the_daemon_once(stack: Stack) -> None:
    [run] = wait_for("the scheduled run", lambda: scheduled_runs(stack, "was_due"), 150)
    finished = stack.finished(run["runId"])
    assert finished["status"] == "SUCCESS"
    assert finished["tags"]["proctree/triggered_by"] == "schedule"
    row = stack.shell(
        "row = ProcessTreeSchedule.objects.get(process_tree__name='was_due')\n"
        "print(row.claim, row.last_run_id, row.next_run > timezone.now(), row.last_run is not None)"
    )
    assert row == f"None {run['runId']} True True"
    again = stack.finished(stack.reexecute(run["runId"], "ALL_STEPS"))
    assert again["status"] == "SUCCESS", "a re-execution has no claim of its own"
    runs = {each["runId"] for each in scheduled_runs(stack, "was_due")}
    assert runs == {run["runId"], again["runId"]}


def test_one_schedule_with_for_each_runs_once_for_each_row(stack: Stack) -> None:
    def both() -> list[dict[str, Any]]:
        found = stack.runs(REMINDER)
        return found if len(found) > 1 else []

    runs = wait_for("a run for each organisation", both, 150)
    of_rows = {stack.tags(run["runId"])["context/organisation"]: run["runId"] for run in runs}
    assert sorted(of_rows) == ["ledger.Organisation:1", "ledger.Organisation:2"]
    assert len(runs) == 2
    for row, outstanding in (("1", "15802.50"), ("2", "19314.00")):
        finished = stack.finished(of_rows[f"ledger.Organisation:{row}"])
        assert finished["status"] == "SUCCESS"
        assert outstanding in output(finished, "summarise_reminders")
    reasons = [tick["skipReason"] or "" for tick in stack.ticks(REMINDER)]
    wanted = "Requested 2 runs, one for each ledger.Organisation."
    assert [reason for reason in reasons if reason.startswith("Requested")] == [wanted]


def test_the_daemon_sees_a_new_schedule_that_nobody_told_it_of(stack: Stack) -> None:
    runs = wait_for("the first run", lambda: scheduled_runs(stack, "unannounced"), 180)
    assert stack.finished(runs[-1]["runId"])["status"] == "SUCCESS"


def test_a_due_schedule_of_rows_has_one_run_for_each_found_by_its_tag(stack: Stack) -> None:
    keys = stack.shell(
        "from example.ledger.models import Organisation\n"
        "print(*Organisation.objects.values_list('pk', flat=True))"
    ).split()

    def requested() -> list[dict[str, Any]] | None:
        runs = stack.runs("for_each_one")
        return runs if len(runs) >= len(keys) else None

    runs = wait_for("the runs of all rows", requested, 180)
    assert {stack.finished(run["runId"])["status"] for run in runs} == {"SUCCESS"}
    assert sorted(run["tags"]["context/organisation"] for run in runs) == sorted(
        f"ledger.Organisation:{key}" for key in keys
    )

    def said() -> str | None:
        reasons = [tick["skipReason"] or "" for tick in stack.ticks("for_each_one")]
        return next((reason for reason in reasons if reason.startswith("Requested")), None)

    told = wait_for("the tick that says how many", said)
    assert told == f"Requested {len(keys)} runs, one for each ledger.Organisation."


def test_two_schedules_of_a_tree_that_are_due_run_each_with_its_own_context(stack: Stack) -> None:
    def both() -> list[dict[str, Any]] | None:
        runs = scheduled_runs(stack, "both_due")
        return runs if len(runs) >= 2 else None

    runs = wait_for("a run of each schedule", both, 180)
    assert {
        run["tags"].get(run_tags.SCHEDULE): literal_eval(
            output(stack.finished(run["runId"]), "quick")
        )
        for run in runs
    } == {None: {"of": "the default one", "kept": 1}, "second": {"of": "the second one"}}
    assert len(runs) == 2


def test_submits_with_one_key_run_in_their_order_each_soon_after_the_one_before(
    stack: Stack,
) -> None:
    ids = stack.shell(
        "for number in range(3):\n"
        "    print(ProcessTreeManager.submit_tree(\n"
        "        'in_line', {'number': number}, key='one line', on_conflict='queue').run_id)"
    ).split()[-3:]
    times = []
    for number, run_id in enumerate(ids):
        run = stack.finished(run_id)
        assert (run["status"], output(run, "naps")) == ("SUCCESS", str(number))
        times.append(stack.began_and_ended(run_id))
    for (_, ended), (began, _) in pairwise(times):
        assert ended <= began, "two runs with one key at the same time"


def test_a_limit_by_key_holds_for_launches_from_the_ui(stack: Stack) -> None:
    contexts = [{"number": number, "customer": "a"} for number in range(3)]
    ids = [stack.launch("limited", {"context": each}) for each in contexts]
    other = stack.launch("limited", {"context": {"number": 3, "customer": "b"}})
    for run_id in [*ids, other]:
        assert stack.finished(run_id)["status"] == "SUCCESS"
    times = [stack.began_and_ended(run_id) for run_id in ids]
    for began, _ in times:
        assert sum(start <= began < end for start, end in times) <= 2


def test_a_disabled_schedule_skips_and_the_tick_says_why(stack: Stack) -> None:
    def skipped() -> list[str]:
        return [tick["skipReason"] for tick in stack.ticks("held_back") if tick["skipReason"]]

    reasons = wait_for("a skipped tick", skipped, 180)
    assert "Disabled in Django" in reasons[0]
    assert stack.runs("held_back") == []


def test_while_a_scheduled_run_is_running_the_next_due_time_is_kept(stack: Stack) -> None:
    wait_for("the run", (stack.folder / "go_on.started").exists, 180)

    def kept() -> str | None:
        reasons = [tick["skipReason"] or "" for tick in stack.ticks("takes_long")]
        return next((reason for reason in reasons if "is kept until it ends" in reason), None)

    [first] = scheduled_runs(stack, "takes_long")
    assert first["runId"] in wait_for("a due time that is kept", kept, 180)
    assert "started" in listed(stack, "takes_long")
    [_] = scheduled_runs(stack, "takes_long")
    (stack.folder / "go_on").touch()
    assert stack.finished(first["runId"])["status"] == "SUCCESS"
    wait_for("the next run", lambda: len(scheduled_runs(stack, "takes_long")) > 1, 180)
    wait_for("its end", lambda: "success" in listed(stack, "takes_long"))


def listed(stack: Stack, tree: str) -> str:
    """Return what ``proctree list`` says of a tree, its warnings included."""
    done = stack.type("proctree", "list")
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    return "\n".join(line for line in lines if line.startswith(tree))


def test_a_schedule_that_is_stopped_in_dagsters_ui_says_so_in_django(stack: Stack) -> None:
    assert "Dagster" not in listed(stack, "receivables_reminder")
    stack.switch("receivables_reminder", on=False)

    def noticed() -> bool:
        row = "ProcessTreeSchedule.objects.get(process_tree__name='receivables_reminder')"
        return stack.shell(f"print({row}.held_back_by)", silently=True) == "Dagster"

    wait_for("Django to notice by itself", noticed, 120)
    assert "its switch in Dagster is off" in listed(stack, "receivables_reminder")
    stack.switch("receivables_reminder", on=True)
    assert "Dagster" not in listed(stack, "receivables_reminder")
