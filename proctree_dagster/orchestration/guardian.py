"""The guardian of a run's worker: a small process beside it, which no function can starve or end.

    python -m proctree_dagster.orchestration.guardian   (reads its input)

It gives the signs of life of a worker that has taken a run (``run_workers``), unless the worker is
stopped; it ends a worker that does not cancel its run within the grace period, that is stopped for
too long, or whose run was given up; and when the worker has died, it ends the programs that the
worker had started. It ends with the worker. It is forked where the process has one thread;
elsewhere it is a fresh interpreter, which imports this app and no other, and no Dagster.
"""

import logging
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from ..support import os_processes
from ..support.os_processes import Identity, State

logger = logging.getLogger("proctree_dagster.orchestration.guardian")

MODULE = "proctree_dagster.orchestration.guardian"

PROGRAMS_SECONDS = 5.0
"""Grace period of the programs that a run has started, in seconds."""

REPORT_SECONDS = 30.0
"""Timeout of the program that records a run as canceled, in seconds."""

ENDED_SECONDS = 10.0
"""Seconds that a worker which has ended its run waits for its guardian."""

_POLL_SECONDS = 0.5
"""Seconds between two checks of the worker where the system can't report its end."""

_TAKEN, _DONE, _LET_GO = b"t", b"d", b"l"

CANCEL = signal.SIGTERM
"""The signal that makes a guardian cancel its worker's run, within the grace period."""


@dataclass(frozen=True)
class Charge:
    """The data of a guardian."""

    worker: Identity
    run_id: str
    grace: float
    """Seconds that the worker may take to cancel its run."""

    lost_after: float
    """Seconds that it may be stopped."""

    beat_seconds: float
    """Seconds between two signs of life."""

    session: int
    """The worker's session: its own, or, with Dagster's own launcher, the code server's."""

    report_canceled: tuple[str, ...] = ()
    """The program that records the run as canceled, where the worker's parent would not.

    A code server records each of its workers that was killed as failed, half a second later. So
    the worker is stopped, the run recorded, and then the worker killed.
    """


class Guardian:
    """A guardian, seen from its worker."""

    def __init__(self, pid: int, orders: int, child: "subprocess.Popen[bytes] | None") -> None:
        self.pid = pid
        self._orders = orders
        self._child = child

    def taken(self) -> None:
        """Start its signs of life: the worker has taken the run."""
        self._tell(_TAKEN)

    def done(self) -> None:
        """Notify it of the run's end, so that it ends no programs."""
        self._tell(_DONE)

    def dismiss(self) -> None:
        """End it, if it is a child of this process: nobody else would reap it."""
        if self._child is not None:
            with suppress(OSError):
                os.close(self._orders)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(ENDED_SECONDS)

    def let_go(self) -> bool:
        """End it, because its worker takes another run; return whether it has ended."""
        itself = Identity.of(self.pid)
        self._tell(_LET_GO)
        with suppress(OSError):
            os.close(self._orders)
        return itself.wait(ENDED_SECONDS)

    def _tell(self, order: bytes) -> None:
        try:
            os.write(self._orders, order)
        except OSError:  # it was killed, or a function has closed every descriptor
            logger.warning("Run worker %s has no guardian any more.", os.getpid())


def fork(charge: Charge) -> Guardian:
    """Fork the guardian of the calling process, which has one thread and no open connection.

    It is no child of this process, or a function that waits for all children would wait for it.
    """
    orders, write_orders = os.pipe()
    answer, write_answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _leave_guardian(charge, orders, write_orders, write_answer)
    os.waitpid(pid, 0)
    os.close(orders)
    os.close(write_answer)
    with open(answer, "rb") as file:  # noqa: PTH123  # no path
        return Guardian(int(file.read() or 0), write_orders, None)


def _leave_guardian(charge: Charge, orders: int, write_orders: int, write_answer: int) -> NoReturn:
    """In the new child: leave the guardian to the reaper of orphans."""
    try:
        pid = os.fork()
        if pid:
            os.write(write_answer, str(pid).encode())
        else:
            os.close(write_orders)
            os.close(write_answer)
            _be_guardian(charge, orders)
    finally:
        os._exit(0)


