"""The warm run launcher: a run's worker is forked from a process that has imported everything.

A fresh interpreter takes 1.5 s and more to import Dagster and Django; a fork takes milliseconds.
``template.py`` is the process that is forked, ``template_client.py`` the way to it, ``workers.py``
how a run's worker is known afterwards.
"""

import logging
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from dagster import DagsterInstance, DagsterRun, Field, IntSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.launcher import (
    CheckRunHealthResult,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.origin import JobPythonOrigin
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from .. import tags
from . import template_client
from .workers import Worker

logger = logging.getLogger(__name__)

PATIENCE = template_client.Patience()


class WarmRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Starts each run in a process forked from one that has Dagster and the trees imported.

    Set it in ``dagster.yaml``. It needs no workspace, so runs can be launched by Dagster's daemon,
    by its webserver, and by a Django process.

    Where nothing can be forked, runs are started in plain processes, and the log says why, once.
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        linger_seconds: int = PATIENCE.alone,
        idle_seconds: int = PATIENCE.idle,
    ) -> None:
        self._inst_data = inst_data
        self._patience = template_client.Patience(linger_seconds, idle_seconds)
        self._told: set[str] = set()
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What ``dagster.yaml`` says."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Say what may be configured."""
        return {
            "linger_seconds": Field(
                IntSource,
                is_required=False,
                default_value=PATIENCE.alone,
                description=(
                    "How long the process that is forked waits for the next user after the last "
                    "one (the daemon, the webserver) has ended, in seconds."
                ),
            ),
            "idle_seconds": Field(
                IntSource,
                is_required=False,
                default_value=PATIENCE.idle,
                description=(
                    "How long the process that is forked waits for the next launch, in seconds, "
                    "before it gives its memory back; 0: it never does."
                ),
            ),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Create it as ``dagster.yaml`` says."""
        return cls(inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run's worker.

        Raises
        ------
        DagsterInvariantViolationError
            The run does not say where its code is.
        OSError
            No process could be started.
        """
        run, origin = context.dagster_run, context.job_code_origin
        if origin is None:
            raise DagsterInvariantViolationError(
                f"Run {run.run_id} can't be launched: it does not say where its code is. It was "
                "made by a process that has its functions in memory; run the saved tree instead."
            )
        args = ExecuteRunArgs(
            job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        )
        try:
            answer = self._ask_template(args, origin, in_terminal=context.workspace is not None)
        except template_client.NoAnswer as error:
            self._tell_once(str(error))
            answer = {"pid": _start_plain(args), "plain": True}
        if answer.get("plain"):
            worker = Worker.of_process(run.run_id, answer["pid"])
            self._instance.add_run_tags(run.run_id, worker.as_tags())

    def _ask_template(
        self, args: ExecuteRunArgs, origin: JobPythonOrigin, *, in_terminal: bool
    ) -> template_client.Answer:
        pointer = origin.repository_origin.code_pointer
        if not isinstance(pointer, ModuleCodePointer) or pointer.fn_name != tags.REPOSITORY:
            raise template_client.NoAnswer(f"{pointer.describe()!r} is not a module of trees.")
        if not hasattr(os, "fork") or not hasattr(socket, "AF_UNIX"):
            raise template_client.NoAnswer("This platform has no fork.")
        request = {
            "do": "launch",
            "args": serialize_value(args),
            "owner": template_client.owner(),
        }

        def ask(output: IO[bytes] | None) -> template_client.Answer:
            return template_client.ask(
                self._home,
                request,
                start=origin.repository_origin,
                output=output,
                patience=self._patience,
            )

        def ask_again(output: IO[bytes] | None) -> template_client.Answer:
            try:
                return ask(output)
            except template_client.Refused:
                raise
            except template_client.NoAnswer:
                return ask(output)  # it may have ended at this very moment; then there is a new one

        if in_terminal:  # one of Dagster's own processes: runs write where it does
            return ask_again(None)
        with (Path(self._home) / "proctree_template.log").open("ab") as output:
            return ask_again(output)

    @property
    def _home(self) -> str:
        return self._instance.root_directory

    def _tell_once(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("A run is started in a plain process, slower: %s", reason)

    def terminate(self, run_id: str) -> bool:
        """Ask a run's worker to cancel it.

        Returns
        -------
        bool
            Whether there was a worker to ask.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        worker = self._worker(run)
        if worker is not None and not worker.is_here:
            self._instance.report_engine_event(
                f"It is executed on {worker.host!r}, and can be terminated from there only.",
                run,
                cls=type(self),
            )
            return False
        self._instance.report_run_canceling(run)
        if worker is not None and worker.interrupt():
            return True
        self._instance.report_run_canceled(run, "There was no process that executed it.")
        return False

    def _worker(self, run: DagsterRun) -> Worker | None:
        """Return a run's worker: what is written on the run, or what the template knows."""
        worker = Worker.of_run(run)
        if worker is not None:
            return worker
        try:
            request = {"do": "find", "run_id": run.run_id}
            pid = template_client.ask(self._home, request, seconds=5.0)["pid"]
        except template_client.NoAnswer:
            return None
        return None if pid is None else Worker.of_process(run.run_id, pid)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """It does."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Say whether the worker of a started run is still there."""
        worker = Worker.of_run(run)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "It runs in somebody's process.")
        if not worker.is_here:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"It runs on {worker.host!r}.")
        if worker.is_alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED, f"Its process (pid {worker.pid} on {worker.host!r}) has ended."
        )


def _start_plain(args: ExecuteRunArgs) -> int:
    """Start a worker as other launchers do: in a fresh interpreter."""
    command = args.get_command_args()
    return subprocess.Popen(command, start_new_session=True).pid  # noqa: S603  # Dagster's own
