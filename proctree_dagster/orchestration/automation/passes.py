"""What the passes of sensors share."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster import DagsterInstance, SensorEvaluationContext

from ...domain.texts import explain
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


def tried(work: Callable[[], object], problem: str) -> str:
    """Do one part of a pass, and return its report; an error does not prevent the other parts."""
    try:
        return str(work() or "")
    except Exception as error:  # the other parts concern something else
        logger.exception("%s.", problem)
        return f"{problem}: {explain(error)}"
