"""Jobs in lists for hosts: a name, tags and a snapshot, not the full JobDefinition.

At each refresh a host requests the list of all jobs with their snapshots' ids, and then, unless it
is lazy (see ``hosts``), each snapshot. A full job takes 100 KiB, its snapshot 20, and the
compressed snapshot 3.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagster import GraphDefinition, JobDefinition, deserialize_value

from .. import dagster_internals as internals
from ..dagster_features import JOB_SNAPSHOTS, is_on
from ..snapshot_texts import id_of, snapshot_text

if TYPE_CHECKING:
    from ..dagster_internals import JobSnap

_WITHOUT_ASSETS = GraphDefinition(name="without_assets", node_defs=[]).to_job().asset_layer


class SnapshotJob(JobDefinition):
    """A cached snapshot of a job that answers a host's queries; the full job answers all others.

    ``JobDefinition.__init__`` is not called: it creates what this class saves.

    Parameters
    ----------
    job:
        The full job, of which only the compressed snapshot is cached.
    build:
        Builds the full job again.
    """

    def __init__(self, job: JobDefinition, build: Callable[[], JobDefinition]) -> None:
        self._name = job.name
        self._tags_of_job = job.tags
        self._owners = job.owners
        # Not by the job's own method, which makes an index of the snapshot, too.
        text = snapshot_text(job)
        self._snapshot_id = id_of(text)
        self._packed = zlib.compress(text.encode(), 1)
        self._build = build

    def __getattr__(self, name: str) -> Any:
        """Delegate to the full job; inherited methods find its attributes here, too."""
        if name.startswith("__"):  # ``copy`` reads it before any attribute exists
            raise AttributeError(name)
        return getattr(self._build(), name)

    def copy(self, *, listed: bool = False) -> "SnapshotJob":
        """Return a copy to pass on, as Dagster's methods cache data on a job.

        Parameters
        ----------
        listed:
            Whether it is for a list of jobs.
        """
        kind = ListedSnapshotJob if listed else SnapshotJob
        result = kind.__new__(kind)
        result.__dict__.update(self.__dict__)
        return result

    def get_job_snapshot(self) -> "JobSnap":
        """Return the full job's."""
        return deserialize_value(zlib.decompress(self._packed).decode(), internals.JobSnap)

    def get_job_snapshot_id(self) -> str:
        """Return the id of the full job's snapshot."""
        return self._snapshot_id

    def get_parent_job_snapshot(self) -> None:
        """Return none: it is no subset."""
        return None

    def get_job_index(self) -> Any:
        """Delegate to the full job."""
        return self._build().get_job_index()

    @property
    def tags(self) -> Mapping[str, str]:
        """The job's."""
        return self._tags_of_job

    @property
    def run_config(self) -> None:
        """None, as ``snapshot_job`` has checked."""
        return None

    @property
    def partitions_def(self) -> None:
        """None, as ``snapshot_job`` has checked."""
        return None

    @property
    def automation_condition(self) -> None:
        """None, as ``snapshot_job`` has checked."""
        return None

    @property
    def asset_layer(self) -> Any:
        """No assets, as ``snapshot_job`` has checked."""
        return _WITHOUT_ASSETS


class ListedSnapshotJob(SnapshotJob):
    """A job in a list of all."""

    @property
    def nodes_in_topological_order(self) -> Sequence[Any]:
        """None: a list asks only which top-level resources they use, and there are none here."""
        return ()


def snapshot_job(job: JobDefinition, build: Callable[[], JobDefinition]) -> SnapshotJob | None:
    """Return a job's cached snapshot; ``None`` if hosts need more of the job than its snapshot.

    It is ``None`` where this Dagster does not allow it, too: then full jobs are listed.
    """
    if not is_on(JOB_SNAPSHOTS):
        return None
    assets = job.asset_layer
    has_more = (
        job.run_config is not None
        or job.partitions_def is not None
        or getattr(job, "automation_condition", None) is not None  # older releases have none
        or assets.selected_asset_keys
        or assets.external_job_asset_keys
        or assets.asset_graph.asset_check_keys
    )
    return None if has_more else SnapshotJob(job, build)
