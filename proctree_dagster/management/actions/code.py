"""Actions on trees that are declared in code."""

from collections.abc import Collection, Mapping
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError, CommandParser

from ...domain.tree_descriptions import Path
from ...models import ProcessTree
from ...running import tree_runs
from ...services import code_drift
from ...tree_builder import code_choices, sync
from ...tree_builder.sync import Report
from ..login import login_name
from .base import Action
from .tree_files import show_trees, tree_as_json


class Sync(Action):
    """Makes the rows of declared trees follow the code."""

    name = "sync"
    help = (
        "Make the rows of the trees that apps declare in their 'trees' modules follow the code, "
        "and print what differs. What operators own stays as they have set it, and nothing is ever "
        "deleted. Exits with 1 if a tree can't be synced; with --check, if anything differs."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments."""
        parser.add_argument(
            "--check", action="store_true", help="Change nothing; exit with 1 if anything differs."
        )
        parser.add_argument(
            "--prune",
            action="store_true",
            help="Switch off what is not in the code any more: its schedules and subscriptions. "
            "Its rows and its history stay.",
        )
        parser.add_argument(
            "--app",
            metavar="LABEL",
            action="append",
            help="Only the trees of this app; may be repeated.",
        )
        parser.add_argument(
            "--older-release",
            action="store_true",
            help='Sync although a newer PROCTREE["RELEASE"] has synced: for a rollback.',
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Sync, or compare."""
        labels = _labels(options["app"])
        if options["check"]:
            report = sync.compare(labels)
        else:
            report = sync.sync(
                labels, prune=options["prune"], older_release=options["older_release"]
            )
        self._show(report, is_check=options["check"])
        self.out.document(_as_json(report))
        if report.errors:
            several = len(report.errors) != 1
            raise CommandError(
                f"{len(report.errors)} error{'s' if several else ''}: "
                f"{'these trees were' if several else 'this tree was'} not "
                f"{'compared' if options['check'] else 'synced'}, all others were."
            )
        if options["check"] and report.has_drift:
            raise CommandError(
                "The rows differ from the code: 'manage.py proctree sync' syncs them."
            )

    def _show(self, report: Report, *, is_check: bool) -> None:
        if report.newer_release is not None:
            self.out.warn(
                f"Release {report.newer_release} has synced already, and this is an older one (see "
                'PROCTREE["RELEASE"])'
                + (
                    "."
                    if is_check or report.trees
                    else ": nothing was changed. For a rollback: --older-release."
                )
            )
        show_trees(self.out, report.trees, "as the code says")
        for error in report.errors:
            self.out.warn(error)
        if not (report.trees or report.errors or report.newer_release is not None):
            self.out.line(
                "No app declares a tree: write functions with @process_tree in an app's 'trees' "
                "module."
            )


class _Choice(Action):
    """Decides what becomes of edits of a declared tree."""

    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the tree's name, and the places."""
        parser.add_argument("name", metavar="NAME", help="The tree's name.")
        parser.add_argument(
            "places",
            metavar="WHAT",
            nargs="*",
            help="What of it, such as description or schedules/default/cron; default: all that "
            "was edited.",
        )

    def chosen(self, options: Mapping[str, Any]) -> tuple[ProcessTree, list[Path], list[str]]:
        """Return the tree, the places, and what they are called."""
        row = tree_runs.get_row(options["name"])
        drift = code_drift.drift_of(row, code_choices.source_of(row))
        paths = code_choices.choose(drift, options["places"])
        return row, paths, [each.what for each in drift.differences(paths)]

    def show(self, row: ProcessTree, paths: list[Path], said: str) -> None:
        """Show what was done."""
        self.out.line(f"{row.name}: {said if paths else 'nothing was edited.'}")
        self.out.document({"name": row.name, "places": ["/".join(each) for each in paths]})


class Take(_Choice):
    """Makes rows say what the code said."""

    name = "take"
    help = (
        "Undo edits of a tree that is declared in code: its rows say what the code said at the "
        "last sync. What was kept before is not kept any more."
    )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Take it."""
        row, paths, names = self.chosen(options)
        if paths:
            code_choices.take(row, paths)
        self.show(row, paths, f"as the code said it: {', '.join(names)}.")


class Keep(_Choice):
    """Keeps edits of declared trees."""

    name = "keep"
    help = (
        "Keep edits of a tree that is declared in code: a sync leaves them, and says so, until "
        "'proctree take' undoes that."
    )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Keep it."""
        row, paths, names = self.chosen(options)
        if paths:
            code_choices.keep(row, paths, login_name())
        self.show(row, paths, f"a sync leaves as it is: {', '.join(names)}.")


def _labels(given: Collection[str] | None) -> set[str] | None:
    unknown = [each for each in given or () if each not in apps.app_configs]
    if unknown:
        raise CommandError(
            f"There is no app {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(sorted(apps.app_configs))}.",
            returncode=2,
        )
    return set(given) if given else None


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "trees": [tree_as_json(tree) for tree in report.trees],
        "errors": report.errors,
        "newer_release": report.newer_release,
    }
