"""Actions on triggers."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import context as contexts
from ... import triggers
from .. import tag_pairs
from .base import Action


class Fire(Action):
    """Fires a trigger by hand."""

    name = "fire"
    help = "Let a trigger fire: every tree that subscribes to it runs. Prints the runs."
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the trigger's name and a context."""
        parser.add_argument("name", metavar="NAME", help="The trigger's name.")
        parser.add_argument(
            "--context",
            metavar="JSON",
            default="{}",
            help="Keyword arguments of the runs as a JSON object, such as "
            '\'{"tenant_id": "123"}\'; they update the subscription\'s context.',
        )
        tag_pairs.add_arguments(parser, "A tag of the runs")

    def handle(self, options: Mapping[str, Any]) -> None:
        """Fire it."""
        name = options["name"]
        trigger = triggers.get_trigger(name)
        if not trigger.enabled:
            raise CommandError(f"The trigger {name!r} is disabled: it did not fire.")
        context = contexts.parse_json(options["context"])
        runs = triggers.fire_trigger(trigger, context, tag_pairs.of_run(options["tag"]))
        self.out.line(f"Fired {name!r}: {len(runs) or 'no'} run{'s' if len(runs) != 1 else ''}")
        for run in runs:
            self.out.line(f"  {run.tree}: run {run.run_id}")
            if run.url is not None:
                self.out.line(f"  {run.url}")
        self.out.document(
            [{"tree": each.tree, "run": each.run_id, "url": each.url} for each in runs]
        )
