"""What rests on Dagster's internals and can be switched off: one entry for each feature.

A feature works around something in Dagster, with names or with behaviour that Dagster does not
promise to keep. If a release has moved one of these names, or if it behaves differently, that
feature is off in this process: Dagster's own way is taken, one warning is logged, and
``proctree doctor`` and a system check name it. Nothing else changes: the code location loads, and
trees run. The file is long because it lists all of them.

Code asks ``is_on(FEATURE)`` where the two ways part. To add a feature, write its entry, ask there,
and add both ways to its test (``tests/orchestration/test_dagster_internals.py``).
"""

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from . import dagster_internals as internals

logger = logging.getLogger(__name__)


def _nothing() -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Feature:
    """Something that rests on Dagster's internals."""

    key: str
    """Its name in this list and in the documentation."""

    title: str
    """What it is, as the beginning of a sentence."""

    names: tuple[str, ...]
    """The names of ``dagster_internals`` that it needs, besides those that are core."""

    works_around: str
    """What Dagster does that it works around, as a sentence."""

    without: str
    """What is worse without it, as a sentence."""

    until: str
    """When it may be removed, as a sentence that begins after "when"."""

    differences: Callable[[], Iterable[str]] = _nothing
    """Yields as sentences how Dagster behaves differently from what the feature relies on.

    It is asked only if all names are there.
    """

    def problems(self) -> list[str]:
        """Return as sentences why it can't be used with this Dagster; nothing if it can."""
        missing = {name for name in self.names if _lacks(name)}
        if missing:
            return self.lacking(missing)
        try:
            return list(self.differences())
        except Exception:  # what is examined is not what it was, in a way that was not foreseen
            logger.warning("%s: Dagster's internals can't be examined.", self.key, exc_info=True)
            return ["Its internals can't be examined; the log has the trace."]

    def lacking(self, missing: Collection[str]) -> list[str]:
        """Return as sentences which of its names are missing."""
        return [
            f"{internals.NAMES[name]}.{name} is not there."
            for name in self.names
            if name in missing
        ]

    def message(self, problems: Iterable[str]) -> str:
        """Return for people that it is off, why, and what is worse without it."""
        why = " ".join(problems)
        return (
            f"{self.title} is off: this Dagster differs from what it was written for. {why} "
            f"{self.without}"
        )


def _lacks(name: str) -> bool:
    try:
        internals.find(name)
    except ImportError:
        return True
    return False


@cache
def why_off(feature: Feature) -> str | None:
    """Return why a feature is off in this process; ``None`` if it is on. Examined once."""
    return " ".join(feature.problems()) or None


def is_on(feature: Feature) -> bool:
    """Return whether a feature can be used; the first time that it can't, log a warning."""
    reason = why_off(feature)
    if reason is not None:
        _warn_once(feature, reason)
    return reason is None


def forget() -> None:
    """Let every feature be examined again: for tests."""
    why_off.cache_clear()
    _warn_once.cache_clear()


@cache
def _warn_once(feature: Feature, reason: str) -> None:
    logger.warning("%s", feature.message([reason]))


# --- How Dagster behaves --------------------------------------------------------------------------


def parameters(function: Callable[..., Any] | None) -> Sequence[str]:
    """Return the names of a function's parameters; none of what is no function."""
    return [] if function is None else list(inspect.signature(function).parameters)


def names_in(function: Any) -> Sequence[str]:
    """Return the names that a function's code uses; none of what is no function of Python's."""
    return function.__code__.co_names if inspect.isfunction(function) else ()


def _unmet(relied_on: dict[str, bool]) -> Iterator[str]:
    """Yield what does not hold."""
    yield from (f"{what}." for what, holds in relied_on.items() if not holds)


def _of_threads() -> Iterator[str]:
    pools = names_in(internals.InstanceConcurrencyContext.__init__)
    start = parameters(internals.ExecutionPlan.start)
    return _unmet(
        {
            "InstanceConcurrencyContext does not keep claims in _claims and _pending_timeouts": (
                {"_claims", "_pending_timeouts"} <= set(pools)
            ),
            "ExecutionPlan.start does not take instance_concurrency_context and max_concurrent": (
                {"instance_concurrency_context", "max_concurrent"} <= set(start)
            ),
        }
    )


