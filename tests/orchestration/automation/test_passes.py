"""What the passes of sensors share: the instance, and going on after an error."""

import pytest
from dagster import DagsterInstance, SensorDefinition, SensorEvaluationContext

from proctree_dagster.orchestration.automation.alerts_sensor import alerts_sensor
from proctree_dagster.orchestration.automation.outbox_sensor import outbox_sensor
from proctree_dagster.orchestration.automation.retention_sensor import retention_sensor
from proctree_dagster.orchestration.runs import shared_instances

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("migrated_cursor")]


def tick(sensor: SensorDefinition, instance: DagsterInstance) -> str | None:
    """Evaluate a sensor as a code server does, which is given a reference only."""
    with SensorEvaluationContext(
        instance_ref=instance.get_ref(),
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=None,
        repository_name=None,
        sensor_name=sensor.name,
    ) as context:
        return sensor.evaluate_tick(context).skip_message


def test_ticks_open_the_instance_once(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_instances.close_unused()
    ref, opened = instance.get_ref(), []
    from_ref = DagsterInstance.from_ref

    def counted(given: object) -> DagsterInstance:
        opened.append(given)
        return from_ref(given)  # type: ignore[arg-type]

    monkeypatch.setattr(DagsterInstance, "from_ref", counted)
    for sensor in (outbox_sensor(), alerts_sensor(), retention_sensor()) * 2:
        assert tick(sensor, instance)
    assert opened == [ref]
