"""A small project on a Dagster from which parts of its internals are gone; see its test.

``python -m tests.orchestration.without_internals FOLDER`` imports Django and Dagster once and forks
a process for each feature, which finds none of the names that only that feature needs, loads the
code location, and runs a tree. It prints as JSON what each has seen.
"""

import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import dagster
import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from proctree_dagster.orchestration import dagster_features, dagster_internals
from proctree_dagster.orchestration.dagster_features import Feature
from proctree_dagster.support.project import create_home
from tests.tools.startup.forked_programs import import_once, share

Seen = dict[str, Any]


GONE = "dagster._core.gone"
"""Where nothing is."""


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def take_away(features: Sequence[Feature]) -> None:
    """Let Dagster have nothing of what these features need, and all that others do."""
    others = [each for each in dagster_features.FEATURES if each not in features]
    needed = {name for each in others for name in each.names}
    for feature in features:
        for name in set(feature.names) - needed:
            dagster_internals.NAMES[name] = GONE
    if dagster_features.QUIET_CONSOLE in features:  # it needs no name
        mock.patch.object(dagster, "colored_console_logger", SimpleNamespace()).start()


def live(home: Path, off: Sequence[Feature]) -> Seen:
    """Load the code location, run a tree, and ask the doctor and the system check."""
    said = Said()
    logging.getLogger("proctree_dagster").addHandler(said)
    settings.PROCTREE = {**PROCTREE, "DAGSTER_HOME": str(home)}
    os.environ |= {"PROCTREE_CONSOLE_LEVEL": "CRITICAL", "DAGSTER_HOME": str(home)}

    from proctree_dagster.orchestration.repository import build_repository
    from proctree_dagster.orchestration.runs import opening
    from proctree_dagster.tree_builder import ProcessTreeManager

    jobs = build_repository().get_all_jobs()
    results = ProcessTreeManager().get_tree("small").execute()

    from proctree_dagster.orchestration.inspection import doctor, missing_names
    from proctree_dagster.orchestration.inspection.findings import Subject

    with opening.open_instance(persistent=True) as instance:
        recorded = instance.get_run_by_id(results["run_id"])
        instead = {
            each.key: INSTEAD[each.key](instance, jobs[0]) for each in off if each.key in INSTEAD
        }
    return {
        "jobs": [job.name for job in jobs],
        "results": results["results"],
        "recorded": None if recorded is None else recorded.status.value,
        "instead": instead,
        "doctor": [each.what for each in doctor.check_internals(Subject(home, None))],
        "check": [each.msg for each in missing_names.messages()],
        "said": said.messages,
    }


# What is done instead


