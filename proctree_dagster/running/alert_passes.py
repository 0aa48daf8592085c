"""Signals and alerts without Dagster's daemon: the pass of its sensor, in the calling process."""

import datetime as dt
import logging

from django.utils import timezone

from .. import conf
from ..exceptions import InstanceError
from ..models import ProcessTree
from ..services import events
from ..signals import SIGNALS
from ..support import isolation

logger = logging.getLogger(__name__)

NOT_BEFORE = dt.timedelta(seconds=50)
"""How long after a pass, of a daemon or of such a process, another one is made here."""


def make_if_nobody_does() -> None:
    """Send signals and deliver alerts, unless a daemon does, or nobody would get any.

    Call it outside a transaction. It raises nothing. In a test it does nothing.
    """
    if isolation.is_active():
        return
    try:
        if _is_made_elsewhere() or not _has_recipients():
            return
        from ..orchestration.automation import alerts_sensor
        from ..orchestration.runs import opening

        with opening.open_instance(persistent=True) as instance:
            logger.debug("Signals and alerts: %s", alerts_sensor.look(instance))
    except InstanceError as error:
        logger.debug("There is no history of runs, and so there are no signals: %s", error)
    except Exception:  # a database can't be reached; the next pass finds the same events
        logger.exception("Signals can't be sent, and alerts can't be delivered now.")


def _is_made_elsewhere() -> bool:
    cursor = events.known_cursor()
    looked_at = None if cursor is None else cursor.looked_at
    return looked_at is not None and timezone.now() - looked_at < NOT_BEFORE


def _has_recipients() -> bool:
    return (
        bool(conf.current().ALERTS.to)
        or any(signal.has_listeners() for signal in SIGNALS.values())
        or ProcessTree.objects.exclude(alert_to=[]).exists()
    )
