"""Triggers as Dagster, a command line and an administrator see them."""

import json
import re
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    SensorDefinition,
    build_sensor_context,
)
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.remote_representation.external_data import RepositorySnap
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries, Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.domain.names import dagster_name
from proctree_dagster.models import ProcessTree, Trigger, TriggerSubscription
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.orchestration.repository_data import LiveRepositoryData
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.triggers import (
    create_trigger,
    fire_trigger,
    get_trigger,
    subscribe_tree_to_trigger,
)
from tests.app import processes
from tests.tools import TOP

pytestmark = pytest.mark.django_db

IS_WANTED = {"function": "tests.app.processes:is_wanted", "poll_seconds": 7}


@pytest.fixture
def no_queue(dagster_home: Path) -> None:
    """Let the instance have no run queue: nothing can be handed to it."""
    (dagster_home / "dagster.yaml").write_text(
        "telemetry:\n  enabled: false\n"
        "run_coordinator:\n  module: dagster._core.run_coordinator\n"
        "  class: DefaultRunCoordinator\n"
    )


@pytest.fixture(autouse=True)
def nothing_is_wanted() -> None:
    processes.wanted.clear()


def subscribed(name: str = "t", *, tree: str = "tree", **trigger: Any) -> Trigger:
    given = {"trigger_type": "custom", "configuration": IS_WANTED, **trigger}
    found = create_trigger(name, **given)
    written = ProcessTreeInstance(tree, overwrite=True).add_process("one", func=processes.one)
    written.save()
    written.subscribe_to_trigger(name)
    return found


def sensors() -> dict[str, SensorDefinition]:
    """Return the sensors of triggers, by name."""
    found = LiveRepositoryData(ProcessTreeTranslator()).get_all_sensors()
    return {sensor.name: sensor for sensor in found if run_tags.TRIGGER_SUFFIX in sensor.name}


def tick(name: str, instance: DagsterInstance | None = None) -> str:
    """Evaluate a sensor as the daemon does, and return what it says."""
    sensor = LiveRepositoryData(ProcessTreeTranslator()).get_sensor(name)
    context = build_sensor_context(instance=instance, sensor_name=name)
    data = sensor.evaluate_tick(context)
    assert not data.run_requests, "the ids of its runs are ours"
    assert data.skip_message is not None
    return data.skip_message


def runs_of(instance: DagsterInstance, tree: str = "tree") -> list[tuple[str, DagsterRunStatus]]:
    return [(run.run_id, run.status) for run in instance.get_runs() if run.job_name == tree]


# --- Sensors --------------------------------------------------------------------------------------


def test_a_trigger_that_can_be_polled_and_has_subscribers_is_a_sensor() -> None:
    subscribed("wanted?", description="Whether anybody wants it.")
    subscribed("by hand", trigger_type="event", configuration={})
    subscribed(
        "of a process",
        trigger_type="condition",
        configuration={"field": "a", "operator": "exists"},
    )
    create_trigger("nobody's", "schedule", {"interval_minutes": 5})
    [(name, sensor)] = sensors().items()
    assert name.startswith("wanted_")
    assert name.endswith("_trigger")
    assert sensor.minimum_interval_seconds == 7
    assert sensor.default_status == DefaultSensorStatus.RUNNING
    assert [target.job_name for target in sensor.targets] == ["tree"]
    assert sensor.description == "wanted? (custom), for tree\n\nWhether anybody wants it."


def test_dagster_takes_the_sensors_of_several_trees() -> None:
    subscribed()
    subscribed(tree="another")
    snap = RepositorySnap.from_def(build_repository())
    assert {each.name for each in snap.sensors} == {"t_trigger", *run_tags.SENSORS}
    assert sensors()["t_trigger"].description == "t (custom), for another, tree"


def test_a_sensor_of_very_many_trees_names_some_and_reads_nothing_long() -> None:
    trigger = create_trigger("t", "custom", IS_WANTED)
    trees = ProcessTree.objects.bulk_create(
        [ProcessTree(name=f"{number:04}", job_name=f"{number:04}") for number in range(1000)]
    )
    TriggerSubscription.objects.bulk_create(
        [TriggerSubscription(trigger=trigger, process_tree=tree) for tree in trees]
    )
    with CaptureQueriesContext(connection) as queries:
        sensor = LiveRepositoryData(ProcessTreeTranslator()).get_sensor("t_trigger")
    description = sensor.description
    assert description is not None
    assert description.endswith("0018, 0019 and 980 more")
    assert len(queries) == 2
    assert not any('"processes"' in query["sql"] for query in queries)