def of_threads(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from proctree_dagster.orchestration.executors import configured_executor

    return configured_executor() is dagster.in_process_executor


def of_job_snapshots(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    return type(job) is dagster.JobDefinition


def of_lazy_hosts(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from dagster._api import snapshot_repository

    scheduler = type(instance.scheduler).__name__
    fetch = getattr(snapshot_repository, dagster_features.HOSTS_FETCH)
    return (scheduler, fetch.__module__) == ("LazyHostScheduler", snapshot_repository.__name__)


def of_homes(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from proctree_dagster.orchestration import homes

    return homes.databases(instance.get_ref()) == ()


def of_template(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from proctree_dagster.orchestration.launcher import WarmRunLauncher
    from proctree_dagster.orchestration.launching import template_client
    from proctree_dagster.orchestration.runs import origins

    try:
        WarmRunLauncher._check_forkable(origins.code_origin(job.name).repository_origin)
    except template_client.NoAnswer:  # it goes on with a plain process
        return True
    return False


def of_failures_at_once(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from proctree_dagster.orchestration.runs import summaries

    return summaries.first_failures(instance, ["no run"]) == {"no run": {}}


def of_retry_from_failure(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from proctree_dagster.exceptions import RunError
    from proctree_dagster.orchestration.runs import repeating

    failed = dagster.DagsterRun(job.name, status=dagster.DagsterRunStatus.FAILURE)
    try:
        repeating.again(instance, failed)
    except RunError as error:
        return dagster_features.RETRY_FROM_FAILURE.without in str(error)
    return False


def of_schedule_status(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from proctree_dagster.orchestration.serving.schedule_status import look_at_switches

    look_at_switches(instance)
    return True


def of_output_tail(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from dagster._core.execution import compute_logs

    return compute_logs.tail_to_stream.__module__ == compute_logs.__name__


def of_ticks_together(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from dagster._daemon import daemon  # noqa: F401  # as in the daemon
    from dagster._scheduler import scheduler

    from proctree_dagster.orchestration import ticks_together

    pool = getattr(scheduler, dagster_features.TICKS_EXECUTOR)
    return not ticks_together.install() and pool.__module__.startswith("dagster.")


def of_reused_workers(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from proctree_dagster.orchestration.template import further_runs

    return not further_runs.is_shared({"shared": True}, takes_runs=True)


def of_run_files(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    return type(instance.event_log_storage).__name__ == "SqliteEventLogStorage"


def of_schedule_tables(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    return type(instance.schedule_storage).__name__ == "SqliteScheduleStorage"


def of_queue_polls(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon as Daemon

    from proctree_dagster.orchestration import queue_polls

    before = (Daemon.core_loop, Daemon._get_runs_to_dequeue)
    queue_polls.install()
    return (Daemon.core_loop, Daemon._get_runs_to_dequeue) == before


def of_kept_servers(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from dagster._core.remote_representation.grpc_server_registry import GrpcServerRegistry

    from proctree_dagster.orchestration import kept_servers

    before = GrpcServerRegistry.clear_all_grpc_endpoints
    kept_servers.keep()
    return GrpcServerRegistry.clear_all_grpc_endpoints is before


def of_kept_plans(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from dagster._core.remote_representation.code_location import GrpcServerCodeLocation

    from proctree_dagster.orchestration import kept_plans

    before = GrpcServerCodeLocation.get_execution_plan
    kept_plans.install()
    return GrpcServerCodeLocation.get_execution_plan is before


def of_idle_sensors(instance: dagster.DagsterInstance, job: dagster.JobDefinition) -> bool:
    from dagster._daemon import (
        daemon,  # noqa: F401  # sensor can't be imported before it
        sensor,
    )

    from proctree_dagster.orchestration import idle_sensors

    before = sensor.is_under_min_interval
    idle_sensors.install(instance)
    return sensor.is_under_min_interval is before


INSTEAD: dict[str, Callable[[dagster.DagsterInstance, dagster.JobDefinition], bool]] = {
    "threads": of_threads,
    "job_snapshots": of_job_snapshots,
    "lazy_hosts": of_lazy_hosts,
    "homes": of_homes,
    "template": of_template,
    "output_tail": of_output_tail,
    "reused_workers": of_reused_workers,
    "run_files": of_run_files,
    "idle_sensors": of_idle_sensors,
    "kept_plans": of_kept_plans,
    "kept_servers": of_kept_servers,
    "queue_polls": of_queue_polls,
    "schedule_tables": of_schedule_tables,
    "ticks_together": of_ticks_together,
    "retry_from_failure": of_retry_from_failure,
    "schedule_status": of_schedule_status,
    "failures_at_once": of_failures_at_once,
}
"""By a feature's key: whether Dagster's own way is taken where it is off."""

PROCTREE: dict[str, Any] = {"FUNCTION_MODULES": ["tests"], "MAX_CONCURRENT": 2}


def forked(work: Callable[[], Seen]) -> Seen:
    """Do something in a fork of this process, and return what it returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            seen = work()
        except BaseException:  # noqa: BLE001  # the test shows it
            seen = {"error": traceback.format_exc()}
        with open(writer, "w") as file:  # noqa: PTH123
            json.dump(seen, file)
        os._exit(0)
    os.close(writer)
    with open(reader) as file:  # noqa: PTH123
        found: Seen = json.load(file)
    os.waitpid(pid, 0)
    return found


def main(folder: Path) -> None:
    """Print what is seen with all features, without each by its key, and without any."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    os.environ.pop("DAGSTER_HOME", None)
    from tests import settings as own

    own.DATABASES["default"]["NAME"] = str(folder / "django.sqlite3")
    own.PROCTREE.update(PROCTREE)
    django.setup()
    call_command("migrate", verbosity=0)
    save_tree()
    connections.close_all()
    complete = folder / "complete"
    create_home(str(complete))

    def without(key: str, off: Sequence[Feature]) -> Seen:
        home = folder / key
        if dagster_features.HOMES in off:
            home.mkdir()
            shutil.copy(complete / "dagster.yaml", home)
        elif off:
            shutil.copytree(complete, home)
        take_away(off)
        return live(home, off)

    import_once()  # nothing of this package, which looks for the names when it is imported
    share()
    cases: dict[str, Sequence[Feature]] = {"complete": ()}  # the first: it completes the home
    cases |= {each.key: (each,) for each in dagster_features.FEATURES}
    cases["nothing"] = dagster_features.FEATURES
    print(json.dumps({key: forked(partial(without, key, off)) for key, off in cases.items()}))


def save_tree() -> None:
    """Save a tree of two processes."""
    from proctree_dagster.tree_builder import ProcessTreeInstance

    tree = ProcessTreeInstance("small")
    tree.add_process("one", func="tests.app.processes:one")
    tree.add_process("two", func="tests.app.processes:two", dependencies=["one"])
    tree.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
