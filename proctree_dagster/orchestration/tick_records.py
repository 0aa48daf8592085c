"""What Dagster's scheduler asks for, and the rows of ticks in Dagster's storage.

The rows are those that Dagster's own function writes for one schedule after the other; here they
are written for many, in one transaction on SQLite.
"""

import datetime as dt
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dagster import DagsterInstance, serialize_value

from ..domain import run_tags
from . import dagster_internals as internals

if TYPE_CHECKING:
    from .dagster_internals import (
        InstigatorState,
        InstigatorTick,
        IWorkspaceProcessContext,
        RemoteSchedule,
        ScheduleInstigatorData,
        TickStatus,
    )


class Call:
    """A call of Dagster's function that evaluates a schedule."""

    def __init__(self, function: Callable[..., Any], bound: inspect.BoundArguments) -> None:
        self.future: Future[Any] = Future()
        self._function = function
        self._bound = bound

    def __getattr__(self, name: str) -> Any:
        """Return an argument."""
        try:
            return self._bound.arguments[name]
        except KeyError:
            raise AttributeError(name) from None

    if TYPE_CHECKING:
        logger: logging.Logger
        workspace_process_context: IWorkspaceProcessContext[Any]
        remote_schedule: RemoteSchedule
        schedule_state: InstigatorState
        end_datetime_utc: dt.datetime
        tick_retention_settings: Mapping[TickStatus, int]
        schedule_debug_crash_flags: Any
        in_memory_last_iteration_timestamp: float | None

    @property
    def is_ours(self) -> bool:
        """Whether the schedule is one of a process tree."""
        repository = self.remote_schedule.get_remote_origin().repository_origin
        names = repository.code_location_origin.location_name, repository.repository_name
        return names == (run_tags.LOCATION, run_tags.REPOSITORY) and not (
            self.remote_schedule.partition_set_name or self.schedule_debug_crash_flags
        )

    @property
    def selector_id(self) -> str:
        """What identifies the schedule in Dagster's storage."""
        return self.remote_schedule.selector_id

    @cached_property
    def data(self) -> "ScheduleInstigatorData":
        """What Dagster has stored of the schedule."""
        data: ScheduleInstigatorData = self.schedule_state.instigator_data  # type: ignore[assignment]
        return data

    def make_alone(self) -> None:
        """Let Dagster's function do it."""
        try:
            self.future.set_result(self._function(*self._bound.args, **self._bound.kwargs))
        except BaseException as error:  # noqa: BLE001  # the scheduler's loop logs it
            self.future.set_exception(error)


@dataclass
class Due:
    """A call whose schedule has a tick."""

    call: Call
    at: dt.datetime
    following: float
    """The time of the next tick."""

    tick: "InstigatorTick | None" = None


def begin(instance: DagsterInstance, due: Sequence[Due]) -> None:
    """Record ticks as started."""
    names = {"type": internals.InstigatorType.SCHEDULE.value}
    with _storage(instance).connect() as connection:
        for each in due:
            schedule = each.call.remote_schedule
            data = internals.TickData(
                instigator_origin_id=schedule.get_remote_origin_id(),
                instigator_name=schedule.name,
                instigator_type=internals.InstigatorType.SCHEDULE,
                status=internals.TickStatus.STARTED,
                timestamp=each.at.timestamp(),
                selector_id=schedule.selector_id,
            )
            row = {**names, **_columns(data), "job_origin_id": data.instigator_origin_id}
            inserted = connection.execute(internals.JobTickTable.insert().values(**row))
            each.tick = internals.InstigatorTick(inserted.inserted_primary_key[0], data)


def _columns(data: Any) -> dict[str, Any]:
    return {
        "status": data.status.value,
        "timestamp": dt.datetime.fromtimestamp(data.timestamp, dt.UTC),
        "tick_body": serialize_value(data),
        "selector_id": data.selector_id,
    }


def _storage(instance: DagsterInstance) -> Any:
    storage = instance.schedule_storage
    if not hasattr(storage, "connect"):
        raise TypeError(f"The storage of ticks, {storage!r}, is none of SQL.")
    return storage


def record(instance: DagsterInstance, done: Sequence[Due]) -> None:
    """Record the outcomes of ticks, and remove old ticks of the same schedules."""
    table = internals.JobTickTable
    now = dt.datetime.now(dt.UTC)
    if not done:
        return
    with _storage(instance).connect() as connection:
        for each in done:
            assert each.tick is not None
            row = _columns(each.tick.tick_data)
            update = table.update().where(table.c.id == each.tick.tick_id)
            connection.execute(update.values(**row))
        for status, days in done[0].call.tick_retention_settings.items():
            if days > 0:
                connection.execute(
                    table.delete().where(
                        table.c.selector_id.in_([each.call.selector_id for each in done]),
                        table.c.status == status.value,
                        table.c.timestamp < now - dt.timedelta(days=days),
                    )
                )
