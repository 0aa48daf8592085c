"""The launcher and its template process, real ones, with a small code location of their own."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test

from proctree_dagster.domain import run_tags as tags
from proctree_dagster.orchestration.launcher import WarmRunLauncher
from proctree_dagster.orchestration.launching import imports, template_client
from proctree_dagster.orchestration.launching.workers import Worker, started
from proctree_dagster.orchestration.template import server as template
from tests.tools import TOP, python_path
from tests.tools.code_files import code_of
from tests.tools.postgres import Postgres
from tests.tools.stack import wait_for
from tests.tools.warm_python import python_of_templates

pytestmark = pytest.mark.timeout(300)

CODE = code_of(__file__)
FUNCTIONS = (CODE / "functions.py").read_text()


CONFIG = """
telemetry:
  enabled: false
instance_class:
  module: proctree_dagster.orchestration.storage
  class: ProctreeInstance
run_monitoring:
  enabled: true
run_launcher:
  module: proctree_dagster.orchestration.launcher
  class: WarmRunLauncher
"""


def copy_location(folder: Path) -> None:
    """Copy a code location, its settings and its functions."""
    for file in CODE.glob("*.py"):
        shutil.copy(file, folder)


class Place:
    """A Dagster home and a code location.

    Its templates are forks of a Python that has imported Dagster, unless another is given.
    """

    def __init__(self, folder: Path, empty_home: Path, python: str | None = None) -> None:
        self.folder = folder
        self.python = python or python_of_templates(folder)
        self.home = Path(shutil.copytree(empty_home, folder / "home"))
        (self.home / "dagster.yaml").write_text(CONFIG)
        copy_location(folder)
        self.launched = 0
        self.templates: set[psutil.Process] = set()

    def open(self) -> None:
        self.instance = DagsterInstance.from_config(str(self.home))

    @property
    def launcher(self) -> WarmRunLauncher:
        launcher = self.instance.run_launcher
        assert isinstance(launcher, WarmRunLauncher)
        return launcher

    def origin(
        self, attribute: str = "process_trees", release: Path | None = None
    ) -> JobPythonOrigin:
        pointer = ModuleCodePointer("location", attribute, str(release or self.folder))
        repository = RepositoryPythonOrigin(
            executable_path=self.python,
            code_pointer=pointer,
            entry_point=[self.python, "-m", "dagster"],
        )
        return JobPythonOrigin("job", repository)

    def create(
        self, *, attribute: str = "process_trees", release: Path | None = None, **run_tags: str
    ) -> DagsterRun:
        self.launched += 1
        run_tags.setdefault("said", f"run{self.launched}")
        run: DagsterRun = create_run_for_test(
            self.instance,
            job_name="job",
            job_code_origin=self.origin(attribute, release),
            tags=run_tags,
            status=DagsterRunStatus.NOT_STARTED,
        )
        return run

    def launch(self, *, release: Path | None = None, **run_tags: str) -> str:
        run_id = self.create(release=release, **run_tags).run_id
        self.instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]
        return run_id

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def said(self, run_id: str) -> dict[str, Any]:
        """Wait for what a run's process said of itself."""
        path = self.folder / self.run(run_id).tags["said"]

        def read() -> dict[str, Any] | None:
            if self.run(run_id).status == DagsterRunStatus.FAILURE:
                raise AssertionError(self.failure(run_id))
            return json.loads(path.read_text()) if path.exists() else None

        return wait_for("a process to speak", read)

    def go(self, run_id: str) -> None:
        """Let a process that sleeps end."""
        (self.folder / f"{self.run(run_id).tags['said']}.go").touch()

    def ended(self, run_id: str, seconds: float = 60) -> DagsterRunStatus:
        def status() -> DagsterRunStatus | None:
            run = self.run(run_id)
            return run.status if run.is_finished else None

        return wait_for("a run to end", status, seconds)

    def failure(self, run_id: str) -> str:
        """Return everything that a run's log says."""
        entries = self.instance.all_logs(run_id)
        data = [
            entry.dagster_event and entry.dagster_event.event_specific_data for entry in entries
        ]
        errors = [str(error) for each in data if (error := getattr(each, "error", None))]
        return "\n".join([entry.message for entry in entries] + errors)

    def template(self) -> psutil.Process:
        [found] = self.running()
        return found

    def running(self) -> list[psutil.Process]:
        """Return the templates that answer, of whatever release."""
        request = {"do": "find", "run_id": ""}
        answers = template_client.ask_running(str(self.home), request)
        found = []
        for answer in answers:
            with suppress(psutil.NoSuchProcess):  # it has answered, and ended then
                found.append(psutil.Process(answer["template"]))
        self.templates.update(found)
        return found

    def close(self) -> None:
        self.running()
        for each in self.templates:
            with suppress(psutil.NoSuchProcess):  # it has ended, or ends just now
                family = [each, *each.children(recursive=True)]
                each.terminate()
                for process in psutil.wait_procs(family, timeout=20)[1]:
                    process.kill()
        self.instance.dispose()


