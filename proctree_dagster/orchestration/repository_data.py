"""The repository's jobs, schedules and sensors, read from the database whenever Dagster asks.

Dagster holds the repository and calls the methods of its data from gRPC threads at every refresh,
look-up and tick. A refresh makes many calls, so the listing methods share one query for a second; a
look-up by name always reads its one row. A job's entry in the list is cached by revision: only
changed jobs are built again.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import AbstractSet, NamedTuple  # noqa: UP035  # as the overridden method says it

from dagster import (
    DagsterInstance,
    DagsterInvariantViolationError,
    JobDefinition,
    RepositoryData,
    ResourceDefinition,
    ScheduleDefinition,
    SensorDefinition,
)
from django.db import DatabaseError
from django.db.models import prefetch_related_objects

from .. import functions
from ..domain import run_tags
from ..domain.names import dagster_name
from ..domain.texts import explain
from ..exceptions import FunctionError
from ..models import (
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    TriggerSubscription,
)
from ..models.validation.tree_validation import references
from ..support.connections import fresh_connections
from ..support.row_reading import UNREADABLE, readable
from .automation import outbox_sensor
from .configured import is_standard
from .runs import opening, run_taking
from .serving import due_together
from .serving.job_snapshots import SnapshotJob, snapshot_job
from .serving.schedule_status import look_at_switches
from .translator import ProcessTreeTranslator
from .tree_records import TreeRecord, from_row

logger = logging.getLogger(__name__)

Key = tuple[object, ...]
"""The inputs of a job's building: while they are the same, the cached job is valid."""

SNAPSHOT_SECONDS = 1.0
"""Seconds that one query serves the listing methods."""

SWITCHES_SECONDS = 30.0
"""Seconds that the known state of Dagster's switches is valid."""

MAX_FULL_JOBS = 200
"""Size of the LRU cache of full JobDefinitions (about 100 KiB each).

For all other jobs only the compressed snapshot is cached (about 3 KiB; see
``serving.job_snapshots``).
"""


class Built(NamedTuple):
    """A cached job, the inputs of its building, and the problem of its tree."""

    key: Key
    job: JobDefinition
    problem: str | None


