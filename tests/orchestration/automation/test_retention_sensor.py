"""The sensor that removes old history."""

import json
from typing import Any

import pytest
from dagster import DagsterInstance, SkipReason, build_sensor_context
from pytest_django import Settings

from proctree_dagster.orchestration.automation import retention_sensor
from proctree_dagster.orchestration.pruning import passes
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from tests.orchestration.pruning.history import FAILURE, History, tree

pytestmark = pytest.mark.django_db

NAME = "proctree_retention"


def test_it_is_always_there_and_says_if_no_rule_removes_anything(settings: Settings) -> None:
    live = LiveRepositoryData(ProcessTreeTranslator())
    assert NAME in {each.name for each in live.get_all_sensors()}
    assert live.has_sensor(NAME)
    with DagsterInstance.ephemeral() as instance:
        ticks = Ticks(instance)
        settings.PROCTREE = {**settings.PROCTREE, "KEEP": {}}
        assert ticks.next().startswith("Everything is kept")
        tree(keep_runs="last 5")
        assert ticks.next() == "Nothing to remove."


class Ticks:
    """The ticks of the sensor, one after the other."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance, self.cursor = instance, ""

    def next(self) -> str:
        context = build_sensor_context(self.instance, cursor=self.cursor)
        answer = retention_sensor.retention_sensor()(context)
        assert isinstance(answer, SkipReason)
        self.cursor = context.cursor or ""
        return answer.skip_message or ""


def test_it_says_what_it_removed_and_rests_once_nothing_is_left(settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "KEEP": {"runs": "90 days"}}
    with DagsterInstance.ephemeral() as instance:
        history, row = History(instance), tree()
        old, new = history.run(row, 91), history.run(row, 1)
        ticks = Ticks(instance)
        assert ticks.next().startswith("Removed 1 runs")
        assert history.ids() == {new}
        history.run(row, 1)
        history.end(new, 92)
        assert ticks.next() == "Nothing was left to remove; it looks again in a while."
        assert new in history.ids()
        cursor = json.loads(ticks.cursor)
        ticks.cursor = json.dumps({**cursor, "rests_until": 1.0})
        assert ticks.next().startswith("Removed 1 runs")
        assert {old, new}.isdisjoint(history.ids())


def test_a_pass_without_time_goes_on_with_the_same_tree(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "KEEP": {"runs": "90 days"}}
    with DagsterInstance.ephemeral() as instance:
        history, row = History(instance), tree()
        old, _ = history.run(row, 91, FAILURE), history.run(row, 1)
        ticks = Ticks(instance)
        monkeypatch.setattr(retention_sensor, "BUDGET_SECONDS", 0.0)
        assert ticks.next() == "Nothing to remove. More is left."
        assert old in history.ids()
        monkeypatch.setattr(retention_sensor, "BUDGET_SECONDS", 30.0)
        assert ticks.next().startswith("Removed 1 runs")


@pytest.mark.parametrize("text", [None, "", "x", "[]", '{"x": 1}', "5"])
def test_a_cursor_that_somebody_has_set_begins_anew(text: Any) -> None:
    assert retention_sensor.Cursor.read(text) == retention_sensor.Cursor()


def test_a_storage_from_which_nothing_can_be_removed_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "KEEP": {"runs": "90 days"}}
    monkeypatch.setattr(passes, "_NEEDED", ("connect", "no_such"))
    with DagsterInstance.ephemeral() as instance:
        assert "SQL storages only" in Ticks(instance).next()
