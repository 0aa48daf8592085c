"""The doctor: checks of the Dagster that runs the process trees, each with what to do.

``manage.py proctree doctor`` prints the findings. A check only reads: it creates nothing, repairs
nothing and opens nothing that Dagster would create by opening it. To add one, write a function that
takes a ``Subject`` and yields findings (see ``findings``), and put it into ``CHECKS``. A check that
needs no Dagster is a system check (``services.system_checks``): the command adds their findings.

It is long because all checks are in one list, in their order.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import DagsterInstance
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.db.migrations.executor import MigrationExecutor
from sqlalchemy.exc import SQLAlchemyError

from ... import conf
from ...domain import run_tags
from ...domain.texts import explain
from ...exceptions import ExecutorError, InstanceError
from ...models import ProcessTree
from ...models.validation import executor_names
from ...services import sqlite_options, webserver
from ...support import project
from .. import executors, homes
from ..dagster_features import FEATURES, TEMPLATE, why_off
from ..dagster_internals import InstanceRef, remedy
from ..launcher import WarmRunLauncher
from ..launching import daemons, template_client
from ..launching.releases import Release
from ..runs import opening, origins
from .environments import check_locations, check_versions
from .findings import Check, Finding, Subject
from .queue_limits import check_limits

if TYPE_CHECKING:
    from ..dagster_internals import DaemonHeartbeat

logger = logging.getLogger(__name__)


def examine() -> list[Finding]:
    """Run every check and return the findings, in their order."""
    home = opening.dagster_home()
    with ExitStack() as opened:
        found = []
        try:
            instance = None if home is None else _open_instance(home, opened)
        except Exception as error:  # whatever Dagster raises for what dagster.yaml names
            logger.exception("Dagster's instance can't be opened.")
            instance = None
            found.append(
                Finding(
                    "error",
                    f"Dagster's instance in {home!r} can't be opened: {explain(error)}",
                    "Mend its dagster.yaml; Dagster can't start with it. The log has the trace.",
                )
            )
        subject = Subject(None if home is None else Path(home), instance)
        return found + [finding for check in CHECKS for finding in _findings(check, subject)]


def _open_instance(home: str, opened: ExitStack) -> DagsterInstance | None:
    """Open a home's instance, unless that would create something; other checks report why."""
    if not Path(home).is_dir():
        return None
    if any(finding.level == "error" for finding in _of_storage(home)) or not _is_created(home):
        return None
    return opened.enter_context(DagsterInstance.from_config(home))


def _findings(check: Check, subject: Subject) -> list[Finding]:
    try:
        return list(check(subject))
    except Exception as error:  # one check that fails must not hide what the others find
        logger.exception("The check %r failed.", check.__name__)
        return [
            Finding(
                "error",
                f"The check {check.__name__!r} failed: {explain(error)}",
                "The log has its trace.",
            )
        ]


def check_internals(_: Subject) -> Iterator[Finding]:
    """Report features that are off because this Dagster's internals differ."""
    off = [(feature, why) for feature in FEATURES if (why := why_off(feature)) is not None]
    for feature, why in off:
        yield Finding("warning", feature.message([why]), remedy())
    if not off:
        yield Finding("ok", "Dagster's internals are as proctree-dagster expects them.")


def check_home(subject: Subject) -> Iterator[Finding]:
    """Check the folder: which one it is, and whether it is usable."""
    if subject.home is None:
        yield Finding(
            "warning",
            "Dagster has no home: the history of runs from Python is not kept, and nothing can be "
            "scheduled.",
            'Set PROCTREE["DAGSTER_HOME"] or the environment variable DAGSTER_HOME.',
        )
    elif not subject.home.is_dir() and project.is_default_home(str(subject.home)):
        yield Finding(
            "warning",
            f"Dagster's home {str(subject.home)!r} is not there yet.",
            "It is created when it is first used: run 'python manage.py proctree dev'.",
        )
    elif not subject.home.is_dir():
        yield Finding(
            "error",
            f"Dagster's home {str(subject.home)!r} is not a folder.",
            "Run 'python manage.py proctree home', which creates it; or name another folder.",
        )
    elif not os.access(subject.home, os.W_OK | os.X_OK):
        yield Finding(
            "error",
            f"Dagster's home {str(subject.home)!r} can't be written to by this user; it belongs to "
            f"{_owner(subject.home)}.",
            SAME_USER,
        )
    elif not (subject.home / "dagster.yaml").is_file():
        yield Finding(
            "warning",
            f"Dagster's home {str(subject.home)!r} has no dagster.yaml: Dagster's own launcher, "
            "coordinator and scheduler are used, and runs start slower.",
            f"Copy the packaged one into it: {str(project.TEMPLATE)!r}.",
        )
    else:
        yield Finding("ok", f"Dagster's home is {str(subject.home)!r}.")