class LiveRepositoryData(RepositoryData):
    """Reads the database at each call.

    Dagster calls it from several threads. Listings wait for each other, so that two hosts share the
    work of a refresh; the look-up of one job or schedule waits for no listing.
    """

    def __init__(self, translator: ProcessTreeTranslator) -> None:
        self._translator = translator
        self._lock = threading.Lock()
        """Guards the caches, briefly."""
        self._reading = threading.Lock()
        self._listing = threading.Lock()
        self._rows: dict[str, ProcessTree] = {}
        self._sensors: list[SensorDefinition] = []
        self._read_at: float | None = None
        self._switches_at: float | None = None
        self._open = ExitStack()
        self._instance: DagsterInstance | None = None
        self._full_jobs: OrderedDict[str, Built] = OrderedDict()
        self._listed: dict[str, Built] = {}
        self._scheduled: list[ScheduleDefinition] = []
        self._listed_of: dict[str, ProcessTree] | None = None
        self._scheduled_of: dict[str, ProcessTree] | None = None
        self._logged: dict[str, str | None] = {}

    def get_top_level_resources(self) -> Mapping[str, ResourceDefinition]:
        """None: a tree's run needs its context only."""
        return {}

    def get_env_vars_by_top_level_resource(self) -> Mapping[str, AbstractSet[str]]:
        """None."""
        return {}

    def get_all_jobs(self) -> Sequence[JobDefinition]:
        """Every tree's job, reduced to what a list needs (see ``serving.job_snapshots``)."""
        with self._listing:
            rows = self._snapshot()
            if rows is not self._listed_of:
                with functions.failing_once():
                    self._listed = {name: self._list(row) for name, row in rows.items()}
                self._listed_of = rows
                self._keep_for_this_refresh(rows)
                for gone in self._logged.keys() - rows.keys():
                    del self._logged[gone]
            return [
                job.copy(listed=True) if isinstance(job, SnapshotJob) else job
                for _, job, _ in self._listed.values()
            ]

    def get_job_names(self) -> Sequence[str]:
        """Every tree's job name; builds nothing."""
        return list(self._snapshot())

    def has_job(self, job_name: str) -> bool:
        """Whether a tree has that job name."""
        if job_name.startswith("__ASSET_JOB"):
            return False
        with fresh_connections():
            is_there = ProcessTree.objects.filter(job_name=job_name).exists()
        return is_there or job_name in self._snapshot()

    def get_job(self, job_name: str) -> JobDefinition:
        """Return the job of the present tree; built only if it differs from the listed one.

        Called by the worker of a run, it takes the run, before Dagster starts it.
        """
        with fresh_connections():  # one for both, in a run's worker
            run_taking.take_if_worker()
            row = self._read_one(job_name)
        listed = self._listed.get(job_name)
        if listed is not None and listed.key == _key(row) and listed.problem is None:
            return listed.job.copy() if isinstance(listed.job, SnapshotJob) else listed.job
        return self._build(row).job

    def get_all_schedules(self) -> Sequence[ScheduleDefinition]:
        """Every schedule, of disabled and broken trees, too: Dagster forgets vanished schedules."""
        self._look_at_switches()
        with self._listing:
            rows = self._snapshot()
            if rows is not self._scheduled_of:
                self._scheduled = [self._schedule(each) for each in _schedules(rows)]
                self._scheduled_of = rows
                self._keep_for_this_refresh(rows)
            return self._scheduled

    def get_schedule_names(self) -> Sequence[str]:
        """Every schedule's name; builds nothing."""
        with fresh_connections():  # one that was written past the model is given a name
            return [each.name_in_dagster() for each in _schedules(self._snapshot())]

    def has_schedule(self, schedule_name: str) -> bool:
        """Whether a tree has that schedule."""
        return self._find_schedule(schedule_name) is not None

    def get_schedule(self, schedule_name: str) -> ScheduleDefinition:
        """Build one schedule, as it is now; or the one that stands for several."""
        if schedule_name == run_tags.DUE_TOGETHER and self.evaluates_together:
            return due_together.definition(
                lambda row: self._build(_named(row)).job,
                same_plan=is_standard(self._translator),
            )
        schedule = self._find_schedule(schedule_name)
        if schedule is None:
            raise DagsterInvariantViolationError(
                f"There is no schedule {schedule_name!r}: its process tree was deleted, or has "
                "no schedule of this name any more."
            )
        return self._schedule(schedule)

    @property
    def evaluates_together(self) -> bool:
        """Whether no translator of the project's changes what a tick does."""
        return type(self._translator).schedule is ProcessTreeTranslator.schedule

    def get_all_sensors(self) -> Sequence[SensorDefinition]:
        """Return the sensor that delivers the outbox, and one for each polled trigger."""
        self._snapshot()
        return self._sensors

    def has_sensor(self, sensor_name: str) -> bool:
        """Whether there is that sensor."""
        return self._find_sensor(sensor_name) is not None

    def get_sensor(self, sensor_name: str) -> SensorDefinition:
        """Build one sensor of the present rows, as each tick needs only its own."""
        sensor = self._find_sensor(sensor_name)
        if sensor is None:
            raise DagsterInvariantViolationError(
                f"There is no sensor {sensor_name!r}: its trigger was deleted, or no tree "
                "subscribes to it any more."
            )
        return sensor

    def _find_sensor(self, sensor_name: str) -> SensorDefinition | None:
        with fresh_connections():
            return outbox_sensor.find_sensor(self._translator, sensor_name)

    def get_component_tree(self) -> None:
        """None: nothing here is a component."""
        return None

    def load_all_definitions(self) -> None:
        """Build everything once (``dagster definitions validate`` calls it)."""
        self.get_all_jobs()
        self.get_all_schedules()
        self.get_all_sensors()

    def import_functions(self) -> None:
        """Import what the trees name, and what building a job needs; caches next to nothing."""
        with fresh_connections():
            rows = self._read()
        for reference in {each for row in rows for each in references(row.to_dict())}:
            with suppress(FunctionError):  # its tree's run reports it
                functions.resolve(reference)
        if rows:  # a translator of the project's own is asked for each run
            self._build(_named(rows[0]), cache=is_standard(self._translator))

    def _snapshot(self) -> dict[str, ProcessTree]:
        """Return every tree by its job name, as the database had it within the last second."""
        with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at > SNAPSHOT_SECONDS:
                with fresh_connections():
                    rows = self._read()
                    self._sensors = outbox_sensor.all_sensors(self._translator)
                self._rows = {row.job_name: row for row in map(_named, rows)}
                # Dated after the read, or a slow read of many rows would be repeated for each call.
                self._read_at = time.monotonic()
            return self._rows

    def _keep_for_this_refresh(self, rows: dict[str, ProcessTree]) -> None:
        """Extend the rows' validity by a second: a slow refresh must not read them again."""
        with self._reading:
            if rows is self._rows:
                self._read_at = time.monotonic()

    def _look_at_switches(self) -> None:
        """Record switches made in Dagster's UI, once for the many listings of a refresh."""
        with self._lock:
            now = time.monotonic()
            if self._switches_at is not None and now - self._switches_at < SWITCHES_SECONDS:
                return
            self._switches_at = now
        if opening.dagster_home() is None:
            return
        try:
            if self._instance is None:  # stays open: opening it costs more than a query
                self._instance = self._open.enter_context(opening.open_instance())
            with fresh_connections():
                look_at_switches(self._instance)
        except Exception:  # an error of a mere report must not fail the list of schedules
            logger.exception("Dagster's switches of the schedules can't be read.")

    def _read(self) -> list[ProcessTree]:
        try:
            rows = ProcessTree.objects.each()
            TreeLink.read_for(rows)
            TriggerSubscription.read_for(rows)
        except DatabaseError as error:
            raise DagsterInvariantViolationError(
                f"The process trees can't be read: {error}. Is the database there, and has "
                "'python manage.py migrate' been run?"
            ) from error
        return rows

    def _fresh(self, job_name: str) -> ProcessTree | None:
        """Return a tree as its row is now, with its default schedule alone."""
        rows = ProcessTree.objects.filter(job_name=job_name)
        try:
            return rows.with_default_schedule().first()
        except UNREADABLE:
            return next(iter(rows.each()), None)

    def _find(self, job_name: str) -> ProcessTree | None:
        return self._fresh(job_name) or self._snapshot().get(job_name)

    def _get(self, job_name: str) -> ProcessTree:
        with fresh_connections():
            return self._read_one(job_name)

    def _read_one(self, job_name: str) -> ProcessTree:
        row = self._find(job_name)
        if row is None:
            raise DagsterInvariantViolationError(
                f"There is no process tree with the job name {job_name!r}: it was deleted."
            )
        # Needed for a revision, not for a tick.
        if row.known_subscriptions is None:
            prefetch_related_objects([row], "links_out")
            row.known_subscriptions = readable(row.subscriptions.with_names_of_triggers())
        return row

    def _find_schedule(self, schedule_name: str) -> ProcessTreeSchedule | None:
        """Return a schedule as its row is now; of an unreadable one, what can be read of it."""
        with fresh_connections():
            found = ProcessTreeSchedule.objects.filter(dagster_name=schedule_name)
            try:
                schedule = found.select_related("process_tree").first()
            except UNREADABLE:
                pks = found.values_list("process_tree", flat=True)
                rows = map(_named, ProcessTree.objects.filter(pk__in=list(pks)).each())
                schedules = [each for row in rows for each in row.all_schedules()]
                named = (each for each in schedules if each.dagster_name == schedule_name)
                return next(named, None)
            if schedule is not None:
                _named(schedule.process_tree)
        return schedule

    def _list(self, row: ProcessTree) -> Built:
        """Return a tree's job for a list; built again only if the tree has changed."""
        cached = self._listed.get(row.job_name)
        if (
            cached is not None
            and cached.key == _key(row)
            # A broken tree may be repaired without a new revision.
            and (cached.problem is None or cached.problem == self._record(row).problem)
        ):
            return cached
        built, name = self._build(row, cache=False), row.job_name
        stand_in = snapshot_job(built.job, lambda: self._full_job(name))
        return built if stand_in is None else built._replace(job=stand_in)

    def _full_job(self, job_name: str) -> JobDefinition:
        row = self._rows.get(job_name) or self._get(job_name)
        return self._build(row).job

    def _build(self, row: ProcessTree, *, cache: bool = True) -> Built:
        """Build a tree's job, or return the cached one of the same revision."""
        key = _key(row)
        with self._lock:
            cached = self._full_jobs.get(row.job_name)
            if cached is not None and cached.key == key:
                self._full_jobs.move_to_end(row.job_name)
                return cached
        record = self._record(row)
        try:
            job = self._translator.job(record)
        except Exception as error:  # a translator's error breaks this tree only
            logger.exception("The process tree %r can't be translated.", row.name)
            # With nothing of the row but its name, as any other value may cause the error.
            record = replace(record, spec=None, problem=explain(error), default_context={})
            job = ProcessTreeTranslator().job(record)
        built = Built(key, job, record.problem)
        with self._lock:
            if cache and record.problem is None:  # a broken tree may be repaired
                self._full_jobs[row.job_name] = built
                if len(self._full_jobs) > MAX_FULL_JOBS:
                    self._full_jobs.popitem(last=False)
            self._log_problem(row.job_name, record)
        return built

    def _record(self, row: ProcessTree) -> TreeRecord:
        with fresh_connections():  # importing a function's module may ask the database
            return from_row(row)

    def _log_problem(self, job_name: str, record: TreeRecord) -> None:
        """Log that a tree is broken, or no longer broken; once, not at every refresh."""
        if self._logged.get(job_name) == record.problem:
            return
        self._logged[job_name] = record.problem
        if record.problem is None:
            logger.info("The process tree %r is whole again.", record.name)
        else:
            logger.error("The process tree %r is broken: %s", record.name, record.problem)

    def _schedule(self, schedule: ProcessTreeSchedule) -> ScheduleDefinition:
        with fresh_connections():  # one that was written past the model is given a name
            try:
                return self._translator.schedule(schedule)
            except Exception:  # a translator's error must not make the schedule vanish
                logger.exception("The schedule of %r can't be translated.", schedule.title)
                return ProcessTreeTranslator().schedule(schedule)


def _schedules(rows: Mapping[str, ProcessTree]) -> list[ProcessTreeSchedule]:
    return [schedule for row in rows.values() for schedule in row.all_schedules()]


def _key(row: ProcessTree) -> Key:
    return (row.pk, row.name, row.revision)


def _named(row: ProcessTree) -> ProcessTree:
    """Give a row a job name that Dagster takes, if it has none (it was saved past the model)."""
    if not row.job_name or dagster_name(row.job_name) != row.job_name:
        row.job_name = dagster_name(row.job_name or row.name)
    return row
