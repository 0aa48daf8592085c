"""A tree's page: its graph, processes, schedule, runs, family and triggers, for viewers, too."""

import re
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus, graph
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from proctree_dagster.admin import tree_graph
from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree, ProcessTreeSchedule, TreeLink
from proctree_dagster.running import dagster_loading, tree_runs
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import create_trigger
from tests.admin.people import ADMIN, VIEWS, browser, staff, text_of, user
from tests.admin.sent import fields, ids
from tests.app import processes

pytestmark = pytest.mark.django_db

EVIL = "<script>alert(1)</script>"


@graph
def nothing() -> None:
    """Do nothing."""


def record(dagster: DagsterInstance, row: ProcessTree, status: str, count: int = 1) -> None:
    """Record runs of a tree that nothing has executed."""
    for _ in range(count):
        dagster.create_run_for_job(
            nothing.to_job(name=row.job_name),
            status=DagsterRunStatus(status),
            tags={run_tags.TREE: row.name},
        )


def tree(name: str = "t", **options: Any) -> ProcessTreeInstance:
    made = ProcessTreeInstance(name, overwrite=True)
    made.add_process("first", func=processes.one, retries=2)
    made.add_process("second", func=processes.add, dependencies=["first"], **options)
    return made


def page_of(row: ProcessTree) -> str:
    return f"{ADMIN}/processtree/{row.pk}/change/"


def shown(client: Client, row: ProcessTree, part: str = "") -> str:
    answer = client.get(page_of(row), {"part": part} if part else {})
    assert answer.status_code == 200
    return answer.content.decode()


def plain(html: str) -> str:
    return " ".join(re.sub(r"<title>.*?</title>|<[^>]+>", " ", html).split())


def section(html: str, name: str) -> str:
    """Return the text of a part of the page, by the id of its heading."""
    found = re.search(rf'<section[^>]*aria-labelledby="{name}".*?</section>', html, re.DOTALL)
    assert found is not None, name
    return plain(found[0])


# --- What it shows --------------------------------------------------------------------------------


def test_processes_are_listed_with_function_place_dependencies_and_options(
    admin_client: Client,
) -> None:
    row = tree().save()
    html = shown(admin_client, row)
    part = section(html, "pt-processes")
    assert "tests.app.processes:add Add up whatever numbers it is given." in part
    assert re.search(r"tests/app/processes\.py:\d+", part)
    assert "retries 2" in part
    assert '<a href="#process-1"><bdi>first</bdi></a>' in html
    assert 'id="process-1"' in html


def test_the_graph_leads_to_the_rows_of_the_processes(admin_client: Client) -> None:
    html = shown(admin_client, tree().save())
    graph = html[html.index('<svg class="pt-graph"') :]
    graph = graph[: graph.index("</section>")]
    assert re.findall(r'<a href="#(process-\d)" class="pt-node">', graph) == [
        "process-1",
        "process-2",
    ]
    assert graph.count('class="pt-edge"') == 1
    assert "<title>second</title>" in graph
    assert set(re.findall(r'href="#([\w-]+)"', graph)) <= set(ids(html))


def test_no_id_is_on_the_page_twice(admin_client: Client) -> None:
    found = list(ids(shown(admin_client, tree().save())))
    ours = [each for each in found if each.startswith(("pt-", "process", "id_process"))]
    assert len(ours) == len(set(ours))


def test_the_schedule_is_told_in_words_with_the_next_five_due_times(admin_client: Client) -> None:
    made = tree()
    row = made.save()
    schedule = made.register_schedule(interval_minutes=60)
    html = shown(admin_client, row)
    part = section(html, "pt-schedule")
    assert "Every hour in Africa/Johannesburg" in part
    assert len(re.findall(r"\d\d:00", part.partition("Next due times")[2])) == 5
    assert f"/processtreeschedule/{schedule.pk}/change/" in html
    ProcessTreeSchedule.objects.update(enabled=False)
    part = section(shown(admin_client, row), "pt-schedule")
    assert "paused" in part
    assert "Next due times" not in part


