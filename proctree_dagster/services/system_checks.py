"""Django system checks of settings, saved rows and databases."""

import inspect
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand
from django.core.management.commands.check import Command as CheckCommand
from django.db import DatabaseError
from django.utils.module_loading import import_string

from .. import conf
from ..context import sensitive
from ..exceptions import InstanceError
from ..models import ProcessTree
from ..models.validation import executor_names
from ..models.validation.tree_validation import processes_of
from ..process import caching
from ..support import project
from . import broken_rows, sqlite_options

logger = logging.getLogger(__name__)


@register("proctree_dagster")
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check ``settings.PROCTREE`` and the settings that schedules depend on."""
    found: list[CheckMessage] = [
        Error(problem, id="proctree_dagster.E001")
        for problem in conf.problems(getattr(settings, "PROCTREE", {}))
    ]
    if not settings.USE_TZ:
        found.append(
            Error(
                "Schedules need time zones, and USE_TZ is False.",
                hint="Set USE_TZ = True.",
                id="proctree_dagster.E002",
            )
        )
    if any(problem.id == "proctree_dagster.E001" for problem in found):
        return found  # nothing more can be read
    current = conf.current()
    return [
        *found,
        *_home_problems(current),
        *_definitions_problems(),
        *_executor_problems(current),
        *_launcher_problems(current),
        *_model_problems(),
        *_secrets_problems(current),
        *_sqlite_problems(current),
        *_shared_database_problems(current),
    ]


@register("proctree_dagster")
def check_saved_rows(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report missing things that saved trees and triggers name, as their runs would fail.

    It reads the database and imports what the rows name, so it runs only where checks are wanted
    (``manage.py check``, tests). Other commands run all checks, too, and a broken row must not
    block them, least of all ``migrate`` or another tree's command.
    """
    if not is_asked_for() or conf.problems(getattr(settings, "PROCTREE", {})):
        return []
    try:
        found = broken_rows.findings()
    except (DatabaseError, ImproperlyConfigured) as error:
        logger.info("Saved trees were not checked, the database can't be read: %s", error)
        return []
    except Exception:  # tests without database access raise errors of their own
        logger.warning("Saved trees were not checked.", exc_info=True)
        return []
    return [
        Error(str(finding), hint=ROWS_HINT, id="proctree_dagster.E007")
        if finding.fails
        else Warning(str(finding), hint=ROWS_HINT, id="proctree_dagster.W005")
        for finding in found
    ]


ROWS_HINT = "Mend the code or the settings, or save the tree again from code that is right."


def is_asked_for() -> bool:
    """Return whether the checks were asked for, and not run before another command."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is BaseCommand.check.__code__:
            return isinstance(frame.f_locals["self"], CheckCommand)
        frame = frame.f_back
    return True


@register(Tags.database)
def check_cache(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn when results are cached where no other process can read them.

    It reads the trees, so it is a database check: ``migrate`` runs it, and ``check --database``.
    """
    if not databases or conf.problems(getattr(settings, "PROCTREE", {})):
        return []
    alias = conf.current().CACHE
    backend = settings.CACHES.get(alias, {}).get("BACKEND")
    if backend is None:
        return [
            Error(
                f'PROCTREE["CACHE"] is {alias!r}, and CACHES has no such alias.',
                id="proctree_dagster.E004",
            )
        ]
    if backend not in caching.FLEETING:
        return []
    try:
        rows = ProcessTree.objects.filter(cache_enabled=True).order_by("name")
        names = [
            name
            for name, processes in rows.values_list("name", "processes")
            if any("cache_key" in each for each in processes_of({"processes": processes}))
        ]
    except DatabaseError:  # not migrated yet
        return []
    if not names:
        return []
    return [
        Warning(
            f"Process trees cache results ({', '.join(map(repr, names))}), and the cache "
            f"{alias!r} ({backend}) dies with each process: no run finds what another cached.",
            hint='Name a shared cache in PROCTREE["CACHE"], such as Redis or the database.',
            id="proctree_dagster.W002",
        )
    ]


def _home_problems(current: conf.Settings) -> list[CheckMessage]:
    home, environment = current.DAGSTER_HOME, os.environ.get("DAGSTER_HOME")
    found: list[CheckMessage] = []
    if home and environment and Path(home).resolve() != Path(environment).resolve():
        found.append(
            Error(
                f'PROCTREE["DAGSTER_HOME"] is {home!r}, and the environment says '
                f"{environment!r}: Django and Dagster would keep two histories.",
                hint="Make them the same, or leave one of them out.",
                id="proctree_dagster.E003",
            )
        )
    elif home and not Path(home).is_dir():
        found.append(
            Warning(
                f'PROCTREE["DAGSTER_HOME"] is {home!r}, which is not a folder.',
                hint="Create it, with a dagster.yaml.",
                id="proctree_dagster.W001",
            )
        )
    elif not home and (default := project.home()) is not None:
        parent = Path(default).parent
        if not Path(default).is_dir() and not os.access(parent, os.W_OK | os.X_OK):
            found.append(
                Warning(
                    f"Dagster's home {default!r} is not there, and this user can't create it.",
                    hint='Let it write there, or name another folder in PROCTREE["DAGSTER_HOME"].',
                    id="proctree_dagster.W001",
                )
            )
    return found


