"""A job as Dagster's lists show it: a name and an id, not the whole job.

A refresh asks for all jobs and wants little of each; the whole jobs of ten thousand trees would
hold a gigabyte.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagster import GraphDefinition, JobDefinition
from dagster._core.snap import JobSnap

_WITHOUT_ASSETS = GraphDefinition(name="without_assets", node_defs=[]).to_job().asset_layer


def listed(job: JobDefinition, build: Callable[[], JobDefinition]) -> JobDefinition:
    """Return what a list needs of a job: a stand-in, if one can answer for it.

    Parameters
    ----------
    job:
        The whole job.
    build:
        Returns the whole job again.
    """
    assets = job.asset_layer
    has_more = (
        job.run_config is not None
        or job.partitions_def is not None
        or job.automation_condition is not None
        or assets.selected_asset_keys
        or assets.external_job_asset_keys
        or assets.asset_graph.asset_check_keys
    )
    return job if has_more else ListedJob(job, build)


class ListedJob(JobDefinition):
    """Answers what Dagster asks of each job of a list; what else is asked, the whole job answers.

    ``JobDefinition.__init__`` is not called: it makes what is to be spared.
    """

    def __init__(self, job: JobDefinition, build: Callable[[], JobDefinition]) -> None:
        self._name = job.name
        self._listed_tags = job.tags
        self._owners = job.owners
        # Not the job's own method, which makes an index of the snapshot, too.
        self._snapshot_id = JobSnap.from_job_def(job).snapshot_id
        self._whole = build

    def __getattr__(self, name: str) -> Any:
        """Let the whole job answer; inherited methods find its attributes here, too."""
        if name.startswith("__"):  # asked by ``copy`` and ``pickle``, before there is anything
            raise AttributeError(name)
        return getattr(self._whole(), name)

    def get_job_snapshot_id(self) -> str:
        """Return the id of the whole job's snapshot."""
        return self._snapshot_id

    def get_job_index(self) -> Any:
        """Let the whole job make it: it is large, and would be kept here."""
        return self._whole().get_job_index()

    @property
    def tags(self) -> Mapping[str, str]:
        """The job's."""
        return self._listed_tags

    @property
    def run_config(self) -> None:
        """None, as ``listed`` has seen."""
        return None

    @property
    def partitions_def(self) -> None:
        """None, as ``listed`` has seen."""
        return None

    @property
    def automation_condition(self) -> None:
        """None, as ``listed`` has seen."""
        return None

    @property
    def asset_layer(self) -> Any:
        """No assets, as ``listed`` has seen."""
        return _WITHOUT_ASSETS

    @property
    def nodes_in_topological_order(self) -> Sequence[Any]:
        """None: a list asks only which top-level resources they use, and there are none here."""
        return ()
