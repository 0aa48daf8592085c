"""``manage.py proctree``: the operator's command."""

from argparse import SUPPRESS
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...exceptions import ProctreeError
from ...models import Origin
from ...services import revisions
from ..actions import ACTIONS
from ..base import OwnCommand
from ..console import escaping
from ..login import login_name
from ..output import Output


class Command(OwnCommand):
    """Look after process trees.

    Exits with 0 if what was asked for was done and all is well, with 1 if it was not or something
    is wrong, with 2 for arguments that are not understood, and with 130 if it was interrupted.
    """

    help = "Look after process trees."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the arguments: the name of an action, and its arguments."""
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for action in ACTIONS:
            chosen = actions.add_parser(
                action.name,
                parents=[_common_options()],
                help=action.help.partition(". ")[0].rstrip("."),
                description=action.help,
            )
            action.add_arguments(chosen)
            if action.has_json:
                chosen.add_argument(
                    "--json", action="store_true", help="Print one JSON document, for programs."
                )

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what was asked for."""
        action = next(each for each in ACTIONS if each.name == options["action"])
        out = Output(
            self.stdout,
            self.stderr,
            self.style,
            as_json=options.get("json", False),
            verbosity=options["verbosity"],
        )
        author = revisions.saved_by(Origin.SCRIPT, login_name())
        with escaping(self.stdout, self.stderr), author:
            try:
                action(out).handle(options)
            except ProctreeError as error:
                raise CommandError(str(error)) from error


def _common_options() -> CommandParser:
    """Return a parser of Django's own options, so that they can follow the action, too."""
    parser = CommandParser(add_help=False, argument_default=SUPPRESS)
    parser.add_argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], help=SUPPRESS)
    for option in ("--settings", "--pythonpath"):
        parser.add_argument(option, help=SUPPRESS)
    for flag in ("--traceback", "--no-color", "--force-color"):
        parser.add_argument(flag, action="store_true", help=SUPPRESS)
    return parser
