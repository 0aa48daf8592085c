"""Batched writes of a run's events: one transaction a step, where Dagster makes one an event.

A step has some nine events, and the executor some six. Most record what Dagster did between two
functions, within milliseconds; they are held in memory and written together, by a separate thread:

- before a process's function is called (``flush``): all earlier events are on the disk,
- with a message that a function logs, and before any other event: the log keeps the order of
  happening,
- ``HOLD_SECONDS`` after the first of them at the latest,
- when the executor ends, with or without an error.

The connection stays open while events follow one another. On SQLite nothing is written back to the
file meanwhile; the file is touched to notify its watchers, such as Dagster's UI with a live log.
"""

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeGuard

import sqlalchemy
from dagster import DagsterEventType, DagsterInstance, EventLogEntry

from .. import dagster_internals as internals
from ..dagster_features import EVENT_BATCHING, is_on
from ..sqlite_engines import engine_of

if TYPE_CHECKING:
    from ..dagster_internals import DagsterEventBatchMetadata, SqlEventLogStorage

logger = logging.getLogger(__name__)

Row = dict[str, Any]

HOLD_SECONDS = 0.02
"""Most seconds that an event is held, while the database can be written to."""

AGAIN_SECONDS = 1.0
"""Seconds before a failed write is retried."""

IDLE_SECONDS = 1.0
"""Seconds that an idle connection stays open for the next event."""

HELD = {
    DagsterEventType.STEP_START,
    DagsterEventType.STEP_RESTARTED,
    DagsterEventType.LOADED_INPUT,
    DagsterEventType.STEP_INPUT,
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.HANDLED_OUTPUT,
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.ENGINE_EVENT,
    DagsterEventType.LOGS_CAPTURED,
    DagsterEventType.RESOURCE_INIT_STARTED,
    DagsterEventType.RESOURCE_INIT_SUCCESS,
}
"""The events of a step that goes well, and of what is around all steps.

Everything else is written at once.
"""