def test_families_and_triggers_lead_to_each_other(admin_client: Client) -> None:
    made = tree()
    row, before, after = made.save(), tree("before").save(), tree("after").save()
    TreeLink.objects.create(source=before, target=row)
    TreeLink.objects.create(source=row, target=after, kind="sibling")
    trigger = create_trigger("month ends", "event")
    made.subscribe_to_trigger(trigger)
    html = shown(admin_client, row)
    part = section(html, "pt-others")
    assert "These run when it does after" in part
    assert "It runs after these have succeeded before" in part
    assert "month ends (event)" in part
    for page in (page_of(before), page_of(after), f"{ADMIN}/trigger/{trigger.pk}/change/"):
        assert f'href="{page}"' in html


# --- Runs -----------------------------------------------------------------------------------------


def test_runs_say_who_started_them_how_long_they_took_and_what_failed(
    admin_client: Client, dagster: DagsterInstance
) -> None:
    row = ProcessTreeInstance("t").add_process("a process", func=processes.fail).save()
    run_id = tree_runs.execute_row(row)["run_id"]
    html = shown(admin_client, row)
    part = section(html, "pt-runs")
    assert f"{run_id[:8]} failed" in part
    assert "Python code" in part
    assert re.search(r"\d\.\d s", part)
    assert "a process : ValueError: this process always fails" in part
    assert f"/run/{run_id}/" in html


def test_processes_have_the_outcome_of_the_last_run_in_table_and_graph(
    admin_client: Client, dagster: DagsterInstance
) -> None:
    row = ProcessTreeInstance("t").add_process("works", func=processes.one)
    row.add_process("fails", func=processes.fail, dependencies=["works"])
    saved = row.save()
    tree_runs.execute_row(saved)
    html = shown(admin_client, saved)
    assert 'class="pt-node pt-node--completed"><title>works: completed</title>' in html
    assert 'class="pt-node pt-node--failed"><title>fails: failed</title>' in html
    part = section(html, "pt-processes")
    assert re.search(r"works completed \d\.\d s", part)
    assert "this process always fails" in part


def test_while_a_run_is_under_way_the_part_refreshes_itself(
    admin_client: Client, dagster: DagsterInstance
) -> None:
    row = tree().save()
    assert "data-pt-refresh" not in shown(admin_client, row)
    record(dagster, row, "STARTED")
    assert 'data-pt-refresh="?part=tree"' in shown(admin_client, row)
    part = shown(admin_client, row, "tree")
    assert "<html" not in part
    assert part.strip().startswith('<div class="pt-page" id="pt-tree"')


def test_without_dagster_it_says_so_and_shows_the_rest(
    admin_client: Client, settings: Settings, tmp_path: Path, real_dagster: None
) -> None:
    assert dagster_loading.wait(60)
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "missing")}
    html = shown(admin_client, tree().save())
    assert "is not a folder" in section(html, "pt-runs")
    assert "first" in section(html, "pt-processes")


def test_while_dagster_is_loaded_it_says_so_and_asks_again(
    admin_client: Client, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_loading, "wait", lambda seconds: False)
    html = shown(admin_client, tree().save())
    assert "Dagster is being loaded" in section(html, "pt-runs")
    assert 'data-pt-refresh="?part=tree" data-pt-seconds="2"' in html


# --- Broken rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ([{"name": "a", "func": "gone.away:f"}], "gone.away:f' is not allowed"),
        ([{"name": "a", "func": "tests.app.processes:gone"}], "names nothing"),
        ([{"name": "a", "func": "registered", "dependencies": ["b"]}], "not in the tree"),
        (
            [
                {"name": "a", "func": "registered", "dependencies": ["b"]},
                {"name": "b", "func": "registered", "dependencies": ["a"]},
            ],
            "go round in a circle",
        ),
        ([{"name": "a", "func": "registered", "trigger": "none"}], "which does not exist"),
        ([7, {"name": "a"}, {"func": 3}, {"name": ["x"], "func": "registered"}], "must be"),
        ({"no": "list"}, "must be a list"),
        ("text", "must be a list"),
        ([], "has no processes"),
    ],
)
def test_a_broken_tree_is_shown_with_its_problems(
    admin_client: Client, saved: Any, said: str
) -> None:
    row = ProcessTree.objects.create(name="t", processes=saved)
    assert said in plain(shown(admin_client, row)).replace("&#x27;", "'")


