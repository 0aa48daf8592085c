"""The overview: what runs, what failed, what is late, and whether Dagster answers."""

import re
import threading
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, job
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.models import OutboxRun, ProcessTree, ProcessTreeSchedule
from proctree_dagster.running import dagster_loading, run_history, tree_runs
from proctree_dagster.services import webserver_probe
from proctree_dagster.services.webserver_probe import Answer
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.people import ADMIN, staff, text_of
from tests.app import processes
from tests.tools.schedules import HOUR, MINUTE, register

pytestmark = pytest.mark.django_db

PAGE = f"{ADMIN}/overview/"
EVIL = "<script>alert(1)</script>"


@job
def nothing() -> None:
    """Do nothing."""


def recorded(dagster: DagsterInstance, count: int, status: str, tree: str = "t") -> list[str]:
    """Record runs that nothing has executed."""
    return [
        dagster.create_run_for_job(
            nothing, status=DagsterRunStatus(status), tags={run_tags.TREE: tree}
        ).run_id
        for _ in range(count)
    ]


def sections(html: str) -> dict[str, str]:
    """Return the page's parts by their headings, without tags."""
    found = {}
    for part in re.findall(r"<section.*?</section>", html, re.DOTALL):
        heading = re.search(r"<h2[^>]*>(.*?)</h2>", part, re.DOTALL)
        assert heading is not None
        plain = re.sub(r"<title>.*?</title>|<[^>]+>", " ", part)
        found[heading[1].split(" (")[0].strip()] = " ".join(plain.split())
    return found


def numbers(html: str) -> dict[str, int]:
    """Return the numbers at the top of the page, by their labels."""
    found = re.findall(r"<strong>(\d+)</strong> ([^<]+)</", html)
    return {label: int(number) for number, label in found}


def shown(client: Client, part: str = "") -> str:
    answer = client.get(PAGE, {"part": part} if part else {})
    assert answer.status_code == 200
    return answer.content.decode()


# --- What is shown --------------------------------------------------------------------------------


def test_what_is_late_paused_and_held_back_is_counted_and_named(admin_client: Client) -> None:
    now = timezone.now()
    late, off, stopped, _due = (register() for _ in range(4))
    schedules = ProcessTreeSchedule.objects
    schedules.filter(pk=off.pk).update(enabled=False)
    schedules.filter(pk__in=[late.pk, stopped.pk]).update(next_run=now - HOUR)
    schedules.filter(pk=stopped.pk).update(stopped_in_dagster=True)
    html = shown(admin_client)
    assert numbers(html) == {
        **{"Running now": 0, "Failed since yesterday": 0, "Overdue": 1},
        **{"Held back by Dagster": 1, "Paused": 1, "Runs to be made": 0},
    }
    parts = sections(html)
    assert "tree_0" in parts["Overdue"]
    assert "tree_1" in parts["Paused"]
    assert "tree_2" in parts["Held back by Dagster"]
    assert "tree_2" not in parts["Overdue"] + parts["Next due times"]
    assert "tree_1" not in parts["Next due times"]


def test_the_next_ten_due_times_are_those_of_all_schedules(admin_client: Client) -> None:
    far = (timezone.localtime() + 12 * HOUR).time()
    register(interval_minutes=1440, start_time=far)
    often = register(interval_minutes=1, start_time=None)
    part = sections(shown(admin_client))["Next due times"]
    assert part.count("tree_") == 10
    assert part.count("tree_1") == 10
    ProcessTreeSchedule.objects.filter(pk=often.pk).update(enabled=False)
    assert sections(shown(admin_client))["Next due times"].count("tree_0") == 10


def test_more_than_ten_rows_of_a_kind_are_counted(admin_client: Client) -> None:
    for _ in range(12):
        register(enabled=False)
    html = shown(admin_client)
    assert numbers(html)["Paused"] == 12
    assert sections(html)["Paused"].count("tree_") == 10
    assert "And 2 more." in sections(html)["Paused"]


def test_broken_rows_are_named_first(admin_client: Client) -> None:
    ProcessTree.objects.create(name="broken", processes=[{"name": "a", "func": "gone:away"}])
    html = shown(admin_client)
    assert "Broken rows (1)" in html
    assert "process 'a' of tree 'broken'" in sections(html)["Broken rows"].replace("&#x27;", "'")
    assert html.index("Broken rows") < html.index("Running now")
    assert "gone" in shown(admin_client, "broken")


def test_a_row_that_can_not_be_read_hides_no_other(admin_client: Client) -> None:
    unreadable, readable = register(enabled=False), register(enabled=False)
    with connection.cursor() as cursor:
        table, wrong = ProcessTreeSchedule._meta.db_table, "2026-13-45 00:00:00"
        cursor.execute(f"UPDATE {table} SET last_run = %s WHERE id = %s", [wrong, unreadable.pk])
    part = sections(shown(admin_client))["Paused"]
    assert readable.process_tree.name in part


