"""Where a run finds its code, and whether a run or a schedule is of this code location."""

import sys

from ...domain import run_tags as tags
from ...support import project
from ..dagster_internals import (
    JobPythonOrigin,
    LoadableTargetOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    ModuleCodePointer,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    RepositoryPythonOrigin,
)

ENTRY_POINT = (sys.executable, "-m", "dagster")
"""How a launcher starts Dagster: a bare ``dagster`` fails where it is not on the PATH."""


def code_origin(job_name: str) -> JobPythonOrigin:
    """Return where a launcher finds the job's code: in this process's release."""
    pointer = ModuleCodePointer(project.definitions(), tags.REPOSITORY, project.working_directory())
    return JobPythonOrigin(
        job_name,
        RepositoryPythonOrigin(
            executable_path=sys.executable, code_pointer=pointer, entry_point=ENTRY_POINT
        ),
    )


def remote_origin(job_name: str) -> RemoteJobOrigin:
    """Say how the UI finds the job; without it a run can't be re-executed there."""
    target = LoadableTargetOrigin(
        executable_path=sys.executable,
        module_name=project.definitions(),
        working_directory=project.working_directory(),
        attribute=tags.REPOSITORY,
    )
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, tags.LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, tags.REPOSITORY), job_name)


def is_ours(origin: RemoteRepositoryOrigin) -> bool:
    """Return True if a schedule or a job of this origin is ours.

    One Dagster may serve several code locations, and a schedule and a job of another one may bear
    the name of one of ours.
    """
    location = origin.code_location_origin.location_name
    return (location, origin.repository_name) == (tags.LOCATION, tags.REPOSITORY)
