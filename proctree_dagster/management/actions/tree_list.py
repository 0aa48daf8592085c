"""Actions on all trees."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.utils import timezone

from ...running import tree_status
from ...running.tree_status import Overview, TreeStatus
from .base import Action

HEADINGS = ("TREE", "RULE", "NEXT RUN", "LAST RUN", "STATUS", "RUN", "HELD BACK BY")

REMEDIES = {
    "Django": "its 'enabled' is off: switch it on in the admin.",
    "Dagster": "its switch in Dagster is off: turn it on in the UI, under Automation.",
}


class ListTrees(Action):
    """Lists the saved trees."""

    name = "list"
    help = (
        "List every tree with its schedule, its last scheduled run, and what holds it back: "
        "Django's 'enabled' or Dagster's own switch. Names what is overdue, what is broken, what "
        "was edited since the code saved it, and a daemon that gives no sign of life. It only "
        "reads."
    )
    has_json = True

    def handle(self, options: Mapping[str, Any]) -> None:
        """List them."""
        found = tree_status.overview()
        if found.dagster_problem:
            self.out.warn(found.dagster_problem)
        self.out.table(HEADINGS, [_cells(each) for each in found.trees])
        for warning in _warnings(found):
            self.out.warn(warning)
        self.out.document(
            {
                "trees": [asdict(each) for each in found.trees],
                "problems": [each._asdict() for each in found.broken],
                "daemon_seen_at": found.daemon_seen_at,
            }
        )


def _warnings(found: Overview) -> list[str]:
    """Return remarks for an operator on the list."""
    warnings = []
    if found.daemon_is_silent:
        warnings.append(
            f"{_silence(found.daemon_seen_at)}: nothing runs the schedules. Start it: "
            "'python manage.py proctree dev', or 'dagster-daemon run'."
        )
    for tree in found.trees:
        warnings += [
            f"{tree.name} does not run: {remedy}"
            for holder, remedy in REMEDIES.items()
            if holder in tree.held_back_by
        ]
        if tree.overdue:
            warnings.append(f"{tree.name} is overdue: it was due at {say(tree.next_run)}.")
        if tree.edited:
            warnings.append(f"{tree.name}: {in_words(tree.edited)}")
    return [*warnings, *map(str, found.broken)]


def in_words(edited: Sequence[str]) -> str:
    """Return what has drifted from the code, and whether code overwrites it."""
    drifted = " and its ".join(edited)
    return (
        f"its {drifted} {'were' if len(edited) > 1 else 'was'} edited since the code saved it; "
        "the next save() or register_schedule() in the code undoes that."
    )


def _silence(seen: dt.datetime | None) -> str:
    if seen is None:
        return "Dagster's daemon has never run here"
    hours, minutes = divmod(round((timezone.now() - seen).total_seconds() / 60), 60)
    return f"Dagster's daemon has not been seen for {f'{hours} h' if hours else f'{minutes} min'}"


def _cells(tree: TreeStatus) -> tuple[str, ...]:
    if tree.problem or tree.enabled is None:
        return (tree.name, tree.problem or "no schedule", "", "", "", "", "")
    return (
        tree.name,
        tree.rule,
        say(tree.next_run) or "now",
        say(tree.last_run),
        tree.last_status,
        tree.last_run_id,
        tree.held_back_by,
    )


def say(moment: dt.datetime | None) -> str:
    """Return a moment in Django's time zone, to the minute; blank if there is none."""
    return "" if moment is None else f"{timezone.localtime(moment):%Y-%m-%d %H:%M}"
