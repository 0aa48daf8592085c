"""Actions on all trees."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from django.utils import timezone

from ...domain.run_tags import DEFAULT_SCHEDULE
from ...running import tree_status
from ...running.tree_status import Overview, ScheduleStatus, TreeStatus
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
        "List every tree with each of its schedules, the last scheduled run, and what holds it "
        "back: Django's 'enabled', Dagster's own switch, a pause. Names what is overdue or broken, "
        "what was edited since the code saved it, and a daemon that gives no sign of life. It "
        "only reads."
    )
    has_json = True

    def handle(self, options: Mapping[str, Any]) -> None:
        """List them."""
        found = tree_status.overview()
        if found.dagster_problem:
            self.out.warn(found.dagster_problem)
        self.out.table(HEADINGS, [cells for each in found.trees for cells in _rows(each)])
        for warning in _warnings(found):
            self.out.warn(warning)
        self.out.document(
            {
                "trees": [each.as_json() for each in found.trees],
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
        for schedule in tree.schedules:
            warnings += _warnings_of(title(tree, schedule), schedule)
        warnings += [f"{tree.name}: {each}" for each in drift_in_words(tree)]
    return [*warnings, *map(str, found.broken)]


def _warnings_of(name: str, schedule: ScheduleStatus) -> list[str]:
    """Return remarks for an operator on one schedule."""
    warnings = [
        f"{name} does not run: {remedy}"
        for holder, remedy in REMEDIES.items()
        if holder in schedule.held_back_by
    ]
    if schedule.paused:
        warnings.append(f"{name} is paused {schedule.paused}: 'proctree resume' ends that.")
    if schedule.overdue:
        warnings.append(f"{name} is overdue: it was due at {say(schedule.next_run)}.")
    return warnings


def title(tree: TreeStatus, schedule: ScheduleStatus) -> str:
    """Return a tree's name, with its schedule's if that is not the default one."""
    is_default = schedule.schedule == DEFAULT_SCHEDULE
    return tree.name if is_default else f"{tree.name} ({schedule.schedule})"


def drift_in_words(tree: TreeStatus) -> Iterator[str]:
    """Yield what has drifted from the code, and whether code overwrites it."""
    code = tree.code
    if code.origin != "code" and tree.edited:
        drifted = " and its ".join(tree.edited)
        yield (
            f"its {drifted} {'were' if len(tree.edited) > 1 else 'was'} edited since the code "
            "saved it; the next save() or register_schedule() in the code undoes that."
        )
    if code.edited:
        yield (
            f"edited since the deploy: {', '.join(code.edited)}; the next sync undoes that, or "
            f"'proctree take {tree.name}' now; 'proctree keep {tree.name}' keeps it."
        )
    if code.kept:
        yield f"kept as edited: {', '.join(code.kept)}; 'proctree take' undoes that."
    if code.removed:
        yield (
            f"not in the code any more, and still on: {', '.join(code.removed)}; 'proctree sync "
            "--prune' switches it off."
        )


def _silence(seen: dt.datetime | None) -> str:
    if seen is None:
        return "Dagster's daemon has never run here"
    hours, minutes = divmod(round((timezone.now() - seen).total_seconds() / 60), 60)
    return f"Dagster's daemon has not been seen for {f'{hours} h' if hours else f'{minutes} min'}"


def _rows(tree: TreeStatus) -> list[tuple[str, ...]]:
    """Return a row for each schedule of a tree; one for a tree without any."""
    if not tree.schedules:
        return [_row(tree.name, tree.problem or "no schedule")]
    return [_cells(title(tree, each), each) for each in tree.schedules]


def _cells(name: str, schedule: ScheduleStatus) -> tuple[str, ...]:
    if schedule.problem:
        return _row(name, schedule.problem)
    return _row(
        name,
        schedule.rule,
        say_next(schedule),
        say(schedule.last_run),
        schedule.last_status,
        schedule.last_run_id,
        schedule.held_back_by,
    )


def say_next(schedule: ScheduleStatus) -> str:
    """Return when a schedule is due next, or that it has ended."""
    if schedule.ended:
        return f"ended (end date {schedule.end_date})"
    return say(schedule.next_run) or "now"


def _row(*cells: str) -> tuple[str, ...]:
    return (*cells, *[""] * (len(HEADINGS) - len(cells)))


def say(moment: dt.datetime | None) -> str:
    """Return a moment in Django's time zone, to the minute; blank if there is none."""
    return "" if moment is None else f"{timezone.localtime(moment):%Y-%m-%d %H:%M}"
