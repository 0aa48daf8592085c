"""A run's page in the admin."""

import html
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from proctree_dagster.models import OutboxRun, OutboxState, ProcessTree, TreeLink
from proctree_dagster.running import dagster_loading
from proctree_dagster.services import run_outbox
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.admin.dagster_pages import RUNS, TREES, address, dagster_statements, execute, save, text
from tests.admin.people import staff
from tests.app import processes

pytestmark = pytest.mark.django_db

MARKUP = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def loaded(dagster_home: Path) -> None:
    assert dagster_loading.wait(60)


def shown(client: Client, run_id: str, **params: str) -> str:
    answer = client.get(f"{RUNS}{run_id}/change/", params)
    assert answer.status_code == 200
    return text(answer)


def do(client: Client, run_id: str, deed: str, **data: Any) -> Any:
    return client.post(f"{RUNS}{run_id}/action/", {"action": deed, **data})


def run_of(answer: Any) -> str:
    """Return the id of the run whose page an answer leads to."""
    run_id = address(answer).removeprefix(RUNS).removesuffix("/change/")
    assert str(uuid.UUID(run_id)) == run_id
    return run_id


def failing() -> ProcessTree:
    tree = ProcessTreeInstance("Close").add_process("one", func=processes.one)
    tree.add_process("sum up", func=processes.fail, dependencies=["one"])
    return tree.add_process("after", func=processes.add, dependencies=["sum up"]).save()


def test_a_run_is_shown_with_each_process_its_error_its_log_and_its_context(
    admin_client: Client,
) -> None:
    tree = failing()
    secret = ProcessTreeInstance("secret").add_process("echo", func=processes.echo).save()
    result = shown(admin_client, execute(secret, {"api_key": "hunter2", "seen": 1}))
    assert "hunter2" not in result, "also in what a function returns"
    assert "{&#x27;api_key&#x27;: &#x27;(hidden)&#x27;, &#x27;seen&#x27;: 1}" in result
    run_id = execute(tree, {"organisation": "Müller", "api_key": "hunter2"})
    page = shown(admin_client, run_id)
    assert "sum up" in page
    assert "ValueError: this process always fails" in page
    assert "raise ValueError(&quot;this process always fails&quot;)" in page
    assert "Dependency failed: sum up" in page
    assert "Müller" in page
    assert "hunter2" not in page
    assert "(hidden)" in page
    assert "STEP_START" not in page, "Dagster's own notes are left out"
    assert "data-pt-refresh" not in page, "it has ended"
    everything = shown(admin_client, run_id, log="all")
    assert everything.count("<li class=") > page.count("<li class=")