def test_a_problem_is_shown_once_at_the_process_that_has_it(admin_client: Client) -> None:
    saved = [
        {"name": "a", "func": "registered", "retries": -1},
        {"name": "b", "func": "registered"},
    ]
    row = ProcessTree.objects.create(name="t", processes=saved)
    html = shown(admin_client, row)
    assert plain(html).count("retries must be from 0 to 1000") == 1
    assert "retries must be" in section(html, "pt-processes")
    assert 'id="pt-problems"' not in html


def test_processes_that_python_can_not_parse_are_shown_as_they_are_stored(
    admin_client: Client,
) -> None:
    row, stored = tree().save(), f"[{'1' * 5000}]"
    with connection.cursor() as cursor:
        table = ProcessTree._meta.db_table
        cursor.execute(f"UPDATE {table} SET processes = %s WHERE id = %s", [stored, row.pk])
    html = shown(admin_client, row)
    assert "The tree&#x27;s processes must be a list." in html
    assert fields(html)["processes"] == stored


def test_a_schedule_that_can_not_be_read_says_so(admin_client: Client) -> None:
    made = tree()
    row = made.save()
    made.register_schedule()
    ProcessTreeSchedule.objects.update(timezone="No/Where")
    assert "No/Where" in section(shown(admin_client, row), "pt-schedule")


def test_a_row_that_can_not_be_read_hides_no_other_and_is_said_to_be_there(
    admin_client: Client,
) -> None:
    made = tree("broken")
    row = made.save()
    made.register_schedule()
    tree("whole").save()
    changes = {ProcessTree: "created_at", ProcessTreeSchedule: "last_run"}
    with connection.cursor() as cursor:
        for model, column in changes.items():
            pk = model.objects.earliest("pk").pk  # type: ignore[attr-defined]
            table, wrong = model._meta.db_table, "2026-13-45 00:00:00"
            cursor.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s", [wrong, pk])
    text = text_of(admin_client.get(f"{ADMIN}/processtree/"))
    assert "whole" in text
    assert "broken" in text
    assert "can't be read" in text
    answer = admin_client.get(page_of(row), follow=True)
    assert "The process tree “broken” can't be read" in text_of(answer)
    gone = admin_client.get(f"{ADMIN}/processtree/999/change/", follow=True)
    assert "doesn’t exist" in text_of(gone)


# --- Who sees what --------------------------------------------------------------------------------


def test_who_may_only_view_sees_all_of_it_and_no_field(dagster: DagsterInstance) -> None:
    made = tree()
    row = made.save()
    made.register_schedule(context={"token": "hush"})
    tree_runs.execute_row(row)
    client = staff(*VIEWS)
    html = shown(client, row)
    for name in ("pt-processes", "pt-schedule", "pt-runs"):
        assert section(html, name)
    assert "hush" not in html
    sent = fields(html[html.index('id="processtree_form"') :])
    assert not {"name", "processes", "processes-rows-TOTAL_FORMS"} & set(sent)


def test_who_may_not_view_trees_gets_no_part_of_it() -> None:
    row = tree().save()
    client = staff("view_trigger")
    for part in ("", "tree"):
        assert client.get(page_of(row), {"part": part} if part else {}).status_code == 403
    assert Client().get(page_of(row), {"part": "tree"}).status_code == 302
    assert staff_of_trees().get(f"{ADMIN}/processtree/0/change/?part=tree").status_code == 404


def staff_of_trees() -> Client:
    from tests.admin.people import browser, user

    return browser(user("viewer", ["view_processtree"]))


