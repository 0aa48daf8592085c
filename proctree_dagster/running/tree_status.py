"""The status of every tree and its schedules: the rule, the last run, what keeps it from running.

Writes nothing, in Django or in Dagster.
"""

import datetime as dt
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from django.utils import timezone

from .. import conf
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.texts import explain
from ..exceptions import InstanceError
from ..models import ProcessTree, ProcessTreeSchedule, TreeSource
from ..models.pauses import in_words
from ..services import broken_rows, code_drift, pauses
from ..services.broken_rows import Finding
from ..services.code_drift import CodeStatus
from ..support.row_reading import UNREADABLE
from . import tree_runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduleStatus:
    """The status of one schedule of a tree."""

    schedule: str
    """Its name."""

    rule: str = ""
    """Its rule in words."""

    enabled: bool | None = None
    """Whether it is on in Django; ``None`` if that can't be read."""

    next_run: dt.datetime | None = None
    ended: bool = False
    """Whether nothing is due any more; ``next_run`` is then ``None``."""

    end_date: dt.date | None = None
    last_run: dt.datetime | None = None
    last_status: str = ""
    """``started``, ``success``, ``failure``, ``canceled``, ``lost?``, or ``requested``."""

    last_run_id: str = ""
    held_back_by: str = ""
    """What keeps the schedule from running: Django, Dagster, a pause, or several of them."""

    paused: str = ""
    """Until when it is paused, and why; blank if it is not."""

    dropped: str = ""
    """The due times that were dropped last, and why; blank if none were."""

    overdue: bool = False
    problem: str = ""
    """Why it can't be read; blank if it can."""


@dataclass(frozen=True)
class TreeStatus:
    """The status of one tree."""

    name: str
    job: str
    """Its job's name in Dagster."""

    schedules: tuple[ScheduleStatus, ...] = ()
    """The default one first, the others by their names."""

    edited: tuple[str, ...] = ()
    """The rows that have drifted since the code saved them (see ``ProcessTree.edited``)."""

    code: CodeStatus = field(default_factory=lambda: CodeStatus("admin"))
    """Where it comes from, and how it differs from what the code said."""

    problem: str = ""
    """Why it can't be read; blank if it can."""

    def as_json(self) -> dict[str, Any]:
        """Return it for ``--json``; what its default schedule says is beside its name."""
        default = ScheduleStatus(DEFAULT_SCHEDULE)
        named = {each.schedule: each for each in self.schedules}
        own: dict[str, Any] = {"name": self.name, "job": self.job, "edited": list(self.edited)}
        own |= {
            "origin": self.code.origin,
            "declared_by": self.code.function,
            "edited_places": list(self.code.edited),
            "kept": list(self.code.kept),
            "removed_from_code": list(self.code.removed),
        }
        found = asdict(named.get(DEFAULT_SCHEDULE, default))
        del found["schedule"]
        found["problem"] = self.problem or found["problem"]
        return {**own, **found, "schedules": [asdict(each) for each in self.schedules]}


@dataclass(frozen=True)
class Overview:
    """The status of all trees."""

    trees: list[TreeStatus]
    broken: list[Finding]
    """The missing things that saved rows name."""

    daemon_seen_at: dt.datetime | None
    """When Dagster's daemon gave its last sign of life; ``None``: never, or nobody asked."""

    dagster_problem: str
    """Why Dagster was not asked; blank if it was."""

    @property
    def daemon_is_silent(self) -> bool:
        """Whether nothing runs the schedules that are on."""
        if self.dagster_problem or not any(
            schedule.enabled for tree in self.trees for schedule in tree.schedules
        ):
            return False
        seen = self.daemon_seen_at
        return seen is None or timezone.now() - seen > conf.DAEMON_SILENT_AFTER


def overview() -> Overview:
    """Return the status of all trees.

    Raises
    ------
    DatabaseError
        The tables do not exist, or the database can't be reached.
    """
    trees: list[TreeStatus] = []
    schedules = _schedules_of_trees(trees, timezone.now())
    seen, problem = _ask_dagster(schedules)
    for _ in schedules:  # unknown, as Dagster could not be queried
        pass
    return Overview(
        trees=sorted(trees, key=lambda tree: tree.name),
        broken=broken_rows.findings(),
        daemon_seen_at=seen,
        dagster_problem=problem,
    )


def _schedules_of_trees(found: list[TreeStatus], now: dt.datetime) -> Iterator[ProcessTreeSchedule]:
    """Yield each tree's schedules; record the tree's status after the caller has filled them.

    So a thousand trees are never in memory at once, only their statuses.
    """
    sources, linked = code_drift.sources(), code_drift.trees_with_followers()
    active = pauses.Active(now)
    for row in ProcessTree.objects.streamed():
        schedules = row.all_schedules()
        active.note(schedules)
        yield from schedules
        found.append(_status_of(row, now, sources.get(row.pk), linked))


def status_of(row: ProcessTree, now: dt.datetime) -> TreeStatus:
    """Return a tree's status by its rows alone."""
    return _status_of(row, now, TreeSource.objects.filter(process_tree=row).first(), None)


def _status_of(
    row: ProcessTree, now: dt.datetime, source: TreeSource | None, linked: set[int] | None
) -> TreeStatus:
    schedules = tuple(_status_of_schedule(each, now) for each in row.all_schedules())
    try:
        code = code_drift.status_of(row, source, linked)
        return TreeStatus(row.name, row.job_name, schedules, code.rows, code)
    except UNREADABLE as error:
        return TreeStatus(row.name, row.job_name, schedules, problem=_unreadable(error))


def _status_of_schedule(schedule: ProcessTreeSchedule, now: dt.datetime) -> ScheduleStatus:
    try:
        return ScheduleStatus(
            schedule=schedule.name,
            rule=schedule.rule_in_words,
            enabled=schedule.enabled,
            next_run=None if schedule.has_ended else schedule.next_run,
            ended=schedule.has_ended,
            end_date=schedule.end_date,
            last_run=schedule.last_run,
            last_status="requested" if schedule.claim else schedule.last_run_status,
            last_run_id="" if schedule.claim else schedule.last_run_id,
            held_back_by=schedule.held_back_by,
            paused=in_words(schedule.active_pauses()),
            dropped=schedule.dropped_why,
            overdue=schedule.is_overdue(now),
        )
    except UNREADABLE as error:
        return ScheduleStatus(schedule.name, problem=_unreadable(error))


def _unreadable(error: Exception) -> str:
    return f"can't be read: {explain(error)}"


def _ask_dagster(schedules: Iterable[ProcessTreeSchedule]) -> tuple[dt.datetime | None, str]:
    """Fill rows with what Dagster knows; return its daemon's last sign of life, or an error."""
    try:
        return tree_runs.show_as_dagster_knows(schedules), ""
    except InstanceError as error:
        return None, f"Dagster was not asked: {error}"
    except Exception as error:  # any error of Dagster's storage: the list comes from Django
        logger.warning("Dagster could not be asked.", exc_info=True)
        return None, f"Dagster could not be asked: {explain(error)}"
