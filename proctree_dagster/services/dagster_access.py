"""What a Django user may do in Dagster's UI: Dagster's own permissions by Django's. No Dagster.

Each resolver of Dagster's that changes something asks the request for a permission by its name, and
its UI greys its buttons by the same names (``dagster._core.workspace.permissions``). Here each of
them has one of our roles; one that is not named here is granted to nobody.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

VIEW = "proctree_dagster.view_dagster"
"""The permission to see Dagster's UI: runs, logs, results, schedules, configuration."""

OPERATE = "proctree_dagster.operate_dagster"
"""The permission to launch, repeat and terminate runs, and to switch schedules and sensors.

Of a tree's job and its runs only together with the permission to run that tree.
"""

ADMINISTER = "proctree_dagster.administer_dagster"
"""The permission to delete runs and assets, to reload code, and to change limits."""

VISITOR = "proctree_dagster.visitor"
"""The key of the ``Visitor`` in the scope of a connection that the gate has let in."""

RECORDER = "proctree_dagster.recorder"
"""The key of the function in the scope that records what a query has changed."""

ROLES: Mapping[str, str] = {
    "launch_pipeline_execution": OPERATE,
    "launch_pipeline_reexecution": OPERATE,
    "start_schedule": OPERATE,
    "stop_running_schedule": OPERATE,
    "schedule_dry_run": OPERATE,
    "edit_sensor": OPERATE,
    "sensor_dry_run": OPERATE,
    "update_sensor_cursor": OPERATE,
    "terminate_pipeline_execution": OPERATE,
    "launch_partition_backfill": OPERATE,
    "cancel_partition_backfill": OPERATE,
    "delete_pipeline_run": ADMINISTER,
    "reload_repository_location": ADMINISTER,  # also shuts it down
    "reload_workspace": ADMINISTER,
    "wipe_assets": ADMINISTER,
    "report_runless_asset_events": ADMINISTER,
    "edit_dynamic_partitions": ADMINISTER,
    "toggle_auto_materialize": ADMINISTER,
    "edit_concurrency_limit": ADMINISTER,
    "edit_app_managed_components": ADMINISTER,
    "refresh_component_state": ADMINISTER,
}
"""The role that each of Dagster's permissions needs, by its name."""

MUTATIONS: Mapping[str, str] = {
    "launchPipelineExecution": "launch_pipeline_execution",
    "launchRun": "launch_pipeline_execution",
    "launchMultipleRuns": "launch_pipeline_execution",
    "launchPipelineReexecution": "launch_pipeline_reexecution",
    "launchRunReexecution": "launch_pipeline_reexecution",
    "startSchedule": "start_schedule",
    "stopRunningSchedule": "stop_running_schedule",
    "resetSchedule": "start_schedule",
    "startSensor": "edit_sensor",
    "setSensorCursor": "update_sensor_cursor",
    "stopSensor": "edit_sensor",
    "resetSensor": "edit_sensor",
    "sensorDryRun": "sensor_dry_run",
    "scheduleDryRun": "schedule_dry_run",
    "terminatePipelineExecution": "terminate_pipeline_execution",
    "terminateRun": "terminate_pipeline_execution",
    "terminateRuns": "terminate_pipeline_execution",
    "deletePipelineRun": "delete_pipeline_run",
    "deleteRun": "delete_pipeline_run",
    "reloadRepositoryLocation": "reload_repository_location",
    "reloadWorkspace": "reload_workspace",
    "shutdownRepositoryLocation": "reload_repository_location",
    "wipeAssets": "wipe_assets",
    "reportRunlessAssetEvents": "report_runless_asset_events",
    "reportAssetCheckEvaluations": "report_runless_asset_events",
    "launchPartitionBackfill": "launch_partition_backfill",
    "resumePartitionBackfill": "launch_partition_backfill",
    "reexecutePartitionBackfill": "launch_partition_backfill",
    "cancelPartitionBackfill": "cancel_partition_backfill",
    "addDynamicPartition": "edit_dynamic_partitions",
    "deleteDynamicPartitions": "edit_dynamic_partitions",
    "setAppManagedComponent": "edit_app_managed_components",
    "deleteAppManagedComponent": "edit_app_managed_components",
    "refreshComponentState": "refresh_component_state",
    "setAutoMaterializePaused": "toggle_auto_materialize",
    "setConcurrencyLimit": "edit_concurrency_limit",
    "deleteConcurrencyLimit": "edit_concurrency_limit",
    "freeConcurrencySlotsForRun": "edit_concurrency_limit",
    "freeConcurrencySlots": "edit_concurrency_limit",
}
"""The permission that guards each mutation of Dagster's.

``logTelemetry`` and ``setNuxSeen``, which no permission guards, are not here. Like any mutation
that is not named they are refused.
"""


@dataclass
class Visitor:
    """Who has sent a request, and what they may do.

    Parameters
    ----------
    username:
        The user's name, for the tag ``user`` of what they launch.
    user_id:
        The user's primary key, as a text.
    granted:
        Which of ``VIEW``, ``OPERATE`` and ``ADMINISTER`` they have.
    runs_all:
        Whether they may run trees in general.
    runs_tree:
        Returns whether they may run the tree of a job name; ``True`` if no tree has it. It reads
        the database, so it is not called in a thread that runs an event loop.
    runs_schedule:
        The same, by the name of a schedule in Dagster; ``True`` if it is no tree's.
    """

    username: str
    user_id: str
    granted: frozenset[str]
    runs_all: bool
    runs_tree: Callable[[str], bool]
    runs_schedule: Callable[[str], bool]

    launched: list[str] = field(default_factory=list)
    """Ids of the runs that the request has launched."""

    allowed: set[str] = field(default_factory=set)
    """Those of Dagster's permissions that it was asked for and has granted."""

    def may(self, permission: str) -> bool:
        """Return whether one of Dagster's permissions is granted, for no tree in particular."""
        role = ROLES.get(permission)
        return role in self.granted and (role != OPERATE or self.runs_all)

    def may_on_job(self, permission: str, job_name: str) -> bool:
        """Return whether one of Dagster's permissions is granted for a job and its runs."""
        role = ROLES.get(permission)
        return role in self.granted and self.runs_tree(job_name)

    def may_on_schedule(self, permission: str, name: str) -> bool:
        """Return whether one of Dagster's permissions is granted for a schedule, or a sensor."""
        role = ROLES.get(permission)
        return role in self.granted and self.runs_schedule(name)
