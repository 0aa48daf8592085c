"""Actions on pauses."""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from ...models import Pause as PauseRow
from ...models import ProcessTree, ProcessTreeSchedule
from ...running import tree_runs
from ...services import pauses, scheduling
from ..login import login_name
from .base import Action
from .tree_list import say

HEADINGS = ("PAUSED", "FROM", "UNTIL", "DUE TIMES", "REASON", "BY")

UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Pause(Action):
    """Holds scheduled runs."""

    name = "pause"
    help = (
        "Hold the scheduled runs of a tree, of one of its schedules, or of everything, for a "
        "while. What is due meanwhile becomes one run when the pause ends; with --drop it is "
        "dropped. Runs under way continue, and runs that are not scheduled start."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: what to hold, until when, and why."""
        _add_what(parser)
        parser.add_argument("--reason", required=True, help="Why: shown wherever a schedule is.")
        parser.add_argument(
            "--until",
            metavar="WHEN",
            help="18:00, 30m, 12h, 7d, or 2026-03-31T09:00. Left out: until it is resumed.",
        )
        parser.add_argument(
            "--from", dest="since", metavar="WHEN", help="In the same way; left out: from now on."
        )
        parser.add_argument(
            "--drop", action="store_true", help="Drop the due times in it, instead of keeping them."
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Begin the pause."""
        made = pauses.begin(
            _what(options),
            reason=options["reason"],
            until=_moment("--until", options["until"]),
            since=_moment("--from", options["since"]),
            drop=options["drop"],
            made_by=login_name(),
        )
        until = f"until {say(made.until)}" if made.until else "until 'manage.py proctree resume'"
        since = "" if made.is_active(timezone.now()) else f"from {say(made.since)} "
        due = "dropped" if made.drop else "kept, and become one run"
        self.out.line(f"{_title(made)} is paused {since}{until}. Due times are {due}.")


class Resume(Action):
    """Ends pauses."""

    name = "resume"
    help = (
        "End the pauses of a tree, of one of its schedules, or of everything. What was kept "
        "runs within a minute."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: what to resume."""
        _add_what(parser)

    def handle(self, options: Mapping[str, Any]) -> None:
        """End them."""
        what = _what(options)
        found = pauses.exactly_of(what)
        for each in found:
            self.out.line(f"{_title(each)} is resumed: {each.reason}.")
        if not pauses.end(found):
            self.out.warn("There is no such pause; 'manage.py proctree pauses' lists them.")
        for each in PauseRow.objects.active(timezone.now()):
            if what is None or _holds(each, what):
                self.out.warn(f"{_title(each)} is still paused {each.in_words}.")


class Pauses(Action):
    """Lists pauses."""

    name = "pauses"
    help = "List the pauses that hold scheduled runs now, or are going to."
    has_json = True

    def handle(self, options: Mapping[str, Any]) -> None:
        """List them."""
        rows = PauseRow.objects.not_over(timezone.now()).order_by("since", "pk")
        found = list(rows.select_related("process_tree", "schedule__process_tree"))
        self.out.table(HEADINGS, [_cells(each) for each in found])
        self.out.document([_as_json(each) for each in found])


def _add_what(parser: CommandParser) -> None:
    parser.add_argument("name", metavar="TREE", nargs="?", help="The tree's name.")
    parser.add_argument("--schedule", metavar="NAME", help="One of its schedules alone.")
    parser.add_argument("--all", action="store_true", help="Everything, instead of a tree.")


def _what(options: Mapping[str, Any]) -> ProcessTree | ProcessTreeSchedule | None:
    """Return what the arguments name; ``None``: everything."""
    name, schedule = options["name"], options["schedule"]
    if options["all"] == (name is not None) or (options["all"] and schedule):
        raise CommandError("Name a tree, or give --all.", returncode=2)
    if name is None:
        return None
    row = tree_runs.get_row(name)
    return row if schedule is None else scheduling.find(row, schedule)


def _holds(pause: PauseRow, what: ProcessTree | ProcessTreeSchedule) -> bool:
    """Return whether an active pause holds a schedule, or any of a tree."""
    if isinstance(what, ProcessTreeSchedule):
        return pause.concerns(what)
    return pause.process_tree_id in (None, what.pk)


def _moment(option: str, text: str | None) -> dt.datetime | None:
    """Return the moment that an option names, aware."""
    if text is None:
        return None
    now = timezone.localtime()
    try:
        if later := re.fullmatch(r"(\d{1,6})([mhd])", text):
            passed = dt.timedelta(**{UNITS[later[2]]: int(later[1])})
            # A day later is the same time of the clock, an hour later is sixty minutes.
            return now + passed if later[2] == "d" else timezone.localtime(timezone.now() + passed)
        if re.fullmatch(r"\d\d?:\d\d", text):
            return _next(dt.time.fromisoformat(text.zfill(5)), now)
        found = parse_datetime(text)
    except (ValueError, OverflowError):  # well formed, but there is no such time
        found = None
    if found is None:
        raise CommandError(
            f"{option} {text!r} is no moment: write 18:00, 30m, 12h, 7d or 2026-03-31T09:00.",
            returncode=2,
        )
    return timezone.make_aware(found) if timezone.is_naive(found) else found


def _next(time: dt.time, now: dt.datetime) -> dt.datetime:
    """Return the next moment with a time of day, in Django's zone."""
    today = timezone.make_aware(dt.datetime.combine(now.date(), time))
    tomorrow = dt.datetime.combine(now.date() + dt.timedelta(days=1), time)
    return today if today > now else timezone.make_aware(tomorrow)


def _title(pause: PauseRow) -> str:
    return "Everything" if pause.process_tree_id is None else repr(pause.what)


def _cells(pause: PauseRow) -> tuple[str, ...]:
    due = "dropped" if pause.drop else "kept"
    return (
        *(pause.what, say(pause.since), say(pause.until) or "resumed", due),
        *(pause.reason, pause.made_by),
    )


def _as_json(pause: PauseRow) -> dict[str, Any]:
    return {
        "tree": None if pause.process_tree is None else pause.process_tree.name,
        "schedule": None if pause.schedule is None else pause.schedule.name,
        "from": pause.since,
        "until": pause.until,
        "drop": pause.drop,
        "reason": pause.reason,
        "by": pause.made_by,
    }
