"""Changing a saved tree's schedules on behalf of an operator."""

from typing import Any

from ..domain.run_tags import DEFAULT_SCHEDULE
from ..models import ProcessTreeSchedule
from ..services import scheduling
from .instance import ProcessTreeInstance


def change_schedule(
    name: str, schedule: str = DEFAULT_SCHEDULE, **options: Any
) -> ProcessTreeSchedule:
    """Schedule a saved tree, or change a schedule of it, on behalf of an operator.

    Unlike ``register_schedule()`` it counts as drift from the schedule that the code registered.

    Parameters
    ----------
    name:
        The tree's name.
    schedule:
        The schedule's.
    options:
        As ``ProcessTreeInstance.register_schedule`` takes them, which see for errors, too.

    Raises
    ------
    TreeNotFound
        There is no such tree.
    """
    tree = ProcessTreeInstance.load(name)
    row = tree._require_saved()
    tree._require_nameable(row, "scheduled")
    return scheduling.register(row, **options, name=schedule, by_code=False)
