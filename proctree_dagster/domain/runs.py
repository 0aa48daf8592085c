"""What is read of runs: queries for them, their summaries, details and logs."""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from . import run_tags

STATUSES = (
    *("not_started", "queued", "starting", "started"),
    *("success", "failure", "canceling", "canceled"),
)
"""Every status of a run: Dagster's, in small letters."""

ENDED = ("success", "failure", "canceled")
"""The statuses of a run that has ended."""


PROGRESS = "Progress: "
"""How a line of a run's log begins that says how far a process is."""


@dataclass(frozen=True)
class RunQuery:
    """Which runs to read; each field that is set narrows the choice."""

    job_name: str = ""
    """Those of one tree, by its ``job_name``."""

    statuses: tuple[str, ...] = ()
    """Those with one of these statuses (see ``STATUSES``)."""

    triggered_by: str | None = None
    """Those that this has started (a ``run_tags.Trigger``); blank: Dagster's UI."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """Those with all of these tags."""

    since: dt.datetime | None = None
    """Those made since then; aware."""

    until: dt.datetime | None = None
    """Those made before then; aware."""

    run_ids: tuple[str, ...] = ()
    """Those with one of these ids."""

    text: str = ""
    """Those whose context contains this text, in small or capital letters; secrets of the context
    are not searched."""


@dataclass(frozen=True)
class RunSummary:
    """A run and its outcome."""

    run_id: str
    tree: str
    """The tree's name, as it was when the run was made."""

    status: str
    """Dagster's, in small letters: ``queued``, ``started``, ``success``, ``failure``, …"""

    triggered_by: str
    """``schedule``, ``command``, ``python``, ``admin``, ``trigger`` or ``tree``; blank: the UI."""

    due: dt.datetime | None
    """Its due time, if a schedule requested it."""

    launched_by: str
    """The user, the schedule or the sensor that requested it; blank if unknown."""

    created_at: dt.datetime
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    parent_run_id: str | None
    """The run that it repeats."""

    failures: dict[str, str] = field(default_factory=dict)
    """Why processes failed, by their steps' names."""

    url: str | None = None

    tags: dict[str, str] = field(default_factory=dict)
    """Its tags from the context and from the caller."""

    job_name: str = ""
    """The ``job_name`` of its tree."""

    schedule: str = run_tags.DEFAULT_SCHEDULE
    """The name of the schedule that requested it, if one did."""

    @property
    def seconds(self) -> float | None:
        """How long it took; ``None`` if it has not ended."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.status in ENDED

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON; ``from_json`` takes it back."""
        return {
            name: value.isoformat() if isinstance(value, dt.datetime) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Return the run that ``to_json`` has written."""
        moments = ("due", "created_at", "started_at", "ended_at")
        values: dict[str, Any] = {
            name: dt.datetime.fromisoformat(value) if name in moments and value else value
            for name, value in given.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class RunPage:
    """Some runs of those that a query finds, the newest first."""

    runs: tuple[RunSummary, ...]

    older: str = ""
    """What ``before`` must be for the next older page; blank if there is none."""

    newer: str = ""
    """What ``after`` must be for the next newer page; blank if there is none."""

    searched: int = 0
    """How many runs were compared with what Dagster can't search for."""

    searched_back_to: dt.datetime | None = None
    """When the last one of these was made, if the search ended there and older ones are left."""


@dataclass(frozen=True)
class ProcessTry:
    """One try of a process in a run."""

    started_at: dt.datetime
    error: str = ""
    """Why it failed; blank if it did not, or has not ended."""

    trace: str = ""
    """The traceback of its failure, from its function on."""


@dataclass(frozen=True)
class ProcessRun:
    """What a run has made of one process."""

    name: str
    step: str
    """The name of its step in Dagster."""

    status: str
    """``pending``, ``running``, ``completed``, ``failed``, ``skipped`` or ``cached``."""

    dependencies: tuple[str, ...] = ()
    """The names of the processes that it depends on."""

    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None

    seconds: float | None = None
    """How long its function took; ``None`` if it was not called, or has not returned."""

    result: str = ""
    """The start of its result, as text."""

    error: str = ""
    """Why it failed."""

    trace: str = ""
    """The traceback of its failure, from its function on."""

    note: str = ""
    """Why it was skipped, or another remark."""

    tries: tuple[ProcessTry, ...] = ()
    """Each time that it was begun, the first one first."""

    response_variables: dict[str, str] = field(default_factory=dict)
    """Its response variables, as text."""

    @property
    def attempts(self) -> int:
        """How often it was begun."""
        return len(self.tries)


@dataclass(frozen=True)
class RunDetail:
    """A run with its processes."""

    summary: RunSummary
    processes: tuple[ProcessRun, ...]
    """In an order in which each comes after those that it depends on."""

    fault: str
    """Why the run failed or was canceled, if no process's failure says so."""

    context: dict[str, object]
    """Its context as JSON, with secrets replaced (see ``sensitive.masked``)."""

    root_run_id: str
    """The first of the runs that repeat each other; its own id, if it repeats none."""

    repetitions: tuple[RunSummary, ...]
    """The runs that repeat it, the newest first."""

    follows: tuple[str, ...]
    """Ids of the runs of its family that it comes after or beside."""

    followed_by: tuple[str, ...]
    """Ids of the runs of its family that follow it directly."""

    family: str
    """Id of the first run of its family; blank if it has none."""

    instead_of: str
    """Id of the run in whose place it was made, as that failed before it started; or blank."""

    can_resume: bool
    """Whether it can be repeated from where it failed: it has failed or was canceled."""

    revision: str = ""
    """The revision of its tree that it has executed; blank: unknown."""


@dataclass(frozen=True)
class ProcessState:
    """How far a process of a run is."""

    name: str
    status: str
    """``pending``, ``running``, ``completed``, ``failed``, ``skipped`` or ``cached``."""

    seconds: float | None = None
    """How long its function took; ``None`` if it has not returned."""

    error: str = ""
    """Why it failed, or was skipped."""

    progress: str = ""
    """What it has reported last, such as ``3 of 10 invoices (30 %)``, while it is running."""

    @property
    def done(self) -> int | None:
        """How many it has done, as it has reported; ``None`` if it has not."""
        return self._number(r"(\d+)")

    @property
    def total(self) -> int | None:
        """Out of how many; ``None`` if nobody knows."""
        return self._number(r"\d+ of (\d+)")

    def _number(self, pattern: str) -> int | None:
        found = re.match(pattern, self.progress)
        return None if found is None else int(found[1])


@dataclass(frozen=True)
class RunState:
    """How far a requested run is, at one moment."""

    run_id: str
    """The id that it was asked for by."""

    tree: str
    """The tree's name."""

    status: str
    """``requested`` (in the outbox), Dagster's (see ``STATUSES``), ``retrying``, or ``dropped``."""

    has_ended: bool
    """Whether nothing more will come: no retry either."""

    reason: str = ""
    """Why it waits, was dropped, failed or was canceled; blank if nothing is to be said."""

    processes: tuple[ProcessState, ...] = ()
    """Each after those that it depends on; none while it waits in the outbox."""

    attempt: str = ""
    """The id of the run that executes it, or did: another one after a retry."""

    url: str | None = None
    """The page of that in Dagster's UI, if ``PROCTREE["DAGSTER_URL"]`` is set."""

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return self.status == "success"

    def as_json(self) -> dict[str, Any]:
        """Return it for a page."""
        processes = [
            {**asdict(each), "done": each.done, "total": each.total} for each in self.processes
        ]
        return {**asdict(self), "processes": processes, "succeeded": self.succeeded}


@dataclass(frozen=True)
class FailedRuns:
    """The runs that failed since a moment, and are the last ones of their trees."""

    chosen: tuple[RunSummary, ...]
    """Of each tree whose last run has failed, that run."""

    others: int
    """How many other runs failed: their trees have run again since."""

    is_cut: bool
    """Whether there were more than are read at once."""


@dataclass(frozen=True)
class LogLine:
    """One line of a run's log."""

    at: dt.datetime
    level: str
    process: str
    """Its process; blank for a line of the run itself."""

    message: str
    trace: str = ""
    """The traceback of a process that failed, from its function on."""


@dataclass(frozen=True)
class LogPage:
    """The newest lines of a run's log, the oldest of them first."""

    lines: tuple[LogLine, ...]

    is_cut: bool
    """Whether older lines were left out."""
