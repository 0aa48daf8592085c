"""Events of runs, and how far they have been read."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .runs import RunSummary

QUEUED = "run_queued"
STARTED = "run_started"
SUCCEEDED = "run_succeeded"
FAILED = "run_failed"
CANCELED = "run_canceled"
PROCESS_FAILED = "process_failed"
LATE = "schedule_late"
RECOVERED = "schedule_recovered"

ENDS = (SUCCEEDED, FAILED, CANCELED)
"""The kinds that end a run."""

OVERLAP = dt.timedelta(minutes=2)
"""How long events are read again: a database may commit an event after a later one."""


@dataclass(frozen=True)
class RunEvent:
    """Something that has happened to a run."""

    kind: str
    run: RunSummary
    at: dt.datetime
    will_retry: bool = False
    """Of a run that failed: whether Dagster repeats it, or another one takes its place."""

    failures: Mapping[str, str] = field(default_factory=dict)
    """Why processes failed, by their names; under ``""`` why the run failed otherwise."""

    def data(self) -> dict[str, Any]:
        """Return what is stored of it."""
        run = replace(self.run, failures=dict(self.failures))
        return {"run": run.to_json(), "will_retry": self.will_retry}


@dataclass(frozen=True)
class Mark:
    """A position, and when it was reached."""

    at: dt.datetime
    positions: Mapping[str, int]
    """The storage id of the last event that was read, by its kind."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"at": self.at.isoformat(), "positions": dict(self.positions)}


def marks(written: Any) -> list[Mark]:
    """Return the marks of a row; none if SQL has put anything else there."""
    try:
        return [Mark(dt.datetime.fromisoformat(each["at"]), each["positions"]) for each in written]
    except (TypeError, KeyError, ValueError):
        return []


def start(known: Iterable[Mark], now: dt.datetime) -> Mapping[str, int]:
    """Return where reading begins: at the last position that is older than ``OVERLAP``."""
    old = [each for each in known if each.at <= now - OVERLAP]
    return sorted(old, key=lambda each: each.at)[-1].positions if old else {}


def moved(known: Iterable[Mark], new: Mark) -> list[Mark]:
    """Return marks with a new one, without those that no reading begins at any more."""
    others = (each for each in known if each.at != new.at)
    all_of_them = sorted([*others, new], key=lambda each: each.at)
    old = [each for each in all_of_them if each.at <= new.at - OVERLAP]
    return [*old[-1:], *(each for each in all_of_them if each.at > new.at - OVERLAP)]
