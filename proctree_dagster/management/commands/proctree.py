"""``manage.py proctree``: what an operator asks about process trees."""

import datetime as dt
import logging
from argparse import SUPPRESS
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from ... import broken_rows, execution, triggers
from ... import context as contexts
from ...exceptions import InstanceError, ProctreeError
from ...models import ProcessTree, ProcessTreeSchedule
from ...readable import UNREADABLE
from ...texts import explain
from .. import dev_server
from ..console import escaping
from ..dev_server import DevServer

logger = logging.getLogger(__name__)

HEADINGS = ("TREE", "RULE", "NEXT RUN", "LAST RUN", "STATUS", "RUN", "HELD BACK BY")

REMEDIES = {
    "Django": "its 'enabled' is off: switch it on in the admin.",
    "Dagster": "its switch in Dagster is off: turn it on in the UI, under Automation.",
}


class Command(BaseCommand):
    """Look after process trees."""

    help = "Look after process trees."
    requires_system_checks = ("proctree_dagster",)

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the name of what to do."""
        actions = parser.add_subparsers(dest="action", required=True)
        common = [_common_options()]
        actions.add_parser(
            "list",
            parents=common,
            help="List every tree with its schedule, its last scheduled run, and what holds it "
            "back: Django's 'enabled' or Dagster's own switch.",
        )

        dev = actions.add_parser(
            "dev",
            parents=common,
            help="Start Dagster for this project: its webserver, its daemon and its code server, "
            "with this Python. Ctrl-C ends all of it. -v 2 shows all that Dagster logs.",
        )
        dev.add_argument(
            "--port", type=int, help="Port of Dagster's UI; default: that of DAGSTER_URL, or 3000."
        )
        dev.add_argument(
            "--host",
            default="127.0.0.1",
            help="Address to listen on; default: 127.0.0.1, this machine only. Dagster's UI has no "
            "login.",
        )

        actions.add_parser(
            "doctor",
            parents=common,
            help="Say what is wrong with the Dagster that runs the trees, and what to do: its "
            "home, its storage, its daemon, its webserver, its code server. It only reads. Exits "
            "with 1 if something is wrong, with 0 if there are warnings only.",
        )

        actions.add_parser(
            "home",
            parents=common,
            help="Create the storage of Dagster's home, or complete what was half created, so that "
            "Dagster's processes find it when they start. Changes nothing if it is complete.",
        )

        fire = actions.add_parser(
            "fire",
            parents=common,
            help="Let a trigger fire: every tree that subscribes to it runs. Prints the runs.",
        )
        fire.add_argument("name", metavar="NAME", help="The trigger's name.")
        fire.add_argument(
            "--context",
            metavar="JSON",
            default="{}",
            help="Keyword arguments of the runs as a JSON object, such as "
            '\'{"tenant_id": "123"}\'; they update the subscription\'s context.',
        )

        clear = actions.add_parser(
            "clear-cache",
            parents=common,
            help="Let no cached result of a tree be used any more. Results that it shares with "
            "other trees (shared_cache_key) are cleared for them, too.",
        )
        clear.add_argument("name", metavar="NAME", help="The tree's name.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what was asked for."""
        with escaping(self.stdout, self.stderr):
            if options["action"] == "fire":
                self._fire(options["name"], options["context"])
            elif options["action"] == "dev":
                self._serve(options["host"], options["port"], verbose=options["verbosity"] > 1)
            elif options["action"] == "doctor":
                self._examine()
            elif options["action"] == "home":
                self._create_home()
            elif options["action"] == "clear-cache":
                self._clear_cache(options["name"])
            else:
                self._list()

    def _clear_cache(self, name: str) -> None:
        try:
            execution.clear_cache(execution.get_row(name))
        except ProctreeError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Cleared the cached results of {name!r}")

    def _serve(self, host: str, port: int | None, *, verbose: bool) -> None:
        from ...orchestration import runs  # it imports dagster, which the others do without

        try:
            with runs.open_instance(persistent=True) as instance:
                home = instance.root_directory
            server = DevServer(home, host, port or dev_server.default_port(), verbose)
            if server.port_is_taken():
                raise CommandError(
                    f"Port {server.port} of {host} is taken (is Dagster running already?): "
                    "name another one with --port."
                )
            self.stdout.write(f"Dagster is starting, with its home in {home} …")
            self.stdout.flush()
            code = server.run(lambda: self._say_where(server))
        except InstanceError as error:
            raise CommandError(str(error)) from error
        if code:
            raise CommandError(f"Dagster has ended with exit code {code}; its log says why.")

    def _say_where(self, server: DevServer) -> None:
        self.stdout.write(self.style.SUCCESS(f"Dagster is ready: open {server.url}"))
        self.stdout.write("  Jobs, a tree, Launchpad, Launch Run. Ctrl-C here ends everything.")
        self.stdout.flush()

    def _create_home(self) -> None:
        from ...orchestration import runs  # it imports dagster, which the others do without

        try:
            with runs.open_instance(persistent=True) as instance:
                self.stdout.write(f"Dagster's home {instance.root_directory!r} is ready.")
        except InstanceError as error:
            raise CommandError(str(error)) from error

    def _examine(self) -> None:
        from ...orchestration import doctor  # it imports dagster, which the others do without

        findings = doctor.examine()
        styles = {
            "ok": self.style.SUCCESS,
            "warning": self.style.WARNING,
            "error": self.style.ERROR,
        }
        for finding in findings:
            self.stdout.write(f"{styles[finding.level](finding.level.upper())}  {finding.what}")
            if finding.remedy:
                self.stdout.write(f"  {finding.remedy}")
        wrong = sum(finding.level == "error" for finding in findings)
        if wrong:
            raise CommandError(f"{wrong} thing{'s are' if wrong != 1 else ' is'} wrong.")

    def _fire(self, name: str, context: str) -> None:
        try:
            trigger = triggers.get_trigger(name)
            if not trigger.enabled:
                raise CommandError(f"The trigger {name!r} is disabled: it did not fire.")
            runs = triggers.fire_trigger(trigger, contexts.parse_json(context))
        except ProctreeError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Fired {name!r}: {len(runs) or 'no'} run{'s' if len(runs) != 1 else ''}")
        for run in runs:
            self.stdout.write(f"  {run.tree}: run {run.run_id}")
            if run.url is not None:
                self.stdout.write(f"  {run.url}")

    def _list(self) -> None:
        trees = sorted(ProcessTree.objects.each(), key=lambda tree: tree.name)
        schedules = [tree.schedule_or_none for tree in trees]
        try:
            execution.show_as_dagster_knows(filter(None, schedules))
        except InstanceError as error:
            self.stderr.write(self.style.WARNING(f"Dagster was not asked: {error}"))
        except Exception as error:  # whatever is wrong with its storage, the list is Django's
            logger.warning("Dagster could not be asked.", exc_info=True)
            self.stderr.write(self.style.WARNING(f"Dagster could not be asked: {explain(error)}"))
        lines = [HEADINGS, *(_line(tree, tree.schedule_or_none) for tree in trees)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())
        for tree in trees:
            schedule = tree.schedule_or_none
            for holder, remedy in REMEDIES.items():
                if schedule is not None and holder in schedule.held_back_by:
                    self.stdout.write(self.style.WARNING(f"{tree.name} does not run: {remedy}"))
        for finding in broken_rows.findings():
            self.stdout.write(self.style.WARNING(str(finding)))


