"""How far a requested run is, and waiting for its results; see ``proctree_dagster.runs``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from asgiref.sync import sync_to_async

from ..domain import tree_spec
from ..domain.runs import PROGRESS, ProcessRun, ProcessState, RunDetail, RunState
from ..exceptions import (
    HistoryLoading,
    HistoryUnavailable,
    InvalidTree,
    RunError,
    RunNotFinished,
)
from ..models import OutboxRun, OutboxState, ProcessTree
from ..process.run import Outcome
from ..services import run_outbox
from ..support import isolation
from ..support.connections import fresh_connections, in_transaction
from ..support.row_reading import UNREADABLE
from . import requested_runs, results, run_history
from .results import Results

IMPORT_SECONDS = 30.0
"""Seconds that ``state`` waits for Dagster's import."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two polls of a run that is waited for: each pause is half as long again."""

AWAY_SECONDS = 30.0
"""Seconds that Dagster may be unavailable while a run is waited for."""

LINES = 200
"""How many of the newest lines of a run's log are searched for progress."""


def state(run_id: str) -> RunState:
    """Return how far a run is. Dagster is asked only if the run is not in the outbox any more.

    Parameters
    ----------
    run_id:
        The run's id, as ``submit_tree`` has returned it; any other run of a tree has one, too.

    Raises
    ------
    RunNotFound
        Neither the outbox nor Dagster has it.
    HistoryUnavailable
        Dagster can't be asked now.
    """
    row = row_of(run_id)
    if row is not None and row.state in (OutboxState.WAITING, OutboxState.DROPPED):
        return _state_of_row(run_id, row)
    with run_history.opened(wait=IMPORT_SECONDS) as history:
        attempt, has_ended = history.last_attempt(run_id if row is None else str(row.run_id))
        return _state_of_run(history, run_id, history.detail(attempt), has_ended)


def wait(run_id: str, timeout: float | None = None) -> Results:
    """Wait for a run's end, and return its results as ``execute_tree`` does.

    Retries of the run by Dagster are waited for, too; a run that failed has results that say why.
    The results of processes are read from the files that pass them on: where this process can't
    read these (on another machine), ``reasons`` says so.

    Parameters
    ----------
    run_id:
        The run's id.
    timeout:
        Seconds; left out, it may take forever.

    Raises
    ------
    RunNotFinished
        It has not ended in time (a ``TimeoutError``); it is not canceled.
    RunNotFound
        Neither the outbox nor Dagster has it.
    RunError
        It can't end before this returns: it was requested in a transaction that is still open, or
        in a test.
    HistoryUnavailable
        Dagster can't be asked, for half a minute.
    """
    poll = _Poll(run_id, timeout)
    while (found := poll()) is None:
        time.sleep(poll.pause())
    return found


async def await_result(run_id: str, timeout: float | None = None) -> Results:
    """Wait for a run's end without blocking the event loop; see ``wait``."""
    poll = _Poll(run_id, timeout)
    while (found := await sync_to_async(poll)()) is None:
        await asyncio.sleep(poll.pause())
    return found


async def changes(run_id: str, every: float = 1.0) -> AsyncIterator[RunState]:
    """Yield a run's state now, and whenever it has changed, until it has ended.

    Parameters
    ----------
    run_id:
        The run's id.
    every:
        Seconds between two polls.

    Raises
    ------
    RunNotFound
        Neither the outbox nor Dagster has it.
    HistoryUnavailable
        Dagster can't be asked now.
    """
    last: RunState | None = None
    while last is None or not last.has_ended:
        found = await sync_to_async(fresh_connections()(state))(run_id)
        if found != last:
            yield found
        last = found
        if not found.has_ended:
            await asyncio.sleep(every)


class _Poll:
    """Asks for the results of a run, again and again."""

    def __init__(self, run_id: str, timeout: float | None) -> None:
        self._run_id = run_id
        self._timeout = timeout
        self._began = time.monotonic()
        self._pause = SHORTEST_PAUSE
        self._away_since: float | None = None

    def __call__(self) -> Results | None:
        """Return the results of the run; ``None`` if it has not ended."""
        try:
            with fresh_connections():
                found = _results(self._run_id)
        except HistoryLoading:
            return None
        except HistoryUnavailable:
            now = time.monotonic()
            self._away_since = self._away_since or now
            if now - self._away_since > AWAY_SECONDS:
                raise
            return None
        self._away_since = None
        return found

    def pause(self) -> float:
        """Return how long to pause before the next poll.

        Raises
        ------
        RunNotFinished
            The time is over.
        """
        pause, self._pause = self._pause, min(1.5 * self._pause, LONGEST_PAUSE)
        if self._timeout is None:
            return pause
        left = self._began + self._timeout - time.monotonic()
        if left <= 0:
            raise RunNotFinished(
                f"Run {self._run_id} has not ended within {self._timeout:g} seconds; it was not "
                "canceled."
            )
        return min(pause, left)


