"""The sensors of the repository."""

from collections.abc import Callable, Mapping

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)
from django.utils import timezone

from ...domain import run_tags
from ...services import backfills, run_outbox
from ...support.connections import fresh_connections
from ..idle_sensors import longest_rest
from ..runs import backfill_runs, lost_runs, outbox_delivery
from ..translator import ProcessTreeTranslator
from . import alerts_sensor, retention_sensor, trigger_sensors
from .passes import instance_of, newest_of, note_rest, tried

INTERVAL = 10
"""Least seconds between two passes over the outbox."""

BUDGET_SECONDS = 40.0
"""Seconds after which a pass starts no further delivery: Dagster's timeout of a tick is 60."""


def all_sensors(translator: ProcessTreeTranslator) -> list[SensorDefinition]:
    """Return the sensors of the present rows."""
    of_triggers = trigger_sensors.all_sensors(translator)
    return [*(make() for make in _always().values()), *of_triggers]


def find_sensor(translator: ProcessTreeTranslator, name: str) -> SensorDefinition | None:
    """Return one sensor, if the present rows have it; builds no other."""
    make = _always().get(name)
    return trigger_sensors.find_sensor(translator, name) if make is None else make()


def _always() -> Mapping[str, Callable[[], SensorDefinition]]:
    """Return what makes the sensors that need no row, by their names."""
    return {
        run_tags.OUTBOX_SENSOR: outbox_sensor,
        run_tags.ALERTS_SENSOR: alerts_sensor.alerts_sensor,
        run_tags.RETENTION_SENSOR: retention_sensor.retention_sensor,
    }


def outbox_sensor() -> SensorDefinition:
    """Return the sensor that delivers the outbox, and ends lost runs.

    It creates the runs itself, because their ids are fixed beforehand, and reports what it did.
    Each pass reads the present state, so it can miss nothing: its cursor says only how long it may
    rest. It always exists, as any run may be lost.
    """
    return SensorDefinition(
        name=run_tags.OUTBOX_SENSOR,
        evaluation_fn=_look,
        minimum_interval_seconds=INTERVAL,
        default_status=DefaultSensorStatus.RUNNING,
        description="Starts the runs that follow others, and those that could not be started at "
        "once: the outbox in Django's admin. Ends the runs whose worker is lost.",
    )


def _look(context: SensorEvaluationContext) -> SkipReason:
    with fresh_connections(), instance_of(context) as instance:
        newest = newest_of(instance)
        lost = tried(lambda: lost_runs.settle(instance), "Lost runs can't be ended")
        kept = tried(lambda: run_outbox.forget(timezone.now()), "The outbox can't be cleared")
        delivered = outbox_delivery.deliver(instance, seconds=BUDGET_SECONDS)
        # After what has ended was noticed by the delivery.
        begun = tried(lambda: backfill_runs.advance(instance), "Backfills can't go on")
        found = lost or kept or begun
        note_rest(context, newest, lambda: not found and not _is_any_open(instance))
        return SkipReason("; ".join(filter(None, [lost, kept, str(delivered), begun])))


def _is_any_open(instance: DagsterInstance) -> bool:
    """Return whether there may be something to do before the end of a rest."""
    until = timezone.now() + longest_rest(run_tags.OUTBOX_SENSOR)
    if run_outbox.is_open(until) or backfills.running():
        return True
    return lost_runs.is_any_open(instance)
