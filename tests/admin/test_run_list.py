"""The list of runs in the admin."""

import datetime as dt
import html
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.backends import BaseBackend
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from proctree_dagster.admin import run_deeds
from proctree_dagster.models import OutboxRun, ProcessTree
from proctree_dagster.running import dagster_loading
from tests.admin.dagster_pages import RUNS, dagster_statements, execute, record, save, text
from tests.admin.people import browser, staff, user
from tests.app import processes

pytestmark = pytest.mark.django_db

MARKUP = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def loaded(dagster_home: Path) -> None:
    assert dagster_loading.wait(60)


def ids(answer: Any) -> list[str]:
    return [row.run.run_id for row in answer.context["list"].rows]


def listed(client: Client, **filters: Any) -> list[str]:
    answer = client.get(RUNS, filters)
    assert answer.status_code == 200
    return ids(answer)


def test_runs_are_listed_with_their_tree_who_started_them_and_what_failed(
    admin_client: Client,
) -> None:
    row = save("Close the books", processes.fail)
    failed = execute(row, triggered_by="admin", run_tags={"user": "ann"})
    page = text(admin_client.get(RUNS))
    assert f'href="{RUNS}{failed}/change/"' in page
    assert f'href="/admin/proctree_dagster/processtree/{row.pk}/change/"' in page
    assert "the admin (ann)" in page
    assert "only: ValueError: this process always fails" in page
    assert "pt-status--failure" in page


def test_the_list_is_filtered_by_tree_status_trigger_tag_and_day(admin_client: Client) -> None:
    first, second = save("first"), save("second", processes.fail)
    good = record(first, tags={"team": "books", "proctree/triggered_by": "command"})
    bad = record(second, failed=True, tags={"proctree/triggered_by": "python"})
    today = f"{timezone.localdate()}"
    yesterday = f"{timezone.localdate() - dt.timedelta(days=1)}"
    assert listed(admin_client) == [bad, good]
    assert listed(admin_client, tree="first") == [good]
    assert listed(admin_client, tree="gone") == []
    assert listed(admin_client, status="failure") == [bad]
    assert listed(admin_client, status="unfinished") == []
    assert listed(admin_client, by="command") == [good]
    assert listed(admin_client, by="ui") == []
    assert listed(admin_client, tag="team=books") == [good]
    assert listed(admin_client, day=today) == [bad, good]
    assert listed(admin_client, day=yesterday) == []
    assert listed(admin_client, since=yesterday, status="success") == [good]


def test_runs_of_a_tree_that_was_deleted_are_found_by_its_name(admin_client: Client) -> None:
    row = save("gone")
    run_id = record(row)
    row.delete()
    assert listed(admin_client, tree="gone") == [run_id]
    assert "gone" in text(admin_client.get(RUNS))


def test_runs_are_found_by_the_beginning_of_their_id_and_by_their_context(
    admin_client: Client,
) -> None:
    row = save("echo", processes.echo)
    first = record(row, {"tenant": "feedbeef"})
    second = record(row, {"tenant": "other"})
    assert listed(admin_client, q=second[:8]) == [second]
    assert listed(admin_client, q=second) == [second]
    assert listed(admin_client, q="FEEDBEEF") == [first], "no id begins with it"
    answer = admin_client.get(RUNS, {"q": second[:8], "in": "context"})
    assert ids(answer) == []
    assert "No run is found" in text(answer)


def test_a_filter_that_is_not_valid_does_not_count_and_says_so(admin_client: Client) -> None:
    run_id = record(save())
    for name, value in [
        *(("status", "no such status"), ("by", "nobody"), ("day", "2026-02-30"), ("tag", "books")),
        *(("day", "0001-01-01"), ("since", "9999-12-31"), ("q", "\x00"), ("tree", "x" * 500)),
    ]:
        answer = admin_client.get(RUNS, {name: value})
        assert "does not count" in text(answer), name
        assert ids(answer) == [run_id]
    for cursor in ("before", "after"):
        assert admin_client.get(RUNS, {cursor: "no such run"}).status_code == 200


