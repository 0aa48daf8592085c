"""The names of our tags and metadata on Dagster's jobs, ops and runs.

Tags that only this package reads begin with ``.dagster/``: Dagster's webserver shows none of those.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

TREE = "proctree/tree"
TRIGGERED_BY = "proctree/triggered_by"
DUE = "proctree/due"
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
FAMILY = "proctree/family"
INSTEAD_OF = "proctree/instead_of"
WITHDRAWN = "proctree/withdrawn"
FROM_LAUNCHPAD = "proctree/from_launchpad"
TRIGGER = "proctree/trigger"
SCHEDULE = "proctree/schedule"

DUE_OF_ROW = "proctree/due_of_row"
"""The due time of a run that takes no claim: one of several rows, or of a backfill."""

BACKFILL = "proctree/backfill"
"""The number of the backfill that has requested a run, for the due time in ``DUE_OF_ROW``."""

TASK_QUEUE = "task_queue"
"""The queue of a task of ``django.tasks``: a limit in ``dagster.yaml`` may name it."""

KEY = "proctree/key"
"""The key of a run: of those with the same one, at most one is unfinished."""

LIMIT = ".dagster/proctree_limit"
"""The limit of a job's runs: how many at the same time, the job, and a template (``limit``)."""

AT_MOST = "proctree/at_most_"
"""Before a number: of the runs with the same value, so many go on at the same time."""

REVISION = ".dagster/proctree_revision"
"""The tree's revision when a run was requested."""

RAN_REVISION = ".dagster/proctree_ran_revision"
"""The revision that a run executed, if the tree was changed after it was requested."""

WORKER = ".dagster/proctree_worker"
"""The process that executes a run (see ``orchestration.launching.workers``)."""

IN_MEMORY = ".dagster/proctree_in_memory"
"""Whether a run uses functions that only the process that made it has."""

REUSE_WORKER = ".dagster/proctree_reuse_worker"
"""Whether a run may be executed by a process that has executed others, and leave it to others."""

FOLLOWS = ".dagster/proctree_follows"
"""Ids of the runs that a run comes after or beside."""

FOLLOWED_BY = ".dagster/proctree_followed_by"
"""Ids of the runs that follow it directly."""

SUBMITTED_IN = ".dagster/proctree_submitted_in"
"""The OpenTelemetry span in which a run was submitted (``process.tracing``)."""

SPAN = ".dagster/proctree_span"
"""The OpenTelemetry span of a run."""

FROM_CONTEXT = ".dagster/proctree_run_tags"
"""The keys of the context whose values are tags of a job's runs."""

# The names in release 0.1, read for one release: until 0.3. They are on runs that are still there,
# on rows of the outbox, and 0.1 writes them during a rolling deployment. This release does not
# write them, as 0.1 can do without: it finds a worker through the template or Django's database,
# and leaves followers to the sensor. ``FAMILY`` keeps its name: the followers of a run that 0.1
# does not recognise as a member of its family would run twice. So does ``NO_CACHE``, which people
# type.
_BEFORE = {
    REVISION: "proctree/revision",
    WORKER: "proctree/worker",
    IN_MEMORY: "proctree/in_memory",
    FOLLOWS: "proctree/follows",
    FOLLOWED_BY: "proctree/followed_by",
}
_SINCE = {before: name for name, before in _BEFORE.items()}

SHOWN_REVISION = "proctree/revision"
"""The job's metadata that shows the tree's revision."""

ENVIRONMENT = "proctree/environment"
"""Metadata of the repository: on which machine and in which environment it is loaded."""

TICKS_APART = "proctree/ticks_apart"
"""Metadata of the repository: its schedules are evaluated one by one."""

RUN_LOGGER = "proctree_dagster.runs"
"""The logger that is given what is in the runs' logs."""

CONTEXT = "context/"
"""Prefix of a tag that shows a key of the context."""

USER = "user"
"""Dagster's tag of who has launched a run."""

SENSOR_NAME = "dagster/sensor_name"
"""Dagster's tag of the sensor that has asked for a run."""

SCHEDULE_NAME = "dagster/schedule_name"
"""Dagster's tag of the schedule that has asked for a run."""

SCHEDULED_FOR = ".dagster/scheduled_execution_time"
"""Dagster's tag of the time of the tick that has asked for a run."""

TICK = "dagster/tick"
"""Dagster's tag of the tick that has asked for a run, by its id."""

RUN_KEY = "dagster/run_key"
"""Dagster's tag of what distinguishes the runs of one tick."""

CODE_LOCATION = "dagster/code_location"
"""Dagster's tag of a run's code location."""

PARENT_RUN = "dagster/parent_run_id"
"""Dagster's tag of the run that a run repeats."""

