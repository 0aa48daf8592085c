"""Taking runs: the process that executes a run takes it, and starts its signs of life.

A worker that Dagster has started for one run takes it when Dagster requests the tree's job, before
Dagster records that the run has started: a second worker ends there. It has a guardian. A run in
the caller's process (``execute_tree``, a command) is new, so no other process can take it: a thread
gives its signs of life.
"""

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, serialize_value
from django.db import DatabaseError, connections

from ... import conf
from ...domain import run_tags
from ...models import RunWorker
from ...services import run_workers
from ...services.run_workers import Order
from ...support import os_processes
from ...support.connections import own_connections
from ...support.os_processes import Identity
from .. import guardian
from ..dagster_internals import ExecuteRunArgs
from ..guardian import Guardian
from ..launching import template_client
from ..launching.workers import Worker, may_be_shared
from . import run_status

logger = logging.getLogger(__name__)

TAKE_SECONDS = 60.0
"""Seconds that a worker tries to take its run while the database is locked or not reachable."""

AGAIN_SECONDS = 5.0
"""Seconds before a failed sign of life is retried, if nothing else is known."""

PROGRAMS_SHOWN = 10


class Refused(SystemExit):
    """The run has another worker: this one ends, and leaves the run alone."""


class Assignment(NamedTuple):
    """The run for which Dagster has started the calling process."""

    run: DagsterRun
    instance: DagsterInstance
    resumed: bool


_guardian: Guardian | None = None
"""The guardian of this process, if it is a run's worker."""

_taken: str | None = None
"""The run that this process has taken as its worker."""

_programs_left = ""
"""The names of the programs that the run has started, and that still run."""

_refused: str | None = None
"""The run that this process was started for, and that it leaves to another worker."""

_beating: set[str] = set()
"""The in-process runs of this process."""


