"""A machine, as far as runs can tell: a process that launches runs, and looks after them.

    python -m tests.tools.host

It reads commands from its input, a line of JSON each, and answers each with a line. Started by
``Host``, it may have a host name, a boot id and a PID namespace of its own; when its first process
is killed, everything on it is gone, as when a container dies.
"""

import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from tests.tools import TOP
from tests.tools.startup.forked_programs import import_once, run_and_end, share
from tests.tools.warm_python import Fork, Forks

PROGRAM = ["-m", "tests.tools.host"]

IS_CONTAINER = "TEST_HOST_IS_CONTAINER"
"""Set in the environment of a host that has a PID namespace of its own."""


def main() -> None:
    """Answer commands until there are no more."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import_once()
    share()
    workers = Workers()
    import django

    django.setup()
    from dagster import DagsterInstance

    # Dagster and its children print; what answers is the pipe of the standard output only.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
        machine = Machine(instance, workers)
        for line in sys.stdin:
            name, arguments = json.loads(line)
            try:
                answer = {"is": getattr(machine, name)(*arguments)}
            except Exception as error:  # noqa: BLE001  # the test raises it
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers)


class Workers:
    """A process whose forks are Dagster's own workers: it has imported Dagster, and no project."""

    def __init__(self) -> None:
        """Fork it from this process, which has no thread yet; it ends with this one."""
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            self._serve(theirs)
        theirs.close()
        self._lines = ours.makefile("rw")

    def start(self, command: list[str]) -> int:
        """Start one, given its command line after ``python``; return its process id."""
        self._lines.write(json.dumps(command) + "\n")
        self._lines.flush()
        return int(self._lines.readline())

    @staticmethod
    def _serve(connection: socket.socket) -> NoReturn:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are reaped
        with connection.makefile("rw") as lines:
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    os.close(connection.detach())
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.setsid()
                    _become(json.loads(line))
                lines.write(f"{pid}\n")
                lines.flush()
        os._exit(0)


