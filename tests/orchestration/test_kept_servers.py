"""The daemon's code servers, real ones, which it refreshes whenever a test tells it to."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from proctree_dagster.orchestration.dagster_features import KEPT_SERVERS
from tests.tools import TOP, python_path
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for

pytestmark = pytest.mark.timeout(300)

CODE = code_of(__file__)

HOME = TOP / "proctree_dagster/orchestration/dagster_home/sqlite/dagster.yaml"

LOCATION = """load_from:
  - python_module: {{module_name: {module}, working_directory: {folder}}}
"""


class Place:
    """A Dagster home, a code location, and what refreshes it as the daemon does."""

    def __init__(self, folder: Path, empty_home: Path) -> None:
        self.folder = folder
        self.home = Path(shutil.copytree(empty_home, folder / "home"))
        shutil.copy(HOME, self.home / "dagster.yaml")
        for file in CODE.glob("*.py"):
            shutil.copy(file, folder)
        (folder / "secret.txt").write_text("a")
        (folder / "site-packages").mkdir()
        self.env = {
            **os.environ,
            "TEST_FOLDER": str(folder),
            "DAGSTER_HOME": str(self.home),
            "PYTHONPATH": python_path(folder, TOP, folder / "site-packages"),
            "DAGSTER_GRPC_TIMEOUT_SECONDS": "3",
        }
        self.save("first")

    def save(self, name: str) -> None:
        """Save a tree."""
        command = [sys.executable, "save_tree.py", name]
        subprocess.run(command, check=True, cwd=self.folder, env=self.env)


class Daemon:
    """What refreshes a workspace."""

    def __init__(self, place: Place, module: str = "trees", max_seconds: float = 600) -> None:
        workspace = place.folder / f"{module}.yaml"
        workspace.write_text(LOCATION.format(module=module, folder=place.folder))
        self.log = place.folder / "daemon.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "daemon.py", str(workspace), str(max_seconds)],
                cwd=place.folder,
                env=place.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._read()

    def refresh(self) -> int | None:
        """Do as the daemon each minute; return the process id of the code server."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> int | None:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("{"):  # log lines
            assert line, self.log.read_text()
        answer: dict[str, Any] = json.loads(line)
        self.jobs: list[str] = answer["jobs"]
        server: int | None = answer["server"]
        self.server = server
        return server

    def stop(self) -> None:
        """End it and its code servers."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(60)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Place:
    return Place(tmp_path_factory.mktemp("kept"), empty_home)


@pytest.fixture(scope="module")
def shared(place: Place) -> Iterator[Daemon]:
    daemon = Daemon(place)
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def daemon(shared: Daemon) -> Daemon:
    """A daemon whose code server has read everything as it is now."""
    shared.refresh()
    assert shared.refresh() == shared.server
    return shared


def test_a_code_server_is_kept_while_nothing_has_changed_and_serves_what_is_saved_meanwhile(
    daemon: Daemon, place: Place
) -> None:
    server = daemon.server
    place.save("second")

    def is_served() -> bool:
        assert daemon.refresh() == server
        return daemon.jobs == ["first", "second"]

    wait_for("the tree to be served", is_served)


def edit(folder: Path) -> Path:
    file = folder / "watched.py"
    file.write_text(f"{file.read_text()}# edited\n")
    return file


def change_what_the_settings_read(folder: Path) -> Path:
    file = folder / "secret.txt"
    file.write_text("b")
    return file


def install_a_package(folder: Path) -> Path:
    packages = folder / "site-packages"
    (packages / "package").mkdir()
    return packages


def write_what_was_missing(folder: Path) -> Path:
    file = folder / ".env"
    file.write_text("SOME=variable")
    return file


def replace_by_an_older_file(folder: Path) -> Path:
    new, file = folder / "new", folder / "secret.txt"
    new.write_text("c")
    os.utime(new, (1, 1))
    new.replace(file)
    return file


@pytest.mark.parametrize(
    "change",
    [
        edit,
        change_what_the_settings_read,
        install_a_package,
        write_what_was_missing,
        replace_by_an_older_file,
    ],
)
def test_a_code_server_is_replaced_when_a_file_has_changed_and_says_which(
    daemon: Daemon, place: Place, change: Callable[[Path], Path]
) -> None:
    server = daemon.server
    changed = change(place.folder)
    assert daemon.refresh() != server
    assert daemon.log.read_text().endswith(f"A code server is replaced: Changed: {changed}.\n")
    server = daemon.server
    assert daemon.refresh() == server, "the new one has read the file as it is now"


def test_a_code_server_that_was_killed_is_replaced(daemon: Daemon) -> None:
    assert daemon.server is not None
    server = psutil.Process(daemon.server)
    server.kill()
    wait_for("its end", lambda: server.status() == psutil.STATUS_ZOMBIE)
    assert daemon.refresh() != server.pid


def test_a_code_server_that_hangs_is_replaced_and_named(daemon: Daemon) -> None:
    assert daemon.server is not None
    server = daemon.server
    os.kill(server, signal.SIGSTOP)
    try:
        assert daemon.refresh() != server
    finally:
        os.kill(server, signal.SIGKILL)
    assert "A code server does not answer, and is replaced" in daemon.log.read_text()


def test_what_a_new_code_server_does_once_a_kept_one_does_each_minute(
    daemon: Daemon, place: Place
) -> None:
    noted = place.folder / "each_minute"
    before = noted.stat().st_size
    server = daemon.server
    assert daemon.refresh() == server
    wait_for("one more call", lambda: noted.stat().st_size == before + 1)


def test_a_code_location_that_could_not_be_loaded_is_loaded_again(
    daemon: Daemon, place: Place
) -> None:
    broken = place.folder / "broken"
    broken.touch()
    edit(place.folder)
    daemon.refresh()
    assert daemon.jobs == []
    broken.unlink()
    daemon.refresh()
    assert daemon.jobs != []


@pytest.fixture
def another(place: Place, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon of another kind."""
    daemon = Daemon(place, **request.param)
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.mark.parametrize(
    "another",
    [
        pytest.param({"module": "more"}, id="that serves definitions of the project's own"),
        pytest.param({"max_seconds": 0}, id="that is too old"),
    ],
    indirect=True,
)
def test_a_code_server_is_replaced_each_minute(another: Daemon) -> None:
    server = another.server
    assert another.refresh() != server


def test_this_dagster_allows_it() -> None:
    assert KEPT_SERVERS.problems() == []
