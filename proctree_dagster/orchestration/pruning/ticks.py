"""Removing old ticks: Dagster's ``retention:`` removes those of schedules that exist.

The newest one of each schedule and sensor stays, as Dagster continues after it.
"""

import datetime as dt
from typing import Any

import sqlalchemy
from dagster import DagsterInstance

from ...domain.pace import Pace
from .. import dagster_internals as internals
from ..runs import storage_time
from .removal import delete_by_id

PAGE = 1000

MOST = 50_000
"""How many are removed at most in one pass: the next one removes more."""


def old(instance: DagsterInstance, before: dt.datetime) -> list[int]:
    """Return the ids of ticks that began before a moment (aware), but for the newest of each.

    They are read in the order in which they were made, and no further than to a page without any.
    """
    storage: Any = instance.schedule_storage
    if not isinstance(storage, internals.SqlScheduleStorage):
        return []
    ticks = internals.JobTickTable.c
    moment = before.astimezone(storage_time.zone_of(instance)).replace(tzinfo=None)
    found: list[int] = []
    last = 0
    while True:
        query = sqlalchemy.select(ticks.id, ticks.timestamp).where(ticks.id > last)
        with storage.connect() as connection:
            page = connection.execute(query.order_by(ticks.id).limit(PAGE)).fetchall()
        chosen = [row.id for row in page if row.timestamp < moment]
        found += chosen
        if not chosen or len(page) < PAGE or len(found) >= MOST:
            return _without_newest(storage, found)
        last = page[-1].id


def _without_newest(storage: Any, found: list[int]) -> list[int]:
    if not found:
        return []
    ticks = internals.JobTickTable.c
    query = sqlalchemy.select(sqlalchemy.func.max(ticks.id))
    with storage.connect() as connection:
        grouped = query.group_by(ticks.job_origin_id, ticks.selector_id)
        newest = set(connection.execute(grouped).scalars())
    return [each for each in found if each not in newest]


def remove(instance: DagsterInstance, ids: list[int], pace: Pace) -> int:
    """Remove ticks by their ids, as long as there is time; return how many."""
    storage: Any = instance.schedule_storage
    for begin in range(0, len(ids), PAGE):
        if pace.is_over:
            return begin
        delete_by_id(storage.connect, internals.JobTickTable, ids[begin : begin + PAGE], pace)
    return len(ids)
