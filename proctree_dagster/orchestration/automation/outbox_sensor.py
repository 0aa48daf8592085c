"""The sensors of the repository."""

import logging
from collections.abc import Callable

from dagster import (
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)
from django.utils import timezone

from ...domain import run_tags
from ...domain.texts import explain
from ...services import run_outbox
from ...support.connections import fresh_connections
from ..runs import lost_runs, outbox_delivery
from ..translator import ProcessTreeTranslator
from . import trigger_sensors

logger = logging.getLogger(__name__)

INTERVAL = 10
"""Seconds from one look at the outbox to the next, at least."""

PATIENCE = 40.0
"""Seconds after which a look begins no further delivery: Dagster gives a tick 60."""


def all_sensors(translator: ProcessTreeTranslator) -> list[SensorDefinition]:
    """Return the sensors that the database asks for now."""
    of_triggers = trigger_sensors.all_sensors(translator)
    return [outbox_sensor(), *of_triggers]


def find_sensor(translator: ProcessTreeTranslator, name: str) -> SensorDefinition | None:
    """Return one sensor, if the database asks for it now; the others are not built."""
    if name == run_tags.OUTBOX_SENSOR:
        return outbox_sensor()
    return trigger_sensors.find_sensor(translator, name)


def outbox_sensor() -> SensorDefinition:
    """Return the sensor that delivers what waits in the outbox, and ends lost runs.

    It makes the runs itself, because their ids are fixed beforehand, and says what it did. It looks
    at what is there, not at what has happened since it last looked, so it can miss nothing. It is
    always there: any run may be lost.
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
    instance = context.instance
    with fresh_connections():
        lost = _tried(lambda: lost_runs.settle(instance), "Lost runs can't be ended")
        kept = _tried(lambda: run_outbox.forget(timezone.now()), "The outbox can't be cleared")
        delivered = outbox_delivery.deliver(instance, seconds=PATIENCE)
        return SkipReason("; ".join(filter(None, [lost, kept, str(delivered)])))


def _tried(work: Callable[[], object], problem: str) -> str:
    """Do one part of a look, and return what came of it; if it fails, the others are done."""
    try:
        return str(work() or "")
    except Exception as error:  # whatever is wrong, the other parts are others' runs
        logger.exception("%s.", problem)
        return f"{problem}: {explain(error)}"
