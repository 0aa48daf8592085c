"""Describing trees by their rows, and making rows follow a description."""

import datetime as dt
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from .. import context as contexts
from ..context import tagging
from ..domain.tree_descriptions import LINKS, OF_TREE, RULE_OPTIONS, TreeDescription
from ..exceptions import DescriptionError, FunctionNotNameable, InvalidTree, TriggerError
from ..models import ProcessTree, ProcessTreeSchedule, Trigger, TriggerSubscription
from ..support.row_reading import readable
from . import scheduling, tree_links

OF_TRIGGER = ("trigger_type", "configuration", "description", "enabled")
OF_SUBSCRIPTION = ("context", "tags", "enabled")

_NO_OPTIONS = {"id", "process_tree", "name", "dagster_name", "saved_by_code"}
"""The fields of a schedule that no deployment sets, besides its clock fields."""


# --- From rows ------------------------------------------------------------------------------------


def describe(row: ProcessTree, triggers: Iterable[str] = ()) -> TreeDescription:
    """Return what the rows say of a tree.

    Parameters
    ----------
    row:
        The tree.
    triggers:
        Names of the triggers that are described with it, if there are such.
    """
    subscriptions = TriggerSubscription.objects.filter(process_tree=row).select_related("trigger")
    return TreeDescription(
        name=row.name,
        content=content_of(row),
        schedules={each.name: schedule_options(each) for each in row.all_schedules()},
        subscriptions={
            each.trigger.name: subscription_options(each) for each in readable(subscriptions)
        },
        triggers=_triggers(triggers),
    )


def describe_triggers(tree: str, names: Iterable[str]) -> TreeDescription:
    """Return what the rows say of triggers, of a tree that has no row yet."""
    return TreeDescription(tree, {}, triggers=_triggers(names))


