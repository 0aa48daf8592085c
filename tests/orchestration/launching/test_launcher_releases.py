"""A run executes the code of the release that it was requested from, in real processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster._core.remote_origin import (
    CodeLocationOrigin,
    GrpcServerCodeLocationOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import GrpcServerTarget, ModuleTarget

from proctree_dagster.orchestration.launcher import WarmRunLauncher, has_own_server
from proctree_dagster.orchestration.launching import template_client, template_log
from proctree_dagster.orchestration.launching.releases import Release
from proctree_dagster.support import os_processes
from tests.orchestration.launching.test_launcher import (
    CONFIG,
    FUNCTIONS,
    Place,
    copy_location,
    opened,
)
from tests.tools import TOP, python_path
from tests.tools.stack import free_port, wait_for

pytestmark = pytest.mark.timeout(300)

SECRETS = """
secrets:
  custom:
    module: dagster._core.secrets.env_file
    class: PerProjectEnvFileLoader
    config: {location_paths: {proctree: .}}
"""


@pytest.fixture
def place(tmp_path: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A home whose code is in folders of releases only."""
    for place in opened(tmp_path, empty_home, monkeypatch):
        for name in ("location.py", "location_settings.py", "functions.py"):
            (tmp_path / name).unlink()
        monkeypatch.setenv("PYTHONPATH", python_path(TOP))
        yield place


def make_release(place: Place, name: str, word: str = "") -> Path:
    """Make a folder of code whose function says ``word``: by default the folder's name."""
    folder = place.folder / "rel" / name
    folder.mkdir(parents=True)
    copy_location(folder)
    (folder / "functions.py").write_text(FUNCTIONS.replace("before", word or name))
    return folder


def word(place: Place, run_id: str) -> str:
    """Return what the function of a run says, once the run has ended well."""
    assert place.ended(run_id) == DagsterRunStatus.SUCCESS, place.failure(run_id)
    said: str = place.said(run_id)["word"]
    return said


def test_two_releases_run_side_by_side_each_its_own_code(place: Place) -> None:
    first, second = make_release(place, "A"), make_release(place, "B")
    assert word(place, place.launch(release=first)) == "A"
    assert word(place, place.launch(release=second)) == "B"
    assert word(place, place.launch(release=first)) == "A"
    assert len(place.running()) == 2
    assert len(list(template_client.ask_running(str(place.home), {"do": "reload"}))) == 2
    slow = place.launch(release=second, sleeps="yes")
    assert place.said(slow)["word"] == "B"
    assert place.launcher.terminate(slow)
    assert place.ended(slow) == DagsterRunStatus.CANCELED
    shutil.rmtree(first)
    for template in place.running():
        template.send_signal(signal.SIGCHLD)  # it looks round whenever it wakes up
    wait_for("the template of a deleted release to end", lambda: len(place.running()) == 1)
    gone = place.create(release=first)
    with pytest.raises(Exception, match="release that it was requested from is gone"):
        place.instance.launch_run(gone.run_id, workspace=None)  # type: ignore[arg-type]
    assert "Launch it again from the current one" in place.failure(gone.run_id)


def test_a_path_that_leads_to_a_later_release_runs_the_later_code(place: Place) -> None:
    current = place.folder / "current"
    current.symlink_to(make_release(place, "A"))
    queued = place.create(release=current)
    assert word(place, place.launch(release=current)) == "A"
    [earlier] = place.running()
    current.unlink()
    current.symlink_to(make_release(place, "B"))
    assert word(place, place.launch(release=current)) == "B"
    place.instance.launch_run(queued.run_id, workspace=None)  # type: ignore[arg-type]
    assert word(place, queued.run_id) == "B", "the path was all that it was requested from"
    # A folder that takes the place of another one is a later release, too.
    folder = current.resolve()
    folder.rename(place.folder / "older")
    make_release(place, "B", "C")
    assert word(place, place.launch(release=current)) == "C"
    assert earlier.pid in {each.pid for each in place.templates}


def test_another_environment_has_a_template_of_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = make_release(place, "A", "none")
    text = (release / "functions.py").read_text()
    (release / "functions.py").write_text(
        text.replace('"none"', 'os.environ.get("BOOKS_DATABASE_URL", "none")')
    )
    assert word(place, place.launch(release=release)) == "none"
    for database in ("north", "south"):
        monkeypatch.setenv("BOOKS_DATABASE_URL", database)
        assert word(place, place.launch(release=release)) == database
    monkeypatch.setenv("SHLVL", "17")  # the same environment, typed in a shell within a shell
    assert word(place, place.launch(release=release)) == "south"
    monkeypatch.delenv("BOOKS_DATABASE_URL")
    assert word(place, place.launch(release=release)) == "none"
    assert len(place.running()) == 3


