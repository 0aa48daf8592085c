"""Saving, finding and removing a tree's schedules."""

import datetime as dt
import json
import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError

from .. import context as contexts
from ..context import sensitive, tagging
from ..domain import names
from ..domain.predicates import are_texts
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.texts import shorten
from ..exceptions import ContextError, ScheduleError, ScheduleNotFound
from ..models import ProcessTree, ProcessTreeSchedule
from ..models.validation import for_each_validation
from ..support.connections import writing

logger = logging.getLogger(__name__)


_DATES = ("start_date", "end_date")

_GIVE_CONTEXT = ("for_each", "for_each_as")
"""The options that say which keys the context of a run has besides."""


def find(row: ProcessTree, name: str = DEFAULT_SCHEDULE) -> ProcessTreeSchedule:
    """Return a tree's schedule by its name.

    Raises
    ------
    ScheduleNotFound
        The tree has none of this name.
    """
    schedule = ProcessTreeSchedule.objects.filter(process_tree=row, name=name).first()
    if schedule is None:
        others = ProcessTreeSchedule.objects.filter(process_tree=row).order_by("name")
        known = ", ".join(map(repr, others.values_list("name", flat=True)[:10]))
        what = "no schedule" if name == DEFAULT_SCHEDULE else f"no schedule called {name!r}"
        raise ScheduleNotFound(
            f"The process tree {row.name!r} has {what}"
            f"{f'; its schedules are {known}' if known else ''}. "
            "'manage.py proctree schedule' gives it one, as register_schedule() does."
        )
    schedule.process_tree = row
    return schedule


def remove(row: ProcessTree, name: str = DEFAULT_SCHEDULE) -> bool:
    """Remove a tree's schedule; return whether there was one of this name.

    A run under way continues; one that has not taken its claim yet does not start.
    """
    removed, _ = ProcessTreeSchedule.objects.filter(process_tree=row, name=name).delete()
    row.forget_schedules()
    return bool(removed)


def register(
    row: ProcessTree,
    *,
    by_code: bool,
    name: str = DEFAULT_SCHEDULE,
    interval_minutes: int | None = None,
    start_time: dt.time | None = None,
    cron: str | None = None,
    context: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **options: Any,
) -> ProcessTreeSchedule:
    """Save a schedule of a tree; what is left out, or ``None``, stays as it is.

    Parameters
    ----------
    row:
        The saved tree.
    by_code:
        Whether code sets it, which is recorded to detect drift (see ``ProcessTree.edited``).
    name:
        Which of the tree's schedules.
    interval_minutes, start_time, cron, context, tags, options:
        As ``ProcessTreeInstance.register_schedule`` takes them, which see for errors, too.
    """
    _check_name(name)
    values: dict[str, Any] = {
        **options,
        "interval_minutes": interval_minutes,
        "start_time": start_time,
        "cron": cron,
        "context": context,
        "tags": tags,
    }
    while True:
        schedule = ProcessTreeSchedule.objects.filter(process_tree=row, name=name).first()
        is_new = schedule is None
        schedule = schedule or ProcessTreeSchedule(name=name)
        schedule.process_tree = row
        before = None if is_new else _registered(schedule)
        had = schedule.context
        given = prepare(schedule, **values)
        if context is not None or is_new or not given.isdisjoint(_GIVE_CONTEXT):
            _require_usable(schedule)
        noted = schedule.saved_by_code
        if by_code:
            schedule.saved_by_code = schedule.digest
        if _registered(schedule) == before:
            if schedule.saved_by_code != noted:
                rows = ProcessTreeSchedule.objects.filter(pk=schedule.pk)
                rows.update(saved_by_code=schedule.saved_by_code)  # so its due times stay
            return schedule
        try:
            with writing(ProcessTreeSchedule):
                schedule.save()
            if by_code:
                warn_if_ended(schedule)
            if by_code and not is_new:
                _warn_of_replaced_context(schedule, had)
            return schedule
        except IntegrityError:  # another process has registered it meanwhile
            others = ProcessTreeSchedule.objects.filter(process_tree=row, name=name)
            if not is_new or not others.exists():
                raise


