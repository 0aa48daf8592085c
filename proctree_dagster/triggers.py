"""Create, fire, reset and subscribe to triggers.

Functions that take a trigger or a tree accept the row or its name.
"""

import datetime as dt
import logging
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from django.db import IntegrityError, router
from django.utils import timezone

from . import context as contexts
from .context import tagging
from .domain import names
from .domain.texts import explain
from .exceptions import FunctionNotNameable, TriggerError, TriggerNotFound
from .models import OutboxRun, ProcessTree, Trigger, TriggerState, TriggerSubscription
from .running import run_requests, tree_runs
from .services import declaring, trigger_firing, webserver
from .services.trigger_firing import Polled
from .support.connections import after_commit, fresh_connections, open_transactions, writing
from .support.row_reading import readable

logger = logging.getLogger(__name__)


class FiredRun(NamedTuple):
    """A run that a trigger has requested."""

    tree: str
    """The tree's name."""

    run_id: str
    """The run's id in Dagster, also before Dagster has it."""

    url: str | None
    """Its page, if ``PROCTREE["DAGSTER_URL"]`` is set."""


def create_trigger(
    name: str,
    trigger_type: str,
    configuration: Mapping[str, Any] | None = None,
    description: str | None = None,
    enabled: bool | None = None,
) -> Trigger:
    """Create a trigger, or update the one of this name, and return it.

    An update changes only the arguments that are given: a redeployment does not fire the trigger,
    and does not switch on what an operator has switched off.

    Parameters
    ----------
    name:
        The trigger's name, at most 200 characters, unique; without control characters, and without
        spaces around it.
    trigger_type:
        ``condition``, ``schedule``, ``event``, ``custom`` or ``outdated_check``.
    configuration:
        Its configuration; see docs/triggers.md for each type. Left out: empty for a new trigger,
        unchanged for an existing one; so are the next parameters.
    description:
        What it is for; shown in Dagster.
    enabled:
        Whether it is on; it is by default.

    Raises
    ------
    TriggerError
        With every problem of the trigger; nothing is saved. Or a trigger of this name has another
        type.
    """
    if (declared := declaring.current()) is not None:
        return declared.trigger(name, trigger_type, configuration, description, enabled)
    can_be_asked_for = not list(names.problems("The trigger", name))
    found = Trigger.objects.filter(name=name).first() if can_be_asked_for else None
    trigger = found or Trigger(name=name)
    if trigger.pk is not None and trigger.trigger_type != trigger_type:
        raise TriggerError(
            f"There is a trigger {name!r} of type {trigger.trigger_type!r} already; delete it "
            f"first, or give the one of type {trigger_type!r} another name."
        )
    before = _content(trigger) if trigger.pk is not None else None
    trigger.trigger_type = trigger_type
    if configuration is not None:
        trigger.configuration = configuration
    if description is not None:
        trigger.description = description
    if enabled is not None:
        trigger.enabled = enabled
    trigger.require_valid()
    trigger.configuration = contexts.encode(trigger.configuration)
    if _content(trigger) != before:
        try:
            with writing(Trigger):
                trigger.save()
        except IntegrityError:
            if before is not None or not Trigger.objects.filter(name=name).exists():
                raise
            # Another process has created it meanwhile.
            return create_trigger(name, trigger_type, configuration, description, enabled)
    return trigger


def _content(trigger: Trigger) -> tuple[object, ...]:
    return (trigger.configuration, trigger.description, trigger.enabled)


def get_trigger(trigger: Trigger | str) -> Trigger:
    """Return the trigger of this name.

    Raises
    ------
    TriggerNotFound
        There is none.
    """
    if isinstance(trigger, Trigger):
        return trigger
    if (declared := declaring.current()) is not None and trigger in declared.triggers:
        return declared.triggers[trigger]
    found = Trigger.objects.filter(name=trigger).first()
    if found is None:
        raise TriggerNotFound(
            f"There is no trigger called {trigger!r}. Make it first, with create_trigger(), or "
            "look up its name with Trigger.objects.values_list('name')."
        )
    return found


def fire_trigger(
    trigger: Trigger | str,
    context: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    wait: bool = True,
) -> list[FiredRun]:
    """Fire a trigger: every tree that subscribes to it runs.

    The runs are saved with their ids before this returns. They are delivered to Dagster after the
    commit of the caller's transaction, at once if there is none; if that fails they are delivered
    later. A rollback removes them. In a transaction on another database than this app's the trigger
    fires after that has committed, with the ids that were returned. In a test the runs are only
    recorded (see ``testing.fired``).

    Parameters
    ----------
    trigger:
        The trigger, of whatever type.
    context:
        Keyword arguments of the runs; they update the subscription's context, which updates the
        default context of the tree's schedule.
    tags:
        Tags of the runs, as for ``ProcessTreeManager.submit_tree``; they update the subscription's.
    wait:
        Whether it waits until Dagster has the runs, and at first for Dagster's import, about a
        second. If not, a thread hands them over: for code that must answer at once, such as a view.

    Returns
    -------
    list[FiredRun]
        Empty if no tree subscribes to it, or the trigger is disabled (which is logged).

    Raises
    ------
    TriggerNotFound
        There is no such trigger.
    ContextError, TagError
        The context can't be stored, or the tags are not valid; nothing was fired.
    """
    return fire_row(get_trigger(trigger), context or {}, tagging.checked(tags), wait=wait)


