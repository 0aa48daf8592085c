"""Lazy hosts: a host (webserver, daemon) fetches a job's snapshot on first use, and caches it.

Dagster's hosts fetch the list of all jobs at each refresh, and then the snapshot of every job, each
with its own call, needed or not. With thousands of trees that is nearly the full cost of a refresh.
Here the list is fetched, as always, and a snapshot when it is first needed: by a job's page, its
Launchpad, its run. While the list names the same snapshot for a job, it is not fetched again.

This replaces one private function of Dagster's, in this place only, and only if that function
is as expected (``dagster_features.LAZY_HOSTS``); otherwise Dagster stays as it is, and the log
says so, once.
"""

import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster import Field, deserialize_value

from ..domain import run_tags
from . import dagster_internals as internals
from . import kept_plans, kept_servers
from .dagster_features import HOSTS_FETCH, LAZY_HOSTS, is_on
from .dagster_internals import ConfigurableClassData, DagsterDaemonScheduler, RemoteRepositoryOrigin
from .snapshot_texts import id_of

if TYPE_CHECKING:
    from .dagster_internals import (
        DagsterGrpcClient,
        GrpcServerCodeLocation,
        JobSnap,
        RepositorySnap,
        UserConfigSchema,
    )

_NAME = HOSTS_FETCH
_dagsters: Any = None
"""Dagster's own function, once it is replaced."""

_executes_run = False
"""Whether this process is a run's worker."""


class LazyHostScheduler(DagsterDaemonScheduler):
    """Dagster's scheduler; where it is set, hosts fetch a job's snapshot on first use.

    It takes the configuration of ``DagsterDaemonScheduler``. The scheduler is the hook because of
    all classes that ``dagster.yaml`` names, it is the one that every host loads before it first
    reads the jobs, and every code server before it imports the code location.
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        fetch_jobs_lazily: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(inst_data=inst_data, **others)
        kept_servers.watch()
        if fetch_jobs_lazily:
            install()

    @classmethod
    def config_type(cls) -> "UserConfigSchema":
        """Say what may be configured."""
        return {
            **super().config_type(),  # type: ignore[no-untyped-call]
            "fetch_jobs_lazily": Field(
                bool,
                is_required=False,
                default_value=True,
                description=(
                    "Whether a host fetches the snapshot of a process tree's job when it is asked "
                    "for, instead of every job's at every refresh."
                ),
            ),
        }


class Snapshots(dict[str, "JobSnap"]):
    """The snapshots of a list of jobs, by name; a missing one is fetched.

    It may be used by several threads: each step is one operation on the dictionary, and a second
    fetch does no harm.

    Parameters
    ----------
    ids:
        The id of each job's snapshot, as the list says.
    fetch:
        Fetches one by the job's name; returns its id and itself.
    before:
        Those of an earlier list.
    """

    def __init__(
        self,
        ids: Mapping[str, str],
        fetch: "Callable[[str], tuple[str, JobSnap]]",
        before: "Snapshots | None" = None,
    ) -> None:
        super().__init__()
        self._listed = ids
        self._fetch = fetch
        self._fetched: dict[str, tuple[str, JobSnap]] = {}
        if before is not None:
            for name, snapshot_id in ids.items():
                kept = before._fetched.get(name)
                if kept is not None and kept[0] == snapshot_id:
                    self._fetched[name] = kept
                    self[name] = kept[1]

    def __missing__(self, name: str) -> "JobSnap":
        """Fetch the snapshot of the present job, which may be newer than the list."""
        if name not in self._listed:
            raise KeyError(name)
        fetched = self._fetched[name] = self._fetch(name)
        self[name] = fetched[1]
        return fetched[1]


class _Known(NamedTuple):
    """A host's cache of a repository."""

    digest: bytes
    listed: "RepositorySnap"
    snapshots: Snapshots


_known: dict[str, _Known] = {}
"""By the repository's origin, the last list only: snapshots of removed jobs are evicted."""


