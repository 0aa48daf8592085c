"""A requested run, as Python gets it."""

from __future__ import annotations

from typing import NamedTuple, Self

from ..domain.runs import RunState
from ..domain.submissions import RequestOutcome
from ..exceptions import RunNotFound
from . import waiting
from .results import Results


class _RunAndPage(NamedTuple):
    run_id: str
    url: str | None


class SubmittedRun(_RunAndPage):
    """A requested run: a pair of its id and its page, with what became of the request.

    Attributes
    ----------
    run_id:
        The run's id in Dagster, which it has before Dagster has it. With ``on_conflict="return"``
        it may be the id of the unfinished run; blank if the request was skipped.
    url:
        Its page, if ``PROCTREE["DAGSTER_URL"]`` is set.
    outcome:
        ``requested``; ``returned`` or ``skipped`` if another run with its key was unfinished.
    unfinished:
        The id of the unfinished run with its key that was found; blank without one.
    """

    outcome: RequestOutcome
    unfinished: str

    def __new__(
        cls,
        run_id: str,
        url: str | None,
        outcome: RequestOutcome = "requested",
        unfinished: str = "",
    ) -> Self:
        """Make the pair."""
        found = super().__new__(cls, run_id, url)
        found.outcome, found.unfinished = outcome, unfinished
        return found

    @property
    def skipped(self) -> bool:
        """Whether nothing was requested, as another run with its key is unfinished."""
        return self.outcome == "skipped"

    def wait(self, timeout: float | None = None) -> Results:
        """Wait for the run's end, and return its results; see ``runs.wait``."""
        return waiting.wait(self._known_id(), timeout)

    async def await_result(self, timeout: float | None = None) -> Results:
        """Wait for the run's end without blocking the event loop; see ``runs.await_result``."""
        return await waiting.await_result(self._known_id(), timeout)

    def state(self) -> RunState:
        """Return how far the run is; see ``runs.state``."""
        return waiting.state(self._known_id())

    def _known_id(self) -> str:
        if self.run_id:
            return self.run_id
        raise RunNotFound(
            f"Nothing was requested: run {self.unfinished} with the same key is unfinished. Wait "
            "for that one: runs.wait(run.unfinished)."
        )