def fire_row(
    row: Trigger,
    context: Mapping[str, Any],
    run_tags: dict[str, str],
    *,
    wait: bool,
    run_ids: Mapping[int, uuid.UUID] | None = None,
) -> list[FiredRun]:
    """Fire a trigger, as ``fire_trigger`` does.

    Parameters
    ----------
    row:
        The trigger.
    context, run_tags, wait:
        As for ``fire_trigger``; the tags are valid.
    run_ids:
        The ids of the runs by the keys of the trees; left out, new ones. No second run is made of
        an id that is there.
    """
    ids = dict(run_ids or {})
    if open_transactions() - {router.db_for_write(OutboxRun)}:
        return _fire_after_commit(row, contexts.encode(context), run_tags, wait, ids)
    runs = trigger_firing.fire(row, context, timezone.now(), run_ids=ids, run_tags=run_tags)
    if runs is None:
        _log_silence(row)
        return []
    _deliver(runs, wait)
    return [_fired_run(run.process_tree, run.run_id) for run in runs]


def _fire_after_commit(
    row: Trigger,
    context: dict[str, Any],
    run_tags: dict[str, str],
    wait: bool,
    chosen: Mapping[int, uuid.UUID],
) -> list[FiredRun]:
    """Fire a trigger once transactions on another database have committed.

    Otherwise its runs would be made also after a rollback, as no transaction spans two databases.
    """
    if not Trigger.objects.filter(pk=row.pk, enabled=True).exists():
        _log_silence(row)
        return []
    subscribed = TriggerSubscription.objects.filter(trigger=row, enabled=True)
    trees = [each.process_tree for each in readable(subscribed.with_names_of_trees())]
    run_ids = {tree.pk: chosen.get(tree.pk) or uuid.uuid4() for tree in trees}

    def fire() -> None:
        runs = trigger_firing.fire(row, context, timezone.now(), run_ids=run_ids, run_tags=run_tags)
        if runs is None:
            _log_silence(row)
        else:
            _deliver(runs, wait)

    after_commit(fire)
    return [_fired_run(tree, run_ids[tree.pk]) for tree in trees]


def _log_silence(trigger: Trigger) -> None:
    logger.warning("The trigger %r is disabled or was deleted: it did not fire.", trigger.name)


def _fired_run(tree: ProcessTree, run_id: uuid.UUID) -> FiredRun:
    return FiredRun(tree.name, str(run_id), webserver.run_url(str(run_id)))


def _deliver(runs: Iterable[OutboxRun], wait: bool = True) -> None:
    """Deliver runs to Dagster once they are committed; failed ones are retried by the sensor."""
    ids = [str(run.run_id) for run in runs]
    deliver = tree_runs.deliver if wait else run_requests.deliver_soon
    if ids:
        after_commit(lambda: deliver(ids))


def poll_triggers() -> dict[str, Polled]:
    """Poll the triggers that trees subscribe to, and deliver the runs of those that fire.

    Dagster's sensors do this for each trigger by itself; see ``check_and_run_scheduled_tasks``.

    Returns
    -------
    dict
        The outcome of each trigger that can be polled and was not polled within its
        ``poll_seconds``, by its name.
    """
    now = timezone.now()
    with fresh_connections():
        subscribed = readable(Trigger.objects.subscribed())
        triggers = [trigger for trigger in subscribed if trigger.is_polled]
    polled: dict[str, Polled] = {}
    for trigger in triggers:
        if _was_just_polled(trigger, now):
            continue
        try:
            with fresh_connections():
                polled[trigger.name] = trigger_firing.poll(trigger.pk, now)
                _deliver(polled[trigger.name].runs)
        except Exception as error:  # an error of one trigger must not prevent the others
            logger.exception("The trigger %r could not be polled.", trigger.name)
            polled[trigger.name] = Polled(f"It can't be polled: {explain(error)}")
    return polled


