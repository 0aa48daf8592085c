"""Cached results."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from ...running import tree_runs
from .base import Action


class ClearCache(Action):
    """Clears the cached results of a tree's processes."""

    name = "clear-cache"
    help = (
        "Let no cached result of a tree be used any more. Results that it shares with other trees "
        "(shared_cache_key) are cleared for them, too."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the tree's name."""
        parser.add_argument("name", metavar="NAME", help="The tree's name.")

    def handle(self, options: Mapping[str, Any]) -> None:
        """Clear it."""
        tree_runs.clear_cache(tree_runs.get_row(options["name"]))
        self.out.line(f"Cleared the cached results of {options['name']!r}")
