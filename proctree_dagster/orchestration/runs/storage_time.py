"""When Dagster's storage says that a run was made.

Dagster stores that without a zone, and takes it for UTC. PostgreSQL turns what it is given into the
time of its session's zone before it drops the zone, so on a server whose zone is not UTC all of
these are hours off: when they are read, and when runs are filtered by them.
"""

import datetime as dt
import logging
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

import sqlalchemy
from dagster import DagsterInstance, RunRecord

logger = logging.getLogger(__name__)

_zones: "WeakKeyDictionary[DagsterInstance, dt.tzinfo]" = WeakKeyDictionary()


def zone_of(instance: DagsterInstance) -> dt.tzinfo:
    """Return the zone of the times in an instance's storage; asked once."""
    found = _zones.get(instance)
    if found is None:
        found = _zones[instance] = _asked(instance)
    return found


def _asked(instance: DagsterInstance) -> dt.tzinfo:
    storage = instance.run_storage
    connect = getattr(storage, "connect", None)
    if connect is None or not type(storage).__module__.startswith("dagster_postgres."):
        return dt.UTC
    with connect() as connection:
        name = connection.execute(sqlalchemy.text("SHOW timezone")).scalar()
    try:
        return ZoneInfo(str(name))
    except (ValueError, OSError):  # a zone of the server's own, such as <+09>-09
        logger.warning("The time zone %r of Dagster's database is unknown: UTC is assumed.", name)
        return dt.UTC


def created_at(instance: DagsterInstance, record: RunRecord) -> dt.datetime:
    """Return when a run was made, in UTC."""
    return record.create_timestamp.replace(tzinfo=zone_of(instance)).astimezone(dt.UTC)


def as_stored(instance: DagsterInstance, moment: dt.datetime | None) -> dt.datetime | None:
    """Return a moment (aware) as a filter takes it, which drops its zone; ``None`` for ``None``."""
    return None if moment is None else moment.astimezone(zone_of(instance))