def _triggers(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    wanted = list(names)
    rows = readable(Trigger.objects.filter(name__in=wanted)) if wanted else []
    return {each.name: trigger_options(each) for each in rows}


def content_of(row: ProcessTree) -> dict[str, Any]:
    """Return a tree's own options, those with default values, too."""
    return complete(row.content)


def complete(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree's JSON with all of its own options and without its name."""
    return {name: content.get(name, default) for name, default in OF_TREE.items()}


def schedule_options(schedule: ProcessTreeSchedule) -> dict[str, Any]:
    """Return what a deployment sets of a schedule, as JSON."""
    return _options(schedule, schedule_fields())


def trigger_options(trigger: Trigger) -> dict[str, Any]:
    """Return what a deployment sets of a trigger, as JSON."""
    return _options(trigger, OF_TRIGGER)


@cache
def schedule_fields() -> tuple[str, ...]:
    """Return the names of the fields that a deployment sets of a schedule; the rule's first."""
    fields = {field.name for field in ProcessTreeSchedule._meta.concrete_fields}
    others = fields - _NO_OPTIONS - ProcessTreeSchedule.clock_fields - set(RULE_OPTIONS)
    return (*RULE_OPTIONS, *sorted(others))


def subscription_options(subscription: TriggerSubscription) -> dict[str, Any]:
    """Return what a deployment sets of a subscription, as JSON."""
    return _options(subscription, OF_SUBSCRIPTION)


def default_options(model: type[models.Model], names: Iterable[str]) -> dict[str, Any]:
    """Return the options of a row of which nothing was set."""
    return _options(model(), names)


def _options(row: models.Model, names: Iterable[str]) -> dict[str, Any]:
    return {name: _as_json(getattr(row, name)) for name in names}


def _as_json(value: Any) -> Any:
    if isinstance(value, dt.time):
        return value.isoformat(timespec="minutes")
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    return value.value if isinstance(value, models.Choices) else value


# --- To rows --------------------------------------------------------------------------------------


def save_tree(row: ProcessTree, content: Mapping[str, Any], *, by_code: bool) -> ProcessTree:
    """Save a tree's own options, without its followers (see ``save_links``).

    Parameters
    ----------
    row:
        The tree, maybe a new one.
    content:
        Its own options (see ``tree_descriptions.OF_TREE``).
    by_code:
        Whether code says it, which is recorded to detect drift.

    Raises
    ------
    InvalidTree
        With every problem.
    FunctionNotNameable
        A function can't be named, so no worker would find it.
    """
    before = None if row.pk is None else row.own_content
    for name, value in content.items():
        if name not in LINKS:
            setattr(row, name, value)
    row.executor, row.run_tags = row.executor or "", row.run_tags or []
    if row.own_content != before:
        if problems := row.problems():
            raise InvalidTree(row.name, problems)
        if (why := row.unattended_problem()) is not None:
            raise FunctionNotNameable(why)
        row.saved_by_code = row.digest if by_code else row.saved_by_code
        row.save()
    elif by_code and row.saved_by_code != row.digest:
        row.saved_by_code = row.digest
        row.save(update_fields=["saved_by_code"])
    return row


def save_links(row: ProcessTree, content: Mapping[str, Any]) -> None:
    """Make these trees the followers of a tree, and no others.

    Raises
    ------
    InvalidTree
        One does not exist, or they would follow one another in a circle.
    """
    if any(row.linked_trees().get(name, []) != sorted(content[name]) for name in LINKS):
        names = [name for key in LINKS for name in content[key]]
        if problems := tree_links.problems(row.name, row, names):
            raise InvalidTree(row.name, problems)
        tree_links.set_links(row, content["dependent_trees"], content["sibling_trees"])


def drop_links(row: ProcessTree, content: Mapping[str, Any]) -> None:
    """Remove the followers of a tree that it is not to have any more; see ``save_links``.

    Of several trees before any is given another one: between two a link may be turned round.
    """
    present = content_of(row)
    save_links(row, {key: [name for name in present[key] if name in content[key]] for key in LINKS})


def save_schedule(
    row: ProcessTree, name: str, options: Mapping[str, Any], *, by_code: bool
) -> ProcessTreeSchedule:
    """Save a schedule of a tree with these options; its due times stay if its rule does.

    Parameters
    ----------
    row:
        The saved tree.
    name:
        The schedule's.
    options:
        As ``schedule_options`` returns them; what is left out stays as it is.
    by_code:
        Whether code says it.

    Raises
    ------
    ScheduleError, ContextError, TagError
        The options are not valid.
    DescriptionError
        There is no such option.
    """
    schedule = ProcessTreeSchedule.objects.filter(process_tree=row, name=name).first()
    schedule = schedule or ProcessTreeSchedule(name=name)
    schedule.process_tree = row
    before = None if schedule.pk is None else schedule_options(schedule)
    fill_schedule(schedule, options)
    noted = schedule.saved_by_code
    schedule.saved_by_code = schedule.digest if by_code else noted
    if schedule_options(schedule) != before:
        schedule.save()
        scheduling.warn_if_ended(schedule)
    elif schedule.saved_by_code != noted:  # so its due times stay
        rows = ProcessTreeSchedule.objects.filter(pk=schedule.pk)
        rows.update(saved_by_code=schedule.saved_by_code)
    return schedule


def fill_schedule(schedule: ProcessTreeSchedule, options: Mapping[str, Any]) -> None:
    """Set a schedule's options without saving it; see ``save_schedule`` for errors."""
    fill(schedule, options, schedule_fields(), f"The schedule {schedule.name!r}")
    if isinstance(schedule.context, dict):
        schedule.context = contexts.encode(schedule.context)
    schedule.tags = tagging.checked(schedule.tags)
    scheduling.clean(schedule)


def fill(row: models.Model, options: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    """Set options of a row without saving it.

    Raises
    ------
    DescriptionError
        There is no such option, or its value is of another type.
    """
    known = tuple(known)
    for name, value in options.items():
        if name not in known:
            raise DescriptionError(f"{what} has no option {name!r}; it has {', '.join(known)}.")
        field: Any = row._meta.get_field(name)
        is_json = isinstance(field, models.JSONField)
        if value is None and not (field.null or is_json):
            raise DescriptionError(f"{what}: {name} can't be null; leave it out for its default.")
        try:
            setattr(row, name, value if value is None or is_json else field.to_python(value))
        except (ValidationError, TypeError, ValueError, OverflowError) as error:
            why = " ".join(getattr(error, "messages", [f"not {value!r}"]))
            if isinstance(field, models.TimeField) and isinstance(value, int):
                why += ", which is how YAML reads a time that is not in quotes"
            raise DescriptionError(f"{what}: {name}: {why}") from error


def save_trigger(name: str, options: Mapping[str, Any]) -> Trigger:
    """Save a trigger with these options; what is left out stays as it is.

    Raises
    ------
    TriggerError
        It is not valid, or there is one of another type.
    DescriptionError
        There is no such option.
    """
    trigger = Trigger.objects.filter(name=name).first() or Trigger(name=name)
    before = None if trigger.pk is None else trigger_options(trigger)
    if (
        before is not None
        and options.get("trigger_type", before["trigger_type"]) != before["trigger_type"]
    ):
        raise TriggerError(
            f"There is a trigger {name!r} of type {before['trigger_type']!r} already; delete it "
            f"first, or give the one of type {options['trigger_type']!r} another name."
        )
    fill_trigger(trigger, options)
    if trigger_options(trigger) != before:
        trigger.save()
    return trigger


def fill_trigger(trigger: Trigger, options: Mapping[str, Any]) -> None:
    """Set a trigger's options without saving it; see ``save_trigger`` for errors."""
    fill(trigger, options, OF_TRIGGER, f"The trigger {trigger.name!r}")
    trigger.require_valid()
    trigger.configuration = contexts.encode(trigger.configuration)


def fill_subscription(
    subscription: TriggerSubscription, trigger: str, options: Mapping[str, Any]
) -> None:
    """Set a subscription's options without saving it; see ``save_subscription`` for errors."""
    fill(subscription, options, OF_SUBSCRIPTION, f"The subscription to {trigger!r}")
    subscription.context = contexts.encode(subscription.context)
    subscription.tags = tagging.checked(subscription.tags)


def save_subscription(
    row: ProcessTree, trigger: str, options: Mapping[str, Any]
) -> TriggerSubscription:
    """Let a tree run when a trigger fires, with these options; what is left out stays as it is.

    Raises
    ------
    InvalidTree
        There is no such trigger, or the tree can't run by itself.
    ContextError, TagError, DescriptionError
        The options are not valid.
    """
    fired_by = Trigger.objects.filter(name=trigger).first()
    if fired_by is None:
        raise InvalidTree(row.name, Trigger.objects.unknown_problems({}, [trigger]))
    rows = TriggerSubscription.objects.filter(process_tree=row, trigger=fired_by)
    subscription = rows.first() or TriggerSubscription()
    subscription.process_tree, subscription.trigger = row, fired_by
    before = None if subscription.pk is None else subscription_options(subscription)
    fill_subscription(subscription, trigger, options)
    if (problem := subscription.enabling_problem()) is not None:
        raise InvalidTree(row.name, [problem])
    if subscription_options(subscription) != before:
        subscription.save()
    return subscription
