"""Firing triggers: their state, and outbox rows for the trees that subscribe.

A trigger fires by one conditional update, which only one of several pollers wins; ``fire_count`` is
the row's version. The same transaction adds a row to the outbox for each subscribed tree, so that
no run is lost or created twice. The caller delivers the rows (see ``triggers``).
"""

import datetime as dt
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import F

from ..context import encode, tagging
from ..domain import run_tags as tags
from ..domain.texts import explain, in_utc
from ..exceptions import ContextError
from ..models import OutboxRun, ProcessTree, Trigger, TriggerState, TriggerSubscription, TriggerType
from ..support.connections import writing
from ..support.row_reading import readable
from . import run_outbox, trigger_evaluation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Polled:
    """The outcome of one poll of a trigger."""

    reason: str
    """For people to read."""

    runs: tuple[OutboxRun, ...] = ()
    """The runs to deliver."""

    fired: bool = False
    """Whether the trigger has fired, whoever subscribes to it."""


def fire(
    trigger: Trigger,
    context: Mapping[str, Any],
    now: dt.datetime,
    seen: Mapping[str, Any] | None = None,
    *,
    run_ids: Mapping[int, uuid.UUID] | None = None,
    run_tags: Mapping[str, str] | None = None,
    sensor: str | None = None,
    **changes: Any,
) -> tuple[OutboxRun, ...] | None:
    """Record that a trigger has fired, and add the subscribers' runs to the outbox.

    Parameters
    ----------
    trigger:
        The trigger.
    context:
        Keyword arguments of the runs; they update the subscription's context.
    now:
        Aware.
    seen:
        A filter that the row must still match. Left out: it fires if it is enabled.
    run_ids:
        Ids that a caller has been given, by the key of the tree; other runs get new ones.
    run_tags:
        Tags of the runs, which are valid; they update the subscription's.
    sensor:
        The sensor that has polled it; left out, the one that polls this trigger.
    changes:
        Other fields to write.

    Returns
    -------
    tuple or None
        ``None`` if the row no longer matches ``seen``: nothing was written.

    Raises
    ------
    ContextError
        The context can't be stored.
    """
    given = encode(context)
    with writing(Trigger) as alias:
        won = (
            Trigger.objects.using(alias)
            .filter(pk=trigger.pk, enabled=True, **(seen or {}))
            .update(
                state=TriggerState.FIRED,
                fire_count=F("fire_count") + 1,
                last_triggered=now,
                **changes,
            )
        )
        if not won:
            return None
        subscriptions = TriggerSubscription.objects.using(alias).filter(
            trigger=trigger, enabled=True
        )
        keys = subscriptions.values("process_tree")
        run_outbox.keep_trees(ProcessTree.objects.using(alias).filter(pk__in=keys))
        ours = {tags.TRIGGERED_BY: "trigger", tags.TRIGGER: trigger.name}
        runs = []
        for subscription in readable(subscriptions.with_names_of_trees()):
            try:
                merged = {**encode(subscription.context), **given}
            except ContextError:  # written by SQL: the other trees still run
                logger.exception("The subscription of %s is invalid.", subscription)
                continue
            run_id = (run_ids or {}).get(subscription.process_tree_id)
            named = {**tagging.of_row(subscription.tags), **(run_tags or {})}
            all_tags = {**named, **_launched_by(trigger, named, sensor), **ours}
            runs.append(run_outbox.add(subscription.process_tree, merged, all_tags, run_id=run_id))
        return tuple(runs)


def _launched_by(trigger: Trigger, given: Mapping[str, str], sensor: str | None) -> dict[str, str]:
    """Return the tag of the runs' requester: a person, or the trigger's sensor."""
    if tags.USER in given or not trigger.is_polled:
        return {}
    return {tags.SENSOR_NAME: sensor or tagging.sensor_name(trigger.name)}


def poll(trigger_id: int, now: dt.datetime, *, sensor: str | None = None) -> Polled:
    """Poll a trigger, and fire it if it is due.

    Parameters
    ----------
    trigger_id:
        Primary key of the trigger. Its row is read again.
    now:
        Aware.
    sensor:
        The sensor that polls it; left out, there is none.
    """
    trigger = Trigger.objects.filter(pk=trigger_id).first()
    if trigger is None:
        return Polled("The trigger was deleted.")
    align(trigger, now)
    if not trigger.enabled:
        return Polled("Disabled in Django: the trigger's 'enabled' is off.")
    Trigger.objects.filter(pk=trigger.pk).update(check_count=F("check_count") + 1, last_checked=now)
    try:
        if trigger.trigger_type == TriggerType.SCHEDULE:
            return _poll_schedule(trigger, now, sensor)
        if not trigger.is_polled:
            return Polled("It can't be polled: fire it by hand.")
        answer = trigger_evaluation.ask(trigger.trigger_type, trigger.configuration, {})
    except (Exception, SystemExit) as error:  # it may raise anything; it does not fire
        logger.exception("The trigger %r can't be asked.", trigger.name)
        return Polled(f"It can't be asked: {explain(error)}")
    return _follow(trigger, answer, now, sensor)


def _poll_schedule(trigger: Trigger, now: dt.datetime, sensor: str | None) -> Polled:
    """Fire once for all due times that have passed."""
    due = trigger.next_due
    following = trigger.due_after(now)  # raises if the rule is invalid
    if due is None or due > now:
        return Polled(f"Not due until {in_utc(due or following)}.")
    seen = {"fire_count": trigger.fire_count, "next_due__lte": now}
    runs = fire(trigger, {}, now, seen, sensor=sensor, next_due=following)
    return _fired(runs, f"It was due at {in_utc(due)}.")


def _follow(
    trigger: Trigger, answer: trigger_evaluation.Answer, now: dt.datetime, sensor: str | None
) -> Polled:
    """Fire when the answer changes to "yes", and arm the trigger again when it changes to "no"."""
    seen = {"fire_count": trigger.fire_count, "state": trigger.state}
    has_fired = trigger.state == TriggerState.FIRED
    if answer.yes and has_fired:
        return Polled(f"Still so, and it has fired: {answer.reason}.")
    if answer.yes:
        return _fired(fire(trigger, {}, now, seen, sensor=sensor), f"{answer.reason}.")
    if has_fired:
        Trigger.objects.filter(pk=trigger.pk, **seen).update(state=TriggerState.RESET)
        return Polled(f"Not so any more, it is armed again: {answer.reason}.")
    return Polled(f"Not so: {answer.reason}.")


def _fired(runs: tuple[OutboxRun, ...] | None, reason: str) -> Polled:
    if runs is None:
        return Polled("Another process has fired or changed it at this moment.")
    ids = ", ".join(str(run.run_id) for run in runs) or "no tree subscribes to it"
    return Polled(f"Fired: {reason} Runs: {ids}.", runs, fired=True)


def align(trigger: Trigger, now: dt.datetime) -> None:
    """Apply a rule that was changed without ``save()`` (``update()``, SQL, a fixture)."""
    before = trigger.next_due_rule
    changed = trigger.align(now)
    if changed:
        Trigger.objects.filter(pk=trigger.pk, next_due_rule=before).update(
            **{field: getattr(trigger, field) for field in changed}
        )
