"""Actions on files that describe trees."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...tree_builder import sync, sync_words, tree_files
from ...tree_builder.sync import TreeSync
from ..output import Output
from .base import Action


class Export(Action):
    """Writes trees into a file."""

    name = "export"
    help = (
        "Write trees with their schedules, subscriptions and triggers into a YAML file, for those "
        "who review them in Git. 'proctree apply' reads it."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: names of trees, and the file."""
        parser.add_argument(
            "trees", metavar="TREE", nargs="*", help="Names of trees; default: all."
        )
        parser.add_argument("file", metavar="FILE", help="The file; - for the standard output.")

    def handle(self, options: Mapping[str, Any]) -> None:
        """Write it."""
        is_unicode = options["file"] != "-" or self.out.is_unicode
        text = tree_files.export(options["trees"], is_unicode=is_unicode)
        if options["file"] == "-":
            self.out.line(text.rstrip("\n"))
            return
        try:
            Path(options["file"]).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{options['file']} can't be written: {error}") from error
        self.out.line(f"Wrote {options['file']}.")


class Apply(Action):
    """Makes rows follow a file."""

    name = "apply"
    help = (
        "Make the rows of the trees in a YAML file follow it, all of them or, if something is "
        "wrong, none. What the file does not name stays. With --check: exits with 1 if anything "
        "differs."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the file."""
        parser.add_argument("file", metavar="FILE", help="A file as 'proctree export' writes it.")
        parser.add_argument(
            "--check", action="store_true", help="Change nothing; exit with 1 if anything differs."
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Apply it, or compare."""
        sync.require_migrated(())
        trees, file = tree_files.read(options["file"]), options["file"]
        found = (
            tree_files.compare(trees, file) if options["check"] else tree_files.apply(trees, file)
        )
        show_trees(self.out, found, "as the file says")
        self.out.document({"trees": [tree_as_json(each) for each in found]})
        if options["check"] and any(each.changes for each in found):
            raise CommandError("The rows differ from the file.")


def show_trees(out: Output, trees: Iterable[TreeSync], as_said: str) -> None:
    """Show what differs of each tree, and how many are as they should be."""
    silent = 0
    for tree in trees:
        said = sync_words.lines(tree)
        silent += not said
        if said:
            out.line(f"{tree.name} ({tree.function})")
            for line in said:
                out.line(f"  {line}")
    if silent:
        out.line(f"{silent} tree{'s' if silent > 1 else ''} {as_said}.")


def tree_as_json(tree: TreeSync) -> dict[str, Any]:
    """Return what was found of a tree as JSON."""
    return {
        "name": tree.name,
        "function": tree.function,
        "differs": tree.has_drift,
        "removed": tree.is_removed,
        "changes": ["/".join(each.path) for each in tree.changes],
        "lines": sync_words.lines(tree),
    }