SAME_USER = "Run Django and Dagster as the same user, and let Dagster's home belong to it."


def _owner(path: str | Path) -> str:
    """Return the user that a file belongs to, by name if it has one."""
    try:
        return Path(path).owner()
    except KeyError:  # a container may have files of users that it does not know
        return f"the user {Path(path).stat().st_uid}"


def check_database(_: Subject) -> Iterator[Finding]:
    """Examine Django's database: whether it answers, and whether it is migrated."""
    alias = router.db_for_write(ProcessTree)
    connection = connections[alias]
    name = f"Django's database {alias!r}"
    file = connection.settings_dict["NAME"] if connection.vendor == "sqlite" else ""
    if file and not connection.is_in_memory_db() and not Path(file).is_file():  # type: ignore[attr-defined]
        yield Finding("error", f"{name} is not there yet: {str(file)!r}.", MIGRATE)
        return
    try:
        migrations = MigrationExecutor(connection)
        missing = migrations.migration_plan(migrations.loader.graph.leaf_nodes(APP))
    except DatabaseError as error:
        yield Finding(
            "error",
            f"{name} can't be read: {explain(error)}",
            "Start it, or mend DATABASES in the settings.",
        )
        return
    if missing:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing)
        yield Finding("error", f"{name} is not migrated: it lacks {names}.", MIGRATE)
    else:
        yield Finding("ok", f"{name} answers, and is migrated.")


def check_sqlite_options(_: Subject) -> Iterator[Finding]:
    """Report Django's SQLite files with suitable options; W003 reports the others."""
    for alias, problems in sqlite_options.writing(conf.current()).problems.items():
        if sqlite_options.is_shared_file(settings.DATABASES[alias]) and not problems:
            yield Finding("ok", f"The SQLite options of Django's database {alias!r} are in order.")


MIGRATE = "Run 'python manage.py migrate'."

APP = "proctree_dagster"


def check_storage(subject: Subject) -> Iterator[Finding]:
    """Check the databases of the home, without opening an instance."""
    if subject.home is not None and subject.home.is_dir():
        yield from _of_storage(str(subject.home))


def _of_storage(home: str) -> Iterator[Finding]:
    try:
        ref = InstanceRef.from_dir(home)
        databases = homes.databases(ref)
    except Exception as error:  # whatever Dagster raises for a dagster.yaml that it does not take
        logger.debug("dagster.yaml can't be read.", exc_info=True)
        yield Finding(
            "error",
            f"The dagster.yaml of {home!r} can't be used: {type(error).__name__}: {error}",
            "Mend it; Dagster can't start with it.",
        )
        return
    if not databases:
        yield Finding(
            "ok", "Dagster's storage is neither SQLite nor PostgreSQL: it was not examined."
        )
    for database in databases:
        yield _of_database(database, is_guarded=homes.is_guarded(ref))
    if homes.has_wrong_driver(ref):
        yield Finding(
            "error",
            "Dagster's PostgreSQL storage uses psycopg 3, with which its webserver fails "
            '("the connection is closed"): dagster-postgres is written for psycopg 2.',
            "In dagster.yaml, name the storage proctree_dagster.orchestration.postgres."
            "PostgresStorage, or begin its address with postgresql+psycopg2://",
        )


def _of_database(database: homes.Database, *, is_guarded: bool) -> Finding:
    name = f"Dagster's database {database.name}"
    if database.file and Path(database.file).exists() and not os.access(database.file, os.W_OK):
        return Finding(
            "error",
            f"{name} can't be written to by this user: {database.file} belongs to "
            f"{_owner(database.file)}.",
            SAME_USER,
        )
    try:
        state = homes.state_of(database)
    except SQLAlchemyError as error:
        return Finding(
            "error",
            f"{name} can't be read: {error}",
            "Start the database, or mend its address in dagster.yaml and its permissions.",
        )
    if state.is_complete and state.revisions == (homes.newest_revision(),):
        return Finding("ok", f"{name} is in order.")
    if state.is_half_created:
        return Finding(
            "error",
            f"{name} is half created: it has {len(state.revisions)} revisions "
            f"({', '.join(state.revisions) or 'none'}), lacks "
            f"{len(state.missing)} tables ({', '.join(sorted(state.missing)) or 'none'}), and "
            f"{len(state.undone)} data migrations are not done.",
            "Two processes created it at the same moment, or one was ended meanwhile. Run "
            "'python manage.py proctree home', which completes it.",
        )
    if state.revisions:
        return Finding(
            "warning",
            f"{name} is at revision {state.revisions[0]}; this Dagster creates "
            f"{homes.newest_revision()}.",
            "Stop Dagster and run 'dagster instance migrate'.",
        )
    if is_guarded:
        return Finding("ok", f"{name} is created when Dagster first opens it.")
    return Finding(
        "warning",
        f"{name} is not there yet, and Dagster's own storage is broken if two processes open it "
        "at the same moment.",
        "Run 'python manage.py proctree home' before you start Dagster, or add to dagster.yaml: "
        "instance_class: {module: proctree_dagster.orchestration.storage, class: ProctreeInstance}",
    )