def test_its_log_is_bounded(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = execute(failing())
    monkeypatch.setattr("proctree_dagster.admin.run_page.LINES", 3)
    monkeypatch.setattr("proctree_dagster.admin.run_page.MOST_LINES", 5)
    assert "Older lines are left out." in shown(admin_client, run_id)
    page = shown(admin_client, run_id, log="all")
    assert f"proctree logs {run_id}" in page
    assert page.count('class="pt-log--') == 5


def test_its_page_costs_as_many_queries_whatever_it_has(admin_client: Client) -> None:
    used = []
    for count in (1, 6):
        tree = ProcessTreeInstance(f"tree {count}")
        for number in range(count):
            tree.add_process(f"p{number}", func=processes.fail, required=False)
        run_id = execute(tree.save())
        shown(admin_client, run_id)
        with CaptureQueriesContext(connection) as django, dagster_statements() as dagster:
            shown(admin_client, run_id)
        used.append((len(django), len(dagster)))
    assert used[0] == used[1]


def test_markup_in_names_contexts_results_errors_and_logs_is_shown_as_text(
    admin_client: Client,
) -> None:
    tree = ProcessTreeInstance(MARKUP)
    variables = {MARKUP: {"type": "str", "key": "text"}}
    tree.add_process(f"{MARKUP} echo", func=processes.echo, response_vars=variables)
    tree.add_process("fails", func=processes.needs, dependencies=[f"{MARKUP} echo"])
    run_id = execute(
        tree.save(), {"text": MARKUP, MARKUP: MARKUP}, run_tags={"user": MARKUP, "team": MARKUP}
    )
    for params in ({}, {"log": "all"}):
        page = shown(admin_client, run_id, **params)
        assert MARKUP not in page
        assert html.escape(MARKUP) in page


def test_while_it_has_not_ended_it_is_brought_up_to_date(
    admin_client: Client, instance: DagsterInstance
) -> None:
    failed = execute(failing())
    queued = run_of(do(admin_client, failed, "retry"))
    page = shown(admin_client, queued)
    assert re.search(rf'data-pt-refresh="{RUNS}{queued}/live/" data-pt-seconds="\d+"', page)
    assert '<noscript><meta http-equiv="refresh"' in page
    assert "<script>" not in page, "no script stands in the page"
    part = text(admin_client.get(f"{RUNS}{queued}/live/"))
    assert part.lstrip().startswith('<div id="pt-run"')
    assert "Not repeated: it succeeded in the run that this one continues." in part
    run = instance.get_run_by_id(queued)
    assert run is not None
    instance.report_run_canceled(run)
    part = text(admin_client.get(f"{RUNS}{queued}/live/"))
    assert "data-pt-refresh" not in part


def test_a_run_and_those_that_repeat_it_are_linked(admin_client: Client) -> None:
    failed = execute(failing())
    repeated = run_of(do(admin_client, failed, "retry_all"))
    assert f'repeated by <a href="{RUNS}{repeated}/change/"' in shown(admin_client, failed)
    assert f'repeats <a href="{RUNS}{failed}/change/"' in shown(admin_client, repeated)


def test_a_family_is_listed(admin_client: Client) -> None:
    first, second = save("first"), save("second")
    TreeLink.objects.create(source=first, target=second, kind="dependent")
    run_id = execute(first)
    page = shown(admin_client, run_id)
    assert "follows it" in page
    assert "second (" in page


def test_a_run_is_repeated_once_and_its_repetition_is_shown(admin_client: Client) -> None:
    failed = execute(failing())
    repeated = run_of(do(admin_client, failed, "retry"))
    assert run_of(do(admin_client, failed, "retry")) == failed, "it is being repeated"
    assert "is being repeated already" in shown(admin_client, failed)
    page = shown(admin_client, repeated)
    assert "the admin (admin)" in page
    assert 'value="cancel"' in page
    assert run_of(do(admin_client, repeated, "cancel")) == repeated
    page = shown(admin_client, repeated)
    assert "pt-status--canceled" in page
    assert "Canceling was requested by admin." in page
    assert "admin: Canceled." in page, "Django's log"
    entries = LogEntry.objects.filter(content_type__model="run").values_list("object_id", flat=True)
    assert set(entries) == {failed, repeated}


def test_a_deed_is_a_post_of_a_known_one(admin_client: Client) -> None:
    run_id = execute(save())
    assert admin_client.get(f"{RUNS}{run_id}/action/").status_code == 405
    assert do(admin_client, run_id, "delete").status_code == 403
    assert Client(enforce_csrf_checks=True).post(f"{RUNS}{run_id}/action/").status_code == 403


def test_a_run_that_is_gone_is_said(admin_client: Client) -> None:
    gone = str(uuid.uuid4())
    for deed in ("retry", "cancel", "again"):
        assert address(do(admin_client, gone, deed)) == RUNS
    for page in ("change", "live"):
        assert address(admin_client.get(f"{RUNS}{gone}/{page}/")) == RUNS
    assert f"There is no run {gone}" in text(admin_client.get(RUNS))
    assert admin_client.get(f"{RUNS}no-run/change/", follow=True).status_code == 200


# --- Runs that Dagster does not have --------------------------------------------------------------


def test_a_run_that_is_requested_has_a_page_and_can_be_withdrawn(admin_client: Client) -> None:
    row = run_outbox.add(save(), {"tenant": MARKUP, "password": "hunter2"}, {"team": "books"})
    OutboxRun.objects.update(reason=f"It failed: {MARKUP}")
    run_id = str(row.run_id)
    page = shown(admin_client, run_id)
    assert "pt-status--requested" in page
    assert html.escape(MARKUP) in page
    assert MARKUP not in page
    assert "hunter2" not in page
    assert "data-pt-refresh" in page
    assert run_of(do(admin_client, run_id, "cancel")) == run_id
    page = shown(admin_client, run_id)
    assert "pt-status--dropped" in page
    assert "Withdrawn by admin." in page
    assert "data-pt-refresh" not in page


def test_what_is_being_delivered_is_not_withdrawn(admin_client: Client) -> None:
    row = run_outbox.add(save(), {}, {})
    assert run_outbox.lease(row, row.created_at)
    OutboxRun.objects.update(leased_until="2999-01-01T00:00:00Z")
    do(admin_client, str(row.run_id), "cancel")
    assert OutboxRun.objects.get().state == OutboxState.WAITING
    assert "Dagster is getting it just now" in shown(admin_client, str(row.run_id))


def test_the_run_that_takes_the_place_of_one_that_never_started_is_linked(
    admin_client: Client,
) -> None:
    tree = save(func=processes.fail)
    run_id = execute(tree)
    instead = OutboxRun.objects.create(
        process_tree=tree, run_id=run_outbox.next_id(uuid.UUID(run_id))
    )
    assert f'replaced by <a href="{RUNS}{instead.run_id}/change/"' in shown(admin_client, run_id)


def test_without_a_home_the_page_says_so_and_shows_what_is_requested(
    admin_client: Client, settings: Any, tmp_path: Path
) -> None:
    run_id = execute(failing())
    row = run_outbox.add(save(), {"tenant": 1}, {})
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "missing")}
    page = shown(admin_client, str(row.run_id))
    assert "is not a folder" in page
    assert "tenant" in page
    assert "is not a folder" in shown(admin_client, run_id)
    for deed in ("retry", "again"):
        assert do(admin_client, run_id, deed).status_code == 302
    assert "Nothing was done" in shown(admin_client, run_id)
    assert do(staff("view_run"), run_id, "retry").status_code == 403


def test_while_dagster_is_being_loaded_the_pages_say_so_and_are_shown_again(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = save()
    row, other = run_outbox.add(tree, {"tenant": 1}, {}), str(uuid.uuid4())
    monkeypatch.setattr(dagster_loading, "wait", lambda seconds: False)
    for page in ("", f"{row.run_id}/change/", f"{other}/change/", "retry-failed/"):
        answered = text(admin_client.get(f"{RUNS}{page}"))
        assert "Dagster is being loaded" in answered, page
        assert "data-pt-refresh" in answered or 'http-equiv="refresh"' in answered
    page = text(admin_client.get(f"{TREES}{tree.pk}/run/?run={other}"))
    assert "Dagster is being loaded" in page
    assert 'http-equiv="refresh"' in page
    do(admin_client, other, "retry")
    assert "Nothing was done: Dagster is being loaded" in text(admin_client.get(RUNS))