@pytest.fixture
def database(postgres: Postgres) -> dict[str, Any]:
    """An empty database in PostgreSQL."""
    return postgres.new_database()


@pytest.fixture
def postgres_place(
    place: Place, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Place:
    """The same on PostgreSQL: Django's database, and Dagster's."""
    return on_postgres(place, database, monkeypatch)


def on_postgres(place: Place, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("TEST_DATABASE", json.dumps({**database, "CONN_MAX_AGE": 0}))
    place.instance.dispose()
    url = f"postgresql+psycopg2://postgres:@/{database['NAME']}?host={database['HOST']}"
    (place.home / "dagster.yaml").write_text(
        f"{CONFIG}\nstorage:\n  postgres:\n    postgres_url: {url}\n"
    )
    place.open()
    return place


@pytest.fixture(scope="module")
def place_of_several(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("place"), empty_home, sys.executable)
    place.open()
    try:
        yield place
    finally:
        place.close()


SHARES = pytest.mark.parametrize("place", ["shared"], indirect=True)
"""Of a test that leaves the template as it was: its runs are forked from that of its neighbours."""


@pytest.fixture
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    empty_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    if getattr(request, "param", None) == "shared":
        shared: Place = request.getfixturevalue("place_of_several")
        set_environment(shared.folder, monkeypatch)
        yield shared
    else:
        yield from opened(tmp_path, empty_home, monkeypatch)


def opened(tmp_path: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    set_environment(tmp_path, monkeypatch)
    place = Place(tmp_path, empty_home)
    place.open()
    try:
        yield place
    finally:
        place.close()


def set_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the code of a folder reads, and what its template is known by."""
    monkeypatch.setenv("TEST_FOLDER", str(folder))
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.setenv("PYTHONPATH", python_path(folder, TOP))


@SHARES
def test_the_log_of_a_run_is_live(place: Place) -> None:
    run_id = place.launch(sleeps="true")
    place.said(run_id)
    seen: list[str] = []
    place.instance.watch_event_logs(run_id, None, lambda entry, _: seen.append(entry.message))
    run = place.run(run_id)
    place.instance.report_engine_event("told from outside", run)
    wait_for("the log to be told", lambda: "told from outside" in seen)
    place.go(run_id)
    assert place.ended(run_id) == DagsterRunStatus.SUCCESS


@SHARES
def test_a_run_is_forked_into_a_session_of_its_own(place: Place) -> None:
    first, second = place.launch(), place.launch()
    said = [place.said(run_id) for run_id in (first, second)]
    assert [place.ended(run_id) for run_id in (first, second)] == [DagsterRunStatus.SUCCESS] * 2
    template = place.template()
    for run_id, each in zip((first, second), said, strict=True):
        assert each["parent"] == template.pid
        assert each["session"] == each["pid"] != template.pid
        worker = Worker.of_run(place.run(run_id))
        assert worker is not None
        assert (worker.pid, worker.host) == (each["pid"], socket.gethostname())
    assert said[0]["random"] != said[1]["random"], "both have inherited one seed"
    assert os.getsid(template.pid) == template.pid
    [address] = template_client.addresses(str(place.home))
    assert address.stat().st_mode & 0o777 == 0o600


def test_two_starters_at_the_same_moment_make_one_template(place: Place) -> None:
    runs = [place.create() for _ in range(6)]
    gate = threading.Barrier(len(runs))

    def launch(run_id: str) -> None:
        with DagsterInstance.from_config(str(place.home)) as instance:
            gate.wait()
            instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]

    threads = [threading.Thread(target=launch, args=(run.run_id,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {place.said(run.run_id)["parent"] for run in runs} == {place.template().pid}
    assert {place.ended(run.run_id) for run in runs} == {DagsterRunStatus.SUCCESS}


def test_an_edited_function_is_what_the_next_run_executes(place: Place) -> None:
    slow = place.launch(sleeps="yes")
    assert place.said(slow)["word"] == "before"
    functions = place.folder / "functions.py"
    before = place.template()
    for word in ("second", "third!"):  # of one length, within one second: as bytecode sees it
        functions.write_text(FUNCTIONS.replace("before", word))
        several = [place.launch() for _ in range(2)]
        assert [place.said(run_id)["word"] for run_id in several] == [word, word]
        assert [place.ended(run_id) for run_id in several] == [DagsterRunStatus.SUCCESS] * 2
    assert place.template() == before, "it replaced itself, and kept its children"
    assert place.run(slow).status == DagsterRunStatus.STARTED
    place.go(slow)
    assert place.ended(slow) == DagsterRunStatus.SUCCESS


def test_launches_while_the_template_replaces_itself_are_not_lost(place: Place) -> None:
    place.ended(place.launch())
    (place.folder / "functions.py").write_text(FUNCTIONS.replace("before", "behind"))
    runs = [place.create() for _ in range(5)]

    def launch(run_id: str) -> None:
        with DagsterInstance.from_config(str(place.home)) as instance:
            instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]

    threads = [threading.Thread(target=launch, args=(run.run_id,)) for run in runs]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert {place.said(run.run_id)["word"] for run in runs} == {"behind"}
    assert {place.ended(run.run_id) for run in runs} == {DagsterRunStatus.SUCCESS}


def test_a_reload_lets_the_next_run_import_anew(place: Place) -> None:
    (place.folder / "functions.py").write_text(
        FUNCTIONS.replace('"before"', 'open(os.environ["TEST_FOLDER"] + "/word").read()')
    )
    (place.folder / "word").write_text("one")
    assert place.said(place.launch())["word"] == "one"
    (place.folder / "word").write_text("two")
    assert list(template_client.ask_running(str(place.home), {"do": "reload"}))
    assert place.said(place.launch())["word"] == "two"


def test_a_template_that_was_killed_is_started_again_and_its_runs_go_on(place: Place) -> None:
    slow, doomed = place.launch(sleeps="yes"), place.launch(sleeps="yes")
    place.said(slow), place.said(doomed)
    first = place.template()
    first.kill()
    first.wait(10)
    assert place.ended(place.launch()) == DagsterRunStatus.SUCCESS
    assert place.template() != first
    run = place.run(slow)
    assert place.launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    os.kill(place.said(doomed)["pid"], signal.SIGKILL)
    wait_for("the worker to die", lambda: started(place.said(doomed)["pid"]) is None)
    health = place.launcher.check_run_worker_health(place.run(doomed))
    assert health.status == WorkerStatus.FAILED
    assert str(place.said(doomed)["pid"]) in (health.msg or "")
    place.go(slow)
    assert place.ended(slow) == DagsterRunStatus.SUCCESS


def test_a_template_that_was_killed_after_an_edit_is_started_again(place: Place) -> None:
    assert place.ended(place.launch()) == DagsterRunStatus.SUCCESS
    (place.folder / "functions.py").write_text(FUNCTIONS + "\n# edited\n")
    slow = place.launch(sleeps="yes")  # the first child of a template that has replaced itself
    worker = place.said(slow)["pid"]
    first = place.template()
    assert place.said(slow)["parent"] == first.pid
    first.kill()
    first.wait(10)
    next_one = place.launch()
    assert place.said(next_one)["parent"] == place.template().pid != first.pid
    assert started(worker) is not None
    place.go(slow)
    assert place.ended(slow) == DagsterRunStatus.SUCCESS


@SHARES
def test_a_worker_that_dies_fails_its_run(place: Place) -> None:
    run_id = place.launch(sleeps="yes")
    os.kill(place.said(run_id)["pid"], signal.SIGKILL)
    assert place.ended(run_id) == DagsterRunStatus.FAILURE
    assert "SIGKILL" in place.failure(run_id)


@SHARES
def test_a_plain_worker_of_an_ordinary_location_that_dies_fails_its_run(place: Place) -> None:
    run_id = place.create(attribute="job", sleeps="yes").run_id
    place.instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]
    os.kill(place.said(run_id)["pid"], signal.SIGKILL)
    assert place.ended(run_id) == DagsterRunStatus.FAILURE
    assert "is not a module of trees" in place.failure(run_id)
    assert "SIGKILL" in place.failure(run_id)


@SHARES
def test_a_worker_that_dies_while_its_run_is_starting_fails_it(place: Place) -> None:
    (place.folder / "hold").touch()
    run_id = place.launch()
    worker = wait_for("the worker", lambda: Worker.of_run(place.run(run_id)))
    assert place.run(run_id).status == DagsterRunStatus.STARTING
    os.kill(worker.pid, signal.SIGKILL)
    (place.folder / "hold").unlink()
    assert place.ended(run_id) == DagsterRunStatus.FAILURE
    assert "SIGKILL" in place.failure(run_id)


@SHARES
@pytest.mark.parametrize("known", ["by its tag", "by the template"])
def test_a_run_is_terminated_by_any_process(place: Place, known: str) -> None:
    run_id = place.launch(sleeps="yes")
    place.said(run_id)
    if known == "by the template":
        place.instance.add_run_tags(run_id, {tags.WORKER: "lost"})
    # An instance of its own stands for another process: the launcher keeps nothing in memory.
    with DagsterInstance.from_config(str(place.home)) as elsewhere:
        assert elsewhere.run_launcher.terminate(run_id)
    assert place.ended(run_id) == DagsterRunStatus.CANCELED
    assert not place.launcher.terminate(run_id), "it has ended"


def test_a_reused_process_id_is_never_hit(place: Place) -> None:
    run_id = place.launch(sleeps="yes")
    worker = Worker.of_run(place.run(run_id)) or wait_for(
        "the worker", lambda: Worker.of_run(place.run(run_id))
    )
    place.said(run_id)
    place.template().kill()  # so that nobody knows better
    os.kill(worker.pid, signal.SIGKILL)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        same_id = replace(worker, pid=bystander.pid)
        place.instance.add_run_tags(run_id, same_id.as_tags())
        health = place.launcher.check_run_worker_health(place.run(run_id))
        assert health.status == WorkerStatus.FAILED
        assert not place.launcher.terminate(run_id)
        assert bystander.poll() is None
    assert place.ended(run_id) == DagsterRunStatus.CANCELED, "nobody was left to cancel it"


@SHARES
def test_what_was_copied_from_another_run_is_no_worker(place: Place) -> None:
    worker = Worker.of_process("another run", os.getpid())
    assert Worker.of_run(place.create(**worker.as_tags())) is None  # type: ignore[arg-type]


@SHARES
@pytest.mark.parametrize(
    "elsewhere", [{"host": "another-host"}, {"boot_id": "another"}, {"pid_namespace": "pid:[1]"}]
)
def test_a_worker_that_cannot_be_seen_is_asked_by_way_of_the_database(
    place: Place, elsewhere: dict[str, str]
) -> None:
    run = place.create()
    worker = replace(Worker.of_process(run.run_id, os.getpid()), started="1")
    worker = replace(worker, **elsewhere)  # type: ignore[arg-type]
    place.instance.add_run_tags(run.run_id, worker.as_tags())
    run = place.run(run.run_id)
    assert place.launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert place.launcher.terminate(run.run_id)
    assert place.run(run.run_id).status == DagsterRunStatus.CANCELING
    assert str(worker) in place.failure(run.run_id)
    assert place.launcher.terminate(run.run_id), "a second time is no error"


@pytest.mark.parametrize(
    ("left", "told"),
    [("threads", "has left 1 threads running"), ("connections", "has left 2 connections open")],
)
def test_a_template_with_threads_or_connections_is_not_forked(
    place: Place, left: str, told: str
) -> None:
    (place.folder / left).touch()
    runs = [place.launch() for _ in range(2)]
    assert [place.ended(run_id) for run_id in runs] == [DagsterRunStatus.SUCCESS] * 2
    sessions = {place.said(run_id)["session"] for run_id in runs}
    assert sessions == {place.said(run_id)["pid"] for run_id in runs}
    log = (place.home / "proctree_template.log").read_text()
    assert log.count(told) == 1
    doomed = place.launch(sleeps="yes")
    place.said(doomed)
    assert place.launcher.terminate(doomed)
    assert place.ended(doomed) == DagsterRunStatus.CANCELED


def test_a_location_that_cannot_be_imported_fails_its_run_with_the_reason(place: Place) -> None:
    (place.folder / "broken").touch()
    run_id = place.launch()
    assert place.ended(run_id) == DagsterRunStatus.FAILURE
    (place.folder / "broken").unlink()
    assert place.ended(place.launch()) == DagsterRunStatus.SUCCESS


def test_a_launch_that_nothing_came_of_is_a_failed_run_with_its_reason(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    run = place.create()
    with pytest.raises(OSError, match="no more processes"):
        place.instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
    assert place.run(run.run_id).status == DagsterRunStatus.FAILURE
    assert "no more processes" in place.failure(run.run_id)


def test_a_template_ends_when_those_who_use_it_have(place: Place) -> None:
    (place.home / "dagster.yaml").write_text(f"{CONFIG}  config:\n    linger_seconds: 1\n")
    run = place.create(sleeps="yes")
    code = (
        "import sys\n"
        "from dagster import DagsterInstance\n"
        "with DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    instance.launch_run(sys.argv[2], workspace=None)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(place.home), run.run_id], check=True)
    place.said(run.run_id)
    process = place.template()
    time.sleep(2)
    assert process.is_running(), "it has a child"
    place.go(run.run_id)
    process.wait(30)
    assert place.ended(run.run_id) == DagsterRunStatus.SUCCESS
    assert template_client.addresses(str(place.home)) == []


def test_a_template_that_nothing_is_asked_of_gives_its_memory_back(place: Place) -> None:
    (place.home / "dagster.yaml").write_text(f"{CONFIG}  config:\n    idle_seconds: 1\n")
    with DagsterInstance.from_config(str(place.home)) as instance:  # it lives on
        for word in ("first", "second"):
            run = place.create(sleeps="yes")
            instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
            place.said(run.run_id)
            process = place.template()
            time.sleep(2)
            assert process.is_running(), f"it has a child: the {word}"
            place.go(run.run_id)
            assert place.ended(run.run_id) == DagsterRunStatus.SUCCESS
            process.wait(30)


def test_a_template_ends_when_its_socket_is_gone(place: Place) -> None:
    place.ended(place.launch())
    process = place.template()
    [address] = template_client.addresses(str(place.home))
    address.unlink()
    process.send_signal(signal.SIGCHLD)  # it looks round whenever it wakes up
    process.wait(30)


def test_a_long_home_has_its_socket_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = str(tmp_path / ("x" * 100))
    long = template_client.address(home, "1" * 16)
    assert long.parent.parent == tmp_path
    assert long.parent.stat().st_mode & 0o777 == 0o700
    assert long == template_client.address(home, "1" * 16)
    others = template_client.address(str(tmp_path / ("y" * 100)), "1" * 16)
    assert len({long, others, template_client.address(home, "2" * 16)}) == 3
    for each in (long, others):
        each.touch()
    assert template_client.addresses(home) == [long]
    long.parent.chmod(0o755)
    with pytest.raises(PermissionError, match="only this user"):
        template_client.address(home, "1" * 16)


def test_threads_are_counted_before_a_fork() -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from proctree_dagster.orchestration.template import loading\n"
            "import threading\n"
            "print(loading.fork_problem())\n"
            "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
            "print(loading.fork_problem())\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=60)
    alone, not_alone = output.splitlines()
    assert alone == "None"
    assert "1 threads" in not_alone


def test_installed_modules_are_not_looked_at() -> None:
    files = imports.user_modules()
    assert Path(template.__file__) in files
    assert not any("site-packages" in str(file) for file in files)


def test_bytecode_that_nobody_may_remove_hides_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "read-only file system", str(path))

    file = tmp_path / "module.py"
    file.write_text("pass")
    before = imports.stamps([file], 0)
    file.write_text("pass  # edited")
    monkeypatch.setattr(Path, "unlink", refuse)
    assert imports.changed(before) == [file]


def test_another_users_template_keeps_nobody_from_starting_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {name: template_client.address(str(tmp_path), name) for name in ("his", "killed")}
    listeners = [socket.socket(socket.AF_UNIX) for _ in paths]
    for listener, path in zip(listeners, paths.values(), strict=True):
        listener.bind(str(path))
        listener.listen()
    listeners[1].close()
    monkeypatch.setattr(template_client, "peer", lambda connection: 12345)
    with listeners[0]:
        template_client._remove_abandoned(str(tmp_path))
    assert [path.exists() for path in paths.values()] == [True, False]


def test_a_file_that_changed_while_it_was_imported_counts_as_changed(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    before = time.time_ns()
    file.write_text("pass")
    os.utime(file, ns=(before, before))
    during, earlier = (imports.stamps([file], before + since) for since in (-1, 1))
    assert imports.changed(during) == [file]
    assert imports.changed(earlier) == []


def belongings(process: psutil.Process) -> tuple[int, int, int, int]:
    """Count the files, sockets, threads and children of a process."""
    return (
        process.num_fds(),
        len(process.net_connections("all")),
        process.num_threads(),
        len(process.children(recursive=True)),
    )


def no_more(after: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return all(now <= then for now, then in zip(after, before, strict=True))


@SHARES
def test_twenty_runs_in_a_row_leave_nothing_behind(place: Place) -> None:
    def run_some(count: int) -> None:
        for run_id in [place.launch(said="same") for _ in range(count)]:
            assert place.ended(run_id) == DagsterRunStatus.SUCCESS, place.failure(run_id)

    run_some(4)
    template, me = place.template(), psutil.Process()
    wait_for("the workers to end", lambda: not template.children(recursive=True))
    before = belongings(template), belongings(me)
    for _ in range(4):
        run_some(4)
    assert place.template() == template
    wait_for("the workers to end", lambda: not template.children(recursive=True))
    # It may yet be closing the connection through which it was just asked who it is.
    wait_for("the template to let go", lambda: no_more(belongings(template), before[0]))
    after = belongings(me)
    assert no_more(after, before[1]), (before, after)
    leftover = {path.name for path in place.home.iterdir() if path.is_file()}
    locks = {".proctree.lock", ".proctree_template.lock", ".proctree_template.log.lock"}
    assert leftover <= {"dagster.yaml", "proctree_template.log", *locks}


def sessions(database: dict[str, Any]) -> int:
    """Count the connections to the database."""
    address = f"host={database['HOST']} user=postgres dbname={database['NAME']}"
    with psycopg.connect(address) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        )
        [count] = found.fetchone() or [0]
        return int(count)


def test_runs_on_postgresql_leave_no_connection(
    postgres_place: Place, database: dict[str, Any]
) -> None:
    place = postgres_place
    runs = [place.launch() for _ in range(3)]
    assert {place.said(run_id)["parent"] for run_id in runs} == {place.template().pid}
    assert {place.ended(run_id) for run_id in runs} == {DagsterRunStatus.SUCCESS}
    template = place.template()
    wait_for("the workers to end", lambda: not template.children(recursive=True))
    before = sessions(database), belongings(template)
    runs = [place.launch() for _ in range(10)]
    assert {place.ended(run_id) for run_id in runs} == {DagsterRunStatus.SUCCESS}
    wait_for("the workers to end", lambda: not template.children(recursive=True))
    wait_for("their sessions to end", lambda: sessions(database) <= before[0])
    assert no_more(belongings(template), before[1])
    doomed, ended = place.launch(sleeps="yes"), place.launch(sleeps="yes")
    place.said(doomed), place.said(ended)
    os.kill(place.said(doomed)["pid"], signal.SIGKILL)
    assert place.ended(doomed) == DagsterRunStatus.FAILURE
    assert place.launcher.terminate(ended)
    assert place.ended(ended) == DagsterRunStatus.CANCELED