def _is_created(home: str) -> bool:
    databases = homes.databases(InstanceRef.from_dir(home))
    return not any(homes.state_of(database).is_empty for database in databases)


def check_daemon(subject: Subject) -> Iterator[Finding]:
    """Check the heartbeats of Dagster's daemon: none, old ones, or those of two daemons."""
    if subject.instance is None:
        return
    beats = subject.instance.get_daemon_heartbeats().values()
    silent_after = conf.DAEMON_SILENT_AFTER.total_seconds()
    fresh = [beat for beat in beats if time.time() - beat.timestamp < silent_after]
    if not beats:
        yield Finding(
            "warning",
            "Dagster's daemon has never run here: nothing is scheduled, and no queue is emptied.",
            "Start it: 'python manage.py proctree dev', or 'dagster-daemon run -w workspace.yaml'.",
        )
    elif not fresh:
        silent = time.time() - max(beat.timestamp for beat in beats)
        yield Finding(
            "error",
            f"Dagster's daemon has been silent for {silent:.0f} seconds: nothing is scheduled, "
            "and no queue is emptied.",
            "Start it again: 'python manage.py proctree dev', or 'dagster-daemon run -w "
            "workspace.yaml'.",
        )
    elif len(several := _several(subject.instance, fresh)) > 1:
        yield Finding(
            "error",
            f"More than one daemon works for this home: {', '.join(several)}.",
            "End all but one: Dagster knows one only. After a restart the old one is named for "
            "two minutes more.",
        )
    else:
        yield Finding("ok", "Dagster's daemon is alive.")
    for beat in fresh:
        if beat.errors:
            yield Finding(
                "warning",
                f"Dagster's daemon reports errors of {beat.daemon_type}: "
                f"{beat.errors[0].message.strip()}",
                "Its log has the trace.",
            )


def _several(instance: DagsterInstance, fresh: "Sequence[DaemonHeartbeat]") -> list[str]:
    """Return the daemons of a home, by their own records, else by Dagster's heartbeats."""
    noted = sorted(daemons.alive(instance))
    return noted if len(noted) > 1 else sorted({str(beat.daemon_id) for beat in fresh})


def check_webserver(subject: Subject) -> Iterator[Finding]:
    """Check whether the webserver answers, and whether it has loaded the code location."""
    url = webserver.graphql_url()
    if url is None:
        yield Finding(
            "warning",
            'PROCTREE["DAGSTER_URL"] is not set: a saved tree is seen within a minute, not at '
            "once.",
            "Set it to the webserver's address; 'python manage.py proctree dev' needs no setting.",
        )
        return
    shown = conf.without_login(url)
    try:
        locations = webserver.code_locations(url)
    except (OSError, ValueError) as error:
        yield Finding(
            "error",
            f"Dagster's webserver does not answer at {shown}: {error}",
            'Start it, or mend PROCTREE["DAGSTER_URL"].',
        )
        return
    yield Finding("ok", f"Dagster's webserver answers at {shown}.")
    location = _of_location(locations)
    yield location
    if location.level == "ok":
        yield from _of_code_server(url)


def _of_code_server(url: str) -> Iterator[Finding]:
    problem = webserver.code_server_problem(url, webserver.some_job())
    if problem is None:
        yield Finding("ok", "The webserver reaches its code server.")
    else:
        yield Finding(
            "error",
            f"The webserver's code server has ended: nothing can be launched in the UI. {problem}",
            "Reload the location in Dagster's UI, or save a tree. A running daemon has it replaced "
            "within two minutes.",
        )


def _of_location(locations: Mapping[str, str]) -> Finding:
    problem = locations.get(run_tags.LOCATION)
    if problem is None:
        return Finding(
            "error",
            f"Dagster's webserver serves no code location {run_tags.LOCATION!r}, but "
            f"{', '.join(map(repr, locations)) or 'none'}.",
            f"Start it with '-w workspace.yaml', and name the location {run_tags.LOCATION!r} there "
            f"(location_name), with the attribute {run_tags.REPOSITORY!r}; "
            "'python manage.py proctree init' writes such a file.",
        )
    if problem:
        return Finding(
            "error",
            f"The code server can't load the code location: {problem}",
            "Mend it, then reload the location in Dagster's UI.",
        )
    return Finding("ok", f"The code location {run_tags.LOCATION!r} is loaded.")