def assignment() -> Assignment | None:
    """Return the run for which Dagster has started this process; ``None`` if for none.

    Dagster has no API for it: the run's id is a local variable of its function that executes runs
    in workers, which is on the call stack.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        name = frame.f_globals.get("__name__")
        if frame.f_code.co_name == "core_execute_run" and name == "dagster._grpc.impl":
            known: dict[str, Any] = frame.f_locals
            return Assignment(known["dagster_run"], known["instance"], known["resume_from_failure"])
    return None


def have_guardian(run_id: str) -> int:
    """Fork the guardian of a new worker; return its process id."""
    forked = guardian.fork(guardian.charge_of_this_process(run_id))
    be_watched(run_id, forked)
    return forked.pid


def be_watched(run_id: str, by: Guardian) -> None:
    """Be the worker of a run, which has a guardian.

    Parameters
    ----------
    run_id:
        The run.
    by:
        The guardian.
    """
    global _guardian, _programs_left  # a worker executes one run at a time
    os.environ[os_processes.STARTED_BY_RUN] = run_id
    _guardian, _programs_left = by, ""


def take_if_worker() -> None:
    """Take the run for which Dagster has started this process, if it has.

    Raises
    ------
    Refused
        Another worker executes the run, has done so, or will.
    """
    global _taken, _refused
    given = assignment()
    if given is None or given.run.run_id == _taken:
        return
    run_id, worker = given.run.run_id, Identity.of_this_process()
    # A run that was queued again is left to its next launch: Dagster would fail it here.
    queued = given.run.status == DagsterRunStatus.QUEUED
    if queued or not _take(run_id, worker, resumed=given.resumed):
        _refused = run_id
        try:
            _leave_alone(given, worker)
        except Exception:  # an error would fail the run that the other worker executes
            logger.exception("That run %s has another worker can't be said there.", run_id)
        raise Refused(0)
    _taken = run_id
    _guard(given)
    worker_of_run = Worker.of_process(run_id, os.getpid(), shared=may_be_shared(given.run))
    written = worker_of_run.guarded_by(_guardian.pid if _guardian else 0)
    given.instance.add_run_tags(run_id, written.as_tags())


def leave() -> bool:
    """Leave the run that this process has executed, so that it may execute another one.

    Nobody takes this process for the run's worker any more: its row has ended, and its guardian,
    which would pass on what concerns the run.

    Returns
    -------
    bool
        Whether the guardian has ended.

    Raises
    ------
    DatabaseError
        The end can't be recorded.
    """
    global _guardian, _taken
    if _taken is None or _guardian is None:
        return False
    if not _guardian.let_go():
        return False
    # Not before: a guardian that finds the row ended takes its worker for one that was given up.
    run_workers.end(_taken, Identity.of_this_process())
    _guardian = _taken = None
    return True


def programs_left() -> str:
    """Return the names of the programs that the run has started, and that still run."""
    return _programs_left


def was_refused(run_id: str) -> bool:
    """Return whether another worker executes the run that this process was started for."""
    return run_id == _refused


def _leave_alone(given: Assignment, worker: Identity) -> None:
    """Log why this worker does not execute the run on which its launcher recorded it."""
    other = "Another worker executes this run, or has done so"
    if given.run.status == DagsterRunStatus.QUEUED:
        other = "This run waits in the queue for its next launch"
    given.instance.report_engine_event(f"{other}; {worker} leaves it alone.", given.run)
    current = given.instance.get_run_by_id(given.run.run_id)
    written = Worker.of_run(current) if current is not None else None
    row = RunWorker.objects.filter(run_id=given.run.run_id).first()
    if row is not None and written is not None and written.process == worker:
        executes = Worker.of_identity(given.run.run_id, run_workers.worker_of(row))
        given.instance.add_run_tags(given.run.run_id, executes.as_tags())
    if current is not None and not current.is_finished:
        run_status.restore(given.instance, current)


def _take(run_id: str, worker: Identity, *, resumed: bool) -> bool:
    deadline = time.monotonic() + TAKE_SECONDS
    # The process that resumes a run knows before its row that the worker is lost.
    lost_at = time.monotonic() + (1.5 * conf.current().LOST_AFTER if resumed else 0.0)
    while True:
        try:
            taken = run_workers.take(run_id, worker, dedicated=True, resumed=resumed)
            if taken or time.monotonic() >= lost_at:
                return taken
            time.sleep(run_workers.beat_seconds())
        except DatabaseError:
            # Locked by a long transaction, or restarted: every run starts, if it can at all.
            if time.monotonic() > deadline:
                raise
            logger.exception("Run %s can't be taken now; it is tried again.", run_id)
            connections[run_workers.database()].close()
            time.sleep(1.0)


def _guard(given: Assignment) -> None:
    """Start the signs of life of this process, which has taken the run."""
    global _guardian
    run_id = given.run.run_id
    if _guardian is None:
        os.environ[os_processes.STARTED_BY_RUN] = run_id
        try:
            charge = guardian.charge_of_this_process(run_id, _report_of_cancel(given))
            _guardian = guardian.start(charge)
        except Exception:  # settings that can't be passed on, no more processes: use a thread
            logger.warning(
                "Run %s has no guardian: a function that holds Python's lock for long may let it "
                "count as lost.",
                run_id,
                exc_info=True,
            )
            Heartbeat(run_id, lambda: signal.raise_signal(signal.SIGINT), dedicated=True).start()
            return
        atexit.register(_guardian.dismiss)
    _guardian.taken()


def _report_of_cancel(given: Assignment) -> tuple[str, ...]:
    """Return the program that records a run as canceled, if this process is a code server's."""
    origin = given.run.job_code_origin
    if multiprocessing.parent_process() is None or origin is None:
        return ()
    args = ExecuteRunArgs(origin, given.run.run_id, given.instance.get_ref())
    message = "Its worker did not cancel it within the grace period, and is killed."
    command = (sys.executable, "-m", template_client.MODULE, "--died", message)
    return (*command, "--args", serialize_value(args))


@dataclass
class Execution:
    """The state of a run's execution."""

    failed: bool = False


@contextmanager
def executing(run: DagsterRun, instance: DagsterInstance) -> Iterator[Execution]:
    """Give the signs of life of a run that this process executes, until it has ended.

    If the run has failed or was canceled, its programs that still run are then ended, as far as
    they have not left the worker's session.
    """
    if run.run_id == _taken:
        yield from _until_the_end(run, instance)
    elif run.run_id in _beating:
        yield Execution()
    else:  # a caller executes a job in its own process
        with signs_of_life(run, instance, partial(_warn_of_cancel, run.run_id)):
            yield Execution()


def _until_the_end(run: DagsterRun, instance: DagsterInstance) -> Iterator[Execution]:
    execution = Execution()
    try:
        yield execution
    except BaseException:
        execution.failed = True
        raise
    finally:
        _settle_programs(run, instance, execution.failed)
        if _guardian is not None:
            _guardian.done()


def _warn_of_cancel(run_id: str) -> None:
    logger.warning("Run %s was asked to cancel, and can't be canceled but here.", run_id)