def test_a_disabled_and_a_broken_trigger_keep_their_sensors_and_say_why() -> None:
    subscribed("disabled", enabled=False)
    subscribed("broken")
    subscribed("unsubscribed", enabled=True)
    Trigger.objects.filter(name="broken").update(configuration=5)
    TriggerSubscription.objects.filter(trigger__name="unsubscribed").update(enabled=False)
    assert set(sensors()) == {"disabled_trigger", "broken_trigger", "unsubscribed_trigger"}
    assert "Disabled in Django" in tick("disabled_trigger")
    assert "The configuration must be a dictionary, not 5" in tick("broken_trigger")


def test_a_trigger_that_cannot_be_read_hides_no_other() -> None:
    subscribed("good")
    subscribed("bad")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE proctree_dagster_trigger SET configuration = %s WHERE name = 'bad'",
            ["9" * 5000],
        )
    found = sensors()
    assert set(found) == {"good_trigger", "bad_trigger"}
    assert "It can't be read" in (found["bad_trigger"].description or "")


def test_of_two_triggers_whose_sensors_would_share_a_name_the_older_has_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    newer = dagster_name("a b")
    subscribed("a b")
    subscribed(newer)
    [(name, sensor)] = sensors().items()
    assert name == f"{newer}_trigger"
    assert sensor.tags[run_tags.TRIGGER] == "a b"
    assert f"The trigger {newer!r} is not polled" in caplog.text


def test_a_look_up_builds_one_sensor_however_many_triggers_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("t", "a b", "other", "by hand"):
        subscribed(name)
    Trigger.objects.filter(name="by hand").update(trigger_type="event", configuration={})
    built = []

    class Counting(ProcessTreeTranslator):
        def sensor(self, trigger: Trigger, *args: Any) -> SensorDefinition:
            built.append(trigger.name)
            return super().sensor(trigger, *args)

    live = LiveRepositoryData(Counting())
    for name, trigger in [("t_trigger", "t"), (f"{dagster_name('a b')}_trigger", "a b")]:
        assert live.get_sensor(name).tags[run_tags.TRIGGER] == trigger
    assert built == ["t", "a b"]
    assert live.get_sensor(run_tags.OUTBOX_SENSOR).name == run_tags.OUTBOX_SENSOR
    assert built == ["t", "a b"]
    assert not LiveRepositoryData(ProcessTreeTranslator()).has_sensor("by_hand_trigger")


def test_of_two_triggers_with_one_sensor_the_older_ones_is_looked_up() -> None:
    subscribed("a b")
    newer = dagster_name("a b")
    subscribed(newer)
    sensor = LiveRepositoryData(ProcessTreeTranslator()).get_sensor(f"{newer}_trigger")
    assert sensor.tags[run_tags.TRIGGER] == "a b"


def test_a_sensor_that_the_projects_translator_has_renamed_is_found() -> None:
    class Renaming(ProcessTreeTranslator):
        def sensor(self, *args: Any) -> SensorDefinition:
            sensor = super().sensor(*args)
            sensor._name = "polls"
            return sensor

    subscribed()
    live = LiveRepositoryData(Renaming())
    assert live.get_sensor("polls").tags[run_tags.TRIGGER] == "t"
    assert not live.has_sensor("t_trigger")