def check_executor(subject: Subject) -> Iterator[Finding]:
    """Check the databases of executors with workers on several machines, which all must reach."""
    try:
        executor = executors.configured_executor()
    except ImproperlyConfigured as error:
        yield Finding("error", str(error), "Mend the setting, or install what it names.")
        return
    name = conf.current().EXECUTOR
    if not executors.may_use_several_machines(executor):
        yield Finding("ok", f"Processes run by the executor {name!r}.")
        return
    files = [
        f"Django's database {alias!r}"
        for alias, connection in connections.databases.items()
        if connection["ENGINE"].endswith(".sqlite3")
    ]
    if subject.instance is not None and any(
        database.file is not None for database in homes.databases(subject.instance.get_ref())
    ):
        files.append("Dagster's storage")
    if files:
        yield Finding(
            "warning",
            f"The executor {name!r} may run processes on several machines, and an SQLite file "
            f"must not be used from more than one: {', '.join(files)}.",
            "Use PostgreSQL for them, or keep every worker on this machine.",
        )
    else:
        yield Finding("ok", f"Processes run by the executor {name!r}, on one or more machines.")


def check_executors_launcher(subject: Subject) -> Iterator[Finding]:
    """Check executors that need a certain run launcher against the configured one.

    The setting is a system check's, if it is a name of the table; the others are imported here.
    """
    if subject.instance is None:
        return
    classes = [each.__name__ for each in type(subject.instance.run_launcher).__mro__]
    for name, trees in _named_executors():
        needed = executor_names.launcher_of(name) or executor_names.launcher_of(
            name, _module_of(name)
        )
        problem = executor_names.problem_of_launcher(name, needed, classes)
        if problem is not None:
            used_by = f"tree{'s' if len(trees) > 1 else ''} {', '.join(map(repr, trees))}"
            yield Finding(
                "error",
                f"{problem} ({classes[0]}): every run {f'of {used_by} ' if trees else ''}fails.",
                executor_names.REMEDY_OF_LAUNCHER,
            )


def _named_executors() -> list[tuple[str, list[str]]]:
    """Return the executors that the setting and trees name, with the names of these trees."""
    found: dict[str, list[str]] = {}
    if (default := conf.current().EXECUTOR) not in executor_names.EXECUTORS:
        found[default] = []
    rows = ProcessTree.objects.exclude(executor="").order_by("name").values_list("executor", "name")
    for executor, tree in rows:
        found.setdefault(executor, []).append(tree)
    return list(found.items())


def _module_of(name: str) -> str:
    """Return an executor's module; blank if a row may not name it, or it can't be imported."""
    if executor_names.problem_of_row(name) is not None:
        return ""
    try:
        return executors.module_of(executors.find_executor(name))
    except ExecutorError:
        return ""  # another check reports it


def check_launcher(subject: Subject) -> Iterator[Finding]:
    """Check whether runs can be forked: import the code location as a template does."""
    if subject.instance is None:
        return
    if not isinstance(subject.instance.run_launcher, WarmRunLauncher):
        launcher = type(subject.instance.run_launcher).__name__
        yield Finding("ok", f"Runs are launched by Dagster's launcher {launcher}, not forked.")
        return
    if why_off(TEMPLATE) is not None:
        return  # another check reports it
    try:
        release = Release.of_origin(origins.code_origin("any").repository_origin)
        reason = template_client.examine(release)
    except (InstanceError, template_client.NoAnswer) as error:
        yield Finding(
            "error",
            f"The code location can't be imported by a run's process: {error}",
            "Mend what the message names.",
        )
        return
    if reason is None:
        yield Finding("ok", "Runs are forked from a process that has everything imported.")
        return
    yield Finding(
        "warning",
        f"Runs are started in plain processes, a second or two slower: {reason}.",
        "Start threads and open connections when they are first used, not when a module is "
        "imported.",
    )


def check_retention(_: Subject) -> Iterator[Finding]:
    """Report how long history is kept."""
    keep = conf.current().KEEP
    said = [f"{key} {rule}" for key, rule in keep.removing().items()]
    own = ProcessTree.objects.exclude(keep_runs="").count()
    if own:
        said.append(f"runs of {own} tree{'s' if own > 1 else ''} as they say themselves")
    known = ", ".join(said) or "all of it for good, as PROCTREE['KEEP'] names no rule"
    yield Finding("ok", f"History is kept: {known}.")


CHECKS: tuple[Check, ...] = (
    check_versions,
    check_internals,
    check_database,
    check_sqlite_options,
    check_home,
    check_storage,
    check_daemon,
    check_webserver,
    check_locations,
    check_executor,
    check_executors_launcher,
    check_launcher,
    check_limits,
    check_retention,
)
"""Every check, in the order in which its findings are printed."""