def test_links_lead_only_where_the_user_may_go() -> None:
    made = tree()
    row = made.save()
    schedule = made.register_schedule()
    made.subscribe_to_trigger(create_trigger("e", "event"))
    html = shown(staff("view_processtree"), row)
    assert f"/processtreeschedule/{schedule.pk}/" not in html
    assert f"{ADMIN}/trigger/" not in html
    assert "Every" in section(html, "pt-schedule")


@pytest.mark.parametrize(
    ("codenames", "status"),
    [
        (["view_processtree", "name_functions"], 403),
        (["change_processtree"], 403),
        (["change_processtree", "name_functions"], 200),
        (["add_processtree", "name_functions"], 200),
    ],
)
def test_functions_are_listed_for_who_may_name_them(codenames: list[str], status: int) -> None:
    answer = staff(*codenames).get(f"{ADMIN}/processtree/functions/?q=processes:ADD")
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {
            "functions": [
                {
                    "reference": "tests.app.processes:add",
                    "summary": "Add up whatever numbers it is given.",
                }
            ],
            "more": 0,
        }


def test_markup_in_names_functions_and_options_is_text(
    admin_client: Client, dagster: DagsterInstance
) -> None:
    made = ProcessTreeInstance(EVIL).add_process(EVIL, func=processes.fail, metadata={EVIL: EVIL})
    row = made.save()
    made.register_schedule()
    tree_runs.execute_row(row)
    create_trigger(EVIL, "event")
    made.subscribe_to_trigger(EVIL)
    TreeLink.objects.create(source=row, target=tree(f"{EVIL}2").save())
    html = shown(admin_client, row)
    assert EVIL not in html
    assert html.count("&lt;script&gt;alert(1)") > 10
    assert "&lt;script&gt;alert(1)&lt;/s…" not in html  # cut after it was escaped
    assert "&lt;script&gt;alert(1)&lt;/scri…" in html


# --- What is saved --------------------------------------------------------------------------------


def test_a_page_that_is_sent_back_as_it_is_changes_nothing(admin_client: Client) -> None:
    row = tree(trigger=None, timeout=2.5).save()
    before = ProcessTree.objects.values().get()
    sent = fields(shown(admin_client, row))
    assert admin_client.post(page_of(row), dict(sent.lists())).status_code == 302
    after = ProcessTree.objects.values().get()
    assert {**after, "updated_at": None} == {**before, "updated_at": None}
    assert LogEntry.objects.get().get_change_message() == "No fields changed."


def test_what_was_changed_is_in_djangos_log(admin_client: Client) -> None:
    row = tree().save()
    sent = fields(shown(admin_client, row))
    sent["processes-rows-0-name"] = "begin"
    assert admin_client.post(page_of(row), dict(sent.lists())).status_code == 302
    assert LogEntry.objects.get().get_change_message() == "Changed processes."
    assert ProcessTree.objects.get().processes[1]["dependencies"] == ["begin"]


def test_a_tree_is_added_with_rows_only(admin_client: Client) -> None:
    page = f"{ADMIN}/processtree/add/"
    sent = fields(admin_client.get(page).content.decode())
    sent["name"] = "new"
    sent["processes-rows-0-name"], sent["processes-rows-0-func"] = "one", "registered"
    assert admin_client.post(page, dict(sent.lists())).status_code == 302
    assert ProcessTree.objects.get().processes == [{"name": "one", "func": "registered"}]


def test_an_error_of_the_tree_is_one_error_at_its_field(admin_client: Client) -> None:
    row = tree().save()
    sent = fields(shown(admin_client, row))
    sent["name"], sent["executor"] = "", "none such"
    answer = admin_client.post(page_of(row), dict(sent.lists()))
    errors = answer.context["adminform"].form.errors
    assert {name: len(texts) for name, texts in errors.items()} == {"name": 1, "executor": 1}