ROOT_RUN = "dagster/root_run_id"
"""Dagster's tag of the first of the runs that repeat each other."""

RESUMES = "dagster/is_resume_retry"
"""Dagster's tag of a run that continues another from where it failed."""

WILL_RETRY = "dagster/will_retry"
"""Dagster's tag of a failed run that its daemon is going to repeat."""

CODE_SERVER = ".dagster/grpc_info"
"""Dagster's tag of the code server that executes a run."""

Trigger = Literal["schedule", "command", "python", "admin", "trigger", "tree", "backfill"]
"""What can start a run; the values of ``TRIGGERED_BY``."""

LOCATION = "proctree"
"""The name of Dagster's code location."""

REPOSITORY = "process_trees"
"""The name of its repository, and of the attribute of the definitions module that holds it."""

SCHEDULE_SUFFIX = "_schedule"
"""Suffix of a schedule's name in Dagster (see ``names.schedule_name``)."""

DUE_TOGETHER = "proctree__due_together"
"""The schedule that no list has: its ticks are those of several schedules.

No other one has its name: those of trees end with ``SCHEDULE_SUFFIX``, or with that and a number.
"""

DEFAULT_SCHEDULE = "default"
"""The name of a tree's schedule where none is given."""

OUTBOX_SENSOR = "proctree_outbox"
"""The sensor that delivers the runs that wait in the outbox."""

RETENTION_SENSOR = "proctree_retention"
"""The sensor that removes old history."""

ALERTS_SENSOR = "proctree_alerts"
"""The sensor that sends signals, and delivers alerts."""

SENSORS = (OUTBOX_SENSOR, ALERTS_SENSOR, RETENTION_SENSOR)
"""The sensors that are there without a row."""

TRIGGER_SUFFIX = "_trigger"
"""Suffix of a trigger's sensor, after the trigger's name."""

CONSOLE_LEVEL = "PROCTREE_CONSOLE_LEVEL"
"""The environment variable with the lowest log level that runs print."""


_OF_THE_RUN_ITSELF = ("dagster/", ".dagster/", "proctree/")
"""Prefixes of tags that concern the run itself."""


def is_from_launchpad(tags: Mapping[str, str]) -> bool:
    """Return whether a run with these tags, or the one that it repeats, was made in the Launchpad.

    Nothing else starts a run without saying so.
    """
    return FROM_LAUNCHPAD in tags or tags.keys().isdisjoint((SCHEDULE, TRIGGERED_BY))


def shown(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say something of a run's work: from its context, and from the caller."""
    return {name: text for name, text in tags.items() if not name.startswith(_OF_THE_RUN_ITSELF)}


def limit(number: int, job_name: str, template: str) -> str:
    """Return the value of ``LIMIT``; ``read_limit`` takes it back."""
    return f"{number}:{job_name}:{template}"


def read_limit(value: str) -> tuple[str, str, str]:
    """Return the number, the job and the template of the value of ``LIMIT``."""
    number, _, rest = value.partition(":")
    job_name, _, template = rest.partition(":")
    return number, job_name, template


def of_schedule(name: str) -> dict[str, str]:
    """Return the tag with the schedule of a run, by its name; none for a tree's default one."""
    return {} if name == DEFAULT_SCHEDULE else {SCHEDULE: name}


def schedule_of(tags: Mapping[str, str]) -> str:
    """Return the name of the schedule that a run's tags name."""
    return tags.get(SCHEDULE, DEFAULT_SCHEDULE)


def join(values: Iterable[str]) -> str:
    """Return several values as the value of one tag."""
    return ", ".join(values)


def split(value: str | None) -> list[str]:
    """Return the values that ``join`` has joined."""
    return value.split(", ") if value else []


def values(tags: Mapping[str, str], name: str) -> list[str]:
    """Return a tag's values on a run: under today's name, and under that of release 0.1.

    Parameters
    ----------
    tags:
        The run's.
    name:
        Today's name.
    """
    return [tags[each] for each in (name, _BEFORE.get(name)) if each is not None and each in tags]


def value(tags: Mapping[str, str], name: str) -> str | None:
    """Return the value of a run's tag, by today's name or by that of release 0.1."""
    return next(iter(values(tags, name)), None)


def renamed(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with release 0.1's names replaced; where a run has both, today's counts."""
    today = {_SINCE[name]: text for name, text in tags.items() if name in _SINCE}
    return {**today, **{name: text for name, text in tags.items() if name not in _SINCE}}


def ran_revision(tags: Mapping[str, str]) -> str:
    """Return the revision of its tree that a run has executed, or is going to; blank: unknown."""
    return tags.get(RAN_REVISION) or value(tags, REVISION) or ""
