"""The sensor that sends signals and delivers alerts."""

import time

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)
from django.utils import timezone

from ...domain import run_tags
from ...services import alert_delivery, events, lateness
from ...support.connections import fresh_connections
from ..idle_sensors import longest_rest
from ..runs import run_events, run_pages
from .passes import instance_of, newest_of, note_rest, tried

INTERVAL = 15
"""Least seconds between two passes."""

BUDGET_SECONDS = 30.0
"""Seconds after which a pass begins no further delivery: Dagster's timeout of a tick is 60."""

READING_SECONDS = 20.0
"""Seconds after which a pass reads no further events: the next pass continues."""


def alerts_sensor() -> SensorDefinition:
    """Return the sensor that sends signals, and delivers alerts.

    How far it has read is in Django's database, where that is moved in the same transaction that
    stores what was found. Dagster's cursor says only how long it may rest.
    """
    return SensorDefinition(
        name=run_tags.ALERTS_SENSOR,
        evaluation_fn=_look,
        minimum_interval_seconds=INTERVAL,
        default_status=DefaultSensorStatus.RUNNING,
        description="Sends Django's signals of runs that were queued, have started or ended, and "
        "delivers alerts: both are in Django's admin.",
    )


def _look(context: SensorEvaluationContext) -> SkipReason:
    with fresh_connections(), instance_of(context) as instance:
        newest, found = newest_of(instance), look(instance)
        note_rest(context, newest, lambda: not found and not _is_any_waiting())
        return SkipReason(found or "Nothing has happened.")


def _is_any_waiting() -> bool:
    """Return whether there is something to send or to deliver before the end of a rest."""
    until = timezone.now() + longest_rest(run_tags.ALERTS_SENSOR)
    return events.is_any_waiting() or alert_delivery.is_any_waiting(until)


def look(instance: DagsterInstance) -> str:
    """Make a pass, and return its report; blank if nothing has happened."""
    parts = [
        tried(lambda: _note(instance), "Events can't be read"),
        tried(lambda: _note_lateness(instance), "Schedules can't be checked for lateness"),
        tried(_send, "Signals can't be sent"),
        tried(_deliver, "Alerts can't be delivered"),
        tried(_forget, "Old events can't be cleared"),
    ]
    return "; ".join(filter(None, parts))


def _note(instance: DagsterInstance) -> str:
    found, ends = 0, time.monotonic() + READING_SECONDS
    reading = run_events.read(instance, events.cursor(), timezone.now())
    while True:
        is_all = not reading.is_cut
        found += events.record(reading.events, reading.mark, reading.storage, is_all=is_all)
        if is_all or time.monotonic() > ends:
            return f"{found} events" if found else ""
        after = reading.mark.positions
        reading = run_events.read(instance, events.cursor(), timezone.now(), after)


def _note_lateness(instance: DagsterInstance) -> str:
    found = lateness.note(timezone.now(), lambda names: run_pages.under_way(instance, names))
    return f"{found} late, too long or recovered" if found else ""


def _send() -> str:
    sent = events.send(timezone.now())
    return f"sent {sent} signals" if sent else ""


def _deliver() -> str:
    return alert_delivery.deliver(timezone.now(), BUDGET_SECONDS)


def _forget() -> None:
    events.forget(timezone.now())
    alert_delivery.forget(timezone.now())