def test_above_a_form_with_errors_the_tree_is_shown_as_it_is_saved(admin_client: Client) -> None:
    row = tree().save()
    sent = fields(shown(admin_client, row))
    sent["processes-rows-0-name"], sent["processes-rows-0-func"] = "unsaved", "gone:away"
    html = admin_client.post(page_of(row), dict(sent.lists())).content.decode()
    assert "gone:away" in html
    assert "unsaved" not in section(html, "pt-processes")
    assert "first" in section(html, "pt-processes")


def test_who_may_not_name_functions_has_no_rows_and_no_json_to_edit() -> None:
    row = tree().save()
    client = staff("change_processtree")
    sent = fields(shown(client, row))
    assert not {"processes", "processes-rows-TOTAL_FORMS"} & set(sent)
    sent["processes"] = "[]"
    sent["description"] = "new"
    assert client.post(page_of(row), dict(sent.lists())).status_code == 302
    saved = ProcessTree.objects.get()
    assert (saved.description, saved.processes) == ("new", row.processes)


# --- What it costs --------------------------------------------------------------------------------


def test_many_processes_runs_and_followers_cost_as_many_queries_as_few(
    dagster: DagsterInstance, statements: list[str]
) -> None:
    def cost(name: str, count: int) -> tuple[int, int]:
        saved = [{"name": f"p{number}", "func": "registered"} for number in range(count)]
        row = ProcessTree.objects.create(name=name, processes=saved)
        others = ProcessTree.objects.bulk_create(
            ProcessTree(name=f"{name}_{number}", processes=saved[:1]) for number in range(count)
        )
        TreeLink.objects.bulk_create(TreeLink(source=row, target=other) for other in others)
        record(dagster, row, "SUCCESS", count // 3)
        record(dagster, row, "FAILURE", count // 3)
        statements.clear()
        with CaptureQueriesContext(connection) as captured:
            assert viewer.get(page_of(row)).status_code == 200
        return len(captured), len(statements)

    viewer = staff(*VIEWS)
    cost("warm", 3)
    assert cost("few", 5) == cost("many", 60)


def test_the_list_of_trees_costs_as_many_queries_for_many_as_for_few(admin_client: Client) -> None:
    def cost(count: int) -> int:
        for number in range(count):
            made = tree(f"{count} {number}")
            made.save()
            made.register_schedule()
        with CaptureQueriesContext(connection) as captured:
            assert admin_client.get(f"{ADMIN}/processtree/").status_code == 200
        return len(captured)

    assert cost(3) == cost(20)


def test_the_list_of_trees_shows_schedule_and_last_run(admin_client: Client) -> None:
    made = tree()
    made.save()
    made.register_schedule(interval_minutes=60, enabled=False)
    tree("without").save()
    ProcessTreeSchedule.objects.update(last_run_status="failure", last_run_id="a" * 36)
    text = text_of(admin_client.get(f"{ADMIN}/processtree/"))
    assert "every hour in Africa/Johannesburg Django" in text
    assert "failed aaaaaaaa" in text


# --- The graph ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clipped"),
    [
        ("fits", "fits"),
        ("a name that is far too long", "a name …"),
        ("日本語の名前です", "日本語…"),
        ("e\u0301" * 8, "e\u0301" * 8),
        ("a\nb\u202ec\x00", "a bc"),
        ("", ""),
    ],
)
def test_names_are_clipped_to_what_fits_in_a_box(text: str, clipped: str) -> None:
    assert tree_graph.clipped(text, 8) == clipped


def test_who_may_run_a_tree_has_a_button_for_it_on_its_page() -> None:
    row = tree().save()
    address = f"{ADMIN}/processtree/{row.pk}/run/"
    viewer = staff("view_processtree")
    assert address not in shown(viewer, row)
    viewer.logout()
    assert address in shown(browser(user("runner", ["view_processtree", "run_processtree"])), row)


@pytest.mark.parametrize("key", ["²", "9" * 5000, "nothing"])
def test_an_address_of_no_tree_leads_to_the_index(admin_client: Client, key: str) -> None:
    answer = admin_client.get(f"{ADMIN}/processtree/{key}/change/", follow=True)
    assert answer.status_code == 200
    assert "Perhaps it was deleted" in text_of(answer)