def _for_each(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``for_each`` and its options as they are saved; none of them without ``for_each``."""
    order_by = options.get("order_by")
    several = order_by is not None and not isinstance(order_by, str)
    if several and not are_texts(order_by):
        raise ScheduleError(f"order_by is a field, or a list of fields, not {order_by!r:.100}.")
    given = {"order_by": ", ".join(order_by)} if several and order_by is not None else {}
    if options.get("for_each") is None:
        return given
    normal = for_each_validation.normal(options["for_each"])
    none = {"for_each_as": "", "spread_minutes": 0, "order_by": ""}
    return {**given, "for_each": normal, **({} if normal else none)}


def prepare(
    schedule: ProcessTreeSchedule,
    *,
    interval_minutes: int | None = None,
    start_time: dt.time | None = None,
    cron: str | None = None,
    context: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    **options: Any,
) -> set[str]:
    """Set a schedule's options without saving it, and return which were given.

    See ``register`` for parameters and errors.
    """
    _check_name(schedule.name)
    _check_rule(interval_minutes, start_time, cron)
    given = {
        **options,
        "start_time": start_time and start_time.replace(second=0, microsecond=0),
        "context": None if context is None else contexts.encode(context),
        "tags": None if tags is None else tagging.checked(tags),
        **_for_each(options),
    }
    given = {field: value for field, value in given.items() if value is not None}
    if given.get("business_days") == "":  # a calendar alone means "skip"
        given.setdefault("calendar", "")
    if given.get("not_after_minutes") == 0:
        given["not_after_minutes"] = None
    given |= {field: _date(field, given[field]) for field in _DATES if field in given}
    for field, value in given.items():
        setattr(schedule, field, value)
    _set_rule(schedule, interval_minutes, start_time, cron)
    clean(schedule)
    return set(given)


def _date(field: str, value: object) -> dt.date | None:
    """Return the date that was given; ``None`` for a blank one, which takes it away."""
    if value == "":
        return None
    if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
        raise ScheduleError(f"{field} must be a datetime.date, or blank, not {value!r}.")
    return value


def clean(schedule: ProcessTreeSchedule) -> None:
    """Refuse a schedule, saved or not, that is not valid.

    Raises
    ------
    ScheduleError
        With every problem.
    """
    try:
        # Not the tree, which may not be saved, and so not whether the name is unique in it: the
        # database decides that.
        schedule.full_clean(exclude={"process_tree"}, validate_unique=False)
    except ValidationError as error:
        problems = "; ".join(
            f"{name}: {' '.join(messages)}" for name, messages in error.message_dict.items()
        )
        raise ScheduleError(
            f"The schedule of {schedule.title!r} is not valid: {problems}"
        ) from error


def _warn_of_replaced_context(schedule: ProcessTreeSchedule, had: object) -> None:
    """Log that code has given a schedule another context: two in a loop may have one name."""
    if not had or not schedule.context or had == schedule.context:
        return
    logger.warning(
        "The schedule %r of the process tree %r had the context %s, which register_schedule() has "
        "replaced by %s. To keep both, give each schedule a name: register_schedule(name=…).",
        *(schedule.name, schedule.process_tree.name, _shown(had), _shown(schedule.context)),
    )


def warn_if_ended(schedule: ProcessTreeSchedule) -> None:
    """Log that a schedule that was just saved will run nothing, if it is so."""
    if schedule.enabled and schedule.has_ended:
        logger.warning(
            "The schedule of %r runs nothing: nothing is due from now until its end date, %s. A "
            "later end_date, or a blank one, lets it run again.",
            *(schedule.title, schedule.end_date),
        )


def _shown(context: object) -> str:
    """Return a context for a log, without secrets."""
    return shorten(json.dumps(sensitive.masked(context), ensure_ascii=False, default=repr), 200)


def _require_usable(schedule: ProcessTreeSchedule) -> None:
    """Refuse a context with which no run could succeed, or with a key that nothing takes."""
    problems = schedule.context_problems()
    if problems:
        raise ContextError(
            f"The context of the schedule of {schedule.title!r} will not do: {' '.join(problems)}"
        )


def _registered(schedule: ProcessTreeSchedule) -> tuple[object, ...] | None:
    """Return a schedule's rule as ``register_schedule`` takes it; ``None`` if it is invalid."""
    try:
        rule = schedule.current_rule
    except ScheduleError:  # written by SQL; the new rule is validated
        return None
    return (
        *(rule, schedule.timezone, schedule.context, schedule.tags),
        *(schedule.allow_overlap, schedule.pass_scheduled_for, schedule.not_after_minutes),
        schedule.for_each_options,
    )


def _set_rule(
    schedule: ProcessTreeSchedule,
    interval_minutes: int | None,
    start_time: dt.time | None,
    cron: str | None,
) -> None:
    """Set a schedule's interval or cron, whichever is given; change nothing if neither is."""
    if cron:
        schedule.cron, schedule.interval_minutes = " ".join(cron.split()), None
    elif interval_minutes is not None or cron is not None:
        schedule.cron = ""
        schedule.interval_minutes = interval_minutes or schedule.interval_minutes or 60
    elif start_time is not None and schedule.cron:
        raise ScheduleError(
            f"The schedule has a cron ({schedule.cron}), which says its own times; give "
            "interval_minutes with start_time, or a new cron."
        )


def _check_name(name: str) -> None:
    if problems := list(names.strict_problems("The schedule", name)):
        raise ScheduleError(" ".join(problems))


def _check_rule(interval_minutes: object, start_time: object, cron: object) -> None:
    """Refuse values that the model's fields would accept and misinterpret."""
    if cron and (interval_minutes is not None or start_time is not None):
        raise ScheduleError(
            "Give interval_minutes and start_time, or cron; a cron says its own times."
        )
    if cron is not None and not isinstance(cron, str):
        raise ScheduleError(f"cron must be a string such as '0 9 * * 1-5', not {cron!r}.")
    if interval_minutes is not None and (
        isinstance(interval_minutes, bool)
        or not isinstance(interval_minutes, int)
        or interval_minutes < 1
    ):
        raise ScheduleError(
            f"interval_minutes must be a whole number of minutes from 1, not {interval_minutes!r}."
        )
    if start_time is not None and (
        not isinstance(start_time, dt.time) or start_time.tzinfo is not None
    ):
        raise ScheduleError(
            f"start_time must be a datetime.time without a zone, not {start_time!r}; say the "
            "zone as timezone='Africa/Johannesburg'."
        )
