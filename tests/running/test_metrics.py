"""Metrics of real rows and runs, as Prometheus gets them."""

import datetime as dt
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.test import RequestFactory
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from proctree_dagster import prometheus
from proctree_dagster.domain.metrics import OTHERS, as_text
from proctree_dagster.models import AlertState, Event, OutboxRun, ProcessTreeSchedule
from proctree_dagster.running import metrics
from proctree_dagster.services import run_outbox
from tests.orchestration.pruning.history import SUCCESS, History, tree

pytestmark = pytest.mark.django_db

TOKEN = "only-for-prometheus"


def measured(most_trees: int = 500) -> dict[str, dict[str, float]]:
    return {each.name: dict(each.samples) for each in metrics.collect(most_trees, wait=60)}


def test_each_metric_says_what_is_so(instance: DagsterInstance) -> None:
    close, poll, history, now = tree("close"), tree("poll"), History(instance), timezone.now()
    hour = dt.timedelta(hours=1)
    for row, enabled in ((close, True), (poll, False)):
        ProcessTreeSchedule.objects.create(process_tree=row, enabled=enabled)
    ProcessTreeSchedule.objects.update(next_run=now - hour)
    AlertState.objects.create(process_tree=close, customer="a", succeeded_at=now - 3 * hour)
    AlertState.objects.create(process_tree=close, customer="b", succeeded_at=now - 2 * hour)
    for hours in (1, 2, 30):
        Event.objects.create(
            kind="run_failed", subject=f"run {hours}", tree="poll", at=now - hours * hour
        )
    history.run(close, status=DagsterRunStatus.STARTED)
    history.run(close, status=DagsterRunStatus.QUEUED)
    history.run(close, 1, SUCCESS)
    waits, _ = run_outbox.add(close, {}, {}), run_outbox.add(close, {}, {}, after=["x" * 36])
    OutboxRun.objects.update(state="waiting", reason="", created_at=now - hour)
    OutboxRun.objects.filter(pk=waits.pk).update(created_at=now - hour / 2)
    found = measured()
    assert found["proctree_trees"] == {"": 2}
    assert found["proctree_overdue_seconds"] == {"close": pytest.approx(3600, abs=60), "poll": 0}
    last = {"close": pytest.approx(7200, abs=60)}
    assert found["proctree_last_success_age_seconds"] == last, "of poll none is known"
    assert found["proctree_failed_runs_last_day"] == {"close": 0, "poll": 2}
    assert found["proctree_running_runs"] == {"close": 1, "poll": 0}
    assert found["proctree_queued_runs"] == {"close": 1, "poll": 0}
    assert found["proctree_outbox_runs"] == {"": 2}
    assert found["proctree_outbox_age_seconds"] == {"": pytest.approx(1800, abs=60)}
    assert found["proctree_dagster_up"] == {"": 1}
    assert "proctree_daemon_age_seconds" not in found, "none has ever run"


def test_the_number_of_labels_is_bounded(instance: DagsterInstance) -> None:
    history = History(instance)
    for name in ("a", "b", "c"):
        history.run(tree(name), status=DagsterRunStatus.STARTED)
    found = measured(1)
    assert found["proctree_running_runs"] == {"a": 1, OTHERS: 2}
    assert found["proctree_overdue_seconds"] == {"a": 0}


def test_a_scrape_makes_as_many_queries_for_many_trees_as_for_few(
    instance: DagsterInstance, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        tree(f"tree {number}")
    with django_assert_max_num_queries(12):
        measured()


@pytest.mark.usefixtures("real_dagster")
def test_without_dagster_what_django_knows_is_there(settings: Settings, tmp_path: Any) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path / "none")}
    tree("close")
    found = measured()
    assert found["proctree_dagster_up"] == {"": 0}
    assert found["proctree_overdue_seconds"] == {"close": 0}
    assert "proctree_running_runs" not in found


def test_a_registry_of_prometheus_has_the_same(instance: DagsterInstance) -> None:
    tree("close")
    registry = CollectorRegistry()
    registry.register(prometheus.TreeCollector())
    text = generate_latest(registry).decode()
    ours = as_text(metrics.collect(wait=60))
    names = [{each.name for each in text_string_to_metric_families(one)} for one in (text, ours)]
    assert names[0] == names[1]
    assert 'proctree_overdue_seconds{tree="close"} 0.0' in text


def get(authorization: str = "", user: Any = None) -> Any:
    headers = {"Authorization": authorization} if authorization else {}
    request = RequestFactory().get("/metrics", headers=headers)
    request.user = user or AnonymousUser()
    return prometheus.metrics(request)


def test_the_token_opens_the_view_and_nothing_else_does(settings: Settings) -> None:
    assert get(f"Bearer {TOKEN}").status_code == 401, "no token is set"
    settings.PROCTREE = {**settings.PROCTREE, "METRICS_TOKEN": TOKEN}
    tree("close")
    for wrong in ("", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer é"):
        answer = get(wrong)
        assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
    answer = get(f"bearer {TOKEN}")
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b'proctree_overdue_seconds{tree="close"} 0\n' in answer.content
    assert "no-store" in answer["Cache-Control"]


def test_users_need_the_permission_to_see_runs() -> None:
    ann = User.objects.create_user("ann")
    assert get(user=ann).status_code == 401
    ann.user_permissions.add(Permission.objects.get(codename="view_run"))
    assert get(user=User.objects.get(pk=ann.pk)).status_code == 200