def _of_event_batching() -> Iterator[str]:
    from dagster import DagsterInstance

    storage = internals.SqliteEventLogStorage
    return _unmet(
        {
            "DagsterInstance.handle_new_event does not take an event and batch_metadata": (
                parameters(DagsterInstance.handle_new_event) == ["self", "event", "batch_metadata"]
            ),
            "DagsterInstance does not keep its listeners in _subscribers": (
                "_subscribers" in names_in(DagsterInstance.__init__)
            ),
            "The event log's storages have no _event_to_row and run_connection": (
                hasattr(storage, "_event_to_row") and hasattr(storage, "run_connection")
            ),
        }
    )


HOSTS_FETCH = "sync_get_external_repositories_data_grpc"
"""Dagster's function by which a host fetches the jobs of a code location."""


def _of_lazy_hosts() -> Iterator[str]:
    location, module = internals.GrpcServerCodeLocation, internals.snapshot_repository
    names = {
        method: names_in(getattr(location, method, None))
        for method in ("__init__", "_job_ref_to_snap")
    }
    expected = ["api_client", "code_location", "defer_snapshots"]
    return _unmet(
        {
            f"{HOSTS_FETCH}{expected} is not what it was": (
                parameters(getattr(module, HOSTS_FETCH, None)) == expected
            ),
            # It must be looked up where it is replaced, at each call.
            f"GrpcServerCodeLocation does not call {HOSTS_FETCH} once it is made": (
                HOSTS_FETCH in names["__init__"]
                and not hasattr(inspect.getmodule(location), HOSTS_FETCH)
            ),
            "GrpcServerCodeLocation does not keep snapshots in _job_snaps_by_name": all(
                "_job_snaps_by_name" in each for each in names.values()
            ),
            "DagsterGrpcClient.external_job is not what it was": (
                parameters(getattr(internals.DagsterGrpcClient, "external_job", None))[:3]
                == ["self", "remote_repository_origin", "job_name"]
            ),
        }
    )


def _of_kept_plans() -> Iterator[str]:
    ask = getattr(internals.GrpcServerCodeLocation, "get_execution_plan", None)
    expected = [
        *("self", "remote_job", "run_config", "step_keys_to_execute", "known_state", "instance"),
    ]
    selections = {"op_selection", "asset_selection", "asset_check_selection"}
    return _unmet(
        {
            "GrpcServerCodeLocation.get_execution_plan is not what it was": (
                parameters(ask) == expected
            ),
            "A plan does not follow from a job's snapshot and the parts that are selected": (
                {*selections, "identifying_job_snapshot_id"}
                <= set(names_in(inspect.unwrap(ask or _nothing)))
            ),
        }
    )


def _of_job_snapshots() -> Iterator[str]:
    return _unmet(
        {"JobSnap is not made by from_job_def": hasattr(internals.JobSnap, "from_job_def")}
    )


def _of_sqlite_files() -> Iterator[str]:
    module = internals.sqlite_event_log
    storage = getattr(module, "SqliteEventLogStorage", None)
    return _unmet(
        {
            "The event log's SQLite storage names no file by path_for_shard and INDEX_SHARD_NAME": (
                hasattr(storage, "path_for_shard") and hasattr(module, "INDEX_SHARD_NAME")
            )
        }
    )


def _of_template() -> Iterator[str]:
    expected = ["run_id", "instance", "write_stream_fn", "set_exit_code_on_failure"]
    return _unmet(
        {
            f"_execute_run_command_body{expected} is not what it was": (
                parameters(internals._execute_run_command_body) == expected
            )
        }
    )


def _of_retry() -> Iterator[str]:
    state = internals.KnownExecutionState
    build = getattr(state, "build_resume_retry_reexecution", None)
    return _unmet(
        {
            "KnownExecutionState.build_resume_retry_reexecution is not what it was": (
                parameters(build) == ["instance", "parent_run"]
            )
        }
    )


def _of_failures() -> Iterator[str]:
    columns = set(internals.SqlEventLogStorageTable.c.keys())
    return _unmet(
        {
            "The event log's storages have no index_connection": hasattr(
                internals.SqlEventLogStorage, "index_connection"
            ),
            "The event log lacks the columns run_id, event and dagster_event_type": (
                {"run_id", "event", "dagster_event_type"} <= columns
            ),
        }
    )


def _of_retention() -> Iterator[str]:
    runs = {"id", "run_id", "pipeline_name", "status", "end_time", "update_timestamp"}
    ticks = {"id", "job_origin_id", "selector_id", "timestamp"}
    return _unmet(
        {
            f"The table of runs lacks one of {', '.join(sorted(runs))}": (
                runs <= set(internals.RunsTable.c.keys())
            ),
            "The table of tags lacks run_id, key or value": (
                {"run_id", "key", "value"} <= set(internals.RunTagsTable.c.keys())
            ),
            f"The table of ticks lacks one of {', '.join(sorted(ticks))}": (
                ticks <= set(internals.JobTickTable.c.keys())
            ),
            "The event log's storages have no delete_events_for_run": hasattr(
                internals.SqliteEventLogStorage, "delete_events_for_run"
            ),
        }
    )


