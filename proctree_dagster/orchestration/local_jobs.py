"""The jobs of a run in the calling process, kept for the tree's next run there.

A job of Dagster's takes longer to make than a small step to execute, and what it has once found out
of itself (its configuration, its snapshot) it keeps. One is used again as long as nothing has
changed of which it was made.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dagster import JobDefinition

from .. import conf
from .execution.tree_run import ANY_RUN, Local
from .translator import ProcessTreeTranslator
from .tree_records import TreeRecord

MOST_KEPT = 32
"""Of how many trees the jobs are kept, those that ran last: some 200 KiB each."""


@dataclass(frozen=True)
class Jobs:
    """The jobs of a run in the calling process."""

    served: JobDefinition
    """The one that Dagster serves, of which the run is recorded."""

    executed: JobDefinition
    """The one that is executed here."""

    same_plan: bool
    """Whether every run of the job has the same plan (see ``runs.create.create_run``)."""


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
    translator: ProcessTreeTranslator, record: TreeRecord, local: Local, *, in_memory: bool
) -> Jobs:
    """Return the jobs of a run.

    Parameters
    ----------
    translator:
        The project's. One of its own may make a job of anything, so each run has jobs of its own.
    record:
        The tree.
    local:
        The options of the run.
    in_memory:
        Whether the tree has functions that only the caller has; then nothing is kept.
    """
    if type(translator) is not ProcessTreeTranslator:
        return Jobs(translator.job(record), translator.job(record, local=local), same_plan=False)

    def make() -> Jobs:
        return Jobs(translator.job(record), translator.job(record, local=ANY_RUN), same_plan=True)

    return make() if in_memory else _kept_or_made(record, make)


def _kept_or_made(record: TreeRecord, make: Callable[[], Jobs]) -> Jobs:
    settings = conf.current()
    found = _kept.pop(record.job_name, None)
    if found is None or not found.is_of(record, settings):
        found = _Kept(record, settings, make())
    _kept[record.job_name] = found
    for name in list(_kept)[:-MOST_KEPT]:
        _kept.pop(name, None)
    return found.jobs
