"""Refresh a workspace as Dagster's daemon does each minute, whenever a line comes.

It prints the process id of its code server then, and the jobs that that serves.
"""

import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.controller import (
    DagsterDaemonController,
    create_daemon_grpc_server_registry,
)
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

from proctree_dagster.orchestration import kept_servers

logging.basicConfig(level=logging.INFO)
kept_servers.MAX_SECONDS = float(sys.argv[2])


def say(workspace: Any, registry: Any) -> None:
    (entry,) = registry._active_entries.values()
    answer = {
        "server": entry.process.pid if hasattr(entry, "process") else None,
        "jobs": sorted(
            job.name
            for location in workspace.create_request_context().code_locations
            for repository in location.get_repositories().values()
            for job in repository.get_all_jobs()
        ),
    }
    print(json.dumps(answer), flush=True)


with DagsterInstance.get() as instance:
    coordinator: Any = instance.run_coordinator
    QueuedRunCoordinatorDaemon(coordinator.dequeue_interval_seconds)  # as it starts
    with (
        create_daemon_grpc_server_registry(instance) as registry,
        WorkspaceProcessContext(
            instance, WorkspaceFileTarget([sys.argv[1]]), grpc_server_registry=registry
        ) as workspace,
    ):
        daemon: Any = SimpleNamespace(
            _grpc_server_registry=registry, _workspace_process_context=workspace
        )
        say(workspace, registry)
        for _ in sys.stdin:
            DagsterDaemonController.check_workspace_freshness(daemon, 0.0)
            say(workspace, registry)