def _was_just_polled(trigger: Trigger, now: dt.datetime) -> bool:
    """Return whether a sensor or an earlier call has polled it just now, as polls may be costly."""
    if trigger.last_checked is None:
        return False
    seconds = (now - trigger.last_checked).total_seconds()
    # Somewhat less, or every second call of a minutely caller would come a moment too early.
    return 0 <= seconds < 0.9 * trigger.poll_seconds


def reset_trigger(trigger: Trigger | str) -> Trigger:
    """Arm a trigger again and return it: it fires once more, even if its condition still holds.

    Raises
    ------
    TriggerNotFound
        There is no such trigger.
    """
    return set_trigger_state(trigger, TriggerState.RESET)


def set_trigger_state(trigger: Trigger | str, state: str) -> Trigger:
    """Set a trigger's state and return it. It starts no run: see ``fire_trigger``.

    Parameters
    ----------
    trigger:
        The trigger.
    state:
        ``pending``, ``fired`` or ``reset``.

    Raises
    ------
    TriggerNotFound
        There is no such trigger.
    TriggerError
        There is no such state.
    """
    if state not in TriggerState.values:
        raise TriggerError(
            f"A trigger's state is one of {', '.join(TriggerState.values)}, not {state!r}."
        )
    row = get_trigger(trigger)
    row.state = TriggerState(state)
    Trigger.objects.filter(pk=row.pk).update(state=row.state)
    return row


def subscribe_tree_to_trigger(
    tree: ProcessTree | str,
    trigger: Trigger | str,
    context: Mapping[str, Any] | None = None,
    enabled: bool | None = None,
    tags: Mapping[str, str] | None = None,
) -> TriggerSubscription:
    """Let a saved tree run when a trigger fires, and return the subscription.

    Parameters
    ----------
    tree, trigger:
        The two.
    context:
        Keyword arguments of the runs; they update the default context of the tree's schedule.
        Left out: none for a new subscription, unchanged for an existing one.
    enabled:
        Whether it is on. Left out: on for a new subscription, unchanged for an existing one.
    tags:
        Tags of the runs, as for ``ProcessTreeManager.submit_tree``. Left out: none for a new
        subscription, unchanged for an existing one.

    Raises
    ------
    TreeNotFound, TriggerNotFound
        There is none of that name.
    ContextError, TagError
        The context can't be stored, or the tags are not valid.
    FunctionNotNameable
        The subscription is on, and only the process that saved the tree can run it.
    """
    declaring.refuse("subscribe a saved tree: call subscribe_to_trigger() of the tree instead")
    row, fired_by = _tree(tree), get_trigger(trigger)
    values: dict[str, Any] = {}
    if context is not None:
        values["context"] = contexts.encode(context)
    if tags is not None:
        values["tags"] = tagging.checked(tags)
    if enabled is not None:
        values["enabled"] = enabled
    subscription = get_tree_subscription(row, fired_by)
    if subscription is not None and all(
        getattr(subscription, field) == value for field, value in values.items()
    ):
        return subscription  # nothing has changed for Dagster
    planned = TriggerSubscription(
        process_tree=row,
        enabled=values.get("enabled", True if subscription is None else subscription.enabled),
    )
    problem = planned.enabling_problem()
    if problem is not None:
        raise FunctionNotNameable(problem)
    with writing(TriggerSubscription):
        subscription, _ = TriggerSubscription.objects.update_or_create(
            trigger=fired_by, process_tree=row, defaults=values
        )
    return subscription


def unsubscribe_tree_from_trigger(tree: ProcessTree | str, trigger: Trigger | str) -> bool:
    """Remove a tree's subscription to a trigger; return whether there was one.

    Raises
    ------
    TreeNotFound, TriggerNotFound
        There is none of that name.
    """
    subscription = get_tree_subscription(tree, trigger)
    if subscription is None:
        return False
    subscription.delete()
    return True


def get_trigger_subscriptions(trigger: Trigger | str) -> list[TriggerSubscription]:
    """Return the subscriptions to a trigger, with their trees, in the order of the trees' names.

    Raises
    ------
    TriggerNotFound
        There is no such trigger.
    """
    row = get_trigger(trigger)
    return list(
        TriggerSubscription.objects.filter(trigger=row)
        .select_related("trigger", "process_tree")
        .order_by("process_tree__name")
    )


def get_tree_subscription(
    tree: ProcessTree | str, trigger: Trigger | str
) -> TriggerSubscription | None:
    """Return a tree's subscription to a trigger, if it has one.

    Raises
    ------
    TreeNotFound, TriggerNotFound
        There is none of that name.
    """
    return (
        TriggerSubscription.objects.filter(trigger=get_trigger(trigger), process_tree=_tree(tree))
        .select_related("trigger", "process_tree")
        .first()
    )


def _tree(tree: ProcessTree | str) -> ProcessTree:
    return tree if isinstance(tree, ProcessTree) else tree_runs.get_row(tree)
