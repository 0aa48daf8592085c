"""A worker that the template has forked: it executes one run."""

import ctypes
import json
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from django.apps import apps

from ...support import os_processes
from ...support.os_processes import Identity, State, programs_of
from .. import dagster_internals as internals
from .. import hosts
from ..dagster_internals import ExecuteRunArgs, InstanceRef
from ..guardian import Guardian
from ..launching import sqlite_keepalive, template_client, worker_end
from ..launching.workers import Worker
from ..runs import run_status
from .further_runs import SIGNALS, FurtherRuns, Request

logger = logging.getLogger("proctree_dagster.orchestration.template")

GUARDIAN_SECONDS = 15.0
"""Seconds that the guardian of a dead worker may take to end the worker's programs."""

UNWANTED = 75
"""Exit code of a child whose launch was given up before its start."""

UNFINISHED = 76
"""Exit code of a worker that could not record its run's end."""

PR_SET_CHILD_SUBREAPER = 36


def send(connection: socket.socket, answer: template_client.Answer) -> None:
    """Answer the client that requested a run."""
    connection.sendall(json.dumps(answer).encode() + b"\n")


def be_worker(
    connection: socket.socket,
    args: ExecuteRunArgs,
    *,
    let_go: Callable[[], None],
    takes_runs: bool,
    template: socket.socket | None,
) -> NoReturn:
    """In a fresh child: do what ``dagster api execute_run`` does, and end.

    It ends by ``sys.exit()``, which passes through the template's code: nothing there catches it.

    Parameters
    ----------
    connection:
        The connection to the client.
    args:
        The run.
    let_go:
        Closes the template's descriptors.
    takes_runs:
        Whether the code location records the workers of runs in Django's database.
    template:
        The socket to the template, if this process may execute further runs.
    """
    code = 1
    try:
        worker_end.in_forked_worker()
        os.setsid()
        let_go()
        further = None if template is None else FurtherRuns(template)
        if not _accept(connection):
            os._exit(UNWANTED)
        guardian = 0
        if apps.ready:  # it is, if the code location is one of trees
            from ..runs import run_taking

            guardian = run_taking.have_guardian(args.run_id)
        hosts.executes_run()
        with _opened(args) as instance:
            code = _work(args, instance, guardian, takes_runs=takes_runs, further=further)
    except BaseException:  # any error is the run's, not the template's
        logger.exception("The run %s could not be executed.", args.run_id)
    with internals.capture_interrupts():  # one that waits has come too late to cancel the run
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    worker_end.leave(code)


def _accept(connection: socket.socket) -> bool:
    """Answer a client that this process executes its run; return False if it has gone.

    The child answers, not the template: if the template is killed, the client still knows.
    """
    with connection:
        try:
            send(connection, {"pid": os.getpid()})
        except OSError:
            return False
    return True


def _work(
    args: ExecuteRunArgs,
    instance: DagsterInstance,
    guardian: int,
    *,
    takes_runs: bool,
    further: FurtherRuns | None,
) -> int:
    """Execute a run, and those that this process is given afterwards; return the exit code."""
    while True:
        code, run = _execute(args, instance, guardian, takes_runs=takes_runs)
        if further is None or run is None or not further.may_follow(instance, run):
            break
        request = further.wait()
        if request is None or not _begin(request):
            break
        args, guardian = request.args, request.guardian
    if apps.ready:
        from ..runs import run_taking

        if not run_taking.was_refused(args.run_id):  # else nothing of the run was executed here
            worker_end.within_grace(_reference(args), args.run_id)
    return code


def _begin(request: Request) -> bool:
    """Accept a further run; return False if its client has gone."""
    from ..runs import run_taking

    its_guardian = Guardian(request.guardian, request.orders, None)
    if not _accept(request.connection):
        its_guardian.let_go()
        return False
    run_taking.be_watched(request.args.run_id, its_guardian)
    return True


def _execute(
    args: ExecuteRunArgs, instance: DagsterInstance, guardian: int, *, takes_runs: bool
) -> tuple[int, DagsterRun | None]:
    """Execute a run; return the exit code, and the run if it was executed here."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    with internals.capture_interrupts():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if not takes_runs:
            worker = Worker.of_process(args.run_id, os.getpid()).guarded_by(guardian)
            instance.add_run_tags(args.run_id, worker.as_tags())
        code = internals._execute_run_command_body(
            args.run_id, instance, lambda event: None, set_exit_code_on_failure=False
        )
        if apps.ready:  # it is, if the run's trees could be loaded
            from ..runs import family_runs, run_taking

            if run_taking.was_refused(args.run_id):
                return code, None  # the other worker records the run's end
            family_runs.end(instance, args.run_id)
        run = instance.get_run_by_id(args.run_id)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # those of this run may reach no other
        # The process that waits for this one fails a run whose end could not be recorded.
        return code if run is None or run.is_finished else UNFINISHED, run


@contextmanager
def _opened(args: ExecuteRunArgs) -> Iterator[DagsterInstance]:
    with (
        _open_instance(args) as instance,
        sqlite_keepalive.keep_open(sqlite_keepalive.of_worker(instance)),
    ):
        yield instance


def _reference(args: ExecuteRunArgs) -> InstanceRef:
    assert args.instance_ref is not None, "the launcher always gives one"
    return args.instance_ref


def _open_instance(args: ExecuteRunArgs) -> DagsterInstance:
    return DagsterInstance.from_ref(_reference(args))


def report_death(args: ExecuteRunArgs, message: str) -> None:
    """Record that a run's worker died: the run has failed, or is canceled if that was requested."""
    with _open_instance(args) as instance:
        run = instance.get_run_by_id(args.run_id)
        if run is None or run.is_finished:
            return
        worker = Worker.of_run(run)
        if worker is not None and worker.process.state is State.RUNNING:
            return  # it was launched twice, and the other worker executes it
        if run_status.restore(instance, run):
            return  # or has done so
        if worker is not None and worker.has_died:  # else its guardian is about to kill it
            _see_programs_end(instance, run, worker)
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message)
        else:
            instance.report_run_failed(run, message)


def _see_programs_end(instance: DagsterInstance, run: DagsterRun, worker: Worker) -> None:
    """Wait until the programs of a dead worker have ended; log those that still live.

    Its guardian ends those of its session.
    """
    if worker.guardian:
        Identity.of(worker.guardian).wait(GUARDIAN_SECONDS)
    left = programs_of(worker.process, run.run_id)
    os_processes.end_all(left.in_session, 0.0)
    if left.detached:
        names = ", ".join(map(os_processes.name_of, left.detached))
        instance.report_engine_event(
            f"Programs that it had started still run: they have left its session ({names}).", run
        )


def adopt_orphans() -> None:
    """Become the reaper of orphans: a container may have no other."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
