"""The command that every generated command is a subclass of."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .. import context as contexts
from .. import execution
from ..exceptions import ProctreeError
from ..execution import Results
from ..process import Status


class TreeCommand(BaseCommand):
    """Run one process tree, in this process or by Dagster's daemon.

    Exits with 0 when the tree succeeds (or is queued), with 1 and the reason when it does not,
    and with 130 when it is interrupted: the run is canceled then.
    """

    tree_name: str
    """The tree's name; a generated command sets it."""

    requires_system_checks = ("proctree_dagster",)
    """Ours only: the whole project's would be run each time that somebody runs a tree."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Name the tree in the help; argparse would replace a ``%(prog)`` in its name."""
        super().__init__(*args, **kwargs)
        name = repr(self.tree_name).replace("%(", "% (")
        self.help = f"Run the process tree {name} and print its results."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take ``--context`` and ``--submit``."""
        parser.add_argument(
            "--context",
            metavar="JSON",
            default="{}",
            help="Keyword arguments of the run as a JSON object, such as "
            '\'{"tenant_id": "123"}\'; they update the default context of the tree\'s schedule.',
        )
        parser.add_argument(
            "--submit",
            action="store_true",
            help="Queue the run for Dagster's daemon, print its address, and return at once.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the tree."""
        try:
            context = contexts.parse_json(options["context"])
            row = execution.get_row(self.tree_name)
            if options["submit"]:
                run = execution.submit_row(row, context, triggered_by="command")
                self.stdout.write(f"Queued run {run.run_id}")
                if run.url is not None:
                    self.stdout.write(run.url)
                return
            self.stdout.write(f"Running {self.tree_name!r}")
            with _stoppable():
                results = execution.execute_row(
                    row, context, triggered_by="command", on_progress=self._show
                )
        except ProctreeError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted; the run is canceled.", returncode=130) from None
        self._report(results)

    def _show(self, process: str, status: Status) -> None:
        style = {"completed": self.style.SUCCESS, "failed": self.style.ERROR}.get(status, str)
        self.stdout.write(f"  {style(f'{status:<9}')} {process}")
        self.stdout.flush()

    def _report(self, results: Results) -> None:
        for process, status in results["status"].items():
            if status in ("skipped", "pending"):
                self._show(process, status)
        if results["results"]:
            self.stdout.write("Results:")
        for process, result in results["results"].items():
            self.stdout.write(f"  {process}: {_text(result)}")
        self.stdout.write(f"Run {results['run_id']}")
        self._report_followers(results["run_id"])
        if not results["success"]:
            reasons = "".join(f"\n  {name}: {error}" for name, error in results["errors"].items())
            raise CommandError(f"The process tree {self.tree_name!r} failed:{reasons}")

    def _report_followers(self, run_id: str) -> None:
        """Print what follows the run: it is Dagster's to run, and has its ids already."""
        followers = execution.followers_of(run_id)
        if followers:
            self.stdout.write("Followed by:")
        for each in followers:
            where = "" if each.url is None else f" {each.url}"
            why = "" if not each.reason else f": {each.reason}"
            self.stdout.write(f"  {each.state:<9} {each.name}, run {each.run_id}{where}{why}")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: a stopped service must not leave its run as started."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _text(result: Any) -> str:
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError):  # not JSON; a person still wants to see it
        return repr(result)