def _definitions_problems() -> list[CheckMessage]:
    try:
        project.working_directory()
    except InstanceError as error:
        return [Error(str(error), id="proctree_dagster.E008")]
    return []


def _executor_problems(current: conf.Settings) -> list[CheckMessage]:
    problem = executor_names.problem_of_name(current.EXECUTOR)
    if problem is None:
        return []
    return [Error(f'PROCTREE["EXECUTOR"]: {problem}.', id="proctree_dagster.E005")]


def _secrets_problems(current: conf.Settings) -> list[CheckMessage]:
    """Import the function of secrets, where checks are wanted: it may need all of the project."""
    if not isinstance(current.SECRETS, str) or not is_asked_for():
        return []
    try:
        found = callable(import_string(current.SECRETS))
        why = "" if found else "it is no function"
    except ImportError as error:
        why = str(error)
    if not why:
        return []
    said = f'PROCTREE["SECRETS"] is {current.SECRETS!r}, which can\'t be used: {why}.'
    return [Error(said, id="proctree_dagster.E011")]


def _launcher_problems(current: conf.Settings) -> list[CheckMessage]:
    """Find an executor of the table that the run launcher of ``dagster.yaml`` can't serve."""
    home = project.home()
    if home is None or not Path(home).is_dir():
        return []
    named = project.dagster_yaml(home)
    launcher = None if named is None else named.get("run_launcher") or DEFAULT_LAUNCHER
    if not isinstance(launcher, dict) or not _is_of_a_package(str(launcher.get("module"))):
        return []  # a project's own launcher may be a subclass of the needed one
    problem = executor_names.problem_of_launcher(
        current.EXECUTOR,
        executor_names.launcher_of(current.EXECUTOR),
        [str(launcher.get("class"))],
    )
    if problem is None:
        return []
    return [
        Error(
            f"{problem} ({launcher.get('class')}): every run fails.",
            hint=executor_names.REMEDY_OF_LAUNCHER,
            id="proctree_dagster.E009",
        )
    ]


DEFAULT_LAUNCHER = {"module": "dagster", "class": "DefaultRunLauncher"}
"""Dagster's default run launcher, where ``dagster.yaml`` names none."""


def _is_of_a_package(module: str) -> bool:
    return module.split(".")[0].startswith(("dagster", "proctree_dagster"))


def _model_problems() -> list[CheckMessage]:
    uses: tuple[sensitive.Use, ...] = ("CONTEXT_MODELS", "TRIGGER_MODELS")
    return [
        Error(
            f'PROCTREE["{use}"] names {entry!r}, which is neither an installed app nor a model.',
            hint="Write an app's label, such as 'ledger', or a model's, such as 'ledger.Account'.",
            id="proctree_dagster.E006",
        )
        for use in uses
        for entry in sensitive.unknown_entries(use)
    ]


def _sqlite_problems(current: conf.Settings) -> list[CheckMessage]:
    """Warn of SQLite databases whose options don't suit their concurrent writers."""
    writing = sqlite_options.writing(current)
    return [
        Warning(
            f"{writing.why}, and the SQLite database {alias!r} is not set up for that: "
            f"{'; '.join(problems)}. Some will fail with 'database is locked'.",
            hint='OPTIONS: {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": '
            f'"PRAGMA journal_mode=WAL;"}}{writing.instead}.',
            id="proctree_dagster.W003",
        )
        for alias, problems in writing.problems.items()
        if problems
    ]


def _shared_database_problems(current: conf.Settings) -> list[CheckMessage]:
    """Warn of SQLite where processes may run on other machines, which can't open its file."""
    if not executor_names.runs_on_several_machines(current.EXECUTOR):
        return []
    return [
        Warning(
            f"The executor {current.EXECUTOR!r} may run processes on several machines, and the "
            f"database {alias!r} is an SQLite file, which must not be used from more than one.",
            hint="Use PostgreSQL, or keep every worker on this machine and silence "
            "proctree_dagster.W004.",
            id="proctree_dagster.W004",
        )
        for alias, database in settings.DATABASES.items()
        if sqlite_options.is_sqlite(database)
    ]
