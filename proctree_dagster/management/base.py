"""The base classes of our commands and of generated commands."""

from io import StringIO
from typing import Any

from django.core.management.base import BaseCommand, CommandParser, OutputWrapper

from . import tree_runner
from .console import escaping
from .output import Output
from .tree_runner import TreeRunner


class OwnCommand(BaseCommand):
    """A command that stops at errors of our system checks, and shows no warnings.

    ``manage.py check``, ``migrate``, ``runserver``, ``proctree dev`` and ``doctor`` show them: in a
    list that is read ten times an hour nobody would notice them.
    """

    requires_system_checks = ("proctree_dagster",)
    """Ours only: all checks of the project would delay each run of a tree."""

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Raise for errors; show nothing else."""
        shown, self.stderr = self.stderr, OutputWrapper(StringIO())
        try:
            super().check(*args, **kwargs)
        finally:
            self.stderr = shown


class TreeCommand(OwnCommand):
    """Run one process tree, in this process or by Dagster's daemon.

    Exits with 0 when the tree succeeds (or is queued), with 1 and the reason when it does not,
    and with 130 when it is interrupted: the run is canceled then.
    """

    tree_name: str
    """The tree's name; a generated command sets it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Set the help text; a ``%`` in the tree's name is escaped for argparse."""
        super().__init__(*args, **kwargs)
        name = repr(self.tree_name).replace("%(", "% (")
        self.help = f"Run the process tree {name} and print its results."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments of a run (see ``tree_runner``)."""
        tree_runner.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the tree."""
        out = Output(self.stdout, self.stderr, self.style, verbosity=options["verbosity"])
        with escaping(self.stdout, self.stderr):
            TreeRunner(self.tree_name, out).run(options)
