"""The live repository: Dagster is served what the database says now, without restarts.

Dagster keeps the repository and calls the methods of its data anew, from gRPC threads, at every
refresh, look-up and tick. A refresh asks many times, so the listing methods share one query for a
second; a look-up by name reads its one row fresh. Jobs are kept by revision: only what has changed
is built again.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import AbstractSet  # noqa: UP035  # as the overridden method says it

from dagster import (
    DagsterInstance,
    JobDefinition,
    RepositoryData,
    RepositoryDefinition,
    ResourceDefinition,
    ScheduleDefinition,
    SensorDefinition,
)
from dagster._core.errors import DagsterInvariantViolationError
from django.db import DatabaseError
from django.db.models import prefetch_related_objects

from .. import conf, tags
from ..connections import fresh_connections
from ..models import ProcessTree
from ..names import dagster_name
from ..process import explain
from . import runs, sensors, template_client
from .records import TreeRecord, from_row
from .switches import look_at_switches
from .translator import ProcessTreeTranslator, translator

logger = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 1.0
"""How long one query serves the listing methods."""

SWITCHES_SECONDS = 30.0
"""How long what is known of Dagster's switches is good enough."""

_UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError)
"""What Python raises when SQL has put something into a row that can't be read."""

Key = tuple[object, ...]
"""What a job was built of: while it stays the same, so does the job."""


class LiveRepositoryData(RepositoryData):
    """Reads the database whenever it is asked."""

    def __init__(self, translator: ProcessTreeTranslator) -> None:
        self._translator = translator
        self._lock = threading.RLock()
        self._rows: dict[str, ProcessTree] = {}
        self._sensors: list[SensorDefinition] = []
        self._read_at: float | None = None
        self._switches_at: float | None = None
        self._open = ExitStack()
        self._instance: DagsterInstance | None = None
        self._jobs: dict[str, tuple[Key, JobDefinition]] = {}
        self._told: dict[str, str | None] = {}

    def get_top_level_resources(self) -> Mapping[str, ResourceDefinition]:
        """None: a tree's run needs its context only."""
        return {}

    def get_env_vars_by_top_level_resource(self) -> Mapping[str, AbstractSet[str]]:
        """None."""
        return {}

    def get_all_jobs(self) -> Sequence[JobDefinition]:
        """Every tree's job."""
        return [self._build(row) for row in self._snapshot().values()]

    def get_job_names(self) -> Sequence[str]:
        """Every tree's job name; builds nothing."""
        return list(self._snapshot())

    def has_job(self, job_name: str) -> bool:
        """Whether a tree has that job name."""
        return not job_name.startswith("__ASSET_JOB") and (
            job_name in self._snapshot() or self._fresh(job_name) is not None
        )

    def get_job(self, job_name: str) -> JobDefinition:
        """Build one tree's job, as the tree is now."""
        return self._build(self._get(job_name))

    def get_all_schedules(self) -> Sequence[ScheduleDefinition]:
        """Every schedule, of disabled and of broken trees too: Dagster forgets what vanishes."""
        self._look_at_switches()
        return [
            self._schedule(row)
            for row in self._snapshot().values()
            if row.schedule_or_none is not None
        ]

    def get_schedule_names(self) -> Sequence[str]:
        """Every schedule's name; builds nothing."""
        return [
            f"{job_name}{tags.SCHEDULE_SUFFIX}"
            for job_name, row in self._snapshot().items()
            if row.schedule_or_none is not None
        ]

    def has_schedule(self, schedule_name: str) -> bool:
        """Whether a tree has that schedule."""
        return self._scheduled(schedule_name) is not None

    def get_schedule(self, schedule_name: str) -> ScheduleDefinition:
        """Build one schedule, as it is now."""
        row = self._scheduled(schedule_name)
        if row is None:
            raise DagsterInvariantViolationError(
                f"There is no schedule {schedule_name!r}: its process tree was deleted, or has "
                "no schedule any more."
            )
        return self._schedule(row)

    def get_all_sensors(self) -> Sequence[SensorDefinition]:
        """One that delivers the outbox, and one for each trigger that is polled."""
        self._snapshot()
        return self._sensors

    def has_sensor(self, sensor_name: str) -> bool:
        """Whether there is that sensor."""
        return self._find_sensor(sensor_name) is not None

    def get_sensor(self, sensor_name: str) -> SensorDefinition:
        """Build the sensors, but no tree: each tick asks for its one."""
        sensor = self._find_sensor(sensor_name)
        if sensor is None:
            raise DagsterInvariantViolationError(
                f"There is no sensor {sensor_name!r}: its trigger was deleted, or no tree "
                "subscribes to it any more."
            )
        return sensor

    def _find_sensor(self, sensor_name: str) -> SensorDefinition | None:
        with fresh_connections():
            found = sensors.all_sensors(self._translator)
        return next((sensor for sensor in found if sensor.name == sensor_name), None)

    def get_component_tree(self) -> None:
        """None: nothing here is a component."""
        return None

    def load_all_definitions(self) -> None:
        """Build everything once (``dagster definitions validate`` asks for it)."""
        self.get_all_jobs()
        self.get_all_schedules()
        self.get_all_sensors()

    def _snapshot(self) -> dict[str, ProcessTree]:
        with self._lock:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at > SNAPSHOT_SECONDS:
                with fresh_connections():
                    rows = self._read()
                    self._sensors = sensors.all_sensors(self._translator)
                self._rows = {row.job_name: row for row in map(_named, rows)}
                self._read_at = now
                for gone in self._jobs.keys() - self._rows.keys():
                    del self._jobs[gone]
            return self._rows

    def _look_at_switches(self) -> None:
        """Write down what was switched in Dagster's UI, once for the many listings of a refresh."""
        with self._lock:
            now = time.monotonic()
            if self._switches_at is not None and now - self._switches_at < SWITCHES_SECONDS:
                return
            self._switches_at = now
        if runs.dagster_home() is None:
            return
        try:
            if self._instance is None:  # kept open: opening one costs more than asking it
                self._instance = self._open.enter_context(runs.open_instance())
            with fresh_connections():
                look_at_switches(self._instance)
        except Exception:  # the list of schedules must not fail for what is only reported
            logger.exception("Dagster's switches of the schedules can't be read.")

    def _read(self) -> list[ProcessTree]:
        try:
            trees = ProcessTree.objects.with_schedules().with_links().with_subscriptions()
            return list(trees)
        except DatabaseError as error:
            raise DagsterInvariantViolationError(
                f"The process trees can't be read: {error}. Is the database there, and has "
                "'python manage.py migrate' been run?"
            ) from error
        except Exception:  # one row that can't be read must not hide the others
            logger.exception("The process trees can't be read together; reading them one by one.")
            return [_read_one(pk) for pk in ProcessTree.objects.values_list("pk", flat=True)]

    def _fresh(self, job_name: str) -> ProcessTree | None:
        named = ProcessTree.objects.filter(job_name=job_name)
        with fresh_connections():
            try:
                return named.with_schedules().first()
            except _UNREADABLE:
                return _read_one(named.values_list("pk", flat=True).get())

    def _get(self, job_name: str) -> ProcessTree:
        with fresh_connections():
            row = self._fresh(job_name) or self._snapshot().get(job_name)
            # What a revision needs, and a tick does without.
            whole = [row] if row is not None else []
            prefetch_related_objects(whole, "links_out", "subscriptions__trigger")
        if row is None:
            raise DagsterInvariantViolationError(
                f"There is no process tree with the job name {job_name!r}: it was deleted."
            )
        return row

    def _scheduled(self, schedule_name: str) -> ProcessTree | None:
        job_name = schedule_name.removesuffix(tags.SCHEDULE_SUFFIX)
        row = self._fresh(job_name) or self._snapshot().get(job_name)
        return row if row is not None and row.schedule_or_none is not None else None

    def _build(self, row: ProcessTree) -> JobDefinition:
        """Build a tree's job, or return the one that was built of the same revision."""
        key = (row.pk, row.name, row.revision)
        with self._lock:
            kept = self._jobs.get(row.job_name)
            if kept is not None and kept[0] == key:
                return kept[1]
            with fresh_connections():  # importing a function's module may ask the database
                record = from_row(row)
            try:
                job = self._translator.job(record)
            except Exception as error:  # a translator's fault breaks this tree only
                logger.exception("The process tree %r can't be translated.", row.name)
                # With nothing of the row but its name: whatever it holds may be at fault.
                record = replace(record, spec=None, problem=explain(error), default_context={})
                job = ProcessTreeTranslator().job(record)
            if record.problem is None:  # what is broken may be mended without a new revision
                self._jobs[row.job_name] = (key, job)
            self._tell(row.job_name, record)
            return job

    def _tell(self, job_name: str, record: TreeRecord) -> None:
        """Log that a tree is broken, or no longer; once, not at every look."""
        if self._told.get(job_name) == record.problem:
            return
        self._told[job_name] = record.problem
        if record.problem is None:
            logger.info("The process tree %r is whole again.", record.name)
        else:
            logger.error("The process tree %r is broken: %s", record.name, record.problem)

    def _schedule(self, row: ProcessTree) -> ScheduleDefinition:
        try:
            return self._translator.schedule(row.schedule)
        except Exception:  # a translator's fault must not make the schedule vanish
            logger.exception("The schedule of %r can't be translated.", row.name)
            return ProcessTreeTranslator().schedule(row.schedule)