def _settle_programs(run: DagsterRun, instance: DagsterInstance, failed: bool) -> None:
    """End the programs that a run leaves, or log them.

    They are ended, too, if an optional process has failed, such as by its timeout.
    """
    global _programs_left
    spare = _spared()
    try:
        programs = os_processes.programs_of(Identity.of_this_process(), run.run_id, spare)
        if not programs:
            return
        current = instance.get_run_by_id(run.run_id)
        if failed or (current is not None and run_tags.FAILED_OPTIONAL in current.tags):
            names = _names(programs.in_session)
            os_processes.end_all(programs.in_session, guardian.PROGRAMS_SECONDS)
            if names:
                instance.report_engine_event(
                    f"Programs that it had started were ended: {names}.", run
                )
            left = programs.detached
        else:
            left = (*programs.in_session, *programs.detached)
        if left:
            _programs_left = _names(left)
            instance.report_engine_event(
                f"Programs that it has started still run, and are left alone: {_programs_left}.",
                run,
            )
    except Exception:  # the run's outcome stands, whatever its programs do
        logger.exception("The programs that run %s has started can't be ended.", run.run_id)


def _names(programs: tuple[Identity, ...]) -> str:
    names = [os_processes.name_of(each) for each in programs[:PROGRAMS_SHOWN]]
    more = len(programs) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _spared() -> set[int]:
    """Return Python's own helper processes, which end with the worker."""
    helpers = {_guardian.pid} if _guardian is not None else set()
    for module, attribute, pid in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        helper = getattr(sys.modules.get(module), attribute, None)
        helpers.add(getattr(helper, pid, None) or 0)
    return helpers


class Heartbeat:
    """Gives the signs of life of an in-process run, from a thread.

    Parameters
    ----------
    run_id:
        The run.
    cancel:
        Called once, when the run is to be cancelled, or was given up.
    dedicated:
        Whether the process exists for this run only.
    """

    def __init__(self, run_id: str, cancel: Callable[[], object], *, dedicated: bool) -> None:
        self._run_id = run_id
        self._cancel = cancel
        self._dedicated = dedicated
        self._worker = Identity.of_this_process()
        self._ended = threading.Event()
        self._taken = self._canceled = False
        self._thread = threading.Thread(
            target=self._beat, name=f"signs of life of run {run_id[:8]}", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a write that is under way may take a moment longer."""
        self._ended.set()
        self._thread.join(1.0)

    def _beat(self) -> None:
        troubled = False
        pause = 0.0
        with own_connections():
            while not self._ended.wait(pause):
                try:
                    pause = run_workers.beat_seconds()
                    self._give_sign()
                    troubled = False
                except Exception:  # the database is not reachable, or locked; tried again next time
                    pause = pause or AGAIN_SECONDS
                    if not troubled:
                        logger.warning(
                            "A sign of life of run %s can't be given.", self._run_id, exc_info=True
                        )
                    troubled = True
            if self._taken:
                try:
                    run_workers.forget(self._run_id, self._worker)
                except DatabaseError:  # the next pass over the rows finds it ended
                    logger.warning("Run %s has ended.", self._run_id, exc_info=True)

    def _give_sign(self) -> None:
        """Take the run, if not done yet, give one sign of life, and act on the answer."""
        try:
            self._taken = self._taken or run_workers.take(
                self._run_id, self._worker, dedicated=self._dedicated
            )
            order = run_workers.beat(self._run_id, self._worker)
        finally:
            connections[run_workers.database()].close()
        if order is not Order.GO_ON and not self._canceled:
            self._canceled = True
            self._cancel()


@contextmanager
def signs_of_life(
    run: DagsterRun, instance: DagsterInstance, cancel: Callable[[], object]
) -> Iterator[None]:
    """Give the signs of life of an in-process run during the block."""
    if not instance.is_persistent or not _can_write_beside():
        yield
        return
    heartbeat = Heartbeat(run.run_id, cancel, dedicated=False)
    heartbeat.start()
    _beating.add(run.run_id)
    try:
        yield
    finally:
        _beating.discard(run.run_id)
        heartbeat.stop()


def _can_write_beside() -> bool:
    """Return whether another thread may write to the database beside this one.

    SQLite has one writer at a time. Its users are on one machine, where processes can be seen.
    """
    connection = connections[run_workers.database()]
    if connection.vendor != "sqlite":
        return True
    is_in_memory: bool = connection.is_in_memory_db()  # type: ignore[attr-defined]  # SQLite's
    return not (connection.in_atomic_block or is_in_memory)
