"""Alerts: rows for the messages that somebody is to get. ``alert_delivery`` delivers them.

A message stands for one event, or for several of the same tree and cause: while the last message of
these is younger than ``every_minutes``, further events are counted in one that waits.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import F
from django.utils import timezone

from .. import conf
from ..domain import alert_rules, run_events, tree_alerts
from ..domain.alert_settings import FAILURE, RECOVERED, SILENCE, THIRD_FAILURE
from ..domain.names import MAX_NAME_LENGTH
from ..domain.run_events import RunEvent
from ..domain.runs import RunSummary
from ..domain.tree_alerts import TreeAlerts
from ..models import Alert, AlertDelivery, AlertState, Event, ProcessTree

LONGEST_CAUSE = 300
LONGEST_RECIPIENT = 320

ABOUT_FAILURES = (FAILURE, THIRD_FAILURE)


def note_run(event: RunEvent, now: dt.datetime) -> None:
    """Record how a run has ended, and the alerts of that; in the caller's transaction."""
    tree = ProcessTree.objects.filter(job_name=event.run.job_name).first()
    if event.kind == run_events.FAILED and not event.will_retry:
        _note_failure(event, tree, now)
    elif event.kind == run_events.SUCCEEDED:
        _note_success(event, tree, now)


def _note_failure(event: RunEvent, tree: ProcessTree | None, now: dt.datetime) -> None:
    state = _state(event, tree)
    state.failures += 1
    state.failing_since = state.failing_since or event.at
    _save(state)
    facts = {
        "failures": dict(event.failures),
        "run_id": event.run.run_id,
        "failing_since": in_words(state.failing_since),
        "failures_in_a_row": state.failures,
    }
    cause = ", ".join(filter(None, event.failures)) or next(iter(event.failures.values()), "")
    for kind in alert_rules.of_failure(state.failures):
        add(kind, tree, _name(event, tree), cause, facts, event.at, now, customer_of(event.run))


def _note_success(event: RunEvent, tree: ProcessTree | None, now: dt.datetime) -> None:
    state = _state(event, tree)
    failing_since, failures = state.failing_since, state.failures
    state.failures, state.failing_since, state.succeeded_at = 0, None, event.at
    _save(state)
    if not failures or failing_since is None:
        return
    facts = {
        "run_id": event.run.run_id,
        "failing_since": in_words(failing_since),
        "is_over": True,
        "failures_in_a_row": failures,
    }
    name = _name(event, tree)
    # Failures that wait to be counted are delivered first.
    waiting = Alert.objects.filter(state=AlertDelivery.WAITING, attempts=0, tree=name)
    waiting.filter(kind__in=ABOUT_FAILURES).update(not_before=now)
    add(RECOVERED, tree, name, "", facts, event.at, now, customer_of(event.run))


def _name(event: RunEvent, tree: ProcessTree | None) -> str:
    return event.run.tree if tree is None else tree.name


def customer_of(run: RunSummary) -> str:
    """Return for whom a run works, by its tags from the context."""
    return alert_rules.customer(run.tags)


def _state(event: RunEvent, tree: ProcessTree | None) -> AlertState:
    customer = customer_of(event.run)
    if tree is None:  # it was deleted: nothing is known of its other runs
        return AlertState(customer=customer)
    return AlertState.objects.get_or_create(process_tree=tree, customer=customer)[0]


def _save(state: AlertState) -> None:
    if state.pk is not None:
        state.save()


def add(
    kind: str,
    tree: ProcessTree | None,
    name: str,
    cause: str,
    facts: Mapping[str, Any],
    at: dt.datetime,
    now: dt.datetime,
    customer: str = "",
) -> None:
    """Add an alert for each recipient, or count its event in one that waits.

    Parameters
    ----------
    kind:
        One of ``alert_settings.KINDS``, or ``SILENCE``.
    tree, name:
        The tree, unless it is gone or there is none, and its name.
    cause:
        What it has in common with other events of the kind.
    facts:
        What the message says.
    at:
        When it happened.
    now:
        The present.
    customer:
        For whom the run worked.
    """
    said = {**facts, **({"customers": [customer]} if customer else {})}
    for recipient in recipients(kind, tree):
        to, name, cause = (
            recipient[:LONGEST_RECIPIENT],
            name[:MAX_NAME_LENGTH],
            cause[:LONGEST_CAUSE],
        )
        _add_to(to, kind, tree, name, cause, said, at, now)


def recipients(kind: str, tree: ProcessTree | None) -> Iterable[str]:
    """Return who gets alerts of a kind: as the tree says, or else the settings."""
    settings = conf.current().ALERTS
    if kind == SILENCE:
        return settings.to
    chosen = TreeAlerts() if tree is None else tree_alerts.of(tree.alert_options)
    return chosen.recipients(settings) if kind in chosen.kinds(settings) else ()


def _add_to(
    recipient: str,
    kind: str,
    tree: ProcessTree | None,
    name: str,
    cause: str,
    facts: Mapping[str, Any],
    at: dt.datetime,
    now: dt.datetime,
) -> None:
    same = Alert.objects.filter(tree=name, kind=kind, cause=cause, recipient=recipient)
    waiting = same.filter(state=AlertDelivery.WAITING, attempts=0).first()
    if waiting is not None and _count(waiting, facts, at):
        return
    last = same.order_by("-planned_at").values_list("planned_at", flat=True).first()
    every = dt.timedelta(minutes=conf.current().ALERTS.every_minutes)
    planned = alert_rules.planned(now, last, every)
    Alert.objects.create(
        kind=kind,
        process_tree=tree,
        tree=name,
        cause=cause,
        recipient=recipient,
        facts=dict(facts),
        first_at=at,
        last_at=at,
        planned_at=planned,
        not_before=planned,
    )


def _count(waiting: Alert, facts: Mapping[str, Any], at: dt.datetime) -> bool:
    """Count an event in an alert that waits; return False if its delivery has begun meanwhile."""
    not_begun = Alert.objects.filter(pk=waiting.pk, attempts=0)
    merged = _merged(waiting.facts, facts)
    return bool(not_begun.update(count=F("count") + 1, last_at=at, facts=merged))


def _merged(before: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the last event, with the customers of all."""
    known = before if isinstance(before, dict) else {}  # SQL may have put anything there
    customers = list(known.get("customers") or [])
    others = known.get("other_customers") or 0
    for each in facts.get("customers") or []:
        if each in customers:
            continue
        if len(customers) < alert_rules.CUSTOMERS_SHOWN:
            customers.append(each)
        else:
            others += 1
    extra = {"customers": customers, **({"other_customers": others} if others else {})}
    return {**facts, **(extra if customers else {})}


def note_look(last: dt.datetime | None, now: dt.datetime) -> None:
    """Record that a daemon polls; after an alert that none did, add one that it does again."""
    if last is None or not Event.objects.filter(kind=SILENCE, subject=last.isoformat()).exists():
        return
    facts = {"since": in_words(last), "is_over": True}
    add(SILENCE, None, "", "over", facts, now, now)


def in_words(moment: dt.datetime) -> str:
    """Return a moment to the minute, in Django's time zone."""
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M %Z}"