@contextmanager
def grouped(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Write a run's events in groups, as long as this process executes it.

    An instance whose storage is not known, or that groups the events of another run already,
    writes each by itself as ever. So does each where this Dagster does not allow it.

    Raises
    ------
    Exception
        What is still held at the end can't be written, and nothing else has gone wrong.
    """
    storage = instance.event_log_storage
    if not is_on(EVENT_BATCHING) or not _is_known(storage) or "handle_new_event" in vars(instance):
        yield
        return
    writer = EventWriter(instance, storage, run_id)
    instance.handle_new_event = writer.handle  # type: ignore[method-assign]
    try:
        yield
    except BaseException:
        writer.close(quietly=True)
        raise
    else:
        writer.close(quietly=False)
    finally:
        del instance.handle_new_event


_KNOWN = (
    "dagster_postgres.event_log.event_log.PostgresEventLogStorage",
    "proctree_dagster.orchestration.run_files.RunFileStorage",
)
"""Storages besides Dagster's for SQLite that only insert a row for such an event."""


def _is_known(storage: object) -> "TypeGuard[SqlEventLogStorage]":
    """Return whether a storage only inserts a row for such an event."""
    name = f"{type(storage).__module__}.{type(storage).__name__}"
    return type(storage) is internals.SqliteEventLogStorage or name in _KNOWN


def flush(instance: DagsterInstance) -> None:
    """Write the held events of the instance's run, if there are any.

    Raises
    ------
    Exception
        It can't be written. It stays held, and is written with what comes next.
    """
    writer = getattr(instance.handle_new_event, "__self__", None)
    if isinstance(writer, EventWriter):
        writer.flush()


class EventWriter:
    """Replaces an instance's ``handle_new_event``."""

    def __init__(
        self, instance: DagsterInstance, storage: "SqlEventLogStorage", run_id: str
    ) -> None:
        self._instance = instance
        self._storage = storage
        self._write_alone = instance.handle_new_event
        self._run_id = run_id
        self._pid = os.getpid()
        self._lock = threading.Lock()
        """Guards the held events, briefly; none is added after the end."""
        self._held: deque[Row] = deque()
        """Rows of the event log. Only the thread takes from its front."""
        self._told = False
        """Whether the thread has been notified of held events."""
        self._requests: queue.SimpleQueue[Future[None] | None] = queue.SimpleQueue()
        self._last: Future[None] | None = None
        self._connection = _Connection(storage, run_id)
        # An interrupt is raised in the main thread only, so never in the middle of a write.
        self._thread = threading.Thread(target=self._serve, name="event writes", daemon=True)
        self._thread.start()

    def handle(
        self, event: EventLogEntry, *, batch_metadata: "DagsterEventBatchMetadata | None" = None
    ) -> None:
        """Hold an event, or write it now.

        Raises
        ------
        Exception
            It can't be written, or what is held can't.
        """
        if not self._is_a_row(event, batch_metadata):
            self.flush()
            self._write_alone(event, batch_metadata=batch_metadata)
            self._connection.tell_watchers()
            return
        may_wait = event.dagster_event is not None or self._holds_some_of(event.step_key)
        if not self._hold(event):
            self._write_alone(event, batch_metadata=batch_metadata)
        elif not may_wait:
            self.flush()

    def _is_a_row(
        self, event: EventLogEntry, batch_metadata: "DagsterEventBatchMetadata | None"
    ) -> bool:
        """Return whether an event only needs to be inserted."""
        if event.run_id != self._run_id or batch_metadata is not None:
            return False
        if self._instance._subscribers[self._run_id]:
            return False  # listeners in this process are notified of written events
        return event.dagster_event is None or event.dagster_event.event_type in HELD

    def _holds_some_of(self, step_key: str | None) -> bool:
        """Return whether a step is in Dagster's code, before or after its function.

        What is logged there waits with the events around it; what a function logs finds none of
        its step's, for they were flushed.
        """
        return any(row["step_key"] == step_key is not None for row in list(self._held))

    def _hold(self, event: EventLogEntry) -> bool:
        """Hold an event; not where no thread is there to write it."""
        if os.getpid() != self._pid:  # a function has forked
            return False
        row = self._storage._event_to_row(event)
        with self._lock:
            if self._last is not None:
                return False
            self._held.append(row)
            if not self._told:
                self._told = True
                self._requests.put(None)
        return True

    def flush(self) -> None:
        """Write the held events."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._last is not None or not self._held:
                return
            done: Future[None] = Future()
            self._requests.put(done)
        done.result()

    def close(self, *, quietly: bool) -> None:
        """Write the held events, and hold no more.

        Parameters
        ----------
        quietly:
            Whether another error is under way: a failure to write is then only logged.
        """
        done: Future[None] = Future()
        with self._lock:
            self._last = done
            self._requests.put(done)
        try:
            done.result()
        except Exception:
            logger.exception(
                "The last events of run %s could not be written: %s.",
                self._run_id,
                ", ".join(
                    f"{row['dagster_event_type']} of {row['step_key']}" for row in self._held
                ),
            )
            if not quietly:
                raise
        finally:
            # The file is closed here, so its watchers see what Dagster writes next.
            self._thread.join()

    def _serve(self) -> None:
        """Write on request, and soon after the first held event; runs in the thread."""
        timeout: float | None = None
        request: Future[None] | None = None
        while request is None or request is not self._last:
            try:
                request = self._requests.get(timeout=timeout)
            except queue.Empty:
                timeout = self._write_unasked()
                continue
            if request is None:
                timeout = HOLD_SECONDS
                continue
            try:
                self._write()
            except BaseException as error:  # noqa: BLE001  # the waiting thread raises it
                request.set_exception(error)
                timeout = AGAIN_SECONDS
            else:
                request.set_result(None)
                timeout = IDLE_SECONDS
        self._connection.close()

    def _write_unasked(self) -> float | None:
        """Write events without a request, and return the seconds until the next write."""
        if not self._held:
            self._connection.close()
            return None
        try:
            self._write()
        except Exception:  # it is retried, and raised on request
            logger.exception("Events of run %s can't be written yet.", self._run_id)
            return AGAIN_SECONDS
        return IDLE_SECONDS

    def _write(self) -> None:
        self._told = False
        rows = list(self._held)
        if rows:
            self._connection.insert(rows)
        for _ in rows:
            self._held.popleft()


class _Connection:
    """A connection to a run's events, opened and closed by the thread as it is needed."""

    def __init__(self, storage: "SqlEventLogStorage", run_id: str) -> None:
        self._storage = storage
        self._run_id = run_id
        self._file: str | None = None
        self._engine: sqlalchemy.Engine | None = None
        self._opened = ExitStack()
        self._connection: sqlalchemy.Connection | None = None
        if isinstance(storage, internals.SqliteEventLogStorage):
            self._file = storage.path_for_shard(run_id)
            # The storage lets only one of its own connections be open at a time.
            self._engine = engine_of(
                storage.conn_string_for_shard(run_id), internals.SQLITE_BUSY_TIMEOUT_SECONDS
            )

    def insert(self, rows: Sequence[Row]) -> None:
        """Insert rows in one transaction."""
        try:
            if self._connection is None:
                self._connection = self._open()
            self._connection.execute(internals.SqlEventLogStorageTable.insert(), rows)
            self._connection.commit()
        except BaseException:
            self.close()
            raise
        self.tell_watchers()

    def _open(self) -> sqlalchemy.Connection:
        own = self._storage.run_connection(self._run_id)
        if self._engine is None:
            connection: sqlalchemy.Connection = self._opened.enter_context(own)
            return connection
        with own:
            pass  # creates the tables, if this is the first to be written of the run
        return self._opened.enter_context(self._engine.connect())

    def tell_watchers(self) -> None:
        """Touch the file for its watchers, as it does not change while it is open here."""
        if self._connection is not None and self._file is not None:
            with suppress(OSError):  # they see it when the connection is closed
                os.utime(self._file)

    def close(self) -> None:
        """Close it; the next insert opens another."""
        self._connection = None
        try:
            self._opened.close()
        except Exception:
            logger.exception("The connection to the events of a run was not closed properly.")