def _of_console() -> Iterator[str]:
    from dagster import colored_console_logger

    return _unmet(
        {
            "Its console's logger keeps no function in _logger_fn": hasattr(
                colored_console_logger, "_logger_fn"
            )
        }
    )


def _of_output_in_threads() -> Iterator[str]:
    from dagster import DagsterInstance

    manager: Any = vars(DagsterInstance).get("compute_log_manager")
    return _unmet(
        {
            "DagsterInstance does not keep its compute log manager in _compute_log_manager": (
                "_compute_log_manager" in names_in(getattr(manager, "fget", None))
            )
        }
    )


def _of_output_tail() -> Iterator[str]:
    module = internals.compute_logs
    mirror = getattr(module.mirror_stream_to_file, "__wrapped__", None)
    return _unmet(
        {
            "mirror_stream_to_file does not call tail_to_stream(path, stream)": (
                "tail_to_stream" in names_in(mirror)
                and parameters(module.tail_to_stream) == ["path", "stream"]
            ),
            "There is no _fileno": hasattr(module, "_fileno"),
        }
    )


TICKS_EXECUTOR = "InheritContextThreadPoolExecutor"
"""The pool of threads in which Dagster's scheduler evaluates schedules."""

TICKS_EVALUATE = "launch_scheduled_runs_for_schedule"
"""Dagster's function that evaluates one schedule."""


def scheduler_module() -> Any:
    """Return the module of the daemon's scheduler, which can't be imported before the daemon's."""
    return inspect.getmodule(internals.execute_scheduler_iteration_loop)


def sensor_module() -> Any:
    """Return the module of the daemon's sensors, which can't be imported before the daemon's."""
    return inspect.getmodule(internals.execute_sensor_iteration_loop)


def _of_idle_sensors() -> Iterator[str]:
    module = sensor_module()
    ask = getattr(module, "is_under_min_interval", None)
    iteration = inspect.unwrap(getattr(module, "execute_sensor_iteration", _nothing))
    expected = ["state", "remote_sensor", "minimum_allowed_min_interval"]
    return _unmet(
        {
            "is_under_min_interval is not what it was": parameters(ask) == expected,
            "The daemon does not ask is_under_min_interval before it calls a sensor": (
                "is_under_min_interval" in names_in(iteration)
            ),
        }
    )


def _of_ticks_together() -> Iterator[str]:
    module = scheduler_module()
    expected = [
        *("workspace_process_context", "logger", "remote_schedule", "schedule_state"),
        *("end_datetime_utc", "max_catchup_runs", "max_tick_retries", "tick_retention_settings"),
        *("schedule_debug_crash_flags", "submit_threadpool_executor"),
        "in_memory_last_iteration_timestamp",
    ]
    checkpoint = ["instance", "schedule_state", "instigator_data", "iteration_timestamp"]
    times = ["cron_schedule", "next_iteration_timestamp", "last_iteration_timestamp"]
    arguments = [
        *("repository_origin", "instance_ref", "schedule_name", "scheduled_execution_timestamp"),
        *("scheduled_execution_timezone", "log_key", "timeout"),
    ]
    columns = {
        "JobTickTable": {
            *("id", "job_origin_id", "selector_id", "status", "type", "timestamp", "tick_body")
        },
        "RunTagsTable": {"run_id", "key", "value"},
    }
    return _unmet(
        {
            f"{TICKS_EVALUATE} is not what it was": (
                parameters(getattr(module, TICKS_EVALUATE, None)) == expected
            ),
            f"The scheduler does not submit {TICKS_EVALUATE} to an {TICKS_EXECUTOR}": (
                TICKS_EXECUTOR in names_in(module.execute_scheduler_iteration_loop)
                and TICKS_EVALUATE in names_in(module.launch_scheduled_runs)
            ),
            "_write_and_get_next_checkpoint_timestamp is not what it was": (
                parameters(getattr(module, "_write_and_get_next_checkpoint_timestamp", None))
                == checkpoint
            ),
            "ScheduleIterationTimes is not what it was": (
                list(module.ScheduleIterationTimes._fields) == times
            ),
            "ExternalScheduleExecutionArgs is not what it was": (
                parameters(internals.ExternalScheduleExecutionArgs.__new__)[1:] == arguments
            ),
            **_columns(columns),
        }
    )


