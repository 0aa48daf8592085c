"""What the passes of sensors share."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster import DagsterInstance, SensorEvaluationContext

from ...domain.texts import explain
from ..idle_sensors import Rest
from ..runs.shared_instances import shared_by_reference

logger = logging.getLogger(__name__)


@contextmanager
def instance_of(context: SensorEvaluationContext) -> Iterator[DagsterInstance]:
    """Open the instance of a tick; it stays open for the next one.

    Dagster's ``context.instance`` is another one in each tick.

    Parameters
    ----------
    context:
        Dagster's. The daemon's reference to the instance is there; in a test the instance itself.
    """
    ref = context.instance_ref
    if ref is None:
        yield context.instance
        return
    with shared_by_reference(ref) as instance:
        yield instance


def note_rest(
    context: SensorEvaluationContext, seconds: float, last_event: int | None, *, is_idle: bool
) -> None:
    """Record in the cursor whether the sensor rests, and until when.

    It does after two passes without an event between them: what the first one has seen may be
    complete only then.

    Parameters
    ----------
    context:
        That of the tick.
    seconds:
        For how long, unless Dagster records an event.
    last_event:
        The newest event before the sensor looked; ``None`` if the storage can't say.
    is_idle:
        Whether it has found nothing to do, and nothing that is to be done meanwhile.
    """
    rests = is_idle and last_event is not None
    rests = rests and last_event == Rest.read(context.cursor).last_event
    rest = Rest(time.time() + seconds if rests else 0.0, last_event)
    context.update_cursor(rest.write())


def tried(work: Callable[[], object], problem: str) -> str:
    """Do one part of a pass, and return its report; an error does not prevent the other parts."""
    try:
        return str(work() or "")
    except Exception as error:  # the other parts concern something else
        logger.exception("%s.", problem)
        return f"{problem}: {explain(error)}"
