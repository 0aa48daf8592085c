"""Recording requested runs in the outbox; with a key only if no other run is in the way."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import router

from ..domain.submissions import RequestOutcome, Submission
from ..exceptions import StorageAway, SubmissionError
from ..models import OutboxRun, ProcessTree
from ..services import run_keys, run_outbox
from ..support import isolation
from ..support.connections import after_commit, open_transactions, writing

if TYPE_CHECKING:
    from ..orchestration.runs.key_status import Seen

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What became of a request."""

    run_id: str
    """Id of the requested run, or of the one that is returned; blank if it was skipped."""

    outcome: RequestOutcome = "requested"
    unfinished: str = ""
    """Id of the unfinished run with the same key, if there is one."""


def write_down(
    row: ProcessTree,
    context: Mapping[str, Any],
    run_tags: Mapping[str, str],
    run_id: str | None = None,
    submission: Submission = run_outbox.AT_ONCE,
) -> Written:
    """Add a run to the outbox, in the caller's transaction.

    In a transaction on another database than the outbox's it is added once that has committed: no
    transaction spans two databases.

    Parameters
    ----------
    row:
        The tree.
    context:
        The whole context, as JSON.
    run_tags:
        The run's tags.
    run_id:
        A UUID for the run; left out, a new one is made. If it was requested already, nothing is.
    submission:
        When it is made, and its key.

    Raises
    ------
    SubmissionError
        It is to be decided now by a key in a transaction on another database.
    """
    chosen = run_id or str(uuid.uuid4())

    def add() -> None:
        is_new = run_id is None
        run_outbox.add(
            *(row, context, run_tags), run_id=chosen, is_new=is_new, submission=submission
        )

    elsewhere = bool(open_transactions() - {router.db_for_write(OutboxRun)})
    decides = submission.on_conflict in ("return", "skip")
    if elsewhere and submission.key and decides:
        raise SubmissionError(
            f"on_conflict={submission.on_conflict!r} can't be decided inside a transaction on "
            "another database than that of proctree_dagster's tables: call it after the commit, "
            'or use "queue" or "replace".'
        )
    if elsewhere:
        after_commit(add)
        return Written(chosen)
    if not submission.key:
        add()
        return Written(chosen)
    seen = _seen_in_dagster(submission.key)
    with writing(OutboxRun) as alias:
        if decides:
            run_keys.lock(submission.key, alias)
        first = next((each for each in _unfinished(submission.key, seen) if each != chosen), "")
        if first and decides:
            if submission.on_conflict == "return":
                return Written(first, "returned", first)
            return Written("", "skipped", first)
        add()
    return Written(chosen, unfinished=first)


def _unfinished(key: str, seen: Seen | None) -> list[str]:
    """Return the ids of the unfinished runs with a key, the one that holds it first."""
    ended = frozenset() if seen is None else seen.ended
    rows = run_keys.unfinished(key).values_list("run_id", flat=True)
    ids = [run_id for each in rows if (run_id := str(each)) not in ended]
    others = () if seen is None else seen.unfinished
    return [*ids, *(each for each in others if each not in ids)]


def _seen_in_dagster(key: str) -> Seen | None:
    """Return what Dagster knows of the runs with a key; ``None`` if it can't be asked now."""
    if isolation.is_active():
        return None
    from ..orchestration.runs import key_status, opening

    try:
        with opening.open_instance(persistent=True) as instance:
            return key_status.see(instance, key)
    except StorageAway:  # which the caller was warned of
        return None
    except Exception:  # whatever its storage raises: the rows decide
        logger.warning("Dagster can't be asked for runs with the key %r.", key, exc_info=True)
        return None