def _of_queue_polls() -> Iterator[str]:
    daemon = internals.QueuedRunCoordinatorDaemon
    loop = inspect.unwrap(daemon.core_loop)
    find_runs = inspect.unwrap(daemon._get_runs_to_dequeue)
    expected = ["self", "instance", "concurrency_config", "fixed_iteration_time"]
    return _unmet(
        {
            "QueuedRunCoordinatorDaemon._get_runs_to_dequeue is not what it was": (
                parameters(find_runs) == expected
            ),
            "SqlRunStorage.fetchone is not what it was": (
                parameters(getattr(internals.SqlRunStorage, "fetchone", None)) == ["self", "query"]
            ),
            **_columns({"RunsTable": {"id", "status"}}),
            "QueuedRunCoordinatorDaemon.core_loop is not what it was": (
                parameters(loop) == ["self", "workspace_process_context", "shutdown_event"]
            ),
            "The daemon does not wait for interval_seconds between two polls of its queue": (
                {"interval_seconds", "SpanMarker", "END_SPAN"} <= set(names_in(loop))
            ),
        }
    )


def _of_kept_servers() -> Iterator[str]:
    registry, server = internals.GrpcServerRegistry, internals.DagsterApiServer
    forget = inspect.unwrap(getattr(registry, "clear_all_grpc_endpoints", _nothing))
    start = getattr(registry, "_get_grpc_server_entry", _nothing)
    ping = inspect.unwrap(getattr(server, "Ping", _nothing))
    entry = internals.ServerRegistryEntry
    return _unmet(
        {
            "The daemon does not forget its code servers with clear_all_grpc_endpoints": (
                parameters(forget) == ["self"]
                and {"_lock", "_active_entries"} <= set(names_in(forget))
            ),
            "GrpcServerRegistry does not keep its servers by key, each in a ServerRegistryEntry": (
                {"_active_entries", entry.__name__} <= set(names_in(start))
                and {"creation_timestamp", "process"} <= set(getattr(entry, "_fields", ()))
            ),
            "A ping of a code server does not echo": (
                parameters(ping) == ["self", "request", "_context"] and "echo" in names_in(ping)
            ),
            "A code server does not keep what it has loaded": (
                "_loaded_repositories" in names_in(server.__init__)
                and "definitions_by_name" in dir(internals.LoadedRepositories)
            ),
        }
    )


def _of_reused_workers() -> Iterator[str]:
    kept = [
        name
        for name, each in vars(internals.ReconstructableJob).items()
        if hasattr(each, "cache_clear")
    ]
    return _unmet(
        {
            "ReconstructableJob does not keep the last job in get_definition": (
                sorted(kept) == ["get_definition", "get_repository_definition"]
            ),
        }
    )


def _of_run_records() -> Iterator[str]:
    columns = {
        "RunsTable": {
            *("run_id", "pipeline_name", "status", "run_body", "snapshot_id"),
            *("create_timestamp", "update_timestamp"),
        },
        "SnapshotsTable": {"snapshot_id", "snapshot_body", "snapshot_type"},
    }
    return _unmet(_columns(columns))


def _columns(columns: Mapping[str, set[str]]) -> dict[str, bool]:
    """Return whether tables have the columns that are needed, each as what is wrong if not."""
    return {
        f"{name} lacks one of {', '.join(sorted(needed))}": (
            needed <= set(internals.find(name).c.keys())
        )
        for name, needed in columns.items()
    }


def _of_run_files() -> Iterator[str]:
    storage = internals.SqliteEventLogStorage
    sqlite = internals.DagsterSqliteStorage
    return _unmet(
        {
            "SqliteEventLogStorage does not create a file's tables by _initdb": (
                parameters(getattr(storage, "_initdb", None))
                == ["self", "engine", "for_index_shard"]
                and {"_initdb", "_initialized_dbs"}
                <= set(names_in(getattr(storage._connect, "__wrapped__", None)))
            ),
            "DagsterSqliteStorage does not keep its parts as it did": (
                {"_event_log_storage", "_inst_data", "_run_storage", "_schedule_storage"}
                <= set(names_in(sqlite.__init__))
            ),
            "SqliteRunStorage or SqliteScheduleStorage is not made of its address": all(
                parameters(each.__init__) == ["self", "conn_string", "inst_data"]
                for each in (
                    internals.sqlite_run_storage.SqliteRunStorage,
                    internals.sqlite_schedule_storage.SqliteScheduleStorage,
                )
            ),
        }
    )