def test_pages_are_linked(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proctree_dagster.admin.run_list.PAGE", 2)
    row = save()
    made = [record(row) for _ in range(5)][::-1]
    shown = []
    url = "?"
    while url:
        answer = admin_client.get(f"{RUNS}{url}&status=success")
        shown += ids(answer)
        url = answer.context["list"].older
    assert shown == made
    back = admin_client.get(f"{RUNS}{answer.context['list'].newer}")
    assert ids(back) == made[2:4]
    assert "Newest" in text(back)


def test_runs_that_only_are_requested_are_listed_first(admin_client: Client) -> None:
    row = save()
    done = record(row)
    requested = OutboxRun.objects.create(
        process_tree=row, tags={"proctree/triggered_by": "admin", "team": "books"}, reason="Why."
    )
    waiting = str(requested.run_id)
    answer = admin_client.get(RUNS)
    assert ids(answer) == [waiting, done]
    assert "pt-status--requested" in text(answer)
    assert "Why." in text(answer)
    assert listed(admin_client, status="requested") == [waiting]
    assert listed(admin_client, status="unfinished") == [waiting]
    assert listed(admin_client, status="success") == [done]
    assert listed(admin_client, by="admin") == [waiting]
    assert listed(admin_client, tag="team=books") == [waiting]
    assert listed(admin_client, tree="t") == [waiting, done]
    assert listed(admin_client, q=waiting[:6]) == [waiting]


def test_one_run_costs_as_many_queries_as_ten(admin_client: Client) -> None:
    row = save()
    used = []
    for count in (1, 9):
        for _ in range(count):
            record(row, failed=True)
            OutboxRun.objects.create(process_tree=row)
        admin_client.get(RUNS)
        with CaptureQueriesContext(connection) as django, dagster_statements() as dagster:
            assert admin_client.get(RUNS).status_code == 200
        used.append((len(django), len(dagster)))
    assert used[0] == used[1]


def test_markup_is_shown_as_text(admin_client: Client) -> None:
    execute(save(MARKUP, processes.fail), {"text": MARKUP}, run_tags={"user": MARKUP})
    OutboxRun.objects.create(process_tree=ProcessTree.objects.get(), reason=MARKUP)
    for params in ({}, {"q": MARKUP}, {"tree": MARKUP}, {"tag": f"a={MARKUP}"}, {"day": MARKUP}):
        page = text(admin_client.get(RUNS, params))
        assert MARKUP not in page
        assert html.escape(MARKUP) in page


# --- Deeds ----------------------------------------------------------------------------------------


def act(client: Client, action: str, *run_ids: str, confirmed: bool = True) -> Any:
    data: dict[str, Any] = {"action": action, "_selected_action": run_ids}
    return client.post(RUNS, {**data, **({"confirmed": "yes"} if confirmed else {})}, follow=True)


def test_several_runs_are_repeated_once_that_is_confirmed(admin_client: Client) -> None:
    row = save(func=processes.fail)
    failed = [record(row, failed=True) for _ in range(2)]
    good = record(save("good"))
    answer = act(admin_client, "retry", *failed, good, "no-run", confirmed=False)
    page = text(answer)
    assert "It is done to 2 runs." in page
    assert "It has not failed." in page
    assert "1 run is gone." in page
    assert listed(admin_client, status="unfinished") == [], "nothing was done yet"
    page = text(act(admin_client, "retry", *failed, good))
    assert "Queued again, from where it failed" in page
    assert "It has not failed." in page
    repeated = listed(admin_client, status="unfinished")
    assert len(repeated) == 2
    page = text(act(admin_client, "retry", *failed))
    assert "is being repeated already" in page
    assert listed(admin_client, status="unfinished") == repeated
    entries = LogEntry.objects.filter(content_type__model="run")
    assert {entry.object_id for entry in entries} == set(failed)


def test_runs_are_canceled_in_the_queue_and_in_the_outbox(admin_client: Client) -> None:
    row = save(func=processes.fail)
    act(admin_client, "retry_all", record(row))
    [queued] = listed(admin_client, status="unfinished")
    waiting = str(OutboxRun.objects.create(process_tree=row).run_id)
    page = text(act(admin_client, "cancel", queued, waiting))
    assert "Canceled: " in page
    assert listed(admin_client, status="unfinished") == []
    assert listed(admin_client, status="canceled") == [queued]
    assert "Withdrawn by admin" in OutboxRun.objects.get().reason


def test_nothing_chosen_does_nothing_and_says_so(admin_client: Client) -> None:
    run_id = record(save())
    assert "No run selected" in text(act(admin_client, "retry"))
    assert "No action selected" in text(act(admin_client, "", run_id))
    assert "At most 100 runs" in text(act(admin_client, "cancel", *map(str, range(101))))


def test_what_is_left_when_the_time_is_over_is_asked_for_again(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = save(func=processes.fail)
    failed = [record(row, failed=True) for _ in range(2)]
    monkeypatch.setattr("proctree_dagster.admin.run_deeds.BUDGET", -1.0)
    page = text(act(admin_client, "retry", *failed))
    assert "2 runs are left" in page
    assert all(run_id in page for run_id in failed)


def test_nobody_does_anything_to_runs_without_each_permission() -> None:
    failed = record(save(), failed=True)
    lacking = {
        "viewer": ["view_run"],
        "runner": ["view_run", "run_processtree"],
        "repeater": ["view_run", "retry_run", "cancel_run"],
        "blind": ["retry_run", "cancel_run", "run_processtree"],
    }
    for name, permissions in lacking.items():
        client = browser(user(name, permissions))
        assert act(client, "retry", failed, confirmed=False).status_code == 403
        for action in run_deeds.DEEDS:
            assert act(client, action, failed).status_code == 403
            one = client.post(f"{RUNS}{failed}/action/", {"action": action})
            assert one.status_code == 403
        if name != "blind":
            page = text(client.get(RUNS))
            assert failed in page
            assert "action-select" not in page
            page = text(client.get(f"{RUNS}{failed}/change/"))
            assert not any(f'value="{action}"' in page for action in run_deeds.DEEDS)
    assert not LogEntry.objects.exists()


def test_who_may_not_view_runs_sees_none() -> None:
    run_id = record(save())
    client = staff("view_processtree", "change_processtree")
    for page in ("", f"{run_id}/change/", f"{run_id}/live/", "retry-failed/"):
        assert client.get(f"{RUNS}{page}").status_code == 403


def test_who_may_repeat_and_run_does(admin_client: Client) -> None:
    failed = record(save(), failed=True)
    client = staff("view_run", "retry_run", "run_processtree")
    page = text(client.get(RUNS))
    assert 'value="retry"' in page
    assert 'value="cancel"' not in page
    assert "Queued again" in text(act(client, "retry", failed))
    [new] = listed(client, status="unfinished")
    assert "the admin (clerk)" in text(client.get(f"{RUNS}{new}/change/"))


class OneTree(BaseBackend):
    """Gives permissions for one tree, and none in general."""

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        return perm.endswith("view_run") or getattr(obj, "name", "") == "mine"


def test_who_may_repeat_runs_of_one_tree_repeats_those(settings: Any) -> None:
    mine, other = (record(save(name), failed=True) for name in ("mine", "other"))
    client = staff()
    settings.AUTHENTICATION_BACKENDS = [
        *settings.AUTHENTICATION_BACKENDS,
        "tests.admin.test_run_list.OneTree",
    ]
    assert 'value="retry"' in text(client.get(RUNS))
    assert 'value="retry"' not in text(client.get(RUNS, {"tree": "other"}))
    page = text(act(client, "retry", mine, other))
    assert "Queued again" in page
    assert "You may not do that to runs of other." in page
    assert client.post(f"{RUNS}{other}/action/", {"action": "retry"}).status_code == 403


# --- Everything that failed since … ---------------------------------------------------------------


def test_the_last_failed_run_of_each_tree_is_repeated_once_that_is_confirmed(
    admin_client: Client,
) -> None:
    one, healed = save("one"), save("healed")
    record(one, failed=True)
    last = record(one, failed=True)
    record(healed, failed=True)
    record(healed)
    page = text(admin_client.get(f"{RUNS}retry-failed/"))
    assert "Retry 1 run of one tree" in page
    assert "2 other runs that failed are not" in page
    assert last in page
    chosen = re.findall(r'name="_selected_action" value="([^"]+)"', page)
    assert chosen == [last]
    act(admin_client, "retry", *chosen)
    assert len(listed(admin_client, status="unfinished")) == 1
    page = text(admin_client.get(f"{RUNS}retry-failed/"))
    assert "last run has failed since then" in page


def test_since_when_is_chosen(admin_client: Client) -> None:
    record(save(), failed=True)
    later = timezone.localtime() + dt.timedelta(hours=1)
    since = {"since_0": f"{later:%Y-%m-%d}", "since_1": f"{later:%H:%M:%S}"}
    assert "Retry 1 run" not in text(admin_client.get(f"{RUNS}retry-failed/", since))
    page = text(admin_client.get(f"{RUNS}retry-failed/", {"since_0": "never", "since_1": "12:00"}))
    assert "Enter a valid date." in page
    assert admin_client.post(f"{RUNS}retry-failed/").status_code == 405


# --- Where Dagster can't be asked -----------------------------------------------------------------


@pytest.fixture
def no_home(settings: Any, tmp_path: Path) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "missing")}


def test_without_a_home_the_list_says_so_and_shows_what_is_requested(
    admin_client: Client, no_home: None
) -> None:
    row = OutboxRun.objects.create(process_tree=save())
    answer = admin_client.get(RUNS)
    assert "is not a folder" in text(answer)
    assert ids(answer) == [str(row.run_id)]
    assert "is not a folder" in text(admin_client.get(f"{RUNS}retry-failed/"))
    assert "Nothing was done" in text(act(admin_client, "retry", "a-run"))
    page = text(act(admin_client, "cancel", str(row.run_id)))
    assert "Canceled: " in page, "it needs no Dagster"
