"""Files of runs that are gone: deleted in Dagster's UI, or by a process that was killed meanwhile.

Dagster's own ``delete_run`` leaves each run's file of events and the results of its processes.
"""

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from dagster import DagsterInstance

from .. import dagster_internals as internals
from .candidates import RunTable

UNTOUCHED = 24 * 3600.0
"""Seconds in which nothing was written to the files: they are of no run that begins now."""

AT_ONCE = 200


def of_gone_runs(instance: DagsterInstance, table: RunTable) -> Iterator[Sequence[str]]:
    """Yield the ids of runs that are gone and have files, several at once."""
    names = _ids(instance)
    while ids := set(islice(names, AT_ONCE)):
        gone = ids - table.present(ids)
        if gone:
            yield sorted(gone)


def _ids(instance: DagsterInstance) -> Iterator[str]:
    """Yield the ids of runs by which files are called that were not written to of late."""
    yield from _in_folder(Path(instance.storage_directory()))
    events = instance.event_log_storage
    if isinstance(events, internals.SqliteEventLogStorage):
        folder = Path(events.path_for_shard("any")).parent
        yield from _in_folder(folder, ".db")


def _in_folder(folder: Path, suffix: str = "") -> Iterator[str]:
    before = time.time() - UNTOUCHED
    try:
        entries = list(os.scandir(folder))
    except OSError:  # there is none
        return
    for entry in entries:
        name = entry.name.removesuffix(suffix)
        if entry.name.endswith(suffix) and _is_run_id(name) and _written(entry) < before:
            yield name


def _is_run_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _written(entry: "os.DirEntry[str]") -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:  # removed meanwhile
        return float("inf")
