"""Jobs as a host asks for them: a name, tags and a snapshot, not the whole job.

At each refresh a host asks for the list of all jobs, which names their snapshots; and then, where
it is as Dagster made it (see ``hosts``), for each snapshot. A whole job takes 100 KiB, its snapshot
20, and what it is sent as, compressed, takes three.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagster import GraphDefinition, JobDefinition
from dagster._core.snap import JobSnap
from dagster._serdes import deserialize_value, serialize_value

_WITHOUT_ASSETS = GraphDefinition(name="without_assets", node_defs=[]).to_job().asset_layer


class KnownJob(JobDefinition):
    """Answers what a host asks of each job; what else is asked, the whole job answers.

    ``JobDefinition.__init__`` is not called: it makes what is to be spared.

    Parameters
    ----------
    job:
        The whole job; nothing of it is kept but its snapshot, compressed.
    build:
        Returns the whole job again.
    """

    def __init__(self, job: JobDefinition, build: Callable[[], JobDefinition]) -> None:
        self._name = job.name
        self._known_tags = job.tags
        self._owners = job.owners
        # Not by the job's own method, which makes an index of the snapshot, too.
        text = serialize_value(JobSnap.from_job_def(job)).encode()
        # As ``JobSnap.snapshot_id`` does, which would write the snapshot once more.
        self._snapshot_id = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        self._packed = zlib.compress(text, 1)
        self._whole = build

    def __getattr__(self, name: str) -> Any:
        """Let the whole job answer; inherited methods find its attributes here, too."""
        if name.startswith("__"):  # asked by ``copy``, before there is anything
            raise AttributeError(name)
        return getattr(self._whole(), name)

    def copy(self, *, listed: bool = False) -> "KnownJob":
        """Return one to be handed out: Dagster's methods write on a job what they find out.

        Parameters
        ----------
        listed:
            Whether it is for a list of jobs.
        """
        kind = ListedJob if listed else KnownJob
        result = kind.__new__(kind)
        result.__dict__.update(self.__dict__)
        return result

    def get_job_snapshot(self) -> JobSnap:
        """Return the whole job's."""
        return deserialize_value(zlib.decompress(self._packed).decode(), JobSnap)

    def get_job_snapshot_id(self) -> str:
        """Return the id of the whole job's snapshot."""
        return self._snapshot_id

    def get_parent_job_snapshot(self) -> None:
        """Return none: it is no subset."""
        return None

    def get_job_index(self) -> Any:
        """Let the whole job make it."""
        return self._whole().get_job_index()

    @property
    def tags(self) -> Mapping[str, str]:
        """The job's."""
        return self._known_tags

    @property
    def run_config(self) -> None:
        """None, as ``known`` has seen."""
        return None

    @property
    def partitions_def(self) -> None:
        """None, as ``known`` has seen."""
        return None

    @property
    def automation_condition(self) -> None:
        """None, as ``known`` has seen."""
        return None

    @property
    def asset_layer(self) -> Any:
        """No assets, as ``known`` has seen."""
        return _WITHOUT_ASSETS


class ListedJob(KnownJob):
    """A job in a list of all."""

    @property
    def nodes_in_topological_order(self) -> Sequence[Any]:
        """None: a list asks only which top-level resources they use, and there are none here."""
        return ()


def known(job: JobDefinition, build: Callable[[], JobDefinition]) -> KnownJob | None:
    """Return what can answer for a job (see ``KnownJob``); ``None`` if the job has more to say."""
    assets = job.asset_layer
    has_more = (
        job.run_config is not None
        or job.partitions_def is not None
        or job.automation_condition is not None
        or assets.selected_asset_keys
        or assets.external_job_asset_keys
        or assets.asset_graph.asset_check_keys
    )
    return None if has_more else KnownJob(job, build)
