"""The only module that imports names of Dagster that are not public (``dagster._*``).

Other modules import them from here: ``from ..dagster_internals import EngineEventData``. Each name
is imported when it is first asked for, so that one that a later Dagster has moved breaks nothing
but what needs it. What can do without is a feature (see ``dagster_features``): it is switched off,
and Dagster's own way is taken. What can't is core, and its absence is an error that says which
Dagster to install. What ``dagster`` itself exports is imported from there, and not named here.

To use another name, add it to ``NAMES``, to the block for type checkers below, and to ``CORE`` or
to the feature that needs it.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

_BY_MODULE = {
    "dagster._api": "snapshot_repository",
    "dagster._cli.api": "_execute_run_command_body",
    "dagster._config": (
        "ConfigSchemaSnapshot process_config resolve_to_config_type snap_from_config_type"
    ),
    "dagster._core.code_pointer": "ModuleCodePointer",
    "dagster._core.definitions.job_base": "InMemoryJob",
    "dagster._core.definitions.reconstruct": "ReconstructableJob",
    "dagster._core.definitions.run_config": "construct_config_type_dictionary",
    "dagster._core.definitions.run_config_schema": "RunConfigSchema",
    "dagster._core.definitions.run_request": "InstigatorType",
    "dagster._core.errors": (
        "DagsterRunAlreadyExists DagsterUserCodeProcessError DagsterUserCodeUnreachableError"
    ),
    "dagster._core.events": "EngineEventData",
    "dagster._core.execution.api": (
        "ExecuteRunWithPlanIterable create_execution_plan execute_run_iterator"
    ),
    "dagster._core.execution": "compute_logs",
    "dagster._core.execution.compute_logs": "create_compute_log_file_key",
    "dagster._core.execution.context.system": "PlanOrchestrationContext",
    "dagster._core.execution.context_creation_job": "PlanExecutionContextManager",
    "dagster._core.execution.plan": "active",
    "dagster._core.execution.plan.execute_plan": "_trigger_hook dagster_event_sequence_for_step",
    "dagster._core.execution.plan.instance_concurrency_context": "InstanceConcurrencyContext",
    "dagster._core.execution.plan.objects": "ErrorSource StepFailureData",
    "dagster._core.execution.plan.plan": "ExecutionPlan",
    "dagster._core.execution.plan.state": "KnownExecutionState",
    "dagster._core.execution.retries": "RetryMode get_retries_config",
    "dagster._core.execution.step_dependency_config": (
        "StepDependencyConfig get_step_dependency_config_field"
    ),
    "dagster._core.execution.tags": "get_tag_concurrency_limits_config",
    "dagster._core.instance.ref": "InstanceRef",
    "dagster._core.op_concurrency_limits_counter": "compute_run_op_concurrency_info_for_snapshot",
    "dagster._core.launcher": "CheckRunHealthResult RunLauncher WorkerStatus",
    "dagster._core.origin": "JobPythonOrigin RepositoryPythonOrigin",
    "dagster._core.remote_origin": (
        "GrpcServerCodeLocationOrigin ManagedGrpcPythonEnvCodeLocationOrigin "
        "RemoteJobOrigin RemoteRepositoryOrigin"
    ),
    "dagster._core.remote_representation.code_location": "GrpcServerCodeLocation",
    "dagster._core.remote_representation.grpc_server_registry": (
        "GrpcServerRegistry ServerRegistryEntry"
    ),
    "dagster._core.remote_representation.external": "RemoteExecutionPlan",
    "dagster._core.remote_representation.external_data": (
        "RepositoryErrorSnap RepositorySnap "
        "extract_serialized_job_snap_from_serialized_job_data_snap"
    ),
    "dagster._core.scheduler": "DagsterDaemonScheduler",
    "dagster._core.scheduler.instigation": "InstigatorStatus InstigatorTick TickData TickStatus",
    "dagster._core.snap": "JobSnap snapshot_from_execution_plan",
    "dagster._core.snap.execution_plan_snapshot": "create_execution_plan_snapshot_id",
    "dagster._core.snap.dagster_types": "DagsterTypeNamespaceSnapshot build_dagster_type_snap",
    "dagster._core.storage": "sql",
    "dagster._core.storage.base_storage": "DagsterStorage",
    "dagster._core.storage.event_log": "SqlEventLogStorage SqlEventLogStorageTable",
    "dagster._core.storage.event_log.migration": "ASSET_DATA_MIGRATIONS",
    "dagster._core.storage.event_log.schema": "SqlEventLogStorageMetadata",
    "dagster._core.storage.event_log.sqlite": "sqlite_event_log",
    "dagster._core.storage.event_log.sqlite.sqlite_event_log": "SqliteEventLogStorage",
    "dagster._core.storage.local_compute_log_manager": "LocalComputeLogManager",
    "dagster._core.storage.noop_compute_log_manager": "NoOpComputeLogManager",
    "dagster._core.storage.runs": "SqliteRunStorage",
    "dagster._core.storage.runs.migration": "REQUIRED_DATA_MIGRATIONS",
    "dagster._core.storage.runs.schema": (
        "RunStorageSqlMetadata RunTagsTable RunsTable SnapshotsTable"
    ),
    "dagster._core.storage.runs.sql_run_storage": "SnapshotType SqlRunStorage",
    "dagster._core.storage.schedules": "SqlScheduleStorage SqliteScheduleStorage",
    "dagster._core.storage.runs.sqlite": "sqlite_run_storage",
    "dagster._core.storage.schedules.migration": "REQUIRED_SCHEDULE_DATA_MIGRATIONS",
    "dagster._core.storage.schedules.schema": "JobTickTable ScheduleStorageSqlMetadata",
    "dagster._core.storage.schedules.sqlite": "sqlite_schedule_storage",
    "dagster._core.storage.sql": "ALEMBIC_SCRIPTS_LOCATION get_alembic_config stamp_alembic_rev",
    "dagster._core.storage.sqlite": "SQLITE_BUSY_TIMEOUT_SECONDS create_db_conn_string",
    "dagster._core.storage.sqlite_storage": "DagsterSqliteStorage",
    "dagster._core.storage.tags": "TAGS_TO_MAYBE_OMIT_ON_RETRY",
    "dagster._core.system_config.objects": "ResolvedRunConfig",
    "dagster._core.types.dagster_type": "ALL_RUNTIME_BUILTINS",
    "dagster._core.types.loadable_target_origin": "LoadableTargetOrigin",
    "dagster._core.workspace": "autodiscovery",
    "dagster._core.workspace.context": "WorkspaceProcessContext WorkspaceRequestContext",
    "dagster._core.workspace.load": "location_origins_from_yaml_paths",
    "dagster._core.workspace.load_target": "WorkspaceFileTarget",
    "dagster._core.workspace.permissions": (
        "LOCATION_SCOPED_PERMISSIONS PermissionResult Permissions"
    ),
    "dagster._daemon.daemon": (
        "SpanMarker execute_scheduler_iteration_loop execute_sensor_iteration_loop"
    ),
    "dagster._daemon.run_coordinator": "QueuedRunCoordinatorDaemon",
    "dagster._grpc.client": "DagsterGrpcClient",
    "dagster._grpc.server": "DagsterApiServer LoadedRepositories",
    "dagster._grpc.types": "ExecuteRunArgs ExternalScheduleExecutionArgs",
    "dagster._serdes": "ConfigurableClass ConfigurableClassData",
    "dagster._utils.error": "serializable_error_info_from_exc_info",
    "dagster._utils.interrupts": "capture_interrupts",
    "dagster_shared.error": "SerializableErrorInfo",
}

NAMES = {name: module for module, names in _BY_MODULE.items() for name in names.split()}
"""Every name that is used as the program runs, and its module. It may be a module itself."""

CORE = (
    # The instance, and the classes that dagster.yaml names.
    *("CheckRunHealthResult", "ConfigurableClass", "ConfigurableClassData"),
    *("DagsterDaemonScheduler", "DagsterSqliteStorage", "DagsterStorage", "InstanceRef"),
    "RunLauncher",
    "WorkerStatus",
    # Creating a run, and handing it to a worker.
    *("DagsterRunAlreadyExists", "ExecuteRunArgs", "create_execution_plan"),
    "snapshot_from_execution_plan",
    # Where a run finds its code.
    *("GrpcServerCodeLocationOrigin", "JobPythonOrigin", "LoadableTargetOrigin"),
    *("ManagedGrpcPythonEnvCodeLocationOrigin", "ModuleCodePointer", "RemoteJobOrigin"),
    *("RemoteRepositoryOrigin", "RepositoryPythonOrigin"),
    # Executing it.
    *("EngineEventData", "InMemoryJob", "PlanOrchestrationContext", "ResolvedRunConfig"),
    "execute_run_iterator",
)
"""The names without which no tree runs."""

# For type checkers. What is not among NAMES is named in annotations only.
if TYPE_CHECKING:
    from dagster._api import snapshot_repository
    from dagster._cli.api import _execute_run_command_body
    from dagster._config import (
        ConfigSchemaSnapshot,
        ConfigType,
        process_config,
        resolve_to_config_type,
        snap_from_config_type,
    )
    from dagster._config.config_schema import UserConfigSchema
    from dagster._core.code_pointer import ModuleCodePointer
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.definitions.reconstruct import ReconstructableJob
    from dagster._core.definitions.run_config import construct_config_type_dictionary
    from dagster._core.definitions.run_config_schema import RunConfigSchema
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.errors import (
        DagsterRunAlreadyExists,
        DagsterUserCodeProcessError,
        DagsterUserCodeUnreachableError,
    )
    from dagster._core.events import DagsterEventBatchMetadata, EngineEventData
    from dagster._core.execution import compute_logs
    from dagster._core.execution.api import (
        ExecuteRunWithPlanIterable,
        create_execution_plan,
        execute_run_iterator,
    )
    from dagster._core.execution.compute_logs import create_compute_log_file_key
    from dagster._core.execution.context.system import (
        PlanExecutionContext,
        PlanOrchestrationContext,
    )
    from dagster._core.execution.context_creation_job import PlanExecutionContextManager
    from dagster._core.execution.plan import active
    from dagster._core.execution.plan.active import ActiveExecution
    from dagster._core.execution.plan.execute_plan import (
        _trigger_hook,
        dagster_event_sequence_for_step,
    )
    from dagster._core.execution.plan.instance_concurrency_context import (
        InstanceConcurrencyContext,
    )
    from dagster._core.execution.plan.objects import ErrorSource, StepFailureData
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.plan.state import KnownExecutionState
    from dagster._core.execution.plan.step import ExecutionStep
    from dagster._core.execution.retries import RetryMode, get_retries_config
    from dagster._core.execution.step_dependency_config import (
        StepDependencyConfig,
        get_step_dependency_config_field,
    )
    from dagster._core.execution.tags import get_tag_concurrency_limits_config
    from dagster._core.instance.ref import InstanceRef
    from dagster._core.launcher import (
        CheckRunHealthResult,
        LaunchRunContext,
        RunLauncher,
        WorkerStatus,
    )
    from dagster._core.op_concurrency_limits_counter import (
        compute_run_op_concurrency_info_for_snapshot,
    )
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster._core.remote_origin import (
        CodeLocationOrigin,
        GrpcServerCodeLocationOrigin,
        ManagedGrpcPythonEnvCodeLocationOrigin,
        RemoteJobOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
    from dagster._core.remote_representation.external import RemoteExecutionPlan, RemoteSchedule
    from dagster._core.remote_representation.external_data import (
        RepositoryErrorSnap,
        RepositorySnap,
        extract_serialized_job_snap_from_serialized_job_data_snap,
    )
    from dagster._core.remote_representation.grpc_server_registry import (
        GrpcServerRegistry,
        ServerRegistryEntry,
    )
    from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
    from dagster._core.scheduler import DagsterDaemonScheduler
    from dagster._core.scheduler.instigation import (
        InstigatorState,
        InstigatorStatus,
        InstigatorTick,
        ScheduleInstigatorData,
        TickData,
        TickStatus,
    )
    from dagster._core.snap import ExecutionPlanSnapshot, JobSnap, snapshot_from_execution_plan
    from dagster._core.snap.dagster_types import (
        DagsterTypeNamespaceSnapshot,
        build_dagster_type_snap,
    )
    from dagster._core.snap.execution_plan_snapshot import create_execution_plan_snapshot_id
    from dagster._core.storage import sql
    from dagster._core.storage.base_storage import DagsterStorage
    from dagster._core.storage.event_log import SqlEventLogStorage, SqlEventLogStorageTable
    from dagster._core.storage.event_log.base import EventLogStorage
    from dagster._core.storage.event_log.migration import ASSET_DATA_MIGRATIONS
    from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
    from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
    from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
    from dagster._core.storage.runs import SqliteRunStorage
    from dagster._core.storage.runs.base import RunStorage
    from dagster._core.storage.runs.migration import REQUIRED_DATA_MIGRATIONS
    from dagster._core.storage.runs.schema import (
        RunsTable,
        RunStorageSqlMetadata,
        RunTagsTable,
        SnapshotsTable,
    )
    from dagster._core.storage.runs.sql_run_storage import SnapshotType, SqlRunStorage
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules import SqliteScheduleStorage, SqlScheduleStorage
    from dagster._core.storage.schedules.base import ScheduleStorage
    from dagster._core.storage.schedules.migration import REQUIRED_SCHEDULE_DATA_MIGRATIONS
    from dagster._core.storage.schedules.schema import JobTickTable, ScheduleStorageSqlMetadata
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from dagster._core.storage.sql import (
        ALEMBIC_SCRIPTS_LOCATION,
        get_alembic_config,
        stamp_alembic_rev,
    )
    from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
    from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
    from dagster._core.storage.tags import TAGS_TO_MAYBE_OMIT_ON_RETRY
    from dagster._core.system_config.objects import ResolvedRunConfig
    from dagster._core.types.dagster_type import ALL_RUNTIME_BUILTINS
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._core.workspace import autodiscovery
    from dagster._core.workspace.context import (
        BaseWorkspaceRequestContext,
        IWorkspaceProcessContext,
        WorkspaceProcessContext,
        WorkspaceRequestContext,
    )
    from dagster._core.workspace.load import location_origins_from_yaml_paths
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster._core.workspace.permissions import (
        LOCATION_SCOPED_PERMISSIONS,
        PermissionResult,
        Permissions,
    )
    from dagster._daemon.daemon import (  # type: ignore[attr-defined]
        SpanMarker,
        execute_scheduler_iteration_loop,
        execute_sensor_iteration_loop,
    )
    from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
    from dagster._daemon.types import DaemonHeartbeat
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.server import DagsterApiServer, LoadedRepositories
    from dagster._grpc.types import ExecuteRunArgs, ExternalScheduleExecutionArgs
    from dagster._serdes import ConfigurableClass, ConfigurableClassData
    from dagster._utils.error import serializable_error_info_from_exc_info
    from dagster._utils.interrupts import capture_interrupts
    from dagster_shared.error import SerializableErrorInfo
else:

    def __getattr__(name: str) -> Any:
        """Import a name of ``NAMES`` now.

        Raises
        ------
        ImportError
            Dagster has it no longer.
        AttributeError
            It is none of ``NAMES``.
        """
        if name not in NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return find(name)


def find(name: str) -> Any:
    """Return what a name of ``NAMES`` stands for.

    Raises
    ------
    ImportError
        Dagster has it no longer, or not where it was.
    """
    where = NAMES[name]
    try:
        module = importlib.import_module(where)
        if hasattr(module, name):
            return getattr(module, name)
        return importlib.import_module(f"{where}.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Dagster {importlib.metadata.version('dagster')} has no {where}.{name}, which "
            f"proctree-dagster needs. {remedy()}",
            name=name,
        ) from error


def remedy() -> str:
    """Return which Dagster to install, as a sentence."""
    try:
        required = importlib.metadata.requires("proctree-dagster") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        required = []
    dagster = next((each for each in required if each.startswith(("dagster<", "dagster>"))), "")
    if not dagster:
        return "Install a Dagster that it was made for: README.md names the releases."
    return f"Install a Dagster that it was made for: python -m pip install '{dagster}'."