def test_a_tick_reads_no_trees(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    subscribed()
    live = LiveRepositoryData(ProcessTreeTranslator())
    with django_assert_num_queries(2):  # the triggers, and who subscribes to them
        live.get_sensor("t_trigger")
    TriggerSubscription.objects.all().delete()
    assert not live.has_sensor("t_trigger")
    with pytest.raises(DagsterInvariantViolationError, match="no tree subscribes to it any more"):
        live.get_sensor("t_trigger")


def test_a_translators_fault_does_not_make_a_sensor_vanish() -> None:
    class Faulty(ProcessTreeTranslator):
        def sensor(self, *args: Any) -> SensorDefinition:
            raise RuntimeError("a fault of the project's own translator")

    subscribed()
    names = [sensor.name for sensor in LiveRepositoryData(Faulty()).get_all_sensors()]
    assert "t_trigger" in names


def test_a_tick_fires_and_hands_the_runs_to_dagster(instance: DagsterInstance) -> None:
    subscribed()
    subscribe_tree_to_trigger("tree", "t", {"a": 1})
    assert tick("t_trigger", instance).startswith("Not so: ")
    assert runs_of(instance) == []
    processes.wanted.append(True)
    told = tick("t_trigger", instance)
    [(run_id, status)] = runs_of(instance)
    assert status == DagsterRunStatus.QUEUED
    assert told == f"Fired: tests.app.processes:is_wanted says yes. Runs: {run_id}."
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.run_config == {"context": {"a": 1}}
    assert run.tags[run_tags.TRIGGERED_BY] == "trigger"
    assert run.tags[run_tags.TRIGGER] == "t"
    assert tick("t_trigger", instance).startswith("Still so, and it has fired")
    assert len(runs_of(instance)) == 1


def test_what_a_tick_cannot_deliver_waits_in_the_outbox(
    no_queue: None, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    subscribed()
    processes.wanted.append(True)
    assert tick("t_trigger", instance).startswith("Fired: ")
    assert runs_of(instance) == []
    assert "can't be delivered now" in caplog.text
    assert ProcessTree.objects.get().outbox.get().state == "waiting"


def test_a_fire_by_hand_is_in_dagsters_queue_when_it_returns(instance: DagsterInstance) -> None:
    subscribed()
    [fired] = fire_trigger("t")
    assert runs_of(instance) == [(fired.run_id, DagsterRunStatus.QUEUED)]


def test_the_documented_example_runs_as_it_says(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (TOP / "docs" / "triggers.md").read_text()
    block = page.split("```python\n")[1].split("```")[0]
    block = block.replace("'bookkeeping.JournalLine'", "'ledger.JournalLine'")
    called = re.findall(r"processes\.(\w+)", block)
    bookkeeping = SimpleNamespace(
        processes=SimpleNamespace(**dict.fromkeys(called, processes.echo))
    )
    monkeypatch.setitem(sys.modules, "bookkeeping", bookkeeping)
    exec(block, {})
    [(run_id, _)] = runs_of(instance, "import_statement")
    assert capsys.readouterr().out == f"import_statement {run_id} None\n"
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.run_config == {"context": {"period": "month", "statement": 17}}
    assert tick("many_open_lines_trigger", instance).startswith(
        "Not so: rows of ledger.JournalLine"
    )
    status = run_tree("import_statement")["status"]
    assert status == {"fetch": "completed", "convert": "skipped"}
    abroad = run_tree("import_statement", functions={"fetch": lambda: {"currencies": ["EUR"]}})
    assert abroad["status"]["convert"] == "completed"


def test_a_function_in_a_tree_may_fire(instance: DagsterInstance) -> None:
    subscribed()

    def fire() -> None:
        fire_trigger("t", {"from": "a tree"})

    results = ProcessTreeInstance("firing").add_process("fire", func=fire).execute()
    assert results["success"], results["errors"]
    [(run_id, status)] = runs_of(instance)
    assert status == DagsterRunStatus.QUEUED
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.run_config == {"context": {"from": "a tree"}}


# --- The command ----------------------------------------------------------------------------------


def command(*args: str) -> str:
    out = StringIO()
    call_command("proctree", "fire", *args, stdout=out, no_color=True)
    return out.getvalue()


def test_a_command_fires_and_prints_the_runs(settings: Settings) -> None:
    settings.PROCTREE = {"DAGSTER_URL": "http://dagster"}
    subscribed()
    subscribed(tree="another")
    text = command("t", "--context", '{"a": 1}')
    runs = {
        run.process_tree.name: run
        for tree in ProcessTree.objects.all()
        for run in tree.outbox.all()
    }
    assert text.splitlines() == [
        "Fired 't': 2 runs",
        f"  another: run {runs['another'].run_id}",
        f"  http://dagster/runs/{runs['another'].run_id}",
        f"  tree: run {runs['tree'].run_id}",
        f"  http://dagster/runs/{runs['tree'].run_id}",
    ]
    assert runs["tree"].context == {"a": 1}


def test_a_command_says_what_is_wrong() -> None:
    create_trigger("nobody's", "event")
    create_trigger("disabled", "event", enabled=False)
    assert command("nobody's") == 'Fired "nobody\'s": no runs\n'
    with pytest.raises(CommandError, match="There is no trigger called 'x'"):
        command("x")
    with pytest.raises(CommandError, match="'disabled' is disabled: it did not fire"):
        command("disabled")
    with pytest.raises(CommandError, match="not valid JSON"):
        command("nobody's", "--context", "{")


# --- The admin ------------------------------------------------------------------------------------

PAGE = "/admin/proctree_dagster/trigger/"


def form(trigger_type: str, configuration: Any) -> dict[str, Any]:
    return {
        **{"name": "t", "trigger_type": trigger_type, "enabled": "on"},
        "configuration": json.dumps(configuration),
        **{"subscriptions-TOTAL_FORMS": 0, "subscriptions-INITIAL_FORMS": 0},
    }


def test_a_trigger_is_added_in_the_admin_with_a_subscription(admin_client: Client) -> None:
    tree = ProcessTreeInstance("tree").add_process("one", func=processes.one).save()
    subscription = {"process_tree": tree.pk, "context": '{"a": 1}', "enabled": "on"}
    data = form("schedule", {"cron": "0 9 * * *"})
    data |= {f"subscriptions-0-{key}": value for key, value in subscription.items()}
    answer = admin_client.post(f"{PAGE}add/", {**data, "subscriptions-TOTAL_FORMS": 1})
    assert answer.status_code == 302, answer.content.decode()[-3000:]
    assert get_trigger("t").next_due is not None
    assert TriggerSubscription.objects.get().context == {"a": 1}


def test_all_problems_of_a_trigger_are_shown_and_nothing_is_saved(admin_client: Client) -> None:
    answer = admin_client.post(f"{PAGE}add/", form("custom", {"function": "os:system", "x": 1}))
    text = answer.content.decode()
    assert "&#x27;os:system&#x27; is not allowed" in text
    assert "has no key &#x27;x&#x27;" in text
    assert not Trigger.objects.exists()


def test_of_a_configuration_that_is_no_json_nothing_else_is_said(admin_client: Client) -> None:
    broken = {**form("condition", {}), "configuration": "{not json"}
    text = admin_client.post(f"{PAGE}add/", broken).content.decode()
    assert "Enter a valid JSON" in text
    assert "operator must be" not in text
    assert not Trigger.objects.exists()


def test_a_configuration_that_is_left_empty_is_an_empty_one(admin_client: Client) -> None:
    admin_client.post(f"{PAGE}add/", {**form("event", {}), "configuration": ""})
    assert Trigger.objects.get().configuration == {}


def test_the_pages_of_a_trigger_open(admin_client: Client) -> None:
    trigger = subscribed()
    for path in ["", "add/", f"{trigger.pk}/change/"]:
        assert admin_client.get(f"{PAGE}{path}").status_code == 200


def test_triggers_are_fired_and_armed_by_actions(admin_client: Client) -> None:
    trigger = subscribed()
    disabled = subscribed("disabled", enabled=False)
    chosen = {"_selected_action": [trigger.pk, disabled.pk]}
    text = admin_client.post(PAGE, {"action": "fire", **chosen}, follow=True).content.decode()
    run = ProcessTree.objects.get().outbox.get()
    assert f"Fired t. Runs: tree ({run.run_id})" in text
    assert "Not fired: disabled is disabled." in text
    assert get_trigger("t").state == "fired"
    text = admin_client.post(PAGE, {"action": "reset", **chosen}, follow=True).content.decode()
    assert "Armed t again." in text
    assert get_trigger("t").state == "reset"


def test_an_action_that_starts_nothing_says_so(admin_client: Client) -> None:
    chosen = {"_selected_action": [create_trigger("t", "event").pk]}
    text = admin_client.post(PAGE, {"action": "fire", **chosen}, follow=True).content.decode()
    assert "Fired t. No tree subscribes to it." in text


def test_a_changed_trigger_asks_the_webserver_to_reload_and_a_fired_one_does_not(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "proctree_dagster.services.webserver._ask_to_reload", lambda: asked.append("to reload")
    )
    with django_capture_on_commit_callbacks(execute=True):
        create_trigger("t", "event")
    assert len(asked) == 1
    with django_capture_on_commit_callbacks(execute=True):
        create_trigger("t", "event")
        fire_trigger("t")
    assert len(asked) == 1