def _of_schedule_tables() -> Iterator[str]:
    storage = internals.SqliteScheduleStorage
    connect = getattr(storage.connect, "__wrapped__", None)
    questions = {
        "has_instigators_table": ["self"],
        "_has_instigators_table": ["self", "conn"],
        "has_secondary_index_table": ["self"],
        "has_built_index": ["self", "migration_name"],
    }
    return _unmet(
        {
            "SqliteScheduleStorage is not made of its address": (
                parameters(storage.__init__) == ["self", "conn_string", "inst_data"]
                and "_conn_string" in names_in(connect)
            ),
            "DagsterSqliteStorage does not keep it in _schedule_storage": (
                "_schedule_storage" in names_in(internals.DagsterSqliteStorage.__init__)
            ),
            **{
                f"SqliteScheduleStorage.{name} is not what it was": (
                    parameters(getattr(storage, name, None)) == expected
                )
                for name, expected in questions.items()
            },
        }
    )


def _of_gated_webserver() -> Iterator[str]:
    from dagster_webserver.webserver import DagsterWebserver

    request, process = internals.WorkspaceRequestContext, internals.WorkspaceProcessContext
    asks = names_in(getattr(DagsterWebserver, "_make_request_context", None))
    return _unmet(
        {
            "DagsterWebserver does not make a request's context by create_request_context": (
                "create_request_context" in asks
            ),
            "WorkspaceProcessContext.create_request_context does not take the source": (
                parameters(process.create_request_context) == ["self", "source"]
            ),
            "WorkspaceRequestContext does not take what it did": (
                {"instance", "current_workspace", "process_context", "version", "source"}
                <= set(parameters(request))
            ),
            "WorkspaceRequestContext does not keep what it has checked": (
                "_checked_permissions" in names_in(request.has_permission)
            ),
            "WorkspaceRequestContext does not answer for a job, a schedule or a sensor": (
                parameters(getattr(request, "has_permission_for_selector", None))
                == ["self", "permission", "selector"]
            ),
        }
    )


# --- The entries ----------------------------------------------------------------------------------

THREADS = Feature(
    key="threads",
    title="Running steps in threads",
    names=(
        *("ErrorSource", "ExecuteRunWithPlanIterable", "ExecutionPlan", "KnownExecutionState"),
        *("InstanceConcurrencyContext", "PlanExecutionContextManager", "RetryMode"),
        *("SerializableErrorInfo", "StepDependencyConfig", "StepFailureData", "_trigger_hook"),
        *("create_compute_log_file_key", "dagster_event_sequence_for_step"),
        *("get_retries_config", "get_step_dependency_config_field"),
        *("get_tag_concurrency_limits_config", "serializable_error_info_from_exc_info"),
    ),
    works_around="Dagster runs steps one after another, or each in a process of its own.",
    without=(
        "The executor 'threads' is Dagster's in-process executor: the processes of a run are "
        "executed one after another, and MAX_CONCURRENT limits nothing."
    ),
    until="Dagster has an executor that runs steps in threads.",
    differences=_of_threads,
)

EVENT_BATCHING = Feature(
    key="event_batching",
    title="Writing a run's events in groups",
    names=("SQLITE_BUSY_TIMEOUT_SECONDS", "SqlEventLogStorageTable", "SqliteEventLogStorage"),
    works_around="Dagster writes each event in a transaction of its own, some nine a step.",
    without="Each event is written by itself, so that each step takes some milliseconds longer.",
    until="Dagster's batches of events (DAGSTER_EVENT_BATCH_SIZE) hold the events of steps, too.",
    differences=_of_event_batching,
)

JOB_SNAPSHOTS = Feature(
    key="job_snapshots",
    title="Caching jobs as snapshots",
    names=(
        *("ALL_RUNTIME_BUILTINS", "ConfigSchemaSnapshot", "DagsterTypeNamespaceSnapshot"),
        *("JobSnap", "RunConfigSchema", "build_dagster_type_snap"),
        *("construct_config_type_dictionary", "snap_from_config_type"),
    ),
    works_around=(
        "Dagster keeps a repository's jobs as full definitions, and writes the snapshot of each "
        "at each refresh."
    ),
    without=(
        "Full jobs are listed: the code server keeps about 100 KiB for each tree instead of 3, "
        "and a refresh of thousands of trees takes longer."
    ),
    until="Dagster lists a code location's jobs without building them.",
    differences=_of_job_snapshots,
)

