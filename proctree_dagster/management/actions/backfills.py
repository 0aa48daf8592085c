"""Actions on backfills."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from ...models import Backfill as BackfillRow
from ...models import ProcessTreeSchedule
from ...running import backfill_passes, tree_runs
from ...services import backfills, scheduling
from ..login import login_name
from .base import Action
from .tree_list import say

HEADINGS = (
    "NUMBER",
    "SCHEDULE",
    "FROM",
    "TO",
    "STATE",
    "REACHED",
    "RUNS",
    "LEFT OUT",
    "STILL",
    "BY",
)


class Backfill(Action):
    """Runs a tree for due times that have passed."""

    name = "backfill"
    help = (
        "Run a tree once for each due time of a schedule in a range, the oldest first. A due "
        "time that has had a run is left out, whatever came of that run. Its runs find their due "
        "time in the context: scheduled_for. --stop and --resume take the number of a backfill."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the tree and the range, or the number of a backfill."""
        parser.add_argument("name", metavar="TREE", nargs="?", help="The tree's name.")
        when = "2026-01-31 or 2026-01-31T09:00, in the schedule's zone"
        parser.add_argument("--from", dest="first", metavar="WHEN", help=f"{when}.")
        parser.add_argument(
            "--to", dest="last", metavar="WHEN", help=f"{when}; a day is run to its end."
        )
        parser.add_argument("--schedule", metavar="NAME", help="Which of the tree's schedules.")
        parser.add_argument(
            "--limit", type=int, default=4, metavar="N", help="Runs at the same time; else 4."
        )
        parser.add_argument(
            "--stop", type=int, metavar="NUMBER", help="Request no more of its runs."
        )
        parser.add_argument("--resume", type=int, metavar="NUMBER", help="Continue a stopped one.")

    def handle(self, options: Mapping[str, Any]) -> None:
        """Begin, stop or continue a backfill."""
        chosen = [each for each in ("name", "stop", "resume") if options[each] is not None]
        if len(chosen) != 1:
            raise CommandError("Name a tree, or give --stop or --resume.", returncode=2)
        if options["stop"] is not None:
            self._stop(_find(options["stop"]))
        elif options["resume"] is not None:
            self._resume(_find(options["resume"]))
        else:
            self._begin(options)

    def _begin(self, options: Mapping[str, Any]) -> None:
        if options["first"] is None or options["last"] is None:
            raise CommandError("Give the range as --from and --to.", returncode=2)
        if not 1 <= options["limit"] <= 100:
            raise CommandError("--limit is a number from 1 to 100.", returncode=2)
        schedule = scheduling.find(
            tree_runs.get_row(options["name"]), options["schedule"] or "default"
        )
        made = backfills.start(
            schedule,
            _moment("--from", options["first"], schedule, to_its_end=False),
            _moment("--to", options["last"], schedule, to_its_end=True),
            limit=options["limit"],
            made_by=login_name(),
        )
        count = made.left_in_words(timezone.now())
        self.out.line(
            f"Backfill {made.pk}: {count} due times of {schedule.title}, {made.limit} at once. "
            f"'manage.py proctree backfills' shows how far it is."
        )
        backfill_passes.advance()

    def _stop(self, row: BackfillRow) -> None:
        if not backfills.stop(row):
            raise CommandError(f"Backfill {row.pk} is not running: it is {row.state}.")
        unfinished = backfills.unfinished(row)
        self.out.line(f"Backfill {row.pk} is stopped. Its {unfinished} unfinished runs go on.")

    def _resume(self, row: BackfillRow) -> None:
        if not backfills.resume(row):
            raise CommandError(f"Backfill {row.pk} is not stopped: it is {row.state}.")
        self.out.line(
            f"Backfill {row.pk} continues: {row.left_in_words(timezone.now())} due times are left."
        )
        backfill_passes.advance()


class Backfills(Action):
    """Lists backfills."""

    name = "backfills"
    help = "List backfills, the newest first, and how far they are."
    has_json = True

    def handle(self, options: Mapping[str, Any]) -> None:
        """List them."""
        found = list(BackfillRow.objects.select_related("schedule__process_tree")[:100])
        self.out.table(HEADINGS, [_cells(each) for each in found])
        self.out.document([_as_json(each) for each in found])


def _find(number: int) -> BackfillRow:
    row = BackfillRow.objects.select_related("schedule__process_tree").filter(pk=number).first()
    if row is None:
        raise CommandError(
            f"There is no backfill {number}; 'manage.py proctree backfills' lists them."
        )
    return row


def _moment(
    option: str, text: str, schedule: ProcessTreeSchedule, *, to_its_end: bool
) -> dt.datetime:
    """Return the moment that an option names, aware, in the schedule's zone."""
    try:
        day = parse_date(text)
        end = dt.time.max if to_its_end else dt.time.min
        found = parse_datetime(text) if day is None else dt.datetime.combine(day, end)
    except ValueError:  # well formed, but there is no such day
        found = None
    if found is None:
        raise CommandError(
            f"{option} {text!r} is no moment: write 2026-01-31 or 2026-01-31T09:00.", returncode=2
        )
    return found.replace(tzinfo=schedule.rule.zone) if timezone.is_naive(found) else found


def _cells(row: BackfillRow) -> tuple[str, ...]:
    unfinished = backfills.unfinished(row)
    return (
        *(str(row.pk), row.schedule.title, say(row.first), say(row.last), row.state),
        *(say(row.reached), f"{row.requested} ({unfinished} unfinished)", str(row.left_out)),
        *(row.left_in_words(timezone.now()), row.made_by),
    )


def _as_json(row: BackfillRow) -> dict[str, Any]:
    return {
        "backfill": row.pk,
        "tree": row.process_tree.name,
        "schedule": row.schedule.name,
        "from": row.first,
        "to": row.last,
        "limit": row.limit,
        "state": row.state,
        "reached": row.reached,
        "requested": row.requested,
        "unfinished": backfills.unfinished(row),
        "left_out": row.left_out,
        "left": row.left_in_words(timezone.now()),
        "by": row.made_by,
    }
