"""Actions on Dagster's own processes and its home."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, resolve, reverse
from django.utils import autoreload

from ... import conf
from ...services import webserver
from ...support import project
from .. import dev_server, project_files
from ..dev_server import Address, DevServer
from .base import Action


class Dev(Action):
    """Serves this project's trees."""

    name = "dev"
    help = (
        "Start Dagster for this project: its webserver, its daemon and its code server, with this "
        "Python, and the Django site, behind whose login Dagster's UI is. Ctrl-C ends all of it. "
        "-v 2 shows everything that Dagster and its runs log."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the options for port, address and Django's site."""
        parser.add_argument(
            "--port", type=int, help="Port to listen on; default: that of DAGSTER_URL, or 3000."
        )
        parser.add_argument(
            "--host",
            default="127.0.0.1",
            help="Address to listen on; default: 127.0.0.1, this machine only.",
        )
        parser.add_argument(
            "--no-login",
            action="store_true",
            help="Serve Dagster's UI without a login, as 'dagster dev' does: who reaches the port "
            "may do everything.",
        )
        parser.add_argument(
            "--django",
            metavar="HOST:PORT",
            nargs="?",
            const=dev_server.SITE,
            help="With --no-login: serve the Django site beside it, as 'manage.py runserver' does, "
            f"by default at {dev_server.SITE}: what Dagster shows of a tree links to its page in "
            "the admin.",
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Serve until a signal ends the command."""
        lacking = "" if options["no_login"] else _why_no_login()
        login = not options["no_login"] and not lacking
        dagster = Address(options["host"], options["port"] or dev_server.default_port())
        site = None if options["django"] is None or login else _address(options["django"])
        if options["django"] is not None and login:
            self.out.warn("--django is left aside: the site is served where Dagster is.")
        if lacking:
            self.out.warn(f"Dagster's UI is served without a login: {lacking}")
        _refuse_unusable(dagster, "--port")
        if site is not None:
            if site.port == dagster.port:
                raise CommandError(
                    f"Dagster and Django can't both listen on port {site.port}: name another one "
                    "with --django or --port."
                )
            _refuse_unusable(site, "--django")
        server = DevServer(_ready_home(), dagster, site, options["verbosity"] > 1, login)
        for message in _of_system_checks():
            self.out.warn(f"{message.msg}\n  {message.hint or ''}".rstrip())
        self.out.line(f"Dagster is starting, with its home in {server.home} …")
        if ended := server.run(lambda: self._say_where(server)):
            raise CommandError(ended)

    def _say_where(self, server: DevServer) -> None:
        path = f"{conf.current().DAGSTER_PATH}/" if server.login else ""
        address = f"{server.dagster.url}{path}"
        self.out.line(self.out.style.SUCCESS(f"Dagster is ready: open {address}"))
        if server.login:
            self.out.line("  It is behind the login of the Django site.")
            if not get_user_model()._default_manager.filter(is_active=True).exists():
                self.out.warn("Nobody can log in yet: add a user with 'manage.py createsuperuser'.")
        self.out.line("  Jobs, a tree, Launchpad, Launch Run. Ctrl-C here ends everything.")
        site = server.dagster if server.login else server.site
        if site is not None:
            self.out.line(f"The Django site is at {site.url}{_admin_path()}")


class Web(Action):
    """Serves the Django site and Dagster's UI."""

    name = "web"
    help = (
        "Serve the Django site and, behind its login, Dagster's UI (under DAGSTER_PATH), in one "
        "process. Dagster's daemon is started apart: 'dagster-daemon run'."
    )

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the options for port, address and the workspace."""
        parser.add_argument("--port", type=int, default=8000, help="Default: 8000.")
        parser.add_argument(
            "--host",
            default="127.0.0.1",
            help="Address to listen on; default: 127.0.0.1, this machine only.",
        )
        parser.add_argument(
            "--only-dagster",
            action="store_true",
            help="Serve no site: another server serves it, under the same host name, and both read "
            "the same sessions.",
        )
        parser.add_argument(
            "--workspace",
            metavar="FILE",
            help="The workspace.yaml that names the code locations; default: the project's own, "
            "else its packaged code location.",
        )
        parser.add_argument(
            "--socket",
            metavar="FILE",
            help="Where Django itself asks Dagster to reload (DAGSTER_URL); default: a socket of "
            "its own, which is noted in Dagster's home.",
        )
        parser.add_argument(
            "--reload", action="store_true", help="Start again when a Python file has changed."
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Serve until a signal ends the command."""
        from .. import web_server  # it imports a server

        address = Address(options["host"], options["port"])
        if lacking := _why_no_login():
            raise CommandError(f"Dagster's UI can't be served, as the site has no login: {lacking}")
        if not os.environ.get(autoreload.DJANGO_AUTORELOAD_ENV):
            _refuse_unusable(address, "--port")
        workspace = options["workspace"]
        if workspace is not None and not Path(workspace).is_file():
            raise CommandError(f"There is no file {workspace!r}.", returncode=2)
        web_server.serve(
            address,
            with_site=not options["only_dagster"],
            workspace=None if workspace is None else Path(workspace),
            socket=None if options["socket"] is None else Path(options["socket"]),
            verbosity=options["verbosity"],
            reload=options["reload"],
        )


class Init(Action):
    """Writes the packaged files into the project."""

    name = "init"
    help = (
        "Write a code location (definitions/), a workspace.yaml, a dagster.yaml and settings for "
        "unit tests into the project, for who wants them as files: none is needed. A file that is "
        "there is left alone."
    )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Write them."""
        folder = project.root()
        if folder is None:
            raise CommandError("It is not known where the project lies: set BASE_DIR.")
        try:
            written, left_alone = project_files.write(folder)
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        for name in written:
            self.out.line(f"Wrote {name}")
        for name in left_alone:
            self.out.line(f"Left {name} as it is")


class Doctor(Action):
    """Examines the Dagster that runs the trees."""

    name = "doctor"
    help = (
        "Say what is wrong with what runs the trees, and what to do: installed releases, Django's "
        "database, Dagster's home and storage, its daemon, webserver and code server, the Python "
        "of each code location, executors and their launcher, the settings. It only reads. Exits "
        "with 1 if something is wrong, with 0 if there are warnings only."
    )
    has_json = True

    def handle(self, options: Mapping[str, Any]) -> None:
        """Examine it."""
        from ...orchestration.inspection import (
            doctor,  # they import dagster, which the other actions don't need
        )
        from ...orchestration.inspection.findings import Finding

        findings = doctor.examine()
        said = {finding.what for finding in findings}
        findings += [
            Finding("error" if each.is_serious() else "warning", each.msg, each.hint or "")
            for each in _of_system_checks()
            if each.msg not in said
        ]
        style = self.out.style
        styles = {"ok": style.SUCCESS, "warning": style.WARNING, "error": style.ERROR}
        for finding in findings:
            self.out.line(f"{styles[finding.level](finding.level.upper())}  {finding.what}")
            if finding.remedy:
                self.out.line(f"  {finding.remedy}")
        self.out.document([asdict(finding) for finding in findings])
        wrong = sum(finding.level == "error" for finding in findings)
        if wrong:
            raise CommandError(f"{wrong} thing{'s are' if wrong != 1 else ' is'} wrong.")


class Home(Action):
    """Creates Dagster's home and its databases."""

    name = "home"
    help = (
        "Create Dagster's home and its storage, or complete what was half created, so that "
        "Dagster's processes find it when they start. Changes nothing if it is complete."
    )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Create it."""
        self.out.line(f"Dagster's home {_ready_home()!r} is ready.")


class Reload(Action):
    """Reloads the code location, so that Dagster's UI shows edited code."""

    name = "reload"
    help = (
        "Ask Dagster's webserver to load the code location again: its UI then shows edited code "
        "(a translator, a docstring). Saved trees need none of it."
    )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Ask it."""
        url = webserver.graphql_url()
        if url is None:
            raise CommandError(
                'It is not known where the webserver answers: set PROCTREE["DAGSTER_URL"], or '
                "start it with 'manage.py proctree dev'."
            )
        if not webserver.reload_location(url):
            raise CommandError("Dagster's webserver did not reload; the log says why.")
        self.out.line("Dagster's webserver has loaded the code location again.")


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError:
        raise CommandError(
            f"--django {text!r} is no address: write {dev_server.SITE}, or a port.", returncode=2
        ) from None


def _refuse_unusable(address: Address, option: str) -> None:
    if problem := address.problem():
        raise CommandError(f"{problem}: name another one with {option}.")


def _admin_path() -> str:
    """Return the path of the admin; blank if the project has none."""
    try:
        return reverse("admin:index")
    except NoReverseMatch:
        return ""


def _why_no_login() -> str:
    """Return why the site has no login; blank if it has one."""
    from ...web.gate import login_path  # it imports a parser, which other actions don't need

    for app in ("django.contrib.auth", "django.contrib.sessions"):
        if not apps.is_installed(app):
            return f"{app} is not among INSTALLED_APPS."
    try:
        resolve(urlsplit(resolve_url(login_path())).path)
    except (Resolver404, ImproperlyConfigured):
        return "the site has no page to log in on (LOGIN_URL, or the admin)."
    return ""


def _of_system_checks() -> list[CheckMessage]:
    """Return the findings of our system checks, without silenced ones."""
    found = run_checks(tags=["proctree_dagster"])
    return [message for message in found if not message.is_silenced()]


def _ready_home() -> str:
    """Return the folder of Dagster's home, which is created with its storage if it is missing."""
    from ...orchestration.runs import opening  # it imports dagster

    if folder := opening.dagster_home():
        project.create_home(folder)
    with opening.open_instance(persistent=True) as instance:
        return str(instance.root_directory)