def fork_for(charge: Callable[[], Charge], orders: int, let_go: Callable[[], None]) -> int:
    """Fork the guardian of another process from this one, which has one thread; return its id.

    Forked from the worker, it would share the worker's memory, and each page that the worker then
    writes to would be copied.

    Parameters
    ----------
    charge:
        Returns its data; called in the child.
    orders:
        The pipe of the worker's messages.
    let_go:
        Closes this process's descriptors in the child.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        let_go()
        _be_guardian(charge(), orders)
    except Exception:  # there is nobody who could handle it
        logger.exception("A further run has no guardian.")
    finally:
        os._exit(0)


def _be_guardian(charge: Charge, orders: int) -> None:
    os.setsid()
    _watch(charge, orders)


def start(charge: Charge) -> Guardian:
    """Start the guardian of the calling process, which may have threads, as a program.

    Raises
    ------
    OSError
        It can't be started.
    Exception
        The settings of the database can't be passed to it.
    """
    from django.db import connections

    from ..services import run_workers

    database = connections[run_workers.database()].settings_dict
    payload = pickle.dumps({"charge": charge, "database": database, "path": sys.path})
    orders, write_orders = os.pipe()
    # It inherits what is blocked: asked to cancel before it is ready, it would end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {CANCEL})
    try:
        child = subprocess.Popen(  # noqa: S603  # itself
            [sys.executable, "-m", MODULE],
            stdin=orders,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        os.close(write_orders)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(orders)
    os.write(write_orders, len(payload).to_bytes(8, "big") + payload)
    return Guardian(child.pid, write_orders, child)


def _watch(charge: Charge, orders: int) -> None:
    try:
        _Watch(charge, orders).until_the_end()
    except Exception:  # there is nobody who could handle it
        logger.exception("The guardian of run %s ends early.", charge.run_id)


def _wait_briefly(seconds: float) -> None:
    """Set timeouts on the database, so that this process does not wait for minutes.

    It would neither see its worker end nor give a sign of life once the database is back.
    """
    from django.db import connections

    from ..services import run_workers

    connection = connections[run_workers.database()]
    if connection.vendor == "postgresql":
        limits = {
            "connect_timeout": max(2, round(seconds)),
            "tcp_user_timeout": max(2000, round(2000 * seconds)),  # in milliseconds
        }
        # One connection, at times: a pool would hold several, and wait half a minute for each.
        options = {k: v for k, v in connection.settings_dict["OPTIONS"].items() if k != "pool"}
        connection.settings_dict["OPTIONS"] = {**limits, **options}


class _Watch:
    """The guardian's work."""

    def __init__(self, charge: Charge, orders: int) -> None:
        self._charge = charge
        self._worker = charge.worker
        self._orders = orders
        self._taken = self._done = self._ended = self._let_go = False
        self._cancel_until: float | None = None
        self._stopped_since: float | None = None
        self._beat_at = 0.0
        self._troubled = False
        self._polls = True
        self._selector = selectors.DefaultSelector()

    def until_the_end(self) -> None:
        """Watch the worker until it has ended."""
        _wait_briefly(self._charge.beat_seconds)
        wakeup, signals = socket.socketpair()
        for end in (wakeup, signals):
            end.setblocking(False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(CANCEL, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.set_blocking(self._orders, False)
        self._selector.register(signals, selectors.EVENT_READ, lambda: self._cancel(signals))
        self._selector.register(self._orders, selectors.EVENT_READ, self._read_orders)
        try:
            handle = os_processes.handle_of(self._worker.pid)
        except ProcessLookupError:
            self._ended = True
        else:
            if handle is not None:
                self._selector.register(handle, selectors.EVENT_READ, self._note_end)
                self._polls = False
        while not self._ended and self._worker.state is not State.GONE:
            for key, _ in self._selector.select(self._seconds_to_wait()):
                key.data()
            if not self._ended:
                self._look()
        self._clean_up()

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        ahead = [self._charge.beat_seconds]
        if self._taken:
            ahead.append(self._beat_at - now)
        if self._cancel_until is not None:
            ahead.append(self._cancel_until - now)
        if self._polls:
            ahead.append(_POLL_SECONDS)
        return max(0.0, min(ahead))

    def _note_end(self) -> None:
        self._ended = True

    def _read_orders(self) -> None:
        """Read the worker's messages; the end of the pipe means that the worker has ended."""
        try:
            received = os.read(self._orders, 4096)
        except BlockingIOError:  # another process still has the worker's end
            return
        if not received:
            with suppress(KeyError):  # it was read to its end before
                self._selector.unregister(self._orders)
            self._ended = self._done  # dismissed
        self._done = self._done or _DONE in received
        if _LET_GO in received:  # the worker itself records that it has left its run
            self._ended = self._let_go = True
        if _TAKEN in received:
            self._taken = True
            # It has just given its first sign of life, by taking the run.
            self._beat_at = time.monotonic() + self._charge.beat_seconds

    def _read_last_orders(self) -> None:
        """Read what the worker wrote just before it ended, while this process was busy."""
        with suppress(KeyError):  # no longer registered: it was read to its end
            self._selector.get_key(self._orders)
            self._read_orders()

    def _cancel(self, signals: socket.socket | None = None) -> None:
        """Make the worker cancel its run: as Ctrl-C would, and after the grace period by force."""
        if signals is not None:
            signals.recv(4096)
        self._read_last_orders()
        if self._let_go:
            return
        if self._cancel_until is None:
            self._cancel_until = time.monotonic() + self._charge.grace
        self._worker.send(signal.SIGINT)

    def _look(self) -> None:
        now = time.monotonic()
        if self._cancel_until is not None and now >= self._cancel_until:
            if self._charge.report_canceled:
                self._worker.send(signal.SIGSTOP)
                with suppress(OSError, subprocess.TimeoutExpired):  # it is killed all the same
                    subprocess.run(  # noqa: S603  # ours
                        self._charge.report_canceled, check=False, timeout=REPORT_SECONDS
                    )
            self._kill(
                f"It did not cancel its run within the grace period of {self._charge.grace:g} s"
            )
        elif self._is_stopped(now):
            self._beat_at = now + self._charge.beat_seconds
            since = self._stopped_since
            if since is not None and now - since >= self._charge.lost_after:
                self._kill(f"It was stopped for {now - since:.0f} s")
        elif self._taken and now >= self._beat_at:
            self._beat_at = now + self._charge.beat_seconds
            self._beat()

    def _is_stopped(self, now: float) -> bool:
        if self._worker.state is not State.STOPPED:
            self._stopped_since = None
            return False
        if self._stopped_since is None:
            self._stopped_since = now
        return True

    def _beat(self) -> None:
        from ..services import run_workers

        order = self._asking(lambda: run_workers.beat(self._charge.run_id, self._worker))
        if order is run_workers.Order.CANCEL and self._cancel_until is None and not self._done:
            self._cancel()  # one that has ended its run itself may join what the run has left
        elif order is run_workers.Order.GIVEN_UP:
            self._kill("It was silent for so long that its run was given up")

    def _kill(self, reason: str) -> None:
        logger.error(
            "The worker of run %s (%s) is killed: %s.", self._charge.run_id, self._worker, reason
        )
        self._done = False
        programs = self._programs()
        self._worker.send(signal.SIGKILL)
        self._worker.wait(PROGRAMS_SECONDS)
        os_processes.end_all(programs.in_session, PROGRAMS_SECONDS)
        self._ended = True

    def _programs(self) -> os_processes.Programs:
        charge = self._charge
        return os_processes.programs_of(charge.worker, charge.run_id, session=charge.session)

    def _clean_up(self) -> None:
        self._read_last_orders()
        if self._let_go:
            return
        if not self._done:
            programs = self._programs()
            os_processes.end_all(programs.in_session, PROGRAMS_SECONDS)
        if self._taken:
            from ..services import run_workers

            self._asking(lambda: run_workers.end(self._charge.run_id, self._worker))

    def _asking(self, ask: Any) -> Any:
        """Query the database; if it can't be reached, or is locked, the guardian continues."""
        from django.db import connections

        try:
            answer = ask()
        except Exception:  # a driver's error, too; tried again next time
            if not self._troubled:
                logger.exception("The sign of life of run %s can't be given.", self._charge.run_id)
            self._troubled = True
            return None
        else:
            self._troubled = False
            return answer
        finally:
            with suppress(Exception):
                connections.close_all()


def main() -> None:
    """Be the guardian of the process whose pipe is the input."""
    length = int.from_bytes(_read(8), "big")
    given = pickle.loads(_read(length))  # noqa: S301  # from its own worker
    sys.path[:] = given["path"]
    charge: Charge = given["charge"]
    _set_django_up(given["database"], charge)
    orders = os.dup(0)
    _watch(charge, orders)


def _read(length: int) -> bytes:
    """Read from the input no more than is asked for: the rest is for later."""
    parts = b""
    while len(parts) < length:
        part = os.read(0, length - len(parts))
        if not part:
            sys.exit("The guardian of a run is started by its worker.")
        parts += part
    return parts


def _set_django_up(database: dict[str, Any], charge: Charge) -> None:
    """Set up as much of Django as the table of run workers needs."""
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["django.contrib.contenttypes", "proctree_dagster"],
        PROCTREE={"LOST_AFTER": charge.lost_after},
        USE_TZ=True,
    )
    django.setup()


def charge_of_this_process(run_id: str, report_canceled: tuple[str, ...] = ()) -> Charge:
    """Return the data for the guardian of the calling process; Django is set up."""
    return charge_of(Identity.of_this_process(), run_id, os.getsid(0), report_canceled)


def charge_of(
    worker: Identity, run_id: str, session: int, report_canceled: tuple[str, ...] = ()
) -> Charge:
    """Return the data for the guardian of a worker; Django is set up."""
    from .. import conf
    from ..services import run_workers

    current = conf.current()
    return Charge(
        worker,
        run_id,
        current.TERMINATE_GRACE,
        current.LOST_AFTER,
        run_workers.beat_seconds(),
        session,
        report_canceled,
    )


if __name__ == "__main__":
    main()
