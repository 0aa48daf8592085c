"""Actions on runs."""

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from textwrap import indent
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from ...domain import run_tags
from ...domain.runs import RunSummary
from ...exceptions import RunError
from ...running import tree_runs
from .. import tag_pairs
from .base import Action

HEADINGS = ("RUN", "TREE", "STATUS", "STARTED", "SECONDS", "BY", "WHAT FAILED", "LAUNCHED BY")

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Runs(Action):
    """Lists runs."""

    name = "runs"
    help = "List the latest runs of all trees or of one: how they ended, and what failed."
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: a tree's name and the filters."""
        parser.add_argument("name", metavar="NAME", nargs="?", help="The tree's name.")
        parser.add_argument("--failed", action="store_true", help="Those that failed only.")
        tag_pairs.add_arguments(parser, "Those with this tag only")
        _add_since(parser)
        parser.add_argument(
            "--limit", metavar="N", type=int, default=20, help="At most so many; default: 20."
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """List them."""
        name = options["name"]
        job_name = None if name is None else tree_runs.get_row(name).job_name
        with _history() as (history, instance):
            found = history.recent(
                instance,
                job_name=job_name,
                failed=options["failed"],
                since=_since(options),
                with_tags=tag_pairs.parse(options["tag"]),
                most=options["limit"],
            )
        self.out.table(HEADINGS, [cells(run) for run in found])
        self.out.document([as_json(run) for run in found])


class Logs(Action):
    """Prints a run's log."""

    name = "logs"
    help = (
        "Print a run's log, with the traceback of what failed. Without -v 2, what Dagster notes "
        "for itself (level debug) is left out."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the run."""
        _add_run(parser)

    def handle(self, options: Mapping[str, Any]) -> None:
        """Print it."""
        with _history() as (history, instance):
            run = history.find(instance, options["run"]).dagster_run
            lines = list(history.log(instance, run.run_id))
        shown = [line for line in lines if options["verbosity"] > 1 or line.level != "debug"]
        for line in shown:
            at = f"{timezone.localtime(line.at):%Y-%m-%d %H:%M:%S}"
            process = f"{line.process}: " if line.process else ""
            self.out.line(f"{at} {line.level.upper():<8} {process}{line.message}")
            if line.trace:
                self.out.line(indent(line.trace, "    "))
        self.out.document([asdict(line) for line in shown])


class Cancel(Action):
    """Cancels a run."""

    name = "cancel"
    help = (
        "Take a run from the queue, or ask its worker to cancel it, wherever it runs. One that "
        "does not heed that is ended after TERMINATE_GRACE seconds."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the run."""
        _add_run(parser)

    def handle(self, options: Mapping[str, Any]) -> None:
        """Cancel it."""
        with _history() as (history, instance):
            run = history.find(instance, options["run"]).dagster_run
            if not history.cancel(instance, run):
                raise CommandError(f"Run {run.run_id} has no worker any more.")
        self.out.line(f"Run {run.run_id} is being canceled.")


class Retry(Action):
    """Repeats runs that failed."""

    name = "retry"
    help = (
        "Queue a failed run again, from where it failed: what has succeeded is not done again, "
        "but with --all. "
        "With --failed, the last run of each tree whose last run failed."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the run, or the filters."""
        parser.add_argument("run", metavar="RUN", nargs="?", help="Its id, or how that begins.")
        parser.add_argument(
            "--failed",
            action="store_true",
            help="Of each tree whose last run has failed, that run. Needs --since.",
        )
        parser.add_argument("--all", action="store_true", help="Repeat it in full.")
        _add_since(parser)

    def handle(self, options: Mapping[str, Any]) -> None:
        """Queue them."""
        if (options["run"] is None) != options["failed"]:
            raise CommandError("Name a run, or say --failed and --since.", returncode=2)
        if options["failed"] and options["since"] is None:
            raise CommandError("Say since when with --since, such as --since 12h.", returncode=2)
        from ...orchestration.runs import repeating  # it imports dagster

        repeated, refused = [], []
        with _history() as (history, instance):
            for run_id in self._chosen(instance, options):
                run = history.find(instance, run_id).dagster_run
                try:
                    new = repeating.again(
                        instance, run, tag_pairs.os_user(), everything=options["all"]
                    )
                except RunError as error:
                    refused.append(str(error))
                    continue
                tree = run.tags.get(run_tags.TREE, run.job_name)
                repeated.append({"run": new.run_id, "repeats": run.run_id, "tree": tree})
                self.out.line(f"Queued run {new.run_id}, which repeats {run.run_id}")
        self.out.document(repeated)
        if refused:
            raise CommandError("\n".join(refused))
        if not repeated:
            self.out.line("No tree's last run has failed since then.")

    def _chosen(self, instance: Any, options: Mapping[str, Any]) -> list[str]:
        from ...orchestration.runs import repeating

        since = _since(options)
        if options["run"] is not None or since is None:
            return [options["run"]]
        failed = repeating.last_failed(instance, since)
        if failed.is_cut:
            self.out.line(f"The newest {repeating.MOST_FAILED} failed runs are considered only.")
        return [run.run_id for run in failed.chosen]


def cells(run: RunSummary) -> tuple[str, ...]:
    """Return a run as a line of a table."""
    started = run.started_at or run.created_at
    seconds = run.seconds
    failed = "; ".join(f"{name}: {why}" if name else why for name, why in run.failures.items())
    return (
        run.run_id,
        run.tree,
        run.status,
        f"{timezone.localtime(started):%Y-%m-%d %H:%M:%S}",
        "" if seconds is None else f"{seconds:.1f}",
        run.triggered_by or "ui",
        failed,
        run.launched_by,
    )


def as_json(run: RunSummary) -> dict[str, Any]:
    """Return a run as JSON."""
    return {**asdict(run), "seconds": run.seconds}


@contextmanager
def _history() -> Iterator[tuple[Any, Any]]:
    """Return the module that reads Dagster's runs, and the open instance."""
    from ...orchestration.runs import history, opening  # they import dagster

    with opening.open_instance(persistent=True, create=False) as instance:
        yield history, instance


def _add_run(parser: CommandParser) -> None:
    parser.add_argument("run", metavar="RUN", help="The run's id, or how that begins.")


def _add_since(parser: CommandParser) -> None:
    parser.add_argument(
        "--since",
        metavar="WHEN",
        help="Those made since then only: 30m, 12h, 7d, 2w, a date or a date and time.",
    )


def _since(options: Mapping[str, Any]) -> dt.datetime | None:
    """Return the moment that ``--since`` names, aware."""
    text = options["since"]
    if text is None:
        return None
    if ago := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        try:
            return timezone.now() - dt.timedelta(**{UNITS[ago[2]]: int(ago[1])})
        except OverflowError:
            raise CommandError(f"--since {text!r} is before the year 1.", returncode=2) from None
    try:
        found = parse_datetime(text) or _midnight(parse_date(text))
    except ValueError:  # well formed, but not a valid date
        found = None
    if found is None:
        raise CommandError(
            f"--since {text!r} is no moment: write 30m, 12h, 7d, 2w, 2026-03-31, or "
            "2026-03-31T09:00.",
            returncode=2,
        )
    return timezone.make_aware(found) if timezone.is_naive(found) else found


def _midnight(date: dt.date | None) -> dt.datetime | None:
    return None if date is None else dt.datetime.combine(date, dt.time())
