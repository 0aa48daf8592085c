"""Actions on schedules."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import tree_builder
from ...domain.run_tags import DEFAULT_SCHEDULE
from ...exceptions import ScheduleError
from ...models import ProcessTree, ProcessTreeSchedule
from ...running import tree_runs
from ...services import scheduling
from .. import tag_pairs, typed_context
from .base import Action
from .tree_list import say

_SETTINGS = (
    *("every", "at", "cron", "timezone", "business_days", "calendar", "start_date", "end_date"),
    *("for_each", "as_", "spread", "order_by", "not_after", "tag", "context", "set"),
)
"""The options that set something of a schedule."""


def add_name(parser: CommandParser) -> None:
    """Add the arguments that name a tree, and one of its schedules."""
    parser.add_argument("name", metavar="NAME", help="The tree's name.")
    parser.add_argument(
        "--name",
        dest="schedule",
        metavar="SCHEDULE",
        default=DEFAULT_SCHEDULE,
        help="Which of its schedules, if it has several; left out: the default one.",
    )


class Schedule(Action):
    """Sets a tree's schedule."""

    name = "schedule"
    help = (
        "Let a tree run by itself, or change when it does. What is not given stays as it is: a "
        "schedule that is off stays off."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the names of the tree and the schedule, and its rule."""
        add_name(parser)
        parser.add_argument(
            "--every", metavar="MINUTES", type=int, help="Minutes between two due times."
        )
        parser.add_argument("--at", metavar="HH:MM", help="The first due time; with --every.")
        parser.add_argument(
            "--cron", help="Instead: minute, hour, day, month and weekday, such as '0 9 * * 1-5'."
        )
        parser.add_argument(
            "--for-each",
            metavar="MODEL",
            help="A run for each row: app.Model, a function's reference, or JSON with a model and "
            "a filter; '' for one run again.",
        )
        parser.add_argument("--as", dest="as_", help="The argument that is given the row.")
        parser.add_argument(
            "--spread", metavar="MINUTES", type=int, help="Over how long these runs begin."
        )
        parser.add_argument("--order-by", help="Fields by which the rows are ordered.")
        parser.add_argument("--timezone", help="IANA zone; default: Django's TIME_ZONE.")
        parser.add_argument(
            "--business-days",
            choices=["skip", "next", "previous", "first", "last"],
            help="What becomes of a due time on a day that is no business day.",
        )
        parser.add_argument(
            "--calendar", help="weekdays, holidays:ZA, or a function, app.module:function."
        )
        parser.add_argument(
            "--from", "--start-date", dest="start_date", metavar="DATE", help="The first day."
        )
        parser.add_argument(
            "--until",
            dest="end_date",
            metavar="DATE",
            help="The last day on which anything is due; '' for no end, as with --from.",
        )
        parser.add_argument(
            "--not-after",
            metavar="MINUTES",
            type=int,
            help="Drop a due time that is later than this; 0: run it, however late.",
        )
        typed_context.add_arguments(
            parser, "They take the place of the default context that the schedule has."
        )
        tag_pairs.add_arguments(parser, "A tag of its runs")
        parser.add_argument(
            "--remove",
            action="store_true",
            help="Remove it instead, with what it knows of its runs; 'disable' keeps it.",
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Register it, or remove it."""
        row = tree_runs.get_row(options["name"])
        if options["remove"]:
            self._remove(row, options)
            return
        schedule = tree_builder.change_schedule(
            row.name,
            options["schedule"],
            interval_minutes=options["every"],
            start_time=_time(options["at"]),
            cron=options["cron"],
            timezone=options["timezone"],
            not_after_minutes=options["not_after"],
            business_days=options["business_days"],
            calendar=options["calendar"],
            start_date=_date("--from", options["start_date"]),
            end_date=_date("--until", options["end_date"]),
            context=typed_context.read(options, row.context_schema),
            tags=tag_pairs.parse(options["tag"]) if options["tag"] else None,
            for_each=_for_each(options["for_each"]),
            for_each_as=options["as_"],
            spread_minutes=options["spread"],
            order_by=options["order_by"],
        )
        _show(self, schedule)

    def _remove(self, row: ProcessTree, options: Mapping[str, Any]) -> None:
        """Remove it; with anything that would set it, nothing is removed."""
        if any(options[name] not in (None, []) for name in _SETTINGS):
            raise CommandError(
                "--remove takes nothing but --name: what else is given would set the schedule.",
                returncode=2,
            )
        schedule = scheduling.find(row, options["schedule"])
        scheduling.remove(row, schedule.name)
        self.out.line(
            f"The schedule of {schedule.title!r} is removed. A run under way continues; one that "
            "is still in the queue ends as canceled."
        )


class Enable(Action):
    """Switches a tree's schedule on."""

    name = "enable"
    help = "Switch a tree's schedule on. It runs at the next due time from now."

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the names of the tree and the schedule."""
        add_name(parser)

    def handle(self, options: Mapping[str, Any]) -> None:
        """Switch it on."""
        schedule = _require_schedule(options)
        _show(self, tree_builder.change_schedule(options["name"], schedule.name, enabled=True))


class Disable(Action):
    """Switches a tree's schedule off."""

    name = "disable"
    help = "Switch a tree's schedule off: its due times are skipped. A run under way continues."

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the names of the tree and the schedule."""
        add_name(parser)

    def handle(self, options: Mapping[str, Any]) -> None:
        """Switch it off; a broken schedule can be switched off, too."""
        schedule = _require_schedule(options)
        schedule.enabled = False
        try:
            schedule.save()
        except ScheduleError:  # its rule can't be read, and has no next due time to be noted
            ProcessTreeSchedule.objects.filter(pk=schedule.pk).update(enabled=False)
        self.out.line(f"{schedule.title!r} does not run by itself any more.")


def _require_schedule(options: Mapping[str, Any]) -> ProcessTreeSchedule:
    return scheduling.find(tree_runs.get_row(options["name"]), options["schedule"])


def _show(action: Action, schedule: ProcessTreeSchedule) -> None:
    name = schedule.title
    off = "" if schedule.enabled else ", and is switched off ('manage.py proctree enable')"
    action.out.line(f"{name!r} runs {schedule.rule_in_words}{off}.")
    if schedule.has_ended:
        action.out.warn(f"Nothing is due until its end date, {schedule.end_date}.")
    elif schedule.enabled:
        action.out.line(f"Next due time: {say(schedule.next_run) or 'now'}.")


def _for_each(text: str | None) -> Any:
    """Return a ``for_each`` as it was typed: a name, or JSON."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"--for-each is no JSON: {error}", returncode=2) from None


def _date(option: str, text: str | None) -> dt.date | str | None:
    try:
        return dt.date.fromisoformat(text) if text else text
    except ValueError:
        raise CommandError(
            f"{option} takes a date such as 2026-03-31, not {text!r}.", returncode=2
        ) from None


def _time(text: str | None) -> dt.time | None:
    if text is None:
        return None
    try:
        return dt.time.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--at takes a time such as 09:00, not {text!r}.", returncode=2
        ) from None
