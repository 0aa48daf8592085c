"""The names under which Dagster keeps what is ours: tags and metadata of jobs, ops and runs."""

from collections.abc import Iterable
from typing import Literal

TREE = "proctree/tree"
REVISION = "proctree/revision"
TRIGGERED_BY = "proctree/triggered_by"
DUE = "proctree/due"
IN_MEMORY = "proctree/in_memory"
PROCESS = "proctree/process"
FUNCTION = "proctree/function"
METADATA = "proctree/metadata"
STATUS = "proctree/status"
SECONDS = "proctree/seconds"
RESULT = "proctree/result"
REASON = "proctree/reason"
RESPONSE = "proctree/response"
REQUIRED = "proctree/required"
FAILED_OPTIONAL = "proctree/failed_optional"
NO_CACHE = "proctree/no_cache"
ADMIN = "proctree/admin"
WORKER = "proctree/worker"
FAMILY = "proctree/family"
FOLLOWS = "proctree/follows"
FOLLOWED_BY = "proctree/followed_by"
INSTEAD_OF = "proctree/instead_of"
TRIGGER = "proctree/trigger"

ENVIRONMENT = "proctree/environment"
"""Metadata of the repository: on which machine and in which environment it is loaded."""

Trigger = Literal["schedule", "command", "python", "admin", "trigger", "tree"]
"""What can start a run; the values of ``TRIGGERED_BY``."""

LOCATION = "proctree"
"""The name of Dagster's code location."""

REPOSITORY = "process_trees"
"""The name of its repository, and of the attribute of the definitions module that holds it."""

SCHEDULE_SUFFIX = "_schedule"
"""What a schedule's name has behind its job's."""

OUTBOX_SENSOR = "proctree_outbox"
"""The sensor that delivers the runs that wait in the outbox."""

TRIGGER_SUFFIX = "_trigger"
"""What a trigger's sensor has behind the trigger's name."""


def join(values: Iterable[str]) -> str:
    """Return several values as the value of one tag."""
    return ", ".join(values)


def split(value: str | None) -> list[str]:
    """Return the values that ``join`` put together."""
    return value.split(", ") if value else []


CONSOLE_LEVEL = "PROCTREE_CONSOLE_LEVEL"
"""The environment variable that names the level from which on runs print their log's lines."""
