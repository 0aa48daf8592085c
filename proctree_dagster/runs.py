"""Requested runs from Python: how far one is, and waiting for its results.

::

    run = ProcessTreeManager.submit_tree("monthly_close", {"year": 2026})
    runs.state(run.run_id).status  # "requested", "queued", "started", …
    run.wait(timeout=60)["results"]["publish_statements"]

    results = await run.await_result()  # in async code
    async for state in runs.changes(run.run_id):  # for a page that shows how far it is
        ...

A web process asks for little: a run that waits in the outbox is a row of Django's database, and of
a run that Dagster has the history is read. Dagster is imported by a thread, once.
"""

from .domain.runs import ProcessState, RunState
from .running.results import Results
from .running.submitted_run import SubmittedRun
from .running.waiting import await_result, changes, state, wait

__all__ = [
    "ProcessState",
    "Results",
    "RunState",
    "SubmittedRun",
    "await_result",
    "changes",
    "state",
    "wait",
]