def row_of(run_id: str) -> OutboxRun | None:
    """Return the row of a run, which may have another run by now: the first did not start."""
    found, wanted = requested_runs.find(run_id), run_id
    for _ in range(run_outbox.MAX_LAUNCHES):
        if found is not None:
            break
        wanted = requested_runs.next_attempt_id(wanted)
        found = requested_runs.find(wanted) if wanted else None
    return found


# States


def _state_of_row(run_id: str, row: OutboxRun) -> RunState:
    dropped = row.state == OutboxState.DROPPED
    return RunState(
        run_id,
        row.process_tree.name,
        requested_runs.DROPPED if dropped else requested_runs.REQUESTED,
        has_ended=dropped,
        reason=requested_runs.reason_of(row),
    )


def _state_of_run(
    history: run_history.History, run_id: str, detail: RunDetail, has_ended: bool
) -> RunState:
    summary = detail.summary
    progress = {} if summary.has_ended else _progress(history, summary.run_id)
    return RunState(
        run_id,
        summary.tree,
        "retrying" if summary.has_ended and not has_ended else summary.status,
        has_ended=has_ended,
        reason=detail.fault,
        processes=tuple(
            _state_of_process(each, progress.get(each.step, "")) for each in detail.processes
        ),
        attempt=summary.run_id,
        url=summary.url,
    )


def _state_of_process(process: ProcessRun, progress: str) -> ProcessState:
    return ProcessState(
        process.name,
        process.status,
        process.seconds,
        process.error or (process.note if process.status == "skipped" else ""),
        progress if process.status == "running" else "",
    )


def _progress(history: run_history.History, run_id: str) -> dict[str, str]:
    """Return what the steps of a run have reported last, by their keys."""
    lines = history.log(run_id, most=LINES).lines
    said = [each for each in lines if each.message.startswith(PROGRESS)]
    return {each.process: each.message.removeprefix(PROGRESS) for each in said}


# Results


def _results(run_id: str) -> Results | None:
    row = row_of(run_id)
    if row is not None and row.state == OutboxState.DROPPED:
        if row.reason == isolation.RECORDED:
            raise RunError(
                f"Run {run_id} was requested in a test, which records it and does not run it. "
                "Execute the tree: proctree_dagster.testing.run_tree()."
            )
        return results.not_run(row.process_tree.name, row.reason)
    if row is not None and row.state == OutboxState.WAITING:
        if in_transaction():
            raise RunError(
                f"Run {run_id} is delivered once its transaction is committed: wait for it outside "
                "of atomic()."
            )
        return None
    with run_history.opened() as history:
        attempt, has_ended = history.last_attempt(run_id if row is None else str(row.run_id))
        if not has_ended:
            return None
        detail = history.detail(attempt)
        ran = [each for each in detail.processes if each.status in ("completed", "cached")]
        skipped = [each for each in detail.processes if each.status == "skipped"]
        stored = history.outcomes(attempt, [each.step for each in (*ran, *skipped)])
    found = _results_of(detail, stored)
    not_executed = [each for each in skipped if not isinstance(stored.get(each.step), Outcome)]
    if not_executed:
        names = {each.name for each in not_executed}
        found["response_variables"] |= _defaults(detail.summary.job_name, names)
    return found


def _defaults(job_name: str, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the response variables of some processes without results, as the tree is now."""
    row = ProcessTree.objects.filter(job_name=job_name).first()
    if row is None:
        return {}
    try:
        processes = tree_spec.parse(row.to_dict()).processes
    except (InvalidTree, *UNREADABLE):  # SQL has written it since
        return {}
    found = {each.name: results.defaults_of(each) for each in processes if each.name in names}
    return {name: variables for name, variables in found.items() if variables}


def _results_of(detail: RunDetail, stored: Mapping[str, Outcome | str]) -> Results:
    """Return the results of a run, by what its history records and by the stored outcomes."""
    succeeded = detail.summary.status == "success"
    found = results.not_run(detail.summary.tree, detail.fault)
    found["success"], found["run_id"] = succeeded, detail.summary.run_id
    if not detail.fault:
        found["errors"] = {}
    for process in detail.processes:
        _add(found, process, stored.get(process.step))
    return found


def _add(found: Results, process: ProcessRun, outcome: Outcome | str | None) -> None:
    name = process.name
    found["status"][name] = process.status  # type: ignore[assignment]
    found["cached"][name] = process.status == "cached"
    if process.error:
        found["errors"][name] = process.error
    if process.seconds is not None and process.status in ("completed", "failed"):
        found["execution_times"][name] = process.seconds
    if isinstance(outcome, Outcome):
        if outcome.has_result:
            found["results"][name] = outcome.result
        if outcome.response_variables:
            found["response_variables"][name] = dict(outcome.response_variables)
    elif process.status == "skipped":  # it was not executed
        found["errors"].setdefault(name, process.note)
        return
    elif outcome is not None:
        found["reasons"][name] = outcome
    if process.note:
        found["reasons"].setdefault(name, process.note)
