"""What the processes of a run share: its context, and the receivers of their outcomes."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dagster import (
    DagsterRun,
    Field,
    InitResourceContext,
    Permissive,
    ResourceDefinition,
)

from ... import context as contexts
from ...domain.run_tags import is_from_launchpad
from ...exceptions import ContextError
from ...process import reporting
from ...process.run import Outcome
from ...support.connections import fresh_connections

Collect = Callable[[str, Outcome], None]
"""Takes a process's name and its outcome, in the process that runs it."""

RUN_RESOURCE = "tree_run"
"""The resource that holds a run's context."""


@dataclass(frozen=True)
class Local:
    """The options of a run in the calling process; a worker's run has none."""

    collect: Collect
    """Called with the outcome of each process, as it starts and as it ends, from its thread."""

    in_sync: frozenset[str] = frozenset()
    """Processes that need not run."""

    stop_on_error: bool = True
    """Whether processes downstream of a failure are skipped."""

    went_on_after: list[str] = field(default_factory=list)
    """Required processes that failed without stopping those downstream of them."""

    report: Callable[[str, reporting.Progress], None] | None = None
    """Called when a process reports progress, from its thread."""


ANY_RUN = Local(collect=lambda process, outcome: None)
"""Stands for the options of each run of a job that is executed in the calling process."""

_here: dict[str, Local] = {}
"""The options of runs in this process, by the run's id."""


@contextmanager
def with_options(run_id: str, local: Local) -> Iterator[None]:
    """Let the run have its options during the block, if its job was made for ``ANY_RUN``."""
    _here[run_id] = local
    try:
        yield
    finally:
        del _here[run_id]


def options_of(run_id: str) -> Local | None:
    """Return the options of a run in this process; ``None`` if it has none."""
    return _here.get(run_id)


@dataclass(frozen=True)
class TreeRun:
    """What the ops of one run share."""

    context: Mapping[str, Any]
    """The run's context, decoded when the run began, or this worker of it."""

    stored: Mapping[str, Any] = field(default_factory=dict)
    """The same as JSON."""

    local: Local | None = None

    def own_context(self) -> Mapping[str, Any]:
        """Return a copy of the context for one process, which may change its lists and rows.

        So the executors behave alike, whether the processes share memory or not.
        """
        try:
            with fresh_connections():
                return contexts.decode(self.stored)
        except ContextError as error:  # a process before it has deleted a row, say
            logging.getLogger(__name__).warning("As it was when the run began: %s", error)
            return self.context

    def tell(self, process: str, outcome: Outcome) -> None:
        """Pass the outcome of a process to the caller of the run, if it is in this process."""
        if self.local is not None:
            self.local.collect(process, outcome)

    def report(self, process: str, progress: reporting.Progress) -> None:
        """Pass the progress of a process on, in the same way."""
        if self.local is not None and self.local.report is not None:
            self.local.report(process, progress)


def context_of(run: DagsterRun | None, configured: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a run's context as JSON.

    Parameters
    ----------
    run:
        The run.
    configured:
        As the job's config mapping returns it. That adds what the default schedule's context has
        and the Launchpad does not show: a run that was not made there has its own alone.
    """
    is_whole = run is not None and not is_from_launchpad(run.tags)
    own = run.run_config.get("context") if run is not None and is_whole else None
    return own if isinstance(own, Mapping) else configured


_begun: dict[str, Mapping[str, Any]] = {}
"""Decoded contexts of runs in this process whose resource does not exist yet."""


def begin(run_id: str, stored: Mapping[str, Any]) -> None:
    """Decode a run's context, for its resource to take.

    Raises
    ------
    ContextError
        It can't be decoded: a row is gone, say.
    """
    _begun[run_id] = contexts.decode(stored)


def forget(run_id: str) -> None:
    """Drop the context that ``begin`` has decoded: other processes execute the run's steps."""
    _begun.pop(run_id, None)


def run_resource(local: Local | None) -> ResourceDefinition:
    """Return the resource that holds a run's context, decoded once for all of its processes."""

    def create(context: InitResourceContext) -> TreeRun:
        stored = context_of(context.run, context.resource_config["context"])
        begun = None if context.run is None else _begun.pop(context.run.run_id, None)
        own = local
        if local is ANY_RUN and context.run is not None:
            own = options_of(context.run.run_id)
        return TreeRun(contexts.decode(stored) if begun is None else begun, stored, own)

    return ResourceDefinition(
        create,
        config_schema={"context": Field(Permissive(), is_required=False, default_value={})},
        description="The run's context.",
    )


WORKERS_RUN_RESOURCE = run_resource(None)
"""What every job that a worker executes shares."""
