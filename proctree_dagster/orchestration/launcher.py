"""The warm run launcher: a run's worker is forked from a process that has imported everything.

A fresh interpreter takes 1.5 s and more to import Dagster and Django; a fork takes milliseconds.
``template`` is the process that is forked, ``template_client.py`` sends requests to it,
``releases.py`` identifies the code that it has imported, ``workers.py`` a run's worker.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Self, TypeGuard

from dagster import (
    DagsterInstance,
    DagsterInvariantViolationError,
    DagsterRun,
    DagsterRunStatus,
    DefaultRunLauncher,
    Field,
    IntSource,
    serialize_value,
)

from ..domain import run_tags
from .dagster_features import TEMPLATE, is_on, why_off
from .dagster_internals import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    ExecuteRunArgs,
    GrpcServerCodeLocationOrigin,
    JobPythonOrigin,
    ModuleCodePointer,
    RepositoryPythonOrigin,
    RunLauncher,
    WorkerStatus,
)
from .launching import plain, releases, template_client, template_log
from .launching.releases import Release
from .launching.workers import Worker, may_be_shared

if TYPE_CHECKING:
    from .dagster_internals import CodeLocationOrigin, LaunchRunContext, UserConfigSchema

logger = logging.getLogger(__name__)

IDLE_TIMEOUTS = template_client.IdleTimeouts()


class WarmRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Starts each run in a process forked from one that has Dagster and the trees imported.

    Set it in ``dagster.yaml``. It needs no workspace, so runs can be launched by Dagster's daemon,
    by its webserver, and by a Django process.

    Where nothing can be forked, runs are started in plain processes, and the log says why, once.
    """

    def __init__(
        self,
        inst_data: ConfigurableClassData | None = None,
        linger_seconds: int = IDLE_TIMEOUTS.alone,
        idle_seconds: int = IDLE_TIMEOUTS.idle,
    ) -> None:
        self._inst_data = inst_data
        self._idle_timeouts = template_client.IdleTimeouts(linger_seconds, idle_seconds)
        self._told: set[str] = set()
        self._served: dict[str, str] = {}
        self._servers = DefaultRunLauncher()
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """What ``dagster.yaml`` says."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> "UserConfigSchema":
        """Say what may be configured."""
        return {
            "linger_seconds": Field(
                IntSource,
                is_required=False,
                default_value=IDLE_TIMEOUTS.alone,
                description=(
                    "How long the process that is forked waits for the next user after the last "
                    "one (the daemon, the webserver) has ended, in seconds."
                ),
            ),
            "idle_seconds": Field(
                IntSource,
                is_required=False,
                default_value=IDLE_TIMEOUTS.idle,
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

    def register_instance(self, instance: DagsterInstance) -> None:
        """Register the instance."""
        super().register_instance(instance)
        self._servers.register_instance(instance)

    def launch_run(self, context: "LaunchRunContext") -> None:
        """Start a run's worker.

        Raises
        ------
        DagsterInvariantViolationError
            The run has no code origin.
        OSError
            No process could be started.
        """
        run, origin = context.dagster_run, context.job_code_origin
        if origin is None:
            raise DagsterInvariantViolationError(
                f"Run {run.run_id} can't be launched: it does not say where its code is. It was "
                "made by a process that has its functions in memory; run the saved tree instead."
            )
        server = _own_server(context)
        if server is not None:
            self._launch_there(run, server)
            return
        origin = self._present(context, origin)
        args = ExecuteRunArgs(
            job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        )
        release = Release.of_origin(origin.repository_origin)
        self._retire_replaced(origin.repository_origin, release)
        with self._output(in_terminal=context.workspace is not None) as output:
            try:
                self._check_forkable(origin.repository_origin)
                answer = self._ask_template(release, run, args, output)
            except template_client.NoAnswer as error:
                process = plain.start(args, release, output)
                plain.report_death(process, args)
                answer = {"pid": process.pid, "plain": str(error)}
        if answer.get("plain"):
            self._note_plain(run, answer["plain"])
            worker = Worker.of_process(run.run_id, answer["pid"])
            self._instance.add_run_tags(run.run_id, worker.as_tags())

    def _launch_there(self, run: DagsterRun, server: GrpcServerCodeLocationOrigin) -> None:
        """Make a code server that Dagster has not started execute a run, as it has its own code."""
        reason = f"Runs of {server.location_name!r} are executed by its code server"
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("%s, which has an environment of its own, not by a template.", reason)
        self._servers.launch_run_from_grpc_client(self._instance, run, server.create_client())

    def _present(self, context: "LaunchRunContext", origin: JobPythonOrigin) -> JobPythonOrigin:
        """Return the origin of a run's code: if its release is gone, that of its replacement.

        Raises
        ------
        DagsterInvariantViolationError
            The release is gone, and this process knows no other.
        """
        gone = releases.why_gone(origin.repository_origin)
        if gone is None:
            return origin
        run = context.dagster_run
        current = _current_origin(context)
        if current is None or releases.why_gone(current) is not None:
            raise DagsterInvariantViolationError(
                f"Run {run.run_id} can't be launched: the release that it was requested from is "
                f"gone. {gone} Launch it again from the current one."
            )
        present = origin._replace(repository_origin=current)
        self._instance.report_engine_event(
            f"The release that this run was requested from is gone. {gone} It is executed by the "
            f"one that has replaced it, in {str(releases.folder(current))!r}.",
            run,
            cls=type(self),
        )
        if run.remote_job_origin is not None:
            # The one method of Dagster's storage that writes a full run; its worker reads it.
            self._instance.run_storage.replace_job_origin(
                run._replace(job_code_origin=present), run.remote_job_origin
            )
        return present

    @staticmethod
    def _check_forkable(origin: RepositoryPythonOrigin) -> None:
        """Raise ``NoAnswer`` if no template can serve an origin here."""
        pointer = origin.code_pointer
        if not isinstance(pointer, ModuleCodePointer) or pointer.fn_name != run_tags.REPOSITORY:
            raise template_client.NoAnswer(f"{pointer.describe()!r} is not a module of trees.")
        if not is_on(TEMPLATE):
            raise template_client.NoAnswer(f"This Dagster allows none. {why_off(TEMPLATE)}")
        if not hasattr(os, "fork") or not hasattr(socket, "AF_UNIX"):
            raise template_client.NoAnswer("This platform has no fork.")

    def _ask_template(
        self, release: Release, run: DagsterRun, args: ExecuteRunArgs, output: IO[bytes] | None
    ) -> template_client.Answer:
        request = {
            "do": "launch",
            "args": serialize_value(args),
            "shared": may_be_shared(run),
            "owner": template_client.owner(),
        }

        def ask() -> template_client.Answer:
            return template_client.ask(
                self._home, release, request, output=output, idle_timeouts=self._idle_timeouts
            )

        try:
            return ask()
        except template_client.Refused:
            raise
        except template_client.NoAnswer:
            return ask()  # it may just have ended; then there is a new one

    def _retire_replaced(self, origin: RepositoryPythonOrigin, release: Release) -> None:
        """End the template of an earlier release, if its path now leads to a later one.

        That happens after a switch of a symbolic link, such as ``current``, or of a folder.
        """
        text, key = f"{origin.executable_path} {origin.code_pointer.describe()}", release.key
        before, self._served[text] = self._served.get(text, key), key
        if before != key:
            request = {"do": "retire", "owner": template_client.owner()}
            for _ in template_client.ask_running(self._home, request, key=before):
                logger.info("Runs are executed by another release now: %s", release.folder)

    @contextmanager
    def _output(self, *, in_terminal: bool) -> Iterator[IO[bytes] | None]:
        """Yield the output file of a new process; ``None`` for this process's own output."""
        if in_terminal:  # one of Dagster's own processes: runs write where it does
            yield None
            return
        try:
            log = template_log.open_to_append(self._home)
        except OSError:  # the run is more than its log
            logger.warning("The log of templates can't be opened.", exc_info=True)
            yield None
            return
        with log as output:
            yield output

    @property
    def _home(self) -> str:
        return self._instance.root_directory

    def _note_plain(self, run: DagsterRun, reason: str) -> None:
        """Log why the run starts slowly: in the run's log, and once in this process's."""
        message = f"It is started in a plain process, which is slower: {reason}"
        self._instance.report_engine_event(message, run, cls=type(self))
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("A run is started in a plain process, which is slower: %s", reason)

    def terminate(self, run_id: str) -> bool:
        """Request a run's worker, on any host, to cancel the run.

        After ``PROCTREE["TERMINATE_GRACE"]`` seconds its guardian ends the worker. The run is
        marked as canceled when its worker has ended.

        Returns
        -------
        bool
            Whether there is, or may be, a worker.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if run.status != DagsterRunStatus.CANCELING:
            self._instance.report_run_canceling(run)
        worker = self._worker(run)
        if worker is not None and worker.has_died:
            self._instance.report_run_canceled(run, f"Its worker ({worker}) has ended.")
            return False
        if worker is not None and worker.cancel():
            return True
        if not self._ask_server(run):
            self._instance.report_engine_event(
                "Its worker is asked to cancel it by way of the database, within some seconds"
                f"{'' if worker is None else f': it is {worker}'}.",
                run,
                cls=type(self),
            )
        return True

    def _ask_server(self, run: DagsterRun) -> bool:
        """Request the code server that executes a run to cancel it; return whether it answered."""
        if run_tags.CODE_SERVER not in run.tags:
            return False
        try:
            return bool(self._servers.terminate(run.run_id))
        except Exception:  # the server can't be reached: there is another way
            logger.exception("The code server of run %s can't be asked to cancel it.", run.run_id)
            return False

    def _worker(self, run: DagsterRun) -> Worker | None:
        """Return a run's worker, from the run's tags or from the template."""
        worker = Worker.of_run(run)
        if worker is not None:
            return worker
        request = {"do": "find", "run_id": run.run_id}
        for answer in template_client.ask_running(self._home, request):
            if answer["pid"] is not None:
                return Worker.of_process(run.run_id, answer["pid"])
        return None

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether the worker of a started run is still alive."""
        worker = Worker.of_run(run)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "It runs in somebody's process.")
        if worker.has_died:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"Its worker ({worker}) has ended.")
        # The outbox's sensor checks workers that can't be seen from here (``lost_runs``).
        return CheckRunHealthResult(WorkerStatus.RUNNING, f"It is executed by {worker}.")


