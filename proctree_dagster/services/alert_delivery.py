"""Delivering alerts: by mail, to webhooks, and by apprise. What fails is tried again for a day."""

import datetime as dt
import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.request import HTTPRedirectHandler, Request, build_opener

from django.conf import settings
from django.core import mail
from django.db.models import F
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from .. import conf
from ..domain import alert_rules
from ..domain.alert_rules import Message
from ..domain.alert_settings import Webhook
from ..domain.texts import explain, storable
from ..exceptions import AlertError
from ..models import Alert, AlertDelivery
from ..support import isolation, project
from ..support.row_reading import readable
from . import alerts, webserver

logger = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds that one delivery may take."""

LEASE = dt.timedelta(minutes=2)
"""How long one process delivers an alert, before another one tries."""

AT_ONCE = 100

RETENTION = dt.timedelta(days=90)
"""How long alerts are shown that are delivered, or given up."""

SMTP = "django.core.mail.backends.smtp.EmailBackend"


def deliver(now: dt.datetime, seconds: float) -> str:
    """Deliver the alerts that are due; return a report, blank if nothing was.

    Parameters
    ----------
    now:
        The present.
    seconds:
        After how many seconds no further delivery is begun.
    """
    if isolation.is_active():  # a test's alerts are not for the world
        return ""
    ends, done, failed = time.monotonic() + seconds, 0, 0
    due = Alert.objects.filter(state=AlertDelivery.WAITING, not_before__lte=now).order_by("pk")
    for alert in readable(due, most=AT_ONCE):
        if time.monotonic() > ends:
            break
        if _lease(alert):
            is_delivered = _deliver(alert)
            done, failed = done + is_delivered, failed + (not is_delivered)
    said = f"delivered {done} alerts" if done else ""
    return ", ".join(filter(None, [said, f"{failed} could not be delivered" if failed else ""]))


def is_any_waiting(until: dt.datetime) -> bool:
    """Return whether an alert is to be delivered, or tried again, until a moment."""
    return Alert.objects.filter(state=AlertDelivery.WAITING, not_before__lte=until).exists()


def _lease(alert: Alert) -> bool:
    """Begin a delivery. Return False if another process has begun it."""
    waiting = Alert.objects.filter(
        pk=alert.pk, state=AlertDelivery.WAITING, not_before=alert.not_before
    )
    until = timezone.now() + LEASE
    if not waiting.update(not_before=until, attempts=F("attempts") + 1):
        return False
    alert.refresh_from_db()  # events may have been counted in it until now
    return True


def _deliver(alert: Alert) -> bool:
    now = timezone.now()
    row = Alert.objects.filter(pk=alert.pk, state=AlertDelivery.WAITING)
    try:
        send(alert.recipient, message_of(alert))
    except Exception as error:  # whatever a mail server, a network or a library makes of it
        logger.exception("Alert %s can't be delivered to %s.", alert.pk, alert.recipient)
        reason = storable(explain(error))
        is_over = now - alert.created_at > alert_rules.GIVE_UP_AFTER
        row.update(
            reason=reason,
            state=AlertDelivery.GIVEN_UP if is_over else AlertDelivery.WAITING,
            not_before=alert_rules.retry_at(now, alert.attempts),
        )
        return False
    row.update(state=AlertDelivery.DELIVERED, delivered_at=timezone.now(), reason="")
    return True


def message_of(alert: Alert) -> Message:
    """Return what an alert says."""
    try:
        return _message_of(alert, alert.facts)
    except (TypeError, ValueError, AttributeError, KeyError):  # SQL may have put anything there
        logger.warning("What alert %s says can't be read, but for its tree and kind.", alert.pk)
        return _message_of(alert, {})


def _message_of(alert: Alert, facts: Mapping[str, Any]) -> Message:
    return alert_rules.message(
        alert.kind,
        alert.tree,
        facts,
        count=alert.count,
        first=alerts.in_words(alert.first_at),
        last=alerts.in_words(alert.last_at),
        link=link_of(str(facts.get("run_id") or ""), alert),
    )


def link_of(run_id: str, alert: Alert) -> str:
    """Return the address of the page that an alert is about: in the admin, else Dagster's."""
    pages = (
        ("run", run_id or None),
        ("processtree", alert.process_tree_id),
    )
    site = project.site_url()
    for model, key in pages:
        if key is not None and site is not None:
            try:
                path = reverse(f"admin:proctree_dagster_{model}_change", args=[key])
            except NoReverseMatch:  # the project has no admin, or not for this
                continue
            return site.rstrip("/") + path
    return (webserver.run_url(run_id) if run_id else None) or ""


