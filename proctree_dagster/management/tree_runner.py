"""Running one tree from the command line: its arguments, its progress and its results."""

import json
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from ..context import sensitive
from ..domain.submissions import Submission
from ..domain.texts import explain, shown
from ..domain.tree_spec import parse, required_in_effect
from ..exceptions import InvalidTree, ProctreeError
from ..models import ProcessTree
from ..models.validation.tree_validation import processes_of
from ..process.reporting import Progress
from ..process.run import Status
from ..running import run_options, tree_runs
from ..running.results import Results
from ..running.submitted_run import SubmittedRun
from ..services import webserver
from . import submission_options, tag_pairs, typed_context
from .console import run_log
from .live_table import LiveTable
from .output import Output

logger = logging.getLogger(__name__)

CUT = " … (--full)"
"""Shown in place of the rest of a long result."""


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of a run, and those of one that is queued (``--submit``)."""
    typed_context.add_arguments(parser, "They update the default context of the tree's schedule.")
    tag_pairs.add_arguments(parser, "A tag of the run, to find it by in Dagster")
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
    submission_options.add_arguments(parser)
    parser.add_argument(
        "--full",
        action="store_true",
        help="Print each result to its end; a terminal gets what fits a line of it otherwise.",
    )


class TreeRunner:
    """Runs one tree, and prints its progress and its outcome.

    Parameters
    ----------
    tree_name:
        The tree's name.
    out:
        Where to print.
    """

    def __init__(self, tree_name: str, out: Output) -> None:
        self.tree_name = tree_name
        self.out = out

    def run(self, options: Mapping[str, Any]) -> None:
        """Run it in this process, or queue it.

        Raises
        ------
        CommandError
            It failed, or was interrupted.
        """
        use_cache = not options["no_cache"]
        try:
            row = tree_runs.get_row(self.tree_name)
            schema = row.context_schema
            context = typed_context.read(options, schema) or {}
            # A person typed the context, so a misspelt key is refused before anything runs.
            schema.check({**row.default_context, **context})
            submission, priority = submission_options.read(options)
            run_tags = {**tag_pairs.of_run(options["tag"]), **priority}
            if options["submit"]:
                with _said_if_interrupted():
                    self._submit(row, context, use_cache, run_tags, submission)
                return
            loud = self.out.verbosity > 1 or options["traceback"]
            with _stoppable(), run_log(show=loud), self._progress(row, loud) as progress:
                results = tree_runs.execute_row(
                    row,
                    context,
                    triggered_by="command",
                    on_progress=progress.show,
                    on_report=progress.report,
                    options=run_options.RunOptions(use_cache=use_cache),
                    run_tags=run_tags,
                )
                optional = _failed_optionally(row, results)
                progress.end(results, _why(results, optional), optional)
        except ProctreeError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted; the run is canceled.", returncode=130) from None
        self._report(row, results, full=options["full"] or not self.out.for_person)

    def _progress(self, row: ProcessTree, loud: bool) -> "LiveTable | _Lines":
        """Return the view of the run: a table in a terminal, else lines."""
        names = [str(each.get("name")) for each in processes_of({"processes": row.processes})]
        is_terminal = self.out.for_person and sys.stdout.isatty() and not loud
        return LiveTable(names) if is_terminal else _Lines(self.tree_name, self.out)

    def _submit(
        self,
        row: ProcessTree,
        context: Mapping[str, Any],
        use_cache: bool,
        run_tags: Mapping[str, str],
        submission: Submission,
    ) -> None:
        run = tree_runs.submit_row(
            row,
            context,
            triggered_by="command",
            use_cache=use_cache,
            run_tags=run_tags,
            submission=submission,
        )
        self.out.line(_told(run, submission))
        if run.url is not None:
            self.out.line(run.url)
        of_key = {"outcome": run.outcome, "unfinished": run.unfinished or None}
        self.out.document(
            {"run": run.run_id or None, "url": run.url, **(of_key if submission.key else {})}
        )

    def _report(self, row: ProcessTree, results: Results, *, full: bool) -> None:
        if results["results"]:
            self.out.line("Results:")
        for process, result in results["results"].items():
            self.out.line(_result(process, result, full=full))
        url = webserver.run_url(results["run_id"])
        self.out.line(f"Run {results['run_id']}{'' if url is None else f' {url}'}")
        self._report_followers(results["run_id"])
        self.out.document(_as_json(results))
        if not results["success"]:
            reasons = "".join(f"\n  {name}: {why}" for name, why in _reasons(row, results).items())
            raise CommandError(
                f"The process tree {self.tree_name!r} failed:{reasons}\n"
                f"  {self._where_the_trace_is(results['run_id'])}"
            )

    def _where_the_trace_is(self, run_id: str) -> str:
        url = webserver.run_url(run_id)
        if not tree_runs.has_history():
            return "Run it with --verbosity 2 to see the traceback."
        logs = f"'python manage.py proctree logs {run_id}'"
        return f"Traceback: {logs if url is None else f'{url}, or {logs}'}"

    def _report_followers(self, run_id: str) -> None:
        """Print the followers of the run: Dagster runs them, and they have their ids already."""
        try:
            followers = tree_runs.followers_of(run_id)
        except Exception as error:  # an error here must not change the run's outcome
            logger.exception("What follows run %s can't be read.", run_id)
            self.out.line(f"What follows it can't be read: {explain(error)}")
            return
        if followers:
            self.out.line("Followed by:")
        for each in followers:
            where = "" if each.url is None else f" {each.url}"
            why = "" if not each.reason else f": {each.reason}"
            self.out.line(f"  {each.state:<9} {each.name}, run {each.run_id}{where}{why}")


def _told(run: SubmittedRun, submission: Submission) -> str:
    """Return what became of a request."""
    if run.skipped:
        return f"Skipped: run {run.unfinished} with the key {submission.key!r} is unfinished"
    if run.outcome == "returned":
        return f"Not queued: run {run.run_id} with the key {submission.key!r} is unfinished"
    when = "" if submission.run_after is None else f", not before {submission.run_after}"
    behind = ""
    if run.unfinished:
        replaces = submission.on_conflict == "replace"
        behind = f", {'in place of' if replaces else 'behind'} run {run.unfinished}"
    return f"Queued run {run.run_id}{when}{behind}"


def _reasons(row: ProcessTree, results: Results) -> dict[str, str]:
    """Return why a run failed, without optional processes and those downstream of a failure."""
    status, errors = results["status"], results["errors"]
    found = {name: why for name, why in errors.items() if status.get(name) == "failed"}
    optional = _failed_optionally(row, results)
    reasons = {name: why for name, why in found.items() if name not in optional}
    return reasons or found or errors


def _failed_optionally(row: ProcessTree, results: Results) -> set[str]:
    """Return the failed processes that are optional, which fail no run."""
    try:
        required = required_in_effect(parse(row.to_dict()))
    except InvalidTree:
        return set()
    failed = {name for name, status in results["status"].items() if status == "failed"}
    return failed - set(required)


def _why(results: Results, optional: Collection[str]) -> dict[str, str]:
    """Return remarks on processes: why they were skipped or have failed."""
    said = {**results["reasons"], **results["errors"]}
    return {
        name: _said_to_be_optional(why) if name in optional else why
        for name, why in said.items()
        if why
    }


def _said_to_be_optional(why: str) -> str:
    first, line_break, rest = why.partition("\n")
    return f"{first} (optional){line_break}{rest}"


class _Lines:
    """The progress of a run as lines."""

    def __init__(self, tree_name: str, out: Output) -> None:
        self._tree_name = tree_name
        self._out = out

    def __enter__(self) -> Self:
        self._out.line(f"Running {self._tree_name!r}")
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: every line is printed."""

    def show(self, process: str, status: Status) -> None:
        """Print that a process has started or ended."""
        if status != "skipped":  # printed at the end, with its reason
            self._show(process, status)

    def _show(self, process: str, status: Status, why: str | None = None) -> None:
        colours = {"completed": self._out.style.SUCCESS, "failed": self._out.style.ERROR}
        colour = colours.get(status, str)
        self._out.line(f"  {colour(f'{status:<9}')} {process}{f': {why}' if why else ''}")

    def report(self, process: str, progress: Progress) -> None:
        """Print how far a process is."""
        self._out.line(f"  {'':<9} {process}: {progress}")

    def end(self, results: Results, why: Mapping[str, str], optional: Collection[str]) -> None:
        """Print the skipped processes, and other remarks."""
        for process, status in results["status"].items():
            said = why.get(process)
            is_reason = status == "failed" and process not in optional  # printed at the end
            if status in ("skipped", "pending") or (said and not is_reason):
                self._show(process, status, said)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: a stopped service must not leave its run as started."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _said_if_interrupted() -> Iterator[None]:
    """Say of an interrupted request what may have become of it."""
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError(
            "Interrupted. The run may have been requested, and is made then: 'proctree runs' "
            "lists it, 'proctree cancel' stops it.",
            returncode=130,
        ) from None


def _as_json(results: Results) -> dict[str, Any]:
    """Return results as JSON; values that JSON lacks are written as text."""
    values = {name: _json_or_text(value) for name, value in results["results"].items()}
    return {
        **results,
        "results": values,
        "response_variables": {
            process: {name: _json_or_text(value) for name, value in variables.items()}
            for process, variables in results["response_variables"].items()
        },
    }


def _json_or_text(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, cls=DjangoJSONEncoder, allow_nan=False))
    except Exception:  # noqa: BLE001  # not JSON, NaN, too deep, too many digits
        return shown(value, write=sensitive.shown)


def _result(process: str, result: Any, *, full: bool) -> str:
    """Return a result as a line, cut to the width of a terminal."""
    line = f"  {process}: {_text(result)}"
    width = shutil.get_terminal_size().columns
    if full or len(line) <= width:
        return line
    return f"{line[: max(width - len(CUT), 20)]}{CUT}"


def _text(result: Any) -> str:
    try:
        return json.dumps(result, ensure_ascii=False)
    except Exception:  # noqa: BLE001  # not JSON, too deep, too many digits: show its repr
        return shown(result, write=sensitive.shown)
