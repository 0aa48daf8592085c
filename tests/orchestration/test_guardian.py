"""Guardians and processes where the system, or the database, gives less than usual."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from proctree_dagster.orchestration import guardian
from proctree_dagster.orchestration.launching import daemons
from proctree_dagster.orchestration.launching.workers import Worker
from proctree_dagster.services import run_workers
from proctree_dagster.services.run_workers import Order
from proctree_dagster.support.os_processes import Identity, State
from tests.tools.code_files import code_of
from tests.tools.host import can_have_namespaces

pytestmark = pytest.mark.timeout(120)

CODE = code_of(__file__)

SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

NO_HANDLES = """
import errno, os

def pidfd_open(pid, flags=0):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

os.pidfd_open = pidfd_open
"""


def run(code: str, *before: str, given: object = None) -> None:
    command = [*before, sys.executable, "-c", code, json.dumps(given)]
    subprocess.run(command, check=True, timeout=60)


def run_guardian(before: str = "", **given: object) -> None:
    run(before + (CODE / "watch.py").read_text(), given=given)


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def watch(process: "subprocess.Popen[bytes]") -> guardian._Watch:
    charge = guardian.Charge(Identity.of(process.pid), "run", 15, 60, 5, 0)
    found = guardian._Watch(charge, 0)
    found._taken = True
    return found


def test_where_processes_have_no_handles_a_guardian_watches_all_the_same() -> None:
    run_guardian(NO_HANDLES, beats=5, database=SQLITE, order="d")


def test_where_processes_have_no_handles_they_are_sent_signals_all_the_same() -> None:
    run(
        f"{NO_HANDLES}\n"
        "import signal, subprocess\n"
        "from proctree_dagster.support.os_processes import Identity\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "assert Identity.of(child.pid).send(signal.SIGKILL)\n"
        "assert child.wait(30) == -signal.SIGKILL\n"
        "assert not Identity.of(child.pid).send(signal.SIGKILL)\n"
    )


def test_a_guardian_ends_with_its_worker_though_the_database_does_not_answer() -> None:
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = {
            **{"ENGINE": "django.db.backends.postgresql", "NAME": "none", "USER": "nobody"},
            **{"HOST": "127.0.0.1", "PORT": silent.getsockname()[1]},
        }
        run_guardian(beats=0.5, database=database, order="t")


def test_a_guardian_of_a_stopped_worker_waits(child: "subprocess.Popen[bytes]") -> None:
    found = watch(child)
    child.send_signal(signal.SIGSTOP)
    while found._worker.state is not State.STOPPED:
        pass
    found._look()
    assert found._seconds_to_wait() > 0


@pytest.mark.parametrize(("orders", "program"), [("t", "ended"), ("td", "lives")])
def test_what_a_worker_says_just_before_it_ends_is_read_though_its_guardian_was_busy(
    orders: str, program: str
) -> None:
    command = [sys.executable, str(CODE / "ended_before.py"), orders]
    said = subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    assert said.stdout.split() == [program]


@pytest.mark.parametrize("done", [False, True])
def test_a_worker_that_has_ended_its_run_may_join_what_that_has_left(
    child: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    monkeypatch.setattr(run_workers, "beat", lambda *_: Order.CANCEL)
    found = watch(child)
    found._done = done
    found._beat()
    assert (found._cancel_until is None) == done
    if done:
        child.kill()
    assert child.wait(30) == (-signal.SIGKILL if done else -signal.SIGINT)


def test_a_worker_that_has_left_its_run_is_not_canceled_though_that_was_asked_before(
    child: "subprocess.Popen[bytes]",
) -> None:
    orders, write_orders = os.pipe()
    found = watch(child)
    found._orders = orders
    os.set_blocking(orders, False)
    found._selector.register(orders, selectors.EVENT_READ)
    os.write(write_orders, b"l")
    found._cancel()  # SIGTERM and the message have come together
    assert found._ended
    assert Identity.of(child.pid).state is State.RUNNING
    child.kill()
    assert child.wait(30) == -signal.SIGKILL, "it was not interrupted before"
    os.close(orders)
    os.close(write_orders)


def test_a_process_that_was_given_the_id_of_a_guardian_is_left_alone(
    child: "subprocess.Popen[bytes]",
) -> None:
    with subprocess.Popen(["sleep", "600"]) as worker:
        of_worker = Worker.of_process("run", worker.pid).guarded_by(child.pid)
        assert replace(of_worker, guardian_started="1").cancel()
        assert worker.wait(30) == -signal.SIGINT, "it is asked itself"
        assert child.poll() is None
        assert of_worker.cancel()
        assert child.wait(30) == -signal.SIGTERM


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
def test_another_users_process_can_not_be_sent_a_signal() -> None:
    run(
        "import os, signal\n"
        "from proctree_dagster.support.os_processes import Identity\n"
        "os.setuid(65534)\n"
        "assert not Identity.of(os.getppid()).send(signal.SIGURG)\n"
    )


def test_a_process_that_the_system_hides_is_not_taken_for_ended() -> None:
    if os.getuid() != 0 or not can_have_namespaces():
        pytest.skip("this user can't make namespaces")
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    run((CODE / "hide_processes.py").read_text(), *spaces, "sh", "-c", mount, "sh")


def test_a_storage_that_is_locked_does_not_keep_the_daemon_from_its_queue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Locked:
        @property
        def daemon_cursor_storage(self) -> Any:
            raise OSError("database is locked")

    daemons.Presence().note(Locked())  # type: ignore[arg-type]
    assert "can't be noted" in caplog.text
