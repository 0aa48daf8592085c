"""In-process runs: keep Dagster from changing the state of the caller's process.

Dagster executes runs as if each had its own process: it replaces signal handlers, reconfigures
logging and redirects the file descriptors of the process.
"""

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dagster import DagsterInstance

from .. import dagster_internals as internals
from ..dagster_features import OUTPUT_IN_THREADS, is_on

_ENDINGS = (signal.SIGINT, signal.SIGTERM)


def tame(instance: DagsterInstance) -> DagsterInstance:
    """Keep an instance from reconfiguring the logging of the caller's process.

    Dagster calls ``logging.config.dictConfig`` at the start of each run, if ``dagster.yaml`` holds
    any setting at all. That closes every handler of the process, and deadlocks with a run in
    another thread. Where ``python_logs`` configures handlers, the project wants that.
    """
    if not instance.get_python_log_dagster_handler_config():
        instance.get_yaml_python_handlers = _no_handlers  # type: ignore[method-assign]
    return instance


def _no_handlers() -> list[logging.Handler]:
    return []


def in_main_thread() -> bool:
    """Return whether this is the thread that signals interrupt."""
    return threading.current_thread() is threading.main_thread()


def leave_output_alone(instance: DagsterInstance) -> None:
    """Disable output capture of runs in other threads, as file descriptors belong to the process.

    Two runs at once would redirect them permanently, each restoring what the other had set.
    """
    if not in_main_thread() and is_on(OUTPUT_IN_THREADS):
        manager = internals.NoOpComputeLogManager()
        manager.register_instance(instance)
        instance._compute_log_manager = manager


@contextmanager
def signals_kept() -> Iterator[None]:
    """Restore the signal handlers afterwards, and pass them an interrupt that came meanwhile.

    Dagster puts its own in their place, holds interrupts back while it writes, and can lose one.
    Python writes every signal to the wakeup descriptor, whatever its handler does, so none is lost:
    if the block ends as if nothing had happened, the signal is raised again.
    """
    if not in_main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _ENDINGS}
    reader, writer = socket.socketpair()
    received: set[int] = set()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            with suppress(BlockingIOError):  # none came
                received.update(reader.recv(4096))
    for ending in _ENDINGS:
        if ending in received:
            signal.raise_signal(ending)