def _current_origin(context: "LaunchRunContext") -> RepositoryPythonOrigin | None:
    """Return where the code of a run's code location is now, if this process has a workspace."""
    job = context.dagster_run.remote_job_origin
    if context.workspace is None or job is None:
        return None
    repository = job.repository_origin
    location = context.workspace.get_code_location(repository.code_location_origin.location_name)
    found = location.get_repository(repository.repository_name).get_python_origin()
    return releases.pinned(found)


def has_own_server(run: DagsterRun) -> bool:
    """Return whether a run was requested from a code server that Dagster has not started."""
    job = run.remote_job_origin
    return job is not None and is_own_server(job.repository_origin.code_location_origin)


def _own_server(context: "LaunchRunContext") -> GrpcServerCodeLocationOrigin | None:
    """Return the code server that is to execute a run: one that Dagster has not started.

    The workspace decides, as it does for Dagster's own launcher, because a Django process does not
    know how its location is served. A server with this process's environment is not used: a fork
    of the template has the same environment, and starts at once.
    """
    job = context.dagster_run.remote_job_origin
    if job is None:
        return None
    origin = job.repository_origin.code_location_origin
    if context.workspace is not None:
        entry = context.workspace.get_location_entry(origin.location_name)
        origin = origin if entry is None else entry.origin
    if not is_own_server(origin):
        return None
    is_twin = _is_twin(context, origin.location_name, job.repository_origin.repository_name)
    return None if is_twin else origin


def _is_twin(context: "LaunchRunContext", location_name: str, repository: str) -> bool:
    """Return whether a code server is on this machine, and has this process's environment."""
    workspace = context.workspace
    if workspace is None or not workspace.has_code_location(location_name):
        return False
    location = workspace.get_code_location(location_name)
    if not location.has_repository(repository):
        return False
    known = location.get_repository(repository).repository_snap.metadata or {}
    environment = known.get(run_tags.ENVIRONMENT)
    return environment is not None and environment.value == releases.environment_key(os.environ)


def is_own_server(origin: "CodeLocationOrigin") -> TypeGuard[GrpcServerCodeLocationOrigin]:
    """Return whether a code location has a server of its own, with its own environment.

    ``dagster dev`` lists the servers that it has started in the same way, but with what they load.
    """
    if not isinstance(origin, GrpcServerCodeLocationOrigin):
        return False
    return not _WHAT_IS_LOADED & set(origin.additional_metadata or {})


_WHAT_IS_LOADED = {"module_name", "python_file", "package_name", "autoload_defs_module_name"}
