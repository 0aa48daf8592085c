"""The origin of a run's code, and whether a run or a schedule is of this code location."""

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
"""The command with which a launcher starts Dagster; ``dagster`` may not be on the PATH."""


def code_origin(job_name: str) -> JobPythonOrigin:
    """Return the origin of the job's code for a launcher: this process's release."""
    pointer = ModuleCodePointer(project.definitions(), tags.REPOSITORY, project.working_directory())
    return JobPythonOrigin(
        job_name,
        RepositoryPythonOrigin(
            executable_path=sys.executable, code_pointer=pointer, entry_point=ENTRY_POINT
        ),
    )


def remote_origin(job_name: str) -> RemoteJobOrigin:
    """Return the job's origin for the UI, which needs it to re-execute a run."""
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

    One Dagster may serve several code locations, and a schedule or a job of another one may have
    the name of one of ours.
    """
    location = origin.code_location_origin.location_name
    return (location, origin.repository_name) == (tags.LOCATION, tags.REPOSITORY)