def send(recipient: str, message: Message) -> None:
    """Send a message to a mail address, or by what the settings name so.

    Raises
    ------
    AlertError
        The settings have no such recipient any more, or the service has refused the message.
    OSError
        It can't be reached.
    """
    known = conf.current().ALERTS
    if recipient in known.webhooks:
        _post(known.webhooks[recipient], message)
    elif recipient in known.apprise:
        _notify(known.apprise[recipient], message)
    elif "@" in recipient:
        _mail(recipient, message)
    else:
        raise AlertError(f"PROCTREE['ALERTS'] has no webhook and no apprise named {recipient!r}.")


def _mail(address: str, message: Message) -> None:
    subject = " ".join(f"{settings.EMAIL_SUBJECT_PREFIX}{message.subject}".split())
    mail.EmailMessage(subject, message.text, to=[address], **_with_timeout()).send()


def _with_timeout() -> dict[str, Any]:
    """Return the connection of a mail with a timeout, where the settings have none.

    From Django 6.1 on ``MAILERS`` has the timeout, and a mail is given no connection.
    """
    if hasattr(mail, "mailers") or settings.EMAIL_BACKEND != SMTP or settings.EMAIL_TIMEOUT:
        return {}
    return {"connection": mail.get_connection(timeout=int(TIMEOUT))}


def _post(webhook: Webhook, message: Message) -> None:
    body = message.data if webhook.body is None else _filled(webhook.body, message.data)
    request = Request(  # noqa: S310  # the settings take http and https only
        webhook.url,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **webhook.headers},
        method="POST",
    )
    with build_opener(_NoRedirects).open(request, timeout=TIMEOUT):
        pass  # any answer but a success is an error


class _NoRedirects(HTTPRedirectHandler):
    """Refuses redirects: what is posted would be asked for with a GET there, and be lost."""

    def redirect_request(self, *_args: Any) -> None:
        """Return no request, so that the answer is an error."""


def _filled(body: Any, data: Mapping[str, Any]) -> Any:
    """Return the JSON of a webhook with ``{subject}``, ``{text}``, … filled in."""
    if isinstance(body, str):
        return re.sub(r"\{(\w+)\}", lambda found: str(data.get(found[1], found[0])), body)
    if isinstance(body, Mapping):
        return {name: _filled(each, data) for name, each in body.items()}
    return [_filled(each, data) for each in body] if isinstance(body, (list, tuple)) else body


def _notify(url: str, message: Message) -> None:
    try:
        import apprise
    except ImportError as error:
        raise AlertError(
            "It needs the extra 'apprise': python -m pip install 'proctree-dagster[apprise]'."
        ) from error
    ways = apprise.Apprise()
    if not ways.add(url):
        raise AlertError("Apprise does not understand the URL of this recipient.")
    if not ways.notify(title=message.subject, body=message.text):
        raise AlertError("Apprise could not deliver it; its log says why.")


def undelivered(now: dt.datetime) -> int:
    """Return how many alerts have failed to be delivered: those tried again, and given up."""
    tried = Alert.objects.filter(state=AlertDelivery.WAITING, attempts__gt=0).exclude(reason="")
    given_up = Alert.objects.filter(
        state=AlertDelivery.GIVEN_UP, created_at__gt=now - 2 * alert_rules.GIVE_UP_AFTER
    )
    return (tried | given_up).count()


def forget(now: dt.datetime) -> None:
    """Delete alerts that are settled, and old."""
    old = Alert.objects.filter(created_at__lt=now - RETENTION)
    old = old.exclude(state=AlertDelivery.WAITING)
    if old.exists():  # a DELETE takes SQLite's write lock
        old.delete()
