"""What is the same for several runs that are made one after the other: their trees and jobs."""

from dataclasses import dataclass, field
from typing import Any

from ... import context as contexts
from ...domain import run_tags
from ...exceptions import ProctreeError
from ...models import OutboxRun, ProcessTree
from .. import kept_jobs, tree_records
from ..configured import translator
from ..kept_jobs import Jobs


@dataclass
class Batch:
    """The trees and the jobs of one pass over the outbox; the next pass reads them again.

    A run executes its tree as it is when the run starts, so a tree that changes within the pass
    does no harm.
    """

    _jobs: dict[int, tuple[ProcessTree, Jobs]] = field(default_factory=dict)
    _problems: dict[int, str] = field(default_factory=dict)
    _contexts: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def with_tree(cls, tree: ProcessTree, jobs: Jobs) -> "Batch":
        """Return one for which a tree was just read, and its jobs were made."""
        return cls({tree.pk: (tree, jobs)})

    def of_tree(self, pk: int) -> tuple[ProcessTree, Jobs]:
        """Return a tree, and its jobs.

        Parameters
        ----------
        pk:
            The tree's primary key.

        Raises
        ------
        ProctreeError
            The tree is broken.
        """
        if pk in self._problems:
            raise ProctreeError(self._problems[pk])
        if pk not in self._jobs:
            tree = ProcessTree.objects.with_links().get(pk=pk)
            record = tree_records.from_row(tree)
            if record.problem is not None:
                self._problems[pk] = record.problem
                raise ProctreeError(record.problem)
            self._jobs[pk] = tree, kept_jobs.of_tree(translator(), record)
        return self._jobs[pk]

    def context_of(self, tree: ProcessTree, row: OutboxRun) -> dict[str, Any]:
        """Return the context of a row's run, as JSON: that of its schedule, updated by its own."""
        key = tree.pk, run_tags.schedule_of(row.tags)
        if key not in self._contexts:
            self._contexts[key] = tree.base_context(row.tags)
        return contexts.encode({**self._contexts[key], **row.context})
