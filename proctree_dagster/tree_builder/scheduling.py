"""Changing a saved tree's schedule as an operator does."""

from typing import Any

from ..models import ProcessTreeSchedule
from ..services import scheduling
from .instance import ProcessTreeInstance


def change_schedule(name: str, **options: Any) -> ProcessTreeSchedule:
    """Let a saved tree run by itself, or change how it does, as an operator chose.

    Unlike with ``register_schedule()`` it stays on record what the code has registered.

    Parameters
    ----------
    name:
        The tree's name.
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
    return scheduling.register(row, **options, by_code=False)
