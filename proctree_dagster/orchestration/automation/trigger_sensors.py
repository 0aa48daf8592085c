"""The sensors of triggers: each polls its trigger, and delivers the runs that it requests."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dagster import SensorDefinition, SensorEvaluationContext, SkipReason
from django.utils import timezone

from ...context import tagging
from ...domain import run_tags
from ...domain.texts import explain
from ...models import Trigger
from ...services import trigger_firing
from ...support.connections import fresh_connections
from ...support.row_reading import readable
from ..runs import outbox_delivery
from ..translator import ProcessTreeTranslator
from .passes import instance_of

logger = logging.getLogger(__name__)

BUDGET_SECONDS = 30.0
"""Seconds after which a poll starts no further delivery: Dagster's timeout of a tick is 60."""


def all_sensors(translator: ProcessTreeTranslator) -> list[SensorDefinition]:
    """Return a sensor for every trigger that can be polled and has subscribers.

    Disabled and broken triggers have one, too: Dagster forgets the state of a sensor that vanishes.
    """
    sensors: dict[str, SensorDefinition] = {}
    for trigger in sorted(_subscribed(), key=lambda trigger: trigger.pk):
        sensor = _sensor(translator, trigger)
        if sensors.setdefault(sensor.name, sensor) is not sensor:  # Dagster takes neither of two
            logger.error(
                "The trigger %r is not polled: an older one has the sensor %r. Rename it.",
                *(trigger.name, sensor.name),
            )
    return list(sensors.values())


def find_sensor(translator: ProcessTreeTranslator, name: str) -> SensorDefinition | None:
    """Return one sensor, if it exists now; reads no other trigger's row."""
    for chosen in _called(name):
        trigger = _read_one(**chosen)
        sensor = None if trigger is None else _sensor(translator, trigger)
        if sensor is not None and sensor.name == name:
            return sensor
    if type(translator).sensor is ProcessTreeTranslator.sensor:
        return None
    # A project's own translator may give its sensors any names.
    return next((each for each in all_sensors(translator) if each.name == name), None)


def _called(name: str) -> Iterator[dict[str, Any]]:
    """Return the triggers whose sensors may have this name, the oldest first."""
    written = name.removesuffix(run_tags.TRIGGER_SUFFIX)
    if not re.search("_[0-9a-f]{8}$", written):  # what ends so may stand for another name
        yield {"name": written}
        return
    subscribed = Trigger.objects.filter(subscriptions__isnull=False).distinct()
    for pk, trigger_name in subscribed.order_by("pk").values_list("pk", "name"):
        if tagging.sensor_name(trigger_name) == name:
            yield {"pk": pk}


def _subscribed() -> list[Trigger]:
    triggers = readable(Trigger.objects.subscribed(), _what_can_be_read)
    return [trigger for trigger in triggers if trigger.is_polled]


def _read_one(**chosen: Any) -> Trigger | None:
    """Read one trigger, if it is polled; of an unreadable one, the fields that can be read."""
    found = readable(Trigger.objects.subscribed().filter(**chosen), _what_can_be_read)
    return next((trigger for trigger in found if trigger.is_polled), None)


def _what_can_be_read(pk: Any, error: Exception) -> Trigger | None:
    trigger = Trigger.objects.only("pk", "name", "trigger_type").filter(pk=pk).first()
    if trigger is not None:
        # A condition with a model may be one that is polled; Dagster forgets vanished sensors.
        trigger.configuration = {"model": ""}
        trigger.description = f"It can't be read: {explain(error)}"
    return trigger


def _sensor(translator: ProcessTreeTranslator, trigger: Trigger) -> SensorDefinition:
    trees = [each.process_tree for each in readable(trigger.subscriptions.all())]
    trigger_id = trigger.pk
    if not isinstance(trigger.configuration, Mapping):  # written by SQL
        trigger.description = "It can't be read: its configuration is no dictionary."

    def evaluate(context: SensorEvaluationContext) -> SkipReason:
        return poll(context, trigger_id)

    try:
        return translator.sensor(trigger, trees, evaluate)
    except Exception:  # a translator's error must not make the sensor vanish
        logger.exception("The trigger %r can't be translated.", trigger.name)
        return ProcessTreeTranslator().sensor(trigger, trees, evaluate)


def poll(context: SensorEvaluationContext, trigger_id: int) -> SkipReason:
    """Poll a trigger, deliver the runs that it requests, and report what happened.

    It yields no run requests of Dagster's: the ids of the runs are fixed beforehand, in the outbox.

    Parameters
    ----------
    context:
        Dagster's; gives the instance.
    trigger_id:
        Primary key of the trigger. Its row is read again.
    """
    with fresh_connections():
        polled = trigger_firing.poll(trigger_id, timezone.now(), sensor=context.sensor_name)
        ids = [str(run.run_id) for run in polled.runs]
        try:
            if ids:  # most polls have none, and need not open the instance
                with instance_of(context) as instance:
                    outbox_delivery.deliver(instance, ids, seconds=BUDGET_SECONDS)
        except Exception:  # the runs are saved: the outbox's own sensor delivers them
            logger.exception("What trigger %s has asked for can't be delivered now.", trigger_id)
    return SkipReason(polled.reason)