def _read_one(pk: int) -> ProcessTree:
    """Read one tree; of one that can't be read, what can."""
    try:
        return ProcessTree.objects.with_schedules().get(pk=pk)
    except _UNREADABLE as error:
        row = ProcessTree.objects.only("pk", "name", "job_name").get(pk=pk)
        row.description, row.cache_enabled = "", True
        row.processes = f"It can't be read: {explain(error)}"
        row._state.fields_cache["schedule"] = None
        return row


def _named(row: ProcessTree) -> ProcessTree:
    """Give a row a job name that Dagster takes, if it has none (it was saved past the model)."""
    if not row.job_name or dagster_name(row.job_name) != row.job_name:
        row.job_name = dagster_name(row.job_name or row.name)
    return row


def build_repository() -> RepositoryDefinition:
    """Return the repository of the code location; ``definitions`` hands it to Dagster."""
    home = conf.current().DAGSTER_HOME
    if home and not os.environ.get("DAGSTER_HOME"):
        logger.warning(
            "Dagster was started without DAGSTER_HOME, and PROCTREE['DAGSTER_HOME'] is %r: runs "
            "from Django and runs from here are kept in two histories.",
            home,
        )
    if runs.dagster_home() is not None:
        if conf.current().POOLS:
            with runs.open_instance():
                pass  # opening it sets the sizes of the pools
        template_client.tell_reloaded(str(runs.dagster_home()))
    return RepositoryDefinition(
        tags.REPOSITORY,
        repository_data=LiveRepositoryData(translator()),
        description="The process trees in Django's database, as they are now.",
    )