LAZY_HOSTS = Feature(
    key="lazy_hosts",
    title="Fetching a job's snapshot when it is asked for",
    names=(
        *("DagsterGrpcClient", "DagsterUserCodeProcessError", "DagsterUserCodeUnreachableError"),
        *("GrpcServerCodeLocation", "JobSnap", "RepositoryErrorSnap", "RepositorySnap"),
        *("SerializableErrorInfo", "extract_serialized_job_snap_from_serialized_job_data_snap"),
        "snapshot_repository",
    ),
    works_around="The webserver and the daemon fetch every job's snapshot at every refresh.",
    without=(
        "The webserver and the daemon fetch every job's snapshot at every refresh, which takes "
        "long with thousands of trees."
    ),
    until="Dagster's hosts fetch a job's snapshot when it is first needed.",
    differences=_of_lazy_hosts,
)

SQLITE_KEEPALIVE = Feature(
    key="sqlite_keepalive",
    title="Keeping Dagster's SQLite files open",
    names=(
        *("SqliteRunStorage", "sqlite_event_log", "sqlite_run_storage"),
        "sqlite_schedule_storage",
    ),
    works_around=(
        "Dagster opens and closes its SQLite files, and makes a new engine, for each query."
    ),
    without="The daemon's polls and a run's events take longer on SQLite.",
    until="Dagster's SQLite storages keep their engines.",
    differences=_of_sqlite_files,
)

MIGRATIONS_READ_ONCE = Feature(
    key="migrations_read_once",
    title="Reading the migrations of Dagster's storage once",
    names=("ALEMBIC_SCRIPTS_LOCATION", "get_alembic_config", "sql", "sqlite_run_storage"),
    works_around="Alembic executes some ninety scripts whenever Dagster opens an instance.",
    without="Each run starts about 0.1 s later.",
    until="Dagster's storages ask for the newest revision without reading all of them.",
)

IMPORTED_ONCE = Feature(
    key="imported_once",
    title="Importing once what Dagster imports in each run",
    names=("LocalComputeLogManager", "active", "autodiscovery"),
    works_around="Dagster imports some modules only when a run needs them.",
    without="Each run's process imports them itself, and starts some milliseconds later.",
    until="Dagster imports them itself with the code location.",
)

HOMES = Feature(
    key="homes",
    title="Creating Dagster's storage under a lock",
    names=(
        *("ASSET_DATA_MIGRATIONS", "REQUIRED_DATA_MIGRATIONS"),
        *("REQUIRED_SCHEDULE_DATA_MIGRATIONS", "RunStorageSqlMetadata"),
        *("ScheduleStorageSqlMetadata", "SqlEventLogStorageMetadata", "get_alembic_config"),
        *("process_config", "resolve_to_config_type", "sql", "sqlite_event_log"),
        *("sqlite_run_storage", "sqlite_schedule_storage", "stamp_alembic_rev"),
    ),
    works_around=(
        "Two processes that open a fresh storage at the same moment leave it half created."
    ),
    without=(
        "Dagster creates its storage itself, so start one process first on a fresh home; a "
        "storage that is half created is neither found nor repaired."
    ),
    until="Dagster creates its storage in one transaction, or under a lock.",
)

TEMPLATE = Feature(
    key="template",
    title="Forking the processes of runs",
    names=("_execute_run_command_body", "capture_interrupts"),
    works_around="Dagster starts a fresh interpreter for each run.",
    without="Each run is started in a plain process, a second or two slower.",
    until="Dagster's launcher can fork a run's process from one that has imported its code.",
    differences=_of_template,
)

QUIET_CONSOLE = Feature(
    key="quiet_console",
    title="Printing only the more important lines of a run's log",
    names=(),
    works_around=("Dagster prints all of a run's log, or else keeps the rest from its UI, too."),
    without="Runs print all of their log in the terminal of 'proctree dev'.",
    until="Dagster has a log level for the console of its own.",
    differences=_of_console,
)

OUTPUT_IN_THREADS = Feature(
    key="output_in_threads",
    title="Leaving the output of a process alone whose thread executes a run",
    names=("NoOpComputeLogManager",),
    works_around="Dagster redirects the file descriptors of the whole process for each run.",
    without=(
        "Runs in several threads of one process at the same time may redirect its output for good."
    ),
    until="Dagster captures the output of a run without redirecting the process's.",
    differences=_of_output_in_threads,
)

