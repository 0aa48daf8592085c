"""What Dagster knows of the runs with a key."""

from dataclasses import dataclass

from dagster import DagsterInstance

from ...models import OutboxRun, OutboxState
from ...support.row_reading import readable
from . import key_runs, outbox_delivery


@dataclass(frozen=True)
class Seen:
    """What Dagster knows of the runs with one key."""

    ended: frozenset[str]
    """Ids of runs whose rows hold the key still, and that have ended."""

    unfinished: tuple[str, ...]
    """Ids of unfinished runs."""


def see(instance: DagsterInstance, key: str) -> Seen:
    """Return what Dagster knows of the runs with a key. Writes nothing."""
    holders = OutboxRun.objects.filter(key_held=key).exclude(state=OutboxState.WAITING)
    running = key_runs.unfinished(instance, [key]).get(key, [])
    return Seen(
        outbox_delivery.ended(instance, readable(holders)), tuple(run.run_id for run in running)
    )
