"""What the passes of sensors share."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster import DagsterInstance, SensorEvaluationContext

from ...domain.texts import explain
from ..idle_sensors import Rest, newest_event
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


def newest_of(instance: DagsterInstance) -> int | None:
    """Return the newest event, before a sensor looks; ``None`` if that can't be read now."""
    try:
        return newest_event(instance)
    except Exception:  # the pass itself may need none, and says what is wrong
        logger.exception("The newest event can't be read.")
        return None


def note_rest(
    context: SensorEvaluationContext, last_event: int | None, is_idle: Callable[[], bool]
) -> None:
    """Record in the cursor whether the sensor rests.

    It does if this pass has found nothing, and no event has come since the pass before: what that
    one has seen may be complete only now.

    Parameters
    ----------
    context:
        That of the tick.
    last_event:
        What ``newest_of`` has returned.
    is_idle:
        Returns whether the pass has found nothing to do, and nothing will be to be done meanwhile.
    """
    rests = last_event is not None and last_event == Rest.read(context.cursor).last_event
    try:
        rests = rests and is_idle()
    except Exception:  # the pass is done, whatever comes next
        logger.exception("Whether anything is left to do can't be found out.")
        rests = False
    context.update_cursor(Rest(rests, last_event).write())


def tried(work: Callable[[], object], problem: str) -> str:
    """Do one part of a pass, and return its report; an error does not prevent the other parts."""
    try:
        return str(work() or "")
    except Exception as error:  # the other parts concern something else
        logger.exception("%s.", problem)
        return f"{problem}: {explain(error)}"