@pytest.mark.parametrize(
    "name", ["MEMORY_PRESSURE_WATCH", "INVOCATION_ID", "GNOME_TERMINAL_SCREEN", "SSH_TTY"]
)
def test_what_a_terminal_or_a_unit_says_of_itself_makes_no_other_release(
    place: Place, name: str
) -> None:
    origin = place.origin(release=make_release(place, "A")).repository_origin
    keys = {Release.of_origin(origin, {"A": "a", name: value}).key for value in ("one", "two")}
    assert len(keys) == 1
    assert Release.of_origin(origin, {"A": "b"}).key not in keys


def test_sockets_of_machines_that_have_died_do_not_pile_up(place: Place) -> None:
    here = template_client.address(str(place.home), "0123456789abcdef")  # in a short folder
    *stem, mark, key, suffix = here.name.split(".")
    old, new = (
        here.with_name(".".join([*stem, machine, key, suffix])) for machine in ("ffffff", "fffffe")
    )
    assert mark not in ("ffffff", "fffffe")
    for path in (old, new):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    os.utime(old, (0, 0))
    assert word(place, place.launch(release=make_release(place, "A"))) == "A"
    assert not old.exists()
    assert new.exists(), "it may be in use on another machine"
    [address] = template_client.addresses(str(place.home))
    os.utime(address, (0, 0))
    place.template().send_signal(signal.SIGCHLD)  # it looks round whenever it wakes up
    wait_for("its own to be touched", lambda: address.stat().st_mtime > 0)


def test_an_environment_file_counts_as_it_is_when_the_run_starts(place: Place) -> None:
    (place.home / "dagster.yaml").write_text(CONFIG + SECRETS)
    place.instance.dispose()
    place.open()
    release = make_release(place, "A", "none")
    text = (release / "functions.py").read_text()
    (release / "functions.py").write_text(
        text.replace('"none"', 'os.environ.get("FROM_DAGSTERS", "no") + os.environ["FROM_OURS"]')
    )
    with (release / "location_settings.py").open("a") as settings:
        settings.write(
            "for line in open('books.env'):\n"
            "    os.environ.setdefault(*line.strip().split('=', 1))\n"
        )
    (release / "books.env").write_text("FROM_OURS=1\n")
    assert word(place, place.launch(release=release)) == "no1"
    for value in ("one", "two"):
        (release / ".env").write_text(f"FROM_DAGSTERS={value}\n")
        assert word(place, place.launch(release=release)) == f"{value}1"
    (release / "books.env").write_text("FROM_OURS=2\n")
    assert word(place, place.launch(release=release)) == "two2"
    assert len(place.running()) == 1, "it replaced itself"


def test_an_upgraded_package_is_what_the_next_run_executes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = place.folder / "site-packages"
    release = make_release(place, "A", "none")

    def install(version: str) -> None:
        shutil.rmtree(packages / "books", ignore_errors=True)
        (packages / "books").mkdir(parents=True)
        code = packages / "books" / "__init__.py"
        code.write_text(f"VERSION = {version!r}\n")
        os.utime(code, (1_700_000_000, 1_700_000_000))  # as of a reproducible build

    install("1")
    monkeypatch.setenv("PYTHONPATH", f"{packages}{os.pathsep}{os.environ['PYTHONPATH']}")
    text = (release / "functions.py").read_text().replace('"none"', "books.VERSION")
    (release / "functions.py").write_text(f"import books\n{text}")
    assert word(place, place.launch(release=release)) == "1"
    install("2")
    assert word(place, place.launch(release=release)) == "2"