def _common_options() -> CommandParser:
    """Return Django's own options that people type behind an action, too."""
    parser = CommandParser(add_help=False, argument_default=SUPPRESS)
    parser.add_argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], help=SUPPRESS)
    for option in ("--settings", "--pythonpath"):
        parser.add_argument(option, help=SUPPRESS)
    for flag in ("--traceback", "--no-color", "--force-color"):
        parser.add_argument(flag, action="store_true", help=SUPPRESS)
    return parser


def _line(tree: ProcessTree, schedule: ProcessTreeSchedule | None) -> tuple[str, ...]:
    if schedule is None:
        return (tree.name, "no schedule", "", "", "", "", "")
    try:
        return (tree.name, *_cells(schedule))
    except UNREADABLE as error:
        return (tree.name, f"can't be read: {explain(error)}", "", "", "", "", "")


def _cells(schedule: ProcessTreeSchedule) -> tuple[str, ...]:
    return (
        schedule.rule_in_words,
        _say(schedule.next_run) or "now",
        _say(schedule.last_run),
        "requested" if schedule.claim else schedule.last_run_status,
        "" if schedule.claim else schedule.last_run_id,
        schedule.held_back_by,
    )


def _say(moment: dt.datetime | None) -> str:
    return "" if moment is None else f"{timezone.localtime(moment):%Y-%m-%d %H:%M}"
