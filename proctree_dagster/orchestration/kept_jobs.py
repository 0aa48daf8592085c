"""The jobs of trees that a process executes or submits, kept for the tree's next run.

A job of Dagster's takes longer to make than a small step to execute, and what it has once found out
of itself (its configuration, its snapshot) it keeps. One is used again as long as nothing has
changed of which it was made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagster import JobDefinition

from .. import conf
from .configured import is_standard
from .tree_records import TreeRecord

if TYPE_CHECKING:
    from .translator import ProcessTreeTranslator

MOST_KEPT = 32
"""Of how many trees the jobs are kept, those that ran last: some 200 KiB each."""


class Jobs:
    """The jobs of a run.

    Parameters
    ----------
    served:
        The one that Dagster serves.
    same_plan:
        Whether every run of it has the same plan.
    """

    def __init__(self, served: JobDefinition, *, same_plan: bool) -> None:
        self.served = served
        """The one that Dagster serves, of which the run is recorded."""

        self.same_plan = same_plan
        """Whether every run of the job has the same plan (see ``runs.create.create_run``)."""

        self._executed: JobDefinition | None = None

    def executed(self, make: Callable[[], JobDefinition]) -> JobDefinition:
        """Return the one that is executed in the calling process.

        Parameters
        ----------
        make:
            Makes it, if these jobs are not kept, or it was not executed yet.
        """
        if self._executed is None:
            self._executed = make()
        return self._executed


@dataclass(frozen=True)
class _Kept:
    record: TreeRecord
    settings: conf.Settings
    jobs: Jobs

    def is_of(self, record: TreeRecord, settings: conf.Settings) -> bool:
        return self.settings == settings and self.record == record


_kept: dict[str, _Kept] = {}
"""By the job's name, those that were used last at the end."""


def of_tree(
    translator: "ProcessTreeTranslator", record: TreeRecord, *, in_memory: bool = False
) -> Jobs:
    """Return the jobs of a run.

    Parameters
    ----------
    translator:
        The project's. One of its own may make a job of anything, so each run has jobs of its own.
    record:
        The tree.
    in_memory:
        Whether the tree has functions that only the caller has; then nothing is kept.
    """
    is_kept = is_standard(translator)

    def make() -> Jobs:
        return Jobs(translator.job(record), same_plan=is_kept)

    return _kept_or_made(record, make) if is_kept and not in_memory else make()


def _kept_or_made(record: TreeRecord, make: Callable[[], Jobs]) -> Jobs:
    settings = conf.current()
    found = _kept.pop(record.job_name, None)
    if found is None or not found.is_of(record, settings):
        found = _Kept(record, settings, make())
    _kept[record.job_name] = found
    for name in list(_kept)[:-MOST_KEPT]:
        _kept.pop(name, None)
    return found.jobs