OUTPUT_TAIL = Feature(
    key="output_tail",
    title="Printing the output of a run by one program for each stream",
    names=("compute_logs",),
    works_around="Dagster starts two Pythons for each run, which do nothing but watch a 'tail'.",
    without="Each run takes some 0.1 s more of processor time.",
    until="Dagster prints a run's output without programs that watch.",
    differences=_of_output_tail,
)

RUN_FILES = Feature(
    key="run_files",
    title="Copying an empty file for the events of a run",
    names=(
        *("SqliteEventLogStorage", "create_db_conn_string", "sqlite_event_log"),
        *("sqlite_run_storage", "sqlite_schedule_storage"),
    ),
    works_around=(
        "Dagster creates each run's file of events table by table, and asks alembic about its "
        "databases whenever it opens them."
    ),
    without="On SQLite each run takes some 0.1 s more of processor time, and 110 kB more of disk.",
    until="Dagster's file of a run has no table that the run does not need.",
    differences=_of_run_files,
)

SCHEDULE_TABLES = Feature(
    key="schedule_tables",
    title="Asking once which tables Dagster's schedules have",
    names=("SqliteScheduleStorage",),
    works_around=(
        "Dagster asks its SQLite file of schedules before most queries whether an older release "
        "has created it."
    ),
    without="On SQLite each tick of a schedule or a sensor takes the daemon some 0.01 s more.",
    until="Dagster's storage of schedules remembers which tables it has found.",
    differences=_of_schedule_tables,
)

RUN_RECORDS = Feature(
    key="run_records",
    title="Recording and queueing a run with few statements",
    names=(
        *("RunsTable", "SnapshotType", "SnapshotsTable", "SqliteEventLogStorage"),
        "compute_run_op_concurrency_info_for_snapshot",
        "create_execution_plan_snapshot_id",
    ),
    works_around=(
        "Dagster makes what a run records of its job once for each run, and reads the run three "
        "times to queue it."
    ),
    without=(
        "A run that Python starts takes some 0.02 s more; schedules that are due together are "
        "evaluated one by one."
    ),
    until="Dagster keeps the snapshots of a job and of its plan with the job.",
    differences=_of_run_records,
)

QUEUE_POLLS = Feature(
    key="queue_polls",
    title="Waking the daemon when a run is queued or has ended",
    names=("QueuedRunCoordinatorDaemon", "RunsTable", "SpanMarker", "SqlRunStorage"),
    works_around=(
        "Dagster's daemon polls its queue at fixed intervals only, and reads all runs under way "
        "though none is queued."
    ),
    without=(
        "A run that no limit holds back waits for the daemon's next poll, and a poll takes longer."
    ),
    until="Dagster's daemon can be woken.",
    differences=_of_queue_polls,
)

KEPT_SERVERS = Feature(
    key="kept_servers",
    title="Keeping the daemon's code servers while no code has changed",
    names=(
        *("DagsterApiServer", "DagsterUserCodeUnreachableError", "GrpcServerRegistry"),
        *("LoadedRepositories", "ServerRegistryEntry"),
    ),
    works_around="Dagster's daemon replaces its code servers each minute, to see edited code.",
    without="An idle daemon takes some 3 % more of a core.",
    until="Dagster's daemon replaces a code server only when its code has changed.",
    differences=_of_kept_servers,
)

KEPT_PLANS = Feature(
    key="kept_plans",
    title="Keeping the execution plans of jobs",
    names=("GrpcServerCodeLocation", "RemoteExecutionPlan"),
    works_around="Dagster's webserver asks the code server for a job's plan at each launch.",
    without="A launch in the UI takes some 0.02 s more.",
    until="Dagster's hosts keep the plan of a job with its snapshot.",
    differences=_of_kept_plans,
)

IDLE_SENSORS = Feature(
    key="idle_sensors",
    title="Calling the package's sensors only when there may be something to do",
    names=("execute_sensor_iteration_loop",),
    works_around="Dagster's daemon calls sensors at their intervals, also if nothing has happened.",
    without="The package's sensors are called eleven times a minute: some 0.5 % of a core.",
    until="Dagster's sensors can name the time of their next call.",
    differences=_of_idle_sensors,
)

REUSED_WORKERS = Feature(
    key="reused_workers",
    title="Executing further runs in the process of a run",
    names=("ReconstructableJob",),
    works_around=(
        "Dagster executes one run in a process, and keeps its job there, whatever becomes of the "
        "tree."
    ),
    without="Each run has a process of its own, also of trees with reuse_worker.",
    until="Dagster's launchers execute several runs in one process.",
    differences=_of_reused_workers,
)

