"""The command that every generated command is a subclass of."""

import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .. import context as contexts
from .. import execution, sensitive, webserver
from ..exceptions import ProctreeError
from ..execution import Results
from ..models import ProcessTree
from ..process import Status
from ..texts import explain, shown
from .console import Printer, escaping, run_log

logger = logging.getLogger(__name__)


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
        """Take ``--context``, ``--no-cache`` and ``--submit``."""
        parser.add_argument(
            "--context",
            metavar="JSON",
            default="{}",
            help="Keyword arguments of the run as a JSON object, such as "
            '\'{"tenant_id": "123"}\'; they update the default context of the tree\'s schedule.',
        )
        parser.add_argument(
            "--no-cache",
            action="store_true",
            help="Run every process, whatever is cached; the new results are cached.",
        )
        parser.add_argument(
            "--submit",
            action="store_true",
            help="Queue the run for Dagster's daemon, print its address, and return at once.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the tree."""
        with escaping(self.stdout, self.stderr):
            self._print = Printer(self.stdout)
            self._handle(options)

    def _handle(self, options: Mapping[str, Any]) -> None:
        use_cache = not options["no_cache"]
        try:
            context = contexts.parse_json(options["context"])
            row = execution.get_row(self.tree_name)
            if options["submit"]:
                self._submit(row, context, use_cache)
                return
            self._print(f"Running {self.tree_name!r}")
            with _stoppable(), run_log(show=options["verbosity"] > 1 or options["traceback"]):
                results = execution.execute_row(
                    row,
                    context,
                    triggered_by="command",
                    on_progress=self._show_progress,
                    options=execution.RunOptions(use_cache=use_cache),
                )
        except ProctreeError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted; the run is canceled.", returncode=130) from None
        self._report(results)

    def _submit(self, row: ProcessTree, context: Mapping[str, Any], use_cache: bool) -> None:
        run = execution.submit_row(row, context, triggered_by="command", use_cache=use_cache)
        self._print(f"Queued run {run.run_id}")
        if run.url is not None:
            self._print(run.url)

    def _show_progress(self, process: str, status: Status) -> None:
        if status != "skipped":  # reported at the end, with its reason
            self._show(process, status)

    def _show(self, process: str, status: Status, why: str | None = None) -> None:
        style = {"completed": self.style.SUCCESS, "failed": self.style.ERROR}.get(status, str)
        self._print(f"  {style(f'{status:<9}')} {process}{f': {why}' if why else ''}")

    def _report(self, results: Results) -> None:
        for process, status in results["status"].items():
            why = results["errors"].get(process) or results["reasons"].get(process)
            if status in ("skipped", "pending") or (why and results["success"]):
                self._show(process, status, why)
        if results["results"]:
            self._print("Results:")
        for process, result in results["results"].items():
            self._print(f"  {process}: {_text(result)}")
        self._print(f"Run {results['run_id']}")
        self._report_followers(results["run_id"])
        if not results["success"]:
            reasons = "".join(f"\n  {name}: {error}" for name, error in results["errors"].items())
            raise CommandError(
                f"The process tree {self.tree_name!r} failed:{reasons}\n"
                f"  {self._where_the_trace_is(results['run_id'])}"
            )

    def _where_the_trace_is(self, run_id: str) -> str:
        url = webserver.run_url(run_id)
        if not execution.has_history():
            return "Run it with --verbosity 2 to see the traceback."
        return f"Traceback: {url or f'in Dagster, run {run_id}'}, or with --verbosity 2"

    def _report_followers(self, run_id: str) -> None:
        """Print what follows the run: it is Dagster's to run, and has its ids already."""
        try:
            followers = execution.followers_of(run_id)
        except Exception as error:  # how the run ended stands, whatever follows it
            logger.exception("What follows run %s can't be read.", run_id)
            self._print(f"What follows it can't be read: {explain(error)}")
            return
        if followers:
            self._print("Followed by:")
        for each in followers:
            where = "" if each.url is None else f" {each.url}"
            why = "" if not each.reason else f": {each.reason}"
            self._print(f"  {each.state:<9} {each.name}, run {each.run_id}{where}{why}")


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
    except Exception:  # noqa: BLE001  # not JSON, too deep, too many digits; a person wants to see it
        return shown(result, write=sensitive.shown)
