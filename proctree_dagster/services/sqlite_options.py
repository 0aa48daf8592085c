"""Whether the options of SQLite databases suit their concurrent writers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.conf import settings

from .. import conf
from ..models.validation import executor_names
from . import run_workers

WAIT_SECONDS = 10
"""Least seconds that a thread should wait for SQLite's write lock; Django's default is 5."""


class Writing(NamedTuple):
    """Concurrent writers to SQLite databases, and the problems of these databases' settings."""

    why: str
    """The writers, in words that begin a sentence."""

    instead: str
    """An alternative to other options, as the end of a sentence; or blank."""

    problems: Mapping[str, list[str]]
    """The problems, by the database's alias; none for suitable options and other databases."""


def writing(current: conf.Settings) -> Writing:
    """Compare each database's options with its writers.

    Processes of a tree that run side by side write to any database. To that of the run workers
    each run's guardian writes beside its functions, also where these run one at a time.
    """
    if executor_names.runs_side_by_side(current.EXECUTOR) and current.MAX_CONCURRENT > 1:
        return Writing(
            f"Processes run side by side ({current.EXECUTOR})",
            '; or PROCTREE = {"MAX_CONCURRENT": 1}',
            {alias: _unfit(database) for alias, database in settings.DATABASES.items()},
        )
    alias = run_workers.database()
    return Writing(
        "Each run's signs of life are written every few seconds beside its functions",
        "",
        {alias: _unfit_for_two_writers(settings.DATABASES[alias])},
    )


def is_sqlite(database: Mapping[str, Any]) -> bool:
    """Return whether one of ``DATABASES`` is SQLite's."""
    return str(database.get("ENGINE", "")).endswith(".sqlite3")


def is_shared_file(database: Mapping[str, Any]) -> bool:
    """Return whether one of ``DATABASES`` is an SQLite file, which others may write to."""
    name = str(database.get("NAME", ""))
    return is_sqlite(database) and ":memory:" not in name and "mode=memory" not in name


def _unfit_for_two_writers(database: Mapping[str, Any]) -> list[str]:
    """Return the options with which a transaction fails beside another writer; blank if none."""
    mode = str(database.get("OPTIONS", {}).get("transaction_mode", "")).upper()
    if not is_shared_file(database) or mode in ("IMMEDIATE", "EXCLUSIVE"):
        return []
    return ["transaction_mode is not IMMEDIATE, so one that writes after it has read fails"]


def _unfit(database: Mapping[str, Any]) -> list[str]:
    """Return the problems of a database's settings; none if it is no SQLite file."""
    if not is_shared_file(database):
        return []
    options = database.get("OPTIONS", {})
    found = _unfit_for_two_writers(database)
    if options.get("timeout", 0) < WAIT_SECONDS:
        found.append(f"timeout is not at least {WAIT_SECONDS} seconds")
    commands = "".join(str(options.get("init_command", "")).lower().split())
    if "journal_mode=wal" not in commands:
        found.append("init_command does not switch the write-ahead log on, so readers wait")
    return found
