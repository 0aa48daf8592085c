"""``manage.py proctree``: what an operator asks about process trees."""

import datetime as dt
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from ... import execution
from ...exceptions import InstanceError
from ...models import ProcessTree, ProcessTreeSchedule

HEADINGS = ("TREE", "RULE", "NEXT RUN", "LAST RUN", "STATUS", "RUN", "HELD BACK BY")

REMEDIES = {
    "Django": "its 'enabled' is off: switch it on in the admin.",
    "Dagster": "its switch in Dagster is off: turn it on in the UI, under Automation.",
}


class Command(BaseCommand):
    """Look after process trees."""

    help = "Look after process trees."
    requires_system_checks = ("proctree_dagster",)

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the name of what to do."""
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser(
            "list",
            help="List every tree with its schedule, its last scheduled run, and what holds it "
            "back: Django's 'enabled' or Dagster's own switch.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """List the trees."""
        try:
            execution.refresh_schedules()
        except InstanceError as error:
            self.stderr.write(self.style.WARNING(f"Dagster was not asked: {error}"))
        trees = list(ProcessTree.objects.with_schedules().order_by("name"))
        lines = [HEADINGS, *(_line(tree, tree.schedule_or_none) for tree in trees)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())
        for tree in trees:
            schedule = tree.schedule_or_none
            for holder, remedy in REMEDIES.items():
                if schedule is not None and holder in schedule.held_back_by:
                    self.stdout.write(self.style.WARNING(f"{tree.name} does not run: {remedy}"))


def _line(tree: ProcessTree, schedule: ProcessTreeSchedule | None) -> tuple[str, ...]:
    if schedule is None:
        return (tree.name, "no schedule", "", "", "", "", "")
    return (
        tree.name,
        schedule.rule_in_words,
        _say(schedule.next_run) or "now",
        _say(schedule.last_run),
        "requested" if schedule.claim else schedule.last_run_status,
        "" if schedule.claim else schedule.last_run_id,
        schedule.held_back_by,
    )


def _say(moment: dt.datetime | None) -> str:
    return "" if moment is None else f"{timezone.localtime(moment):%Y-%m-%d %H:%M}"