def test_a_plain_worker_is_in_the_folder_of_its_release(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, release = make_release(place, "other"), make_release(place, "A")
    for each in (other, release):
        (each / "late.py").write_text(f"WORD = {each.name!r}\n")
    (place.folder / "threads").touch()  # so that nothing can be forked
    text = (release / "functions.py").read_text()
    (release / "functions.py").write_text(
        text.replace('"word": WORD', '"word": __import__("late").WORD + os.getcwd()')
    )
    monkeypatch.chdir(other)
    run_id = place.launch(release=release)
    assert word(place, run_id) == f"A{release}"
    assert "threads running" in place.failure(run_id), "its log says why it started slowly"


def test_plain_workers_start_where_no_dagster_is_on_the_path(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    release = make_release(place, "A")
    (place.folder / "threads").touch()
    run = place.create(release=release)
    assert run.job_code_origin is not None
    # As the UI and the daemon write it: without an entry point, or with Dagster's bare one.
    for entry_point in (None, ["dagster"]):
        origin = run.job_code_origin
        repository = origin.repository_origin._replace(entry_point=entry_point)
        origin = origin._replace(repository_origin=repository)
        run_id = place.create(release=release).run_id
        changed = place.run(run_id)._replace(job_code_origin=origin)
        place.launcher.launch_run(LaunchRunContext(changed, workspace=None))
        assert word(place, run_id) == "A"


def test_a_run_of_a_code_server_of_its_own_goes_to_that_server(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = make_release(place, "A", "here")
    text = (release / "functions.py").read_text()
    (release / "functions.py").write_text(
        text.replace('"here"', 'os.environ.get("BOOKS_DATABASE_URL", "here")')
    )
    port = free_port()
    command = [*("api", "grpc", "-m", "location", "-a", "process_trees"), "-p", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster", *command, "-h", "127.0.0.1", "-d", str(release)],
        env={**os.environ, "BOOKS_DATABASE_URL": "the server's"},
        cwd=release,
    )
    try:
        theirs = GrpcServerCodeLocationOrigin("127.0.0.1", port, location_name="proctree")
        wait_for("the code server", lambda: _answers(theirs))
        ours = ManagedGrpcPythonEnvCodeLocationOrigin(
            LoadableTargetOrigin(module_name="location"), "proctree"
        )

        def create(location: CodeLocationOrigin, **run_tags: str) -> str:
            run = place.create(release=release, **run_tags)
            origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "process_trees"), "job")
            place.instance.run_storage.replace_job_origin(run, origin)
            return run.run_id

        asked_there, here = create(theirs, sleeps="yes"), create(ours)
        for run_id in (asked_there, here):
            place.instance.launch_run(run_id, workspace=None)  # type: ignore[arg-type]
        assert word(place, here) == "here"
        assert place.said(asked_there)["word"] == "the server's"
        assert place.launcher.terminate(asked_there)
        assert place.ended(asked_there) == DagsterRunStatus.CANCELED
        # A Django process does not know of the server; the workspace of who launches does.
        queued = create(ours)
        target = GrpcServerTarget("127.0.0.1", port, None, "proctree")
        with create_test_daemon_workspace_context(target, place.instance) as workspace:
            place.instance.launch_run(queued, workspace.create_request_context())
            assert word(place, queued) == "the server's"
        assert caplog.text.count("are executed by its code server") == 1
        assert has_own_server(place.run(asked_there))
        assert not has_own_server(place.run(queued))
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize("same", [True, False])
def test_a_run_is_forked_if_its_code_server_has_this_machines_same_environment(
    place: Place, same: bool
) -> None:
    release = make_release(place, "A")
    text = (release / "location.py").read_text()
    known = "{tags.ENVIRONMENT: releases.environment_key(releases.environment_at_start())}"
    (release / "location.py").write_text(
        "from proctree_dagster.domain import run_tags as tags\n"
        "from proctree_dagster.orchestration.launching import releases\n"
        + text.replace("@dg.repository", f"@dg.repository(metadata={known})")
    )
    port = free_port()
    command = [*("api", "grpc", "-m", "location", "-a", "process_trees"), "-p", str(port)]
    other = {} if same else {"BOOKS_DATABASE_URL": "the server's"}
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster", *command, "-h", "127.0.0.1", "-d", str(release)],
        env={**os.environ, "INVOCATION_ID": "a unit's own", **other},
        cwd=release,
    )
    try:
        theirs = GrpcServerCodeLocationOrigin("127.0.0.1", port, location_name="proctree")
        wait_for("the code server", lambda: _answers(theirs))
        run = place.create(release=release)
        origin = RemoteJobOrigin(RemoteRepositoryOrigin(theirs, "process_trees"), "job")
        place.instance.run_storage.replace_job_origin(run, origin)
        target = GrpcServerTarget("127.0.0.1", port, None, "proctree")
        with create_test_daemon_workspace_context(target, place.instance) as workspace:
            place.instance.launch_run(run.run_id, workspace.create_request_context())
            assert word(place, run.run_id) == "A"
        assert (GRPC_INFO_TAG in place.run(run.run_id).tags) != same
    finally:
        server.terminate()
        server.wait(30)


def test_a_run_whose_release_is_gone_is_executed_by_the_one_that_replaced_it(
    place: Place,
) -> None:
    first, second = make_release(place, "A"), make_release(place, "B")
    run = place.create(release=first)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        LoadableTargetOrigin(module_name="location", working_directory=str(first)), "proctree"
    )
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "process_trees"), "job")
    place.instance.run_storage.replace_job_origin(run, origin)
    shutil.rmtree(first)
    target = ModuleTarget("location", "process_trees", str(second), "proctree")
    with create_test_daemon_workspace_context(target, place.instance) as workspace:
        place.instance.launch_run(run.run_id, workspace.create_request_context())
        assert word(place, run.run_id) == "B"
    log = place.failure(run.run_id)
    assert "The release that this run was requested from is gone" in log
    assert str(first) in log
    assert str(second) in log


