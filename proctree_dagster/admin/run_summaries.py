"""What Dagster's history has of some runs, for pages that show runs beside rows of Django's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..exceptions import HistoryUnavailable

if TYPE_CHECKING:
    from ..domain.runs import RunSummary


def of_runs(run_ids: Iterable[str]) -> dict[str, RunSummary]:
    """Return the runs of these ids that Dagster has, by their ids; nothing, if it can't be asked.

    It asks once for all of them, and does not wait for Dagster's import: such a page is readable
    without, and complete when it is opened again.
    """
    from ..running import run_history  # it imports all that runs trees, and every command loads us

    chosen = {run_id for run_id in run_ids if run_id}
    if not chosen:
        return {}
    try:
        with run_history.opened(wait=0) as history:
            return history.summaries(chosen)
    except HistoryUnavailable:
        return {}