def test_runs_that_wait_in_the_outbox_are_counted(admin_client: Client) -> None:
    schedule = register()
    OutboxRun.objects.create(process_tree=schedule.process_tree)
    assert numbers(shown(admin_client))["Runs to be made"] == 1


# --- Runs -----------------------------------------------------------------------------------------


def test_runs_that_failed_say_why_and_lead_to_their_pages(
    admin_client: Client, dagster: DagsterInstance
) -> None:
    row = ProcessTreeInstance("t").add_process("p", func=processes.fail).save()
    run_id = tree_runs.execute_row(row)["run_id"]
    html = shown(admin_client)
    assert numbers(html)["Failed since yesterday"] == 1
    part = sections(html)["Failed since yesterday"]
    assert "p : ValueError: this process always fails" in part
    assert "Python code" in part
    assert f"/run/{run_id}/" in html
    assert f"/processtree/{row.pk}/change/" in html


def test_what_runs_now_is_listed_and_the_last_day_is_drawn(
    admin_client: Client, dagster: DagsterInstance
) -> None:
    recorded(dagster, 2, "SUCCESS")
    [running] = recorded(dagster, 1, "STARTED")
    html = shown(admin_client)
    assert numbers(html)["Running now"] == 1
    assert running[:8] in sections(html)["Running now"]
    assert html.count('class="pt-mark pt-mark--success"') == 2
    assert html.count('class="pt-mark pt-mark--started"') == 1
    assert re.search(r"<title>t: running, \d\d:\d\d</title>", html)


def test_runs_of_other_jobs_are_no_concern_of_the_page(
    admin_client: Client, dagster: DagsterInstance
) -> None:
    dagster.create_run_for_job(nothing, status=DagsterRunStatus.STARTED)
    html = shown(admin_client)
    assert numbers(html)["Running now"] == 0
    assert "pt-mark--" not in html.split("pt-key")[0]


def test_a_switch_in_dagster_counts_as_dagster_says_it_itself(
    admin_client: Client, dagster: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, started = register(), register()
    ProcessTreeSchedule.objects.filter(pk=started.pk).update(stopped_in_dagster=True)
    names = {stopped.dagster_name}
    monkeypatch.setattr(run_history.History, "schedules_stopped", lambda self: names)
    part = sections(shown(admin_client))["Held back by Dagster"]
    assert stopped.process_tree.name in part
    assert started.process_tree.name not in part


# --- Whether Dagster answers ----------------------------------------------------------------------


def test_without_dagster_it_says_so_and_shows_what_django_knows(
    admin_client: Client, settings: Settings, tmp_path: Path, real_dagster: None
) -> None:
    assert dagster_loading.wait(60)
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "missing")}
    now = timezone.now()
    running, failed, _other = register(), register(), register()
    ProcessTreeSchedule.objects.filter(pk=running.pk).update(last_run_status="started")
    ProcessTreeSchedule.objects.filter(pk=failed.pk).update(last_run_status="failure", last_run=now)
    html = shown(admin_client)
    assert "is not a folder; create it. Shown is what Django knows." in text_of_html(html)
    assert numbers(html)["Running now"] == numbers(html)["Failed since yesterday"] == 1
    parts = sections(html)
    assert "tree_0" in parts["Running now"]
    assert "tree_1" in parts["Failed since yesterday"]
    assert "The last 24 hours" not in parts
    assert "unknown" in parts["Dagster"]


def text_of_html(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_while_dagster_is_loaded_it_says_so_and_asks_again_soon(
    admin_client: Client, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_loading, "wait", lambda seconds: False)
    html = shown(admin_client)
    assert "Dagster is being loaded" in html
    assert re.search(r'id="pt-live"[^>]* data-pt-seconds="2"', html)


def test_a_dagster_that_can_not_be_imported_is_reported_and_not_waited_for(
    admin_client: Client, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_loading, "NEEDED", ("proctree_dagster.no_such_module",))
    monkeypatch.setattr(dagster_loading, "_loaded", threading.Event())
    monkeypatch.setattr(dagster_loading, "_problem", "")
    assert not dagster_loading.wait(0)
    while (importing := dagster_loading._thread) is not None:
        importing.join(30)
    html = shown(admin_client)
    assert "Dagster can&#x27;t be imported: ModuleNotFoundError" in html
    assert re.search(r'id="pt-live"[^>]* data-pt-seconds="10"', html)


def test_a_silent_daemon_is_reported_with_what_to_do(
    admin_client: Client, dagster: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = sections(shown(admin_client))["Dagster"]
    assert "Daemon does not answer It has never run here" in part
    assert "proctree dev" in part
    monkeypatch.setattr(run_history.History, "daemon_seen_at", lambda self: timezone.now() - HOUR)
    assert "It was last seen at" in sections(shown(admin_client))["Dagster"]
    monkeypatch.setattr(run_history.History, "daemon_seen_at", lambda self: timezone.now())
    assert "Daemon answers" in sections(shown(admin_client))["Dagster"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(), "Webserver unknown Its address is not known"),
        (Answer("u", is_pending=True), "Webserver unknown It is being asked."),
        (Answer("u", problem="refused"), "Webserver does not answer refused Code server unknown"),
        (Answer("u"), "Webserver answers Code server answers"),
        (Answer("u", code_server_problem="ended"), "Code server does not answer ended"),
    ],
)
def test_webserver_and_code_server_are_shown_as_they_answered(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, answer: Answer, said: str
) -> None:
    monkeypatch.setattr(webserver_probe, "answer", lambda job_name: answer)
    assert said in sections(shown(admin_client))["Dagster"]


