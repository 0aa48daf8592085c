"""What every action of ``manage.py proctree`` has."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.core.management.base import CommandParser

from ..output import Output


class Action:
    """One thing that ``manage.py proctree`` can do.

    Parameters
    ----------
    out:
        Where it prints.
    """

    name: ClassVar[str]
    """What is typed."""

    help: ClassVar[str]
    """What it does, in sentences."""

    has_json: ClassVar[bool] = False
    """Whether it takes ``--json``."""

    def __init__(self, out: Output) -> None:
        self.out = out

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Take its arguments; none, unless a subclass takes some."""

    def handle(self, options: Mapping[str, Any]) -> None:
        """Do it.

        Raises
        ------
        CommandError
            It did not succeed; its exit code is the error's, 1 unless it says otherwise.
        ProctreeError
            It did not succeed, for this reason; the exit code is 1.
        """
        raise NotImplementedError
