"""The sensor that removes old history, a little at a time."""

import datetime as dt
import json
import logging
import time
from dataclasses import asdict, dataclass, replace

from dagster import (
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)

from ... import conf
from ...domain import retention, run_tags
from ...exceptions import InstanceError
from ...models import ProcessTree
from ...support.connections import fresh_connections
from ..pruning import passes
from .passes import instance_of

logger = logging.getLogger(__name__)

INTERVAL = 60
"""Least seconds between two passes."""

BUDGET_SECONDS = 30.0
"""Seconds after which a pass begins no further batch: Dagster's timeout of a tick is 60."""

RESTS = 600.0
"""Seconds for which it does nothing after a pass that has found all that was to be removed."""

SWEEPS = 24 * 3600.0
"""Seconds between two searches for files of runs that are gone."""

SPARE = dt.timedelta(minutes=10)
"""What has ended within that time stays, so that all that follows a run's end is done."""


@dataclass(frozen=True)
class Cursor:
    """Where the next pass continues."""

    job: str = ""
    rests_until: float = 0.0
    swept_at: float = 0.0
    is_idle: bool = False
    """Whether the daemon may let it rest (see ``idle_sensors.Rest``)."""

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """Return what ``write`` has written; the beginning for any other text."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError, RecursionError):  # somebody has set it in Dagster's UI
            return cls()

    def write(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))


def is_wanted() -> bool:
    """Return whether a rule removes anything from Dagster's storage, or more of Django's."""
    keep = conf.current().KEEP
    return keep != retention.Rules() or ProcessTree.objects.exclude(keep_runs="").exists()


def retention_sensor() -> SensorDefinition:
    """Return the sensor that removes what ``PROCTREE["KEEP"]`` and the trees do not keep.

    It always exists, as a tree may be given a rule at any time.
    """
    return SensorDefinition(
        name=run_tags.RETENTION_SENSOR,
        evaluation_fn=_prune,
        minimum_interval_seconds=INTERVAL,
        default_status=DefaultSensorStatus.RUNNING,
        description="Removes history that is older than PROCTREE['KEEP'] and the trees' own rules "
        "say, in small batches: 'manage.py proctree prune' does it at once.",
    )


def _prune(context: SensorEvaluationContext) -> SkipReason:
    cursor, now = Cursor.read(context.cursor), time.time()
    if now < cursor.rests_until <= now + RESTS:
        return SkipReason("Nothing was left to remove; it looks again in a while.")
    sweeps = not cursor.swept_at <= now < cursor.swept_at + SWEEPS
    with fresh_connections():
        if not is_wanted():
            context.update_cursor(replace(cursor, is_idle=True).write())
            return SkipReason(
                "Everything is kept: PROCTREE['KEEP'] and the trees name no rule. "
                "It looks again within some minutes."
            )
        try:
            with instance_of(context) as instance:
                found = passes.prune(
                    instance,
                    seconds=BUDGET_SECONDS,
                    spare=SPARE,
                    first_job=cursor.job,
                    thorough=sweeps,
                )
        except InstanceError as error:
            return SkipReason(str(error))
    if found.counts.total():
        logger.info("Retention: %s", found)
    following = Cursor(
        job=found.next_job,
        rests_until=now + RESTS if found.is_complete else 0.0,
        is_idle=found.is_complete,
        swept_at=now if sweeps and found.is_complete else cursor.swept_at,
    )
    context.update_cursor(following.write())
    return SkipReason(f"{found}{'' if found.is_complete else ' More is left.'}")
