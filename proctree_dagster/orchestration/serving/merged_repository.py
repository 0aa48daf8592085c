"""A project's own Dagster definitions (assets, sensors, other jobs), served beside the trees."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import AbstractSet  # noqa: UP035  # as the overridden method says it

from dagster import (
    AssetCheckKey,
    AssetChecksDefinition,
    AssetKey,
    AssetsDefinition,
    DagsterInvalidDefinitionError,
    JobDefinition,
    RepositoryData,
    RepositoryDefinition,
    ResourceDefinition,
    ScheduleDefinition,
    SensorDefinition,
    SourceAsset,
)

from ...domain import run_tags
from ...support.connections import fresh_connections
from ..runs import run_taking

logger = logging.getLogger(__name__)


class MergedRepositoryData(RepositoryData):
    """Serves the trees, and the project's own definitions.

    A name belongs to the tree that has it: its runs and schedules in Django's database must not
    change their meaning. A definition of the project with that name is left out, with all that
    targets it, and an error is logged; ``dagster definitions validate`` fails.

    Parameters
    ----------
    trees:
        The trees of the database.
    own:
        The project's own definitions, which never change while the process lives.
    """

    def __init__(self, trees: RepositoryData, own: RepositoryDefinition) -> None:
        self._trees = trees
        self._own = own
        self._said: set[str] = set()
        for name in run_tags.SENSORS:
            if own.has_sensor_def(name):
                raise DagsterInvalidDefinitionError(
                    f"The sensor {name!r} is proctree-dagster's: rename yours."
                )

    # --- Jobs ---

    def get_all_jobs(self) -> Sequence[JobDefinition]:
        """Return the trees' and the project's."""
        hidden = self._hidden_jobs()
        own = [job for job in self._own.get_all_jobs() if job.name not in hidden]
        return [*self._trees.get_all_jobs(), *own]

    def get_job_names(self) -> Sequence[str]:
        """Return the trees' and the project's."""
        return _without_double(self._trees.get_job_names(), self._own.job_names)

    def has_job(self, job_name: str) -> bool:
        """Return whether there is that job."""
        return self._own.has_job(job_name) or self._trees.has_job(job_name)

    def get_job(self, job_name: str) -> JobDefinition:
        """Return the tree's, or else the project's. For the worker of a run it takes the run."""
        if not self._own.has_job(job_name) or self._trees.has_job(job_name):
            return self._trees.get_job(job_name)
        with fresh_connections():  # the run's functions may need it in an hour, or never
            run_taking.take_if_worker()
        return self._own.get_job(job_name)

    # --- Schedules and sensors ---

    def get_all_schedules(self) -> Sequence[ScheduleDefinition]:
        """Return the trees' and the project's."""
        trees = self._trees.get_all_schedules()
        left_out = self._hidden_jobs(), {schedule.name for schedule in trees}
        own = [each for each in self._own.schedule_defs if not _is_hidden(each, *left_out)]
        return [*trees, *own]

    def get_schedule_names(self) -> Sequence[str]:
        """Return the trees' and the project's."""
        own = [schedule.name for schedule in self._own.schedule_defs]
        return _without_double(self._trees.get_schedule_names(), own)

    def has_schedule(self, schedule_name: str) -> bool:
        """Return whether there is that schedule."""
        return self._own.has_schedule_def(schedule_name) or self._trees.has_schedule(schedule_name)

    def get_schedule(self, schedule_name: str) -> ScheduleDefinition:
        """Return the tree's, or else the project's."""
        of_tree = not self._own.has_schedule_def(schedule_name)
        if of_tree or self._trees.has_schedule(schedule_name):
            return self._trees.get_schedule(schedule_name)
        return self._own.get_schedule_def(schedule_name)

    def get_all_sensors(self) -> Sequence[SensorDefinition]:
        """Return those of triggers, the outbox's, and the project's."""
        trees = self._trees.get_all_sensors()
        left_out = self._hidden_jobs(), {sensor.name for sensor in trees}
        own = [each for each in self._own.sensor_defs if not _is_hidden(each, *left_out)]
        return [*trees, *own]

    def get_sensor_names(self) -> Sequence[str]:
        """Return those of triggers, the outbox's, and the project's."""
        return [sensor.name for sensor in self.get_all_sensors()]

    def has_sensor(self, sensor_name: str) -> bool:
        """Return whether there is that sensor."""
        return self._own.has_sensor_def(sensor_name) or self._trees.has_sensor(sensor_name)

    def get_sensor(self, sensor_name: str) -> SensorDefinition:
        """Return a trigger's, the outbox's, or else the project's."""
        of_tree = not self._own.has_sensor_def(sensor_name)
        if of_tree or self._trees.has_sensor(sensor_name):
            return self._trees.get_sensor(sensor_name)
        return self._own.get_sensor_def(sensor_name)

    # --- What trees have none of ---

    def get_top_level_resources(self) -> Mapping[str, ResourceDefinition]:
        """Return the project's."""
        return self._own.get_top_level_resources()

    def get_env_vars_by_top_level_resource(self) -> Mapping[str, AbstractSet[str]]:
        """Return the project's."""
        return self._own.get_env_vars_by_top_level_resource()

    def get_assets_defs_by_key(self) -> Mapping[AssetKey, AssetsDefinition]:
        """Return the project's."""
        return self._own.assets_defs_by_key

    def get_source_assets_by_key(self) -> Mapping[AssetKey, SourceAsset]:
        """Return the project's."""
        return self._own.source_assets_by_key

    def get_asset_checks_defs_by_key(self) -> Mapping[AssetCheckKey, AssetChecksDefinition]:
        """Return the project's."""
        return self._own.asset_checks_defs_by_key

    def load_all_definitions(self) -> None:
        """Build everything once, and refuse definitions whose names trees have."""
        self._own.load_all_definitions()
        self._trees.load_all_definitions()
        if hidden := self._hidden_jobs():
            raise DagsterInvalidDefinitionError(" ".join(map(_refusal, sorted(hidden))))

    def _hidden_jobs(self) -> set[str]:
        """Return the names of the project's jobs that trees have, too; log each once."""
        hidden = set(self._own.job_names) & set(self._trees.get_job_names())
        for name in sorted(hidden - self._said):
            logger.error("%s", _refusal(name))
        self._said = hidden
        return hidden


def _refusal(name: str) -> str:
    return (
        f"The job {name!r} of this project's own definitions is left out, with the schedules and "
        "sensors that target it: a process tree has that name. Rename one of them."
    )


def _is_hidden(
    definition: ScheduleDefinition | SensorDefinition, jobs: set[str], names: set[str]
) -> bool:
    """Return whether its name or a job that it targets belongs to a tree."""
    targets = (
        [definition.job_name]
        if isinstance(definition, ScheduleDefinition)
        else [target.job_name for target in definition.targets]
    )
    return definition.name in names or not jobs.isdisjoint(targets)


def _without_double(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))