TICKS_TOGETHER = Feature(
    key="ticks_together",
    title="Evaluating schedules that are due together at once",
    names=(
        *("DagsterUserCodeProcessError", "ExternalScheduleExecutionArgs"),
        *("GrpcServerCodeLocation", "InstigatorTick", "InstigatorType", "JobTickTable"),
        *("RunTagsTable", "TickData", "TickStatus", "execute_scheduler_iteration_loop"),
    ),
    works_around=(
        "Dagster's scheduler evaluates each schedule by itself, with some ten queries, three calls "
        "to the code server and eight commits."
    ),
    without="Each schedule that is due takes the daemon and the code server some 0.1 s.",
    until="Dagster's scheduler evaluates the schedules of a code location in one call.",
    differences=_of_ticks_together,
)

RETRY_FROM_FAILURE = Feature(
    key="retry_from_failure",
    title="Repeating a run from where it failed ('proctree retry')",
    names=("KnownExecutionState", "TAGS_TO_MAYBE_OMIT_ON_RETRY"),
    works_around="Dagster re-executes a run only with a workspace, which its own processes have.",
    without="A run is re-executed from failure in Dagster's UI only.",
    until="Dagster's public API can re-execute a run from failure without a workspace.",
    differences=_of_retry,
)

SCHEDULE_STATUS = Feature(
    key="schedule_status",
    title="Showing which schedules are stopped in Dagster",
    names=("InstigatorStatus", "InstigatorType"),
    works_around="Dagster has no hook for a schedule that is stopped in its UI.",
    without="Django's admin does not show which schedules were stopped in Dagster's UI.",
    until="Dagster's public API lists the status of schedules.",
)

WORKSPACE_CHECK = Feature(
    key="workspace_check",
    title="Examining the code locations of workspace.yaml",
    names=("location_origins_from_yaml_paths",),
    works_around="Dagster says only when a run fails what the Python of a code location lacks.",
    without="'proctree doctor' does not compare what other Pythons have installed.",
    until="Dagster's public API reads workspace.yaml.",
)

FAILURES_AT_ONCE = Feature(
    key="failures_at_once",
    title="Reading what failed of several runs in one query",
    names=("SqlEventLogStorage", "SqlEventLogStorageTable"),
    works_around="Dagster reads the events of one run at a time.",
    without="The lists of runs in Django's admin read each failed run's events by themselves.",
    until="Dagster's public API reads the events of several runs.",
    differences=_of_failures,
)

GATED_WEBSERVER = Feature(
    key="gated_webserver",
    title="Serving Dagster's UI behind Django's login",
    names=(
        *("LOCATION_SCOPED_PERMISSIONS", "PermissionResult", "Permissions", "WorkspaceFileTarget"),
        *("WorkspaceProcessContext", "WorkspaceRequestContext"),
    ),
    works_around="Dagster's webserver has no login: who reaches its port may do everything.",
    without="Dagster's UI is not served under the Django site, which says why in its place.",
    until="Dagster's public API has a hook for the permissions of a request.",
    differences=_of_gated_webserver,
)

RETENTION = Feature(
    key="retention",
    title="Removing old history",
    names=(
        *("JobTickTable", "RunTagsTable", "RunsTable", "SqlEventLogStorageTable"),
        *("SqlScheduleStorage", "SqliteEventLogStorage"),
    ),
    works_around=(
        "Dagster removes ticks, and never a run or its events by itself; its 'delete_run' takes "
        "one at a time, and leaves each run's file of events."
    ),
    without="Nothing is removed, whatever PROCTREE['KEEP'] says: the history grows.",
    until="Dagster's retention removes runs.",
    differences=_of_retention,
)

FEATURES = (
    *(THREADS, EVENT_BATCHING, JOB_SNAPSHOTS, LAZY_HOSTS, SQLITE_KEEPALIVE),
    *(MIGRATIONS_READ_ONCE, IMPORTED_ONCE, HOMES, TEMPLATE, QUIET_CONSOLE, OUTPUT_IN_THREADS),
    *(OUTPUT_TAIL, KEPT_SERVERS, KEPT_PLANS, IDLE_SENSORS, QUEUE_POLLS, REUSED_WORKERS, RUN_FILES),
    *(SCHEDULE_TABLES, RUN_RECORDS, TICKS_TOGETHER),
    *(RETRY_FROM_FAILURE, SCHEDULE_STATUS, WORKSPACE_CHECK, FAILURES_AT_ONCE, GATED_WEBSERVER),
    RETENTION,
)
"""Every feature."""
