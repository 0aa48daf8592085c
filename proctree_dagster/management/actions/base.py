"""The base class of the actions of ``manage.py proctree``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.core.management.base import CommandParser

from ..output import Output


class Action:
    """One action of ``manage.py proctree``.

    Parameters
    ----------
    out:
        Where it prints.
    """

    name: ClassVar[str]
    """Its name on the command line."""

    help: ClassVar[str]
    """Its help text, in sentences."""

    has_json: ClassVar[bool] = False
    """Whether it takes ``--json``."""

    def __init__(self, out: Output) -> None:
        self.out = out

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add its arguments; none, unless a subclass adds some."""

    def handle(self, options: Mapping[str, Any]) -> None:
        """Carry it out.

        Raises
        ------
        CommandError
            It did not succeed; its exit code is the error's, 1 unless it says otherwise.
        ProctreeError
            It did not succeed, for this reason; the exit code is 1.
        """
        raise NotImplementedError
