"""Actions on one tree."""

import datetime as dt
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ...context import sensitive
from ...domain import due_times as intervals
from ...domain import retention, run_tags
from ...domain.limits import limit_options
from ...domain.run_tags import DEFAULT_SCHEDULE
from ...domain.texts import explain
from ...domain.tree_spec import ProcessSpec, TreeSpec, parse, reuse_option
from ...exceptions import InstanceError, InvalidTree, ProctreeError, ScheduleError
from ...models import ProcessTree, ProcessTreeSchedule, TreeRevision
from ...models.context_schema import ContextKey, ContextSchema
from ...running import tree_runs, tree_status
from ...running.tree_status import TreeStatus
from ...services import broken_rows, code_drift, revisions
from .. import tree_runner
from ..tree_runner import TreeRunner
from .base import Action
from .revisions import find as find_revision
from .runs import HEADINGS as RUN_HEADINGS
from .runs import as_json, cells
from .tree_list import drift_in_words, say, say_next

logger = logging.getLogger(__name__)

DUE_TIMES = 5
"""How many due times are shown."""

RUNS = 5
"""How many runs are shown."""

DEFAULTS = ProcessSpec(name="", func="")


class Run(Action):
    """Runs a tree."""

    name = "run"
    help = (
        "Run a tree in this process and print its results, or queue it with --submit. Exits with 1 "
        "if it fails."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the tree's name, and those of a generated command."""
        parser.add_argument("name", metavar="NAME", help="The tree's name.")
        tree_runner.add_arguments(parser)

    def handle(self, options: Mapping[str, Any]) -> None:
        """Run it."""
        TreeRunner(options["name"], self.out).run(options)


class Show(Action):
    """Shows a tree."""

    name = "show"
    help = (
        "Show a tree: its processes with what they depend on and their options, its schedules with "
        "their next due times, its last runs, and its problems. It only reads."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: the tree's name."""
        parser.add_argument("name", metavar="NAME", help="The tree's name.")
        parser.add_argument(
            "--mermaid", action="store_true", help="Print its graph as a Mermaid flowchart only."
        )
        parser.add_argument(
            "--at",
            metavar="REVISION",
            help="Show its processes and options as they were: the first characters of a revision "
            "('proctree revisions' lists them), or a date.",
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Show it."""
        row = tree_runs.get_row(options["name"])
        if options["at"]:
            self._show_revision(row, find_revision(row, options["at"]), options)
            return
        problems = _problems(row)
        spec = None
        with suppress(InvalidTree):
            spec = parse(row.to_dict())
        if options["mermaid"]:
            self.out.line(mermaid(spec) if spec is not None else "")
            if spec is None:
                self.out.warn("\n".join(problems))
            return
        status = tree_status.status_of(row, timezone.now())
        due_times = {each.name: _due_times(each) for each in row.all_schedules()}
        runs, why_no_runs = _runs(row)
        self.out.line(row.name + (f": {row.description}" if row.description else ""))
        if spec is not None:
            self._show_processes(spec)
        schema = row.context_schema
        self._show_context(schema)
        if spec is not None and spec.run_tags:
            names = ", ".join(f"{run_tags.CONTEXT}{key}" for key in spec.run_tags)
            self.out.line(f"\nTags of its runs: {names}")
        if spec is not None and spec.one_at_a_time_per:
            self.out.line(
                f"\nAt the same time: {spec.limit_per_key} for each {spec.one_at_a_time_per!r}"
            )
        if spec is not None and spec.keep_runs:
            self.out.line(f"\nRuns that are kept: {spec.keep_runs}")
        if spec is not None and spec.reuse_worker:
            self.out.line("\nThe process of a run may execute further runs.")
        for name, value in row.alert_options.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            self.out.line(f"\n{name.replace('_', ' ').capitalize()}: {shown}")
        self._show_schedules(status, due_times)
        self.out.line("\nLast runs:" if runs else f"\nLast runs: {why_no_runs or 'none'}")
        if runs:
            self.out.table(RUN_HEADINGS, [cells(run) for run in runs])
        if problems:
            self.out.line("\nProblems:")
            for problem in problems:
                self.out.line(self.out.style.ERROR(f"  {problem}"))
        found = status.as_json()
        for each in found["schedules"]:
            each["due_times"] = due_times[each["schedule"]]
        self.out.document(
            {
                **found,
                "description": row.description,
                "processes": row.processes,
                "run_tags": row.run_tags,
                **limit_options(row.one_at_a_time_per, row.limit_per_key),
                **retention.tree_option(row.keep_runs),
                **reuse_option(row.reuse_worker),
                **row.alert_options,
                "context": [_key_as_json(key) for key in schema.keys.values()],
                "due_times": due_times.get(DEFAULT_SCHEDULE, []),
                "runs": [as_json(run) for run in runs],
                "problems": problems,
            }
        )

    def _show_schedules(
        self, status: TreeStatus, due_times: Mapping[str, Sequence[dt.datetime]]
    ) -> None:
        if not status.schedules:
            self.out.line("\nSchedule: none")
        for each in status.schedules:
            named = "" if each.schedule == DEFAULT_SCHEDULE else f" {each.schedule!r}"
            self.out.line(f"\nSchedule{named}: {each.rule or each.problem}")
            if each.held_back_by:
                self.out.line(f"  held back by {each.held_back_by}")
            if each.paused:
                self.out.line(f"  paused {each.paused}")
            if each.dropped:
                self.out.line(f"  {each.dropped}")
            if each.ended:
                self.out.line(f"  {say_next(each)}")
            for due in due_times[each.schedule]:
                self.out.line(f"  {say(due)}")
        for sentence in drift_in_words(status):
            self.out.warn(f"{status.name}: {sentence}")

    def _show_revision(
        self, row: ProcessTree, found: TreeRevision, options: Mapping[str, Any]
    ) -> None:
        """Show what a tree was."""
        content = revisions.content(found)
        old = revisions.as_row(found)
        try:
            spec: TreeSpec | None = parse(old.own_content)
        except InvalidTree as error:
            spec = None
            self.out.warn(str(error))
        if options["mermaid"]:
            self.out.line(mermaid(spec) if spec is not None else "")
            return
        self.out.line(f"{content['name']}: {old.description}".removesuffix(": "))
        self.out.line(f"Revision {found.revision}")
        if spec is not None:
            self._show_processes(spec)
        context = sensitive.masked(found.context)
        if context:
            self.out.line(f"\nDefault context: {json.dumps(context, ensure_ascii=False)}")
        different = revisions.differences(content, revisions.present(row))
        self.out.line("\nSince then:" if different else "\nNothing has changed since then.")
        for what, before, after in different:
            self.out.line(f"  {what}: {code_drift.shown(before)} → {code_drift.shown(after)}")
        self.out.document(
            {
                "revision": found.revision,
                "is_present": not different,
                "tree": found.tree,
                "context": context,
            }
        )

    def _show_processes(self, spec: TreeSpec) -> None:
        self.out.line("\nProcesses:")
        self.out.table(
            ("PROCESS", "AFTER", "FUNCTION", "OPTIONS"),
            [
                (each.name, ", ".join(each.dependencies), each.func, _options(each))
                for each in spec.in_order()
            ],
        )

    def _show_context(self, schema: ContextSchema) -> None:
        if not schema.keys:
            return
        self.out.line(f"\nContext{' (other keys will do, too)' if schema.takes_anything else ''}:")
        self.out.table(
            ("KEY", "TYPE", "REQUIRED BY", "DEFAULT", "WHAT IT IS"),
            [
                (
                    key.name,
                    key.type_text,
                    ", ".join(key.needed_by),
                    key.default_text,
                    key.description,
                )
                for key in schema.keys.values()
            ],
        )


def _key_as_json(key: ContextKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "type": key.type_text or None,
        "required_by": list(key.needed_by),
        "default": key.default_text or None,
        "description": key.description,
    }


class Check(Action):
    """Checks saved rows against the code."""

    name = "check"
    help = (
        "Check every tree, schedule, trigger and context against the code and print all problems. "
        "Exits with 1 if there are any that runs fail for. For CI, and before a deployment."
    )
    has_json = True

    def handle(self, options: Mapping[str, Any]) -> None:
        """Check them."""
        found = [*broken_rows.findings(), *broken_rows.invalid_trees()]
        for finding in found:
            style = self.out.style.ERROR if finding.fails else self.out.style.WARNING
            self.out.line(style(str(finding)))
        self.out.document([each._asdict() for each in found])
        wrong = sum(each.fails for each in found)
        if wrong:
            raise CommandError(f"{wrong} problem{'s' if wrong != 1 else ''}: runs fail for them.")
        self.out.line("Every tree, schedule, trigger and context fits the code.")


def mermaid(spec: TreeSpec) -> str:
    """Return a tree's graph as a Mermaid flowchart."""
    numbers = {process.name: f"p{number}" for number, process in enumerate(spec.in_order())}
    lines = ["flowchart LR"]
    lines += [f'  {number}["{_escaped(name)}"]' for name, number in numbers.items()]
    lines += [
        f"  {numbers[dependency]} --> {numbers[process.name]}"
        for process in spec.in_order()
        for dependency in process.dependencies
    ]
    return "\n".join(lines)


def _escaped(name: str) -> str:
    """Return a Mermaid node's label, with characters of Mermaid's syntax as numeric entities."""
    return "".join(each if each.isalnum() or each in " _-." else f"#{ord(each)};" for each in name)


def _options(process: ProcessSpec) -> str:
    """Return the options of a process besides its name, function and dependencies."""
    left_out = ("name", "func", "dependencies", "metadata")
    said = {
        key: value
        for key, value in asdict(process).items()
        if key not in left_out and value != getattr(DEFAULTS, key)
    }
    return ", ".join(f"{key}={_short(value)}" for key, value in said.items())


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(map(str, value)) + "}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)


def _problems(row: ProcessTree) -> list[str]:
    """Return the problems of one tree, its schedule included."""
    found = []
    try:
        parse(row.to_dict())
    except InvalidTree as error:
        found += error.problems
    found += [
        finding.problem
        for finding in broken_rows.findings()
        if any(user.endswith(f"tree {row.name!r}") for user in finding.users)
    ]
    return found


def _due_times(schedule: ProcessTreeSchedule) -> list[dt.datetime]:
    if not schedule.enabled:
        return []
    try:
        first = schedule.next_run or timezone.now()
        end = dt.datetime.max.replace(tzinfo=dt.UTC) - dt.timedelta(days=2)
        found = intervals.due_times(schedule.rule, schedule.anchor or first, first, end)
        return list(islice(found, DUE_TIMES))
    except ScheduleError:
        return []


def _runs(row: ProcessTree) -> tuple[list[Any], str]:
    """Return a tree's last runs, or why they can't be read."""
    try:
        from ...orchestration.runs import history, opening  # they import dagster

        with opening.open_instance(persistent=True, create=False) as instance:
            return history.recent(instance, job_name=row.job_name, most=RUNS), ""
    except (InstanceError, ProctreeError) as error:
        return [], str(error)
    except Exception as error:  # any error of Dagster's storage: the rest comes from Django
        logger.warning("Dagster could not be asked.", exc_info=True)
        return [], f"Dagster could not be asked: {explain(error)}"
