"""Removing old history."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from ... import conf
from ...models import ProcessTree
from ...running import pruning
from .base import Action


class Prune(Action):
    """Removes old history."""

    name = "prune"
    help = (
        "Remove the history that PROCTREE['KEEP'] and the trees' own rules (keep_runs) do not "
        "keep: runs with all that belongs to them, logs, results, ticks, and rows of Django's "
        "database. Dagster's daemon does the same, a few at a time. What is still needed stays."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: whether to remove, and how much."""
        parser.add_argument(
            "--dry-run", action="store_true", help="Remove nothing: say what would be removed."
        )
        parser.add_argument(
            "--rewrite",
            action="store_true",
            help="Rewrite SQLite's files that give no space back otherwise. It locks them for "
            "seconds or minutes, so end Dagster first.",
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Remove it, or say what would be."""
        dry_run = options["dry_run"]
        if not _is_anything_said():
            self.out.warn(
                "PROCTREE['KEEP'] says nothing of runs: all of them are kept, for good. "
                "{'runs': '90 days'} removes those that ended before."
            )
        found = pruning.prune(dry_run=dry_run, rewrite=options["rewrite"])
        word = "Would remove" if dry_run else "Removed"
        for kind, count in found.counts.items():
            if count:
                self.out.line(f"{word} {kind}: {count:,}")
        if not found.counts.total():
            self.out.line("There is nothing to remove.")
        for job, count in found.trees.most_common():
            if count:
                self.out.line(f"  {job}: {count:,}")
        for reason, count in found.kept.most_common():
            self.out.line(f"Kept although old enough, as {reason}: {count:,}")
        if found.bytes:
            self.out.line(f"Given back: {found.bytes / 1e6:.1f} MB")
        for problem in found.problems:
            self.out.warn(problem)
        self.out.document(
            {
                "dry_run": dry_run,
                "removed": dict(+found.counts),
                "trees": dict(+found.trees),
                "kept": dict(found.kept),
                "bytes": found.bytes,
                "longest_batch_seconds": round(found.longest, 4),
                "problems": found.problems,
            }
        )


def _is_anything_said() -> bool:
    """Return whether a rule removes runs."""
    keys = conf.current().KEEP.removing().keys()
    return (
        not keys.isdisjoint({"runs", "failed_runs"})
        or ProcessTree.objects.exclude(keep_runs="").exists()
    )
