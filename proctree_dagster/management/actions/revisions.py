"""Actions on what trees were."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from ...models import ProcessTree, TreeRevision
from ...running import tree_runs
from ...services import code_drift, revisions
from .base import Action
from .tree_list import say

HEADINGS = ("REVISION", "SINCE", "SAVED BY", "USER", "")


class Revisions(Action):
    """Lists what a tree was."""

    name = "revisions"
    help = (
        "List the revisions that a tree has had, the newest first: since when, and who saved it. "
        "With --diff: what has changed since one of them, or between two."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the tree's name, and revisions to compare."""
        parser.add_argument("name", metavar="NAME", help="The tree's name.")
        parser.add_argument(
            "--diff",
            metavar="REVISION",
            nargs="+",
            help="The first characters of a revision, or a date; of two: what changed between.",
        )
        parser.add_argument(
            "--limit", metavar="N", type=int, default=20, help="At most so many; default: 20."
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """List or compare them."""
        row = tree_runs.get_row(options["name"])
        if options["diff"]:
            self._compare(row, options["diff"])
            return
        most = max(options["limit"], 0)
        present, found = row.revision, list(revisions.history(row.job_name)[:most])
        self.out.table(
            HEADINGS,
            [
                (
                    *(each.revision, say(each.at), str(each.get_origin_display()), each.who),
                    "now" if number == 0 and each.revision == present else "",
                )
                for number, each in enumerate(found)
            ],
        )
        if not any(each.revision == present for each in found[:1]):
            self.out.line(f"{present} is saved now; a run or a sync records it.")
        self.out.document(
            {
                "present": present,
                "revisions": [
                    {
                        "revision": each.revision,
                        "at": each.at,
                        "saved_by": each.origin,
                        "user": each.who,
                    }
                    for each in found
                ],
            }
        )

    def _compare(self, row: ProcessTree, named: list[str]) -> None:
        if len(named) > 2:
            raise CommandError("--diff takes one revision or two.", returncode=2)
        before = find(row, named[0])
        after = (
            revisions.content(find(row, named[1])) if len(named) == 2 else revisions.present(row)
        )
        found = revisions.differences(revisions.content(before), after)
        for what, old, new in found:
            self.out.line(f"{what}: {code_drift.shown(old)} → {code_drift.shown(new)}")
        if not found:
            self.out.line("Nothing has changed.")
        self.out.document(
            [
                {"what": what, "before": code_drift.shown(old), "after": code_drift.shown(new)}
                for what, old, new in found
            ]
        )


class Restore(Action):
    """Saves what a tree was again."""

    name = "restore"
    help = (
        "Save the processes and options that a tree had in a revision, as a new save. Its name, "
        "schedules, followers and triggers stay. Refused if functions are gone."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the tree's name, and the revision."""
        parser.add_argument("name", metavar="NAME", help="The tree's name.")
        parser.add_argument(
            "revision", metavar="REVISION", help="The first characters of a revision, or a date."
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Restore it."""
        row = tree_runs.get_row(options["name"])
        found = find(row, options["revision"])
        if revisions.restore(row, found):
            self.out.line(f"{row.name}: saved again as in {found.revision}.")
        else:
            self.out.line(f"{row.name}: its processes and options are those of {found.revision}.")


def find(row: ProcessTree, named: str) -> TreeRevision:
    """Return the revision of a tree that is named by its first characters, or by a date.

    Raises
    ------
    RevisionNotFound
        There is none, or several.
    """
    return revisions.get(row, named, _moment(named))


def _moment(text: str) -> dt.datetime | None:
    """Return the moment that a date (its end) or a time means; ``None``: the text is neither."""
    try:
        day = parse_date(text)
        if day is not None:
            end = dt.datetime.combine(day, dt.time.max)
            return timezone.make_aware(end)
        moment = parse_datetime(text)
    except ValueError:
        raise CommandError(f"{text!r} is no date.", returncode=2) from None
    if moment is None or timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment)
