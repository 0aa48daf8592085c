"""What our commands have in common, and the one that every generated command is a subclass of."""

from io import StringIO
from typing import Any

from django.core.management.base import BaseCommand, CommandParser, OutputWrapper

from . import tree_runner
from .console import escaping
from .output import Output
from .tree_runner import TreeRunner


class OwnCommand(BaseCommand):
    """A command that is stopped by errors of our system checks, and shows no warnings.

    Those are for ``manage.py check``, ``migrate``, ``runserver``, ``proctree dev`` and ``doctor``:
    who lists trees ten times an hour would read past them.
    """

    requires_system_checks = ("proctree_dagster",)
    """Ours only: the whole project's would be run each time that somebody runs a tree."""

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
        """Name the tree in the help; argparse would replace a ``%(prog)`` in its name."""
        super().__init__(*args, **kwargs)
        name = repr(self.tree_name).replace("%(", "% (")
        self.help = f"Run the process tree {name} and print its results."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what a run takes (see ``tree_runner``)."""
        tree_runner.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the tree."""
        out = Output(self.stdout, self.stderr, self.style, verbosity=options["verbosity"])
        with escaping(self.stdout, self.stderr):
            TreeRunner(self.tree_name, out).run(options)
