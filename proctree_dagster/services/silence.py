"""Whether a daemon makes its passes, as any Django process can find out without Dagster.

The sensor ``proctree_alerts`` records each of its passes in Django's database. If the last one is
too long ago, whoever notices it first stores that, with the alerts of it, and delivers them.
"""

import datetime as dt
import logging
from dataclasses import dataclass

from django.utils import timezone

from .. import conf
from ..domain.alert_settings import SILENCE
from ..models import Event
from ..support import isolation
from ..support.connections import own_connections, writing
from ..support.helper_threads import HelperThread
from . import alert_delivery, alerts, events

logger = logging.getLogger(__name__)

DELIVERY_SECONDS = 15.0
"""Seconds after which no further alert is delivered by a process that has noticed the silence."""


@dataclass(frozen=True)
class LastPass:
    """The last pass of a daemon."""

    at: dt.datetime | None
    """``None``: there has been none."""

    is_silent: bool
    """Whether it is too long ago, or has been expected for too long."""


def last_pass(now: dt.datetime) -> LastPass:
    """Return the last pass of a daemon; a first one is expected as long after ``migrate``."""
    cursor = events.known_cursor()
    if cursor is None:  # nothing has been migrated, or a flush has removed it
        return LastPass(None, False)
    since = cursor.looked_at or cursor.since
    limit = dt.timedelta(minutes=conf.current().ALERTS.silent_minutes)
    return LastPass(cursor.looked_at, now - since > limit)


def note(now: dt.datetime) -> bool:
    """Store that no daemon makes its passes, and deliver the alerts of it; once for each silence.

    Returns
    -------
    bool
        Whether this process was the first to notice it.
    """
    last = last_pass(now)
    if not last.is_silent or last.at is None:  # none was ever started: nobody relies on it yet
        return False
    subject = last.at.isoformat()
    if Event.objects.filter(kind=SILENCE, subject=subject).exists():
        return False
    with writing(Event):
        if not events.add(SILENCE, subject, "", now):
            return False
        alerts.add(SILENCE, None, "", "", {"since": alerts.in_words(last.at)}, last.at, now)
    return True


def deliver(now: dt.datetime) -> str:
    """Note a silence, and deliver alerts in the daemon's place while it lasts; return a report."""
    note(now)
    if not last_pass(now).is_silent:
        return ""
    return alert_delivery.deliver(now, DELIVERY_SECONDS)


def deliver_in_background(now: dt.datetime) -> None:
    """Do as ``deliver`` in a thread, for a page that must not wait; in a test do nothing."""
    if isolation.is_active() or not last_pass(now).is_silent:
        return

    def work() -> None:
        try:
            with own_connections():
                deliver(timezone.now())
        except Exception:  # the page that has noticed it is long gone
            logger.exception("That no daemon makes its passes can't be sent.")

    HelperThread(work, "proctree-dagster-silence").start()