def fetch_list(
    api_client: "DagsterGrpcClient",
    code_location: "GrpcServerCodeLocation",
    defer_snapshots: bool,
) -> "Mapping[str, tuple[RepositorySnap, Mapping[str, JobSnap]]]":
    """Do what Dagster's function does, without fetching every job's snapshot.

    The code location's dictionary of snapshots fetches them on first use. Other repositories than
    ours are fetched by Dagster's function, unchanged.
    """
    stock: Callable[..., Mapping[str, tuple[RepositorySnap, Mapping[str, JobSnap]]]] = _dagsters
    by_repository = vars(code_location).get("_job_snaps_by_name")
    if (
        not defer_snapshots
        or set(code_location.repository_names) != {run_tags.REPOSITORY}
        or not isinstance(by_repository, defaultdict)
    ):
        return stock(api_client, code_location, defer_snapshots)
    origin = RemoteRepositoryOrigin(code_location.origin, run_tags.REPOSITORY)
    text = api_client.external_repository(remote_repository_origin=origin, defer_snapshots=True)
    digest = hashlib.blake2b(text.encode()).digest()
    before = _known.get(origin.get_id())
    if before is not None and before.digest == digest:
        listed = before.listed  # it is read-only
    else:
        answer = deserialize_value(text, (internals.RepositorySnap, internals.RepositoryErrorSnap))
        if isinstance(answer, internals.RepositoryErrorSnap):
            raise internals.DagsterUserCodeProcessError.from_error_info(answer.error)
        listed = answer
    if listed.has_job_data():  # it was sent with the list
        return {run_tags.REPOSITORY: (listed, {})}
    snapshots = Snapshots(
        {job.name: job.snapshot_id for job in listed.get_job_refs()},
        lambda name: fetch_job(api_client, origin, name),
        None if before is None else before.snapshots,
    )
    _known[origin.get_id()] = _Known(digest, listed, snapshots)
    by_repository[run_tags.REPOSITORY] = snapshots
    return {run_tags.REPOSITORY: (listed, {})}


def fetch_job(
    api_client: "DagsterGrpcClient", repository: RemoteRepositoryOrigin, name: str
) -> "tuple[str, JobSnap]":
    """Fetch one job's snapshot.

    Returns
    -------
    str, JobSnap
        Its id and itself.

    Raises
    ------
    DagsterUserCodeProcessError
        The code server has no such job (any more), or can't build it.
    DagsterUserCodeUnreachableError
        The code server did not answer.
    """
    try:
        answer = api_client.external_job(repository, name)
    except internals.DagsterUserCodeUnreachableError as error:
        raise internals.DagsterUserCodeUnreachableError(
            f"The job {name!r} can't be fetched, the code server does not answer: {error}"
        ) from error
    if not answer.serialized_job_data:
        told = (
            deserialize_value(answer.serialized_error, internals.SerializableErrorInfo)
            if answer.serialized_error
            else None
        )
        raise internals.DagsterUserCodeProcessError(
            f"The job {name!r} can't be fetched from the code server: "
            f"{told.message.strip() if told else 'it does not say why.'}",
            user_code_process_error_infos=[told] if told else [],
        )
    data = internals.extract_serialized_job_snap_from_serialized_job_data_snap(
        answer.serialized_job_data
    )
    return id_of(data), deserialize_value(data, internals.JobSnap)


def install() -> bool:
    """Make this process, if it is a host, fetch snapshots on first use.

    Returns
    -------
    bool
        Whether it does; if not, it is no host, or this Dagster does not allow it, and the log says
        why.
    """
    global _dagsters
    # To examine Dagster imports gRPC: a tenth of a run's start, where nothing is fetched.
    is_host = internals.NAMES["GrpcServerCodeLocation"] in sys.modules and not _executes_run
    if not is_host or not is_on(LAZY_HOSTS):
        return False
    found = getattr(internals.snapshot_repository, _NAME)
    if found is not fetch_list:
        _dagsters = found
        setattr(internals.snapshot_repository, _NAME, fetch_list)
    kept_plans.install()
    return True


def executes_run() -> None:
    """Note that this process is a run's worker, and so no host."""
    global _executes_run
    _executes_run = True


def differences() -> list[str]:
    """Return the differences between this Dagster and the expected one; empty if there are none."""
    return LAZY_HOSTS.problems()