# --- How it is served -----------------------------------------------------------------------------


def test_parts_are_refreshed_by_themselves_and_without_inline_scripts(
    admin_client: Client,
) -> None:
    html = shown(admin_client)
    assert 'id="pt-live" data-pt-refresh="?part=live"' in html
    assert "refresh.js" in html
    ours = html[html.index('id="content-main"') :]
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", ours)
    live = shown(admin_client, "live")
    assert live.strip().startswith('<div id="pt-live"')
    assert "<html" not in live
    assert 'id="pt-broken"' in shown(admin_client, "broken")


def test_who_may_view_trees_sees_it_and_nobody_else() -> None:
    assert staff("view_processtree").get(PAGE).status_code == 200
    for path in (PAGE, f"{PAGE}?part=live", f"{PAGE}?part=broken"):
        assert Client().get(path).status_code == 302


def test_without_the_permission_to_view_trees_it_is_refused() -> None:
    client = staff("view_trigger")
    for path in (PAGE, f"{PAGE}?part=live", f"{PAGE}?part=broken"):
        assert client.get(path).status_code == 403
    assert "overview" not in client.get(f"{ADMIN}/").content.decode().lower()


def test_it_is_listed_with_the_app_whose_page_leads_to_it_first(admin_client: Client) -> None:
    index = admin_client.get("/admin/").content.decode()
    ours = index[index.index('class="app-proctree_dagster') :]
    assert "overview" in re.findall(r'<tr class="model-(\w+)', ours)
    app = admin_client.get(f"{ADMIN}/")
    text = text_of(app)
    assert text.index("Overview: what runs, what failed, what is late") < text.index("Backfills")


def test_names_and_reasons_full_of_markup_are_text(
    admin_client: Client, dagster: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, changes in enumerate([{"enabled": False}, {"stopped_in_dagster": True}, {}]):
        schedule = register(**changes)
        ProcessTree.objects.filter(pk=schedule.process_tree_id).update(name=f"{EVIL}{number}")
    ProcessTree.objects.create(name=EVIL, processes=[{"name": EVIL, "func": EVIL}])
    recorded(dagster, 1, "FAILURE", tree=EVIL)
    recorded(dagster, 1, "STARTED", tree=EVIL)
    answer = Answer(EVIL, code_server_problem=EVIL)
    monkeypatch.setattr(webserver_probe, "answer", lambda job_name: answer)
    html = shown(admin_client)
    assert EVIL not in html
    assert html.count("&lt;script&gt;alert(1)") > 8


# --- What it costs --------------------------------------------------------------------------------


def queries(client: Client, path: str = PAGE) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


def test_five_hundred_trees_and_runs_cost_as_many_queries_as_five(
    admin_client: Client, dagster: DagsterInstance, statements: list[str]
) -> None:
    def more(count: int) -> None:
        first = ProcessTree.objects.count()
        made = ProcessTree.objects.bulk_create(
            ProcessTree(
                name=f"bulk_{first + number}",
                processes=[{"name": "a", "func": "gone:away" if number % 2 else "registered"}],
            )
            for number in range(count)
        )
        now = timezone.now()
        ProcessTreeSchedule.objects.bulk_create(
            ProcessTreeSchedule(
                process_tree=tree,
                enabled=bool(number % 3),
                next_run=now - HOUR if number % 5 else now + MINUTE,
                last_run_status="started" if number % 7 == 0 else "",
            )
            for number, tree in enumerate(made)
        )

    def cost() -> tuple[int, int]:
        statements.clear()
        return queries(admin_client), len(statements)

    more(5)
    for status in ("FAILURE", "STARTED", "SUCCESS"):
        recorded(dagster, 5, status)
    queries(admin_client)  # which opens what stays open
    before = cost()
    more(495)
    for status in ("FAILURE", "STARTED", "SUCCESS"):
        recorded(dagster, 30, status)
    assert cost() == before