def _answers(server: GrpcServerCodeLocationOrigin) -> bool:
    try:
        return bool(server.create_client().ping(""))
    except DagsterUserCodeUnreachableError:
        return False


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs another user")
def test_a_stranger_is_refused_by_the_template(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        for place in opened(Path(short), empty_home, monkeypatch):
            assert word(place, place.launch()) == "before"
            [address] = template_client.addresses(str(place.home))
            address.chmod(0o777)  # so that only the check stands in the way
            place.home.chmod(0o755)
            assert peer_of(address, user=None) != ""
            assert peer_of(address, user=65534) == ""
            log = template_log.path(str(place.home)).read_text()
            assert "refused: it is from user 65534" in log


def peer_of(address: Path, user: int | None) -> str:
    """Return what the template answers to another process, of another user if one is given."""
    code = (
        "import os, socket, sys\n"
        f"{user} and os.setuid({user})\n"
        "connection = socket.socket(socket.AF_UNIX)\n"
        "connection.connect(sys.argv[1])\n"
        "try:\n"
        """    connection.sendall(b'{"do": "find", "run_id": ""}\\n')\n"""
        "    print(connection.recv(100).decode())\n"
        "except (BrokenPipeError, ConnectionResetError):\n"
        "    pass\n"
    )
    command = [sys.executable, "-c", code, address.name]
    done = subprocess.run(command, cwd=address.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_launcher_hands_no_run_to_a_strangers_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_client, "peer", lambda connection: 12345)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind(path.name)
        listener.listen()
        with pytest.raises(PermissionError, match="belongs to user 12345"):
            template_client._connect(Path(path.name))


@pytest.mark.skipif(
    subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="needs a PID namespace of its own",
)
def test_a_container_that_shares_the_home_has_templates_of_its_own(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from proctree_dagster.orchestration.launching import template_client\n"
        "print(template_client.address(sys.argv[1], 'the key').name)\n"
    )
    python = [sys.executable, "-c", code, str(tmp_path)]
    names = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (python, python, ["unshare", "--pid", "--fork", "--mount-proc", *python])
    ]
    assert names[0] == names[1] != names[2]


def test_a_run_that_a_run_launches_is_of_the_same_release(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = place.origin().repository_origin
    before = Release.of_origin(origin)
    monkeypatch.setenv(os_processes.STARTED_BY_RUN, "a run")
    assert Release.of_origin(origin) == before


@pytest.mark.parametrize("left", ["", "threads"])
def test_what_keeps_a_release_from_being_forked_is_known_without_a_run(
    place: Place, left: str
) -> None:
    release = make_release(place, "A")
    if left:
        (place.folder / left).touch()
    reason = template_client.examine(
        Release.of_origin(place.origin(release=release).repository_origin)
    )
    assert (reason is None) == (left == "")
    assert left in (reason or "")
    (release / "location.py").write_text("raise RuntimeError('broken on purpose')")
    with pytest.raises(template_client.NoAnswer, match="broken on purpose"):
        template_client.examine(Release.of_origin(place.origin(release=release).repository_origin))


def test_a_log_that_can_not_be_cut_or_opened_ends_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = str(place.home)
    monkeypatch.setattr(template_log, "MAX_BYTES", 10)
    with template_log.open_to_append(home) as log:
        log.write(b"a" * 90)
    Path(f"{template_log.path(home)}.1").mkdir()  # as on a full disk, the copy can't be written
    template_log.cut(home)
    with template_log.open_to_append(home) as log:
        assert log.tell() == 90
    template_log.path(home).unlink()
    template_log.path(home).mkdir()
    launcher = WarmRunLauncher()
    monkeypatch.setattr(WarmRunLauncher, "_home", home)
    with launcher._output(in_terminal=False) as output:
        assert output is None
    assert "can't be opened" in caplog.text


def test_the_log_of_templates_is_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = str(place.home)
    monkeypatch.setattr(template_log, "MAX_BYTES", 100)
    with template_log.open_to_append(home) as worker:
        worker.write(b"a" * 90 + b"\n")
        worker.flush()
        template_log.cut(home)
        assert template_log.path(home).stat().st_size == 91, "it may still grow"
        worker.write(b"b" * 90 + b"\n")
        worker.flush()
        template_log.cut(home)
        worker.write(b"after\n")  # whoever has it open goes on
    assert template_log.path(home).read_bytes() == b"after\n"
    older = (place.home / "proctree_template.log.1").read_bytes()
    assert older.endswith(b"b\n")
    assert len(older) == 100