def _become(command: list[str]) -> NoReturn:
    """Execute a command line, ``-m`` with a module and its arguments, to its end."""
    option, module, *_ = command
    assert option == "-m"
    sys.argv = command[1:]
    run_and_end(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


class Machine:
    """What can be asked of it."""

    def __init__(self, instance: Any, workers: Workers) -> None:
        self.instance = instance
        self.workers = workers
        self.open = ExitStack()
        """What stays open as long as the machine runs."""

    def identity(self) -> str:
        from proctree_dagster.support.os_processes import Identity

        return repr(Identity.of_this_process())

    def create(self, tree: str, context: dict[str, Any]) -> str:
        """Create a run of a tree, not started."""
        from proctree_dagster.models import ProcessTree
        from proctree_dagster.orchestration import tree_records
        from proctree_dagster.orchestration.configured import translator
        from proctree_dagster.orchestration.runs import create as runs

        job = translator().job(tree_records.from_row(ProcessTree.objects.get(name=tree)))
        return runs.create_run(self.instance, job, context, {}, run_id=str(uuid.uuid4())).run_id

    def tick(self, tree: str) -> str:
        """Evaluate a tree's schedule as the daemon does; return the run's id, or why none."""
        import datetime as dt

        from proctree_dagster.domain import run_tags
        from proctree_dagster.models import ProcessTree
        from proctree_dagster.orchestration import tree_records
        from proctree_dagster.orchestration.configured import translator
        from proctree_dagster.orchestration.runs import create as runs
        from proctree_dagster.orchestration.runs import schedule_claims
        from proctree_dagster.services import due_time_claims

        row = ProcessTree.objects.with_schedules().get(name=tree)
        history = schedule_claims.ScheduleHistory(self.instance, row.schedule.pk)
        decision = due_time_claims.request(row.schedule.pk, dt.datetime.now(dt.UTC), history)
        if isinstance(decision, due_time_claims.Skip):
            return decision.reason
        job = translator().job(tree_records.from_row(row))
        given = {run_tags.DUE: schedule_claims.due_tag(decision.due)}
        run = runs.create_run(self.instance, job, decision.context, given)
        self.launch(run.run_id)
        return run.run_id

    def make_schedule(self, tree: str, function: str, context: dict[str, Any]) -> None:
        """Save a tree with one process and a schedule, which is due now."""
        from proctree_dagster.tree_builder import ProcessTreeInstance

        made = ProcessTreeInstance(tree).add_process("only", func=function)
        made.save()
        made.register_schedule(interval_minutes=1440, context=context)
        self._make_due(tree)

    def tick_again(self, tree: str) -> str:
        """Let a tree be due again, and evaluate its schedule."""
        self._make_due(tree)
        return self.tick(tree)

    def _make_due(self, tree: str) -> None:
        import datetime as dt

        from proctree_dagster.models import ProcessTreeSchedule

        due = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
        ProcessTreeSchedule.objects.filter(process_tree__name=tree).update(next_run=due)

    def send(self, pid: int, number: int) -> None:
        """Send a signal to a process on this machine."""
        os.kill(pid, number)

    def launch(self, run_id: str) -> None:
        """Launch a run, as the daemon here would.

        In a container by a plain process: the template's socket is in the home that it shares with
        the others, so it would be asked of whichever has a template.
        """
        if IS_CONTAINER in os.environ:
            self.start_workers(run_id, 1)
        else:
            self.instance.launch_run(run_id, workspace=None)

    def start_workers(self, run_id: str, count: int) -> list[int]:
        """Start several of Dagster's own workers of one run at once; return their process ids."""
        from dagster._grpc.types import ExecuteRunArgs

        run = self._starting(run_id)
        args = ExecuteRunArgs(run.job_code_origin, run_id, self.instance.get_ref())
        python, *command = args.get_command_args()
        assert python == sys.executable
        return [self.workers.start(command) for _ in range(count)]

    def launch_by_server(self, run_id: str) -> None:
        """Launch a run as Dagster's own launcher does: a code server starts its worker."""
        from dagster import DefaultRunLauncher
        from dagster._core.launcher import LaunchRunContext
        from dagster._core.test_utils import create_test_daemon_workspace_context
        from dagster._core.workspace.load_target import ModuleTarget

        target = ModuleTarget("definitions", "process_trees", str(TOP), "proctree")
        workspace = self.open.enter_context(
            create_test_daemon_workspace_context(target, self.instance)
        )
        launcher = DefaultRunLauncher()
        launcher.register_instance(self.instance)
        run = self._starting(run_id)
        launcher.launch_run(LaunchRunContext(run, workspace.create_request_context()))

    def _starting(self, run_id: str) -> Any:
        """Let a run be starting, as it is when it is launched."""
        from dagster._core.events import DagsterEvent, DagsterEventType

        run = self.instance.get_run_by_id(run_id)
        event = DagsterEvent(DagsterEventType.RUN_STARTING.value, run.job_name)
        self.instance.report_dagster_event(event, run_id=run_id)
        return self.instance.get_run_by_id(run_id)

    def execute(self, tree: str, context: dict[str, Any]) -> None:
        """Execute a tree in this very process, in a thread."""
        from proctree_dagster.tree_builder import ProcessTreeManager

        arguments = (tree, context)
        threading.Thread(target=ProcessTreeManager.execute_tree, args=arguments).start()

    def settle(self) -> str:
        """Look after the runs, as the sensor does."""
        from django.db import connections

        from proctree_dagster.orchestration.runs import lost_runs

        try:
            return str(lost_runs.settle(self.instance))
        finally:
            connections.close_all()

    def terminate(self, run_id: str) -> bool:
        """Terminate a run, as the webserver here would."""
        result: bool = self.instance.run_launcher.terminate(run_id)
        return result

    def health(self, run_id: str) -> str:
        """Return what run monitoring here would learn of a run's worker."""
        run = self.instance.get_run_by_id(run_id)
        return str(self.instance.run_launcher.check_run_worker_health(run).status.value)

    def state(self, pid: int) -> str:
        """Return how a process on this machine is."""
        from proctree_dagster.support.os_processes import Identity

        return Identity.of(pid).state.value


class Host:
    """One machine, seen from the test.

    Parameters
    ----------
    name:
        Its host name; ``None``: this machine's.
    environment:
        That of its processes.
    log:
        Where its processes write.
    forks:
        A Python with this environment: what is no machine of its own is a fork of it.
    boot_id:
        The file with the boot id that it is to have; ``None``: this machine's.
    """

    def __init__(
        self,
        name: str | None,
        environment: dict[str, str],
        log: Path,
        forks: Forks,
        boot_id: Path | None = None,
    ) -> None:
        its_input, commands = os.pipe()
        answers, its_output = os.pipe()
        self._commands, self._answers = os.fdopen(commands, "w", 1), os.fdopen(answers)
        self._process: Fork | subprocess.Popen[bytes]
        with log.open("ab") as output:
            files = [its_input, its_output, output.fileno()]
            if name is None and boot_id is None:
                self._process = forks.start(PROGRAM, TOP, environment, files, session=True)
            else:
                self._process = subprocess.Popen(
                    _in_a_container(name, boot_id),
                    stdin=its_input,
                    stdout=its_output,
                    stderr=output,
                    cwd=TOP,
                    env={**environment, IS_CONTAINER: "yes"},
                    start_new_session=True,
                )
        os.close(its_input)
        os.close(its_output)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*arguments: object) -> Any:
            self._commands.write(json.dumps([name, arguments]) + "\n")
            answer = json.loads(self._answers.readline())
            assert "error" not in answer, answer["error"]
            return answer["is"]

        return ask

    def die(self) -> None:
        """Kill it, with everything on it if it is a machine of its own."""
        self._process.kill()
        self._process.wait(30)

    def close(self) -> None:
        """Kill it, and close what led to it."""
        self.die()
        self._commands.close()
        self._answers.close()


def _in_a_container(name: str | None, boot_id: Path | None) -> list[str]:
    """Return the command line of a machine of its own."""
    script = f"hostname {name}; " if name else ""
    if boot_id is not None:
        script += f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id; "
    spaces = ["--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    python = shlex.join([sys.executable, *PROGRAM])
    return ["unshare", *spaces, "sh", "-c", f"{script}exec {python}"]


def can_have_namespaces() -> bool:
    """Return whether this user may make hosts of their own."""
    command = ["unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    main()
