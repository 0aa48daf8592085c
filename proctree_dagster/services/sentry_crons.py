"""Check-ins of schedules with Sentry: Sentry itself finds out when a run is missing or too long.

They follow the signals of runs, so they are sent for a run whose worker was killed, too; and where
Dagster's daemon is dead none is sent, which is what Sentry then alerts of.
"""

from __future__ import annotations

import logging
import re
import uuid
from functools import cache
from typing import TYPE_CHECKING, Any

from django.conf import settings

from .. import signals
from ..domain.names import short_hash
from ..domain.runs import RunSummary
from ..models import ProcessTreeSchedule
from ..process import error_reports

if TYPE_CHECKING:
    from sentry_sdk._types import MonitorConfig

logger = logging.getLogger(__name__)

MARGIN_MINUTES = 5
"""Minutes after a due time until Sentry counts its check-in as missed."""

LONGEST_SLUG = 50
"""Most characters of a monitor's slug."""

_STATUSES = {
    "run_started": "in_progress",
    "run_succeeded": "ok",
    "run_failed": "error",
    "run_canceled": "error",
}
"""What each signal is to Sentry."""


def connect() -> None:
    """Check in with Sentry from now on, if the settings say so: no event is kept for it else."""
    given = getattr(settings, "PROCTREE", {})
    wanted = given.get("SENTRY") if isinstance(given, dict) else None
    if isinstance(wanted, (list, tuple, set)) and "crons" in wanted:  # the checks name others
        for name in _STATUSES:
            signals.SIGNALS[name].connect(_check_in, dispatch_uid=f"proctree_dagster.{name}")


def _check_in(signal: Any, run: RunSummary, **kwargs: Any) -> None:
    """Report the state of a scheduled run to Sentry."""
    if run.due is None or run.triggered_by != "schedule" or not error_reports.is_in_use("crons"):
        return
    schedule = _schedule(run)
    monitor = None if schedule is None else _monitor(schedule)
    if schedule is None or monitor is None:
        return
    from sentry_sdk.crons import capture_checkin

    [status] = [_STATUSES[name] for name, each in signals.SIGNALS.items() if each is signal]
    capture_checkin(
        slug(schedule.name_in_dagster()),
        uuid.UUID(run.run_id).hex,  # the same one as it began with
        status,
        run.seconds,
        monitor,
    )


def _schedule(run: RunSummary) -> ProcessTreeSchedule | None:
    """Return the schedule that has requested a run, if it is still there."""
    found = ProcessTreeSchedule.objects.select_related("process_tree")
    return found.filter(process_tree__job_name=run.job_name, name=run.schedule).first()


def _monitor(schedule: ProcessTreeSchedule) -> MonitorConfig | None:
    """Return what Sentry must know of a schedule; ``None`` if it can't follow the rule."""
    why_not = problem(schedule)
    if why_not is not None:
        _warn_once(f"{schedule}", why_not)
        return None
    interval, longest = schedule.interval_minutes, schedule.process_tree.expected_minutes
    monitor: MonitorConfig = {
        "schedule": {"type": "crontab", "value": schedule.cron}
        if interval is None
        else {"type": "interval", "value": interval, "unit": "minute"},
        "timezone": schedule.timezone or settings.TIME_ZONE,
        "checkin_margin": MARGIN_MINUTES,
    }
    if longest is not None:
        monitor["max_runtime"] = longest
    return monitor


def problem(schedule: ProcessTreeSchedule) -> str | None:
    """Return why Sentry can't follow a schedule; ``None`` if it can."""
    if schedule.for_each:
        return "it has a run for each row"
    if schedule.end_date is not None:
        return "Sentry knows no end date"
    return "Sentry knows no business days" if schedule.business_days else None


@cache
def _warn_once(schedule: str, why: str) -> None:
    logger.warning("Sentry is sent no check-ins of the schedule %s: %s.", schedule, why)


def slug(name: str) -> str:
    """Return the slug of a monitor: small letters, digits, ``-`` and ``_``, fifty at most.

    Two names have two: one that is changed ends with a hash of what it was.
    """
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower())
    if plain == name and len(plain) <= LONGEST_SLUG:
        return plain
    return f"{plain[: LONGEST_SLUG - 9]}-{short_hash(name)}"
