"""Advancing backfills at once, in the calling process; Dagster's sensor does it, too."""

import logging

from ..exceptions import InstanceError
from ..support import isolation

logger = logging.getLogger(__name__)


def advance() -> str:
    """Request and deliver the runs of backfills that may begin now; return a report.

    Call it outside a transaction. It raises nothing: what can't be requested now is requested by
    Dagster's sensor. In a test it does nothing.
    """
    if isolation.is_active():
        return ""
    try:
        from ..orchestration.runs import backfill_runs, opening

        with opening.open_instance(persistent=True) as instance:
            return backfill_runs.advance(instance)
    except InstanceError as error:
        logger.warning("Backfills wait, as Dagster can't be asked for runs: %s", error)
    except Exception:  # a database can't be reached; the rows stay as they are
        logger.exception("Backfills wait, as Dagster can't be asked for runs now.")
    return ""
