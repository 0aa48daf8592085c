"""Waking the daemon: real sockets, and a real process that dies with one."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proctree_dagster.orchestration.launching import sockets
from proctree_dagster.orchestration.launching.wakeups import KIND, Wakeups, wake
from tests.tools import TOP

SOON = 0.05


@pytest.fixture
def home(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def wakeups(home: str) -> Iterator[Wakeups]:
    with Wakeups(home) as wakeups:
        yield wakeups


def listening(home: str) -> list[Path]:
    """Return the sockets of a home's daemons: elsewhere, if its path is long."""
    return sockets.place(home, KIND).sockets()


def test_a_daemon_is_woken_once_by_all_who_have_called(home: str, wakeups: Wakeups) -> None:
    assert not wakeups.wait(SOON)
    for _ in range(3):
        wake(home)
    assert wakeups.wait(30)
    assert not wakeups.wait(SOON)


def test_a_call_that_comes_while_the_daemon_works_is_not_lost(home: str, wakeups: Wakeups) -> None:
    wake(home)
    time.sleep(SOON)
    assert wakeups.wait(30)


def test_more_calls_than_the_system_keeps_wait_for_nobody(home: str, wakeups: Wakeups) -> None:
    for _ in range(2000):
        wake(home)
    assert wakeups.wait(30)
    assert not wakeups.wait(SOON)


def test_each_of_several_daemons_is_woken(home: str, wakeups: Wakeups) -> None:
    with Wakeups(home) as other:
        wake(home)
        assert wakeups.wait(30)
        assert other.wait(30)


def test_where_no_daemon_is_nothing_happens(home: str) -> None:
    wake(home)
    assert listening(home) == []


def test_nobody_else_can_call_and_an_ended_daemon_leaves_nothing(home: str) -> None:
    with Wakeups(home):
        [path] = listening(home)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert listening(home) == []


HANG = """
import sys, time
from proctree_dagster.orchestration.launching.wakeups import Wakeups
wakeups = Wakeups(sys.argv[1])
print("listens", flush=True)
time.sleep(600)
"""


def test_the_socket_of_a_killed_daemon_is_removed_by_who_calls_next(
    home: str, wakeups: Wakeups
) -> None:
    [own] = listening(home)
    with subprocess.Popen(
        [sys.executable, "-c", HANG, home], cwd=TOP, stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"listens\n"
        assert len(listening(home)) == 2
        os.kill(daemon.pid, signal.SIGKILL)
    wake(home)
    assert listening(home) == [own]
    assert wakeups.wait(30)


def test_sockets_of_machines_that_have_died_do_not_pile_up(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "another")
        dead, alive = Wakeups(home), Wakeups(home)
    old = time.time() - sockets.ABANDONED_SECONDS - 60
    os.utime(dead._path, (old, old))
    with Wakeups(home) as wakeups:
        assert not dead._path.exists()
        assert alive._path.exists(), "another machine's may be alive"
        wake(home)
        assert wakeups.wait(30)
        assert not alive.wait(SOON), "it is not this machine's"


def test_a_home_whose_path_is_long_has_its_socket_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    home.mkdir()
    with Wakeups(str(home)) as wakeups:
        wake(str(home))
        assert wakeups.wait(30)
        assert list(home.iterdir()) == []
        place = sockets.place(str(home), KIND)
        assert wakeups._path.parent == place.folder != home


def test_what_takes_no_call_is_logged_and_keeps_nobody_from_being_called(
    home: str, wakeups: Wakeups, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as stranger, caplog.at_level("INFO"):
        stranger.bind(str(sockets.place(home, KIND).socket("0")))
        wake(home)
    assert "A daemon is not woken" in caplog.text
    assert wakeups.wait(30)
