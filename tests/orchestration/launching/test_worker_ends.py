"""How a worker ends, forked and plain, whatever a function has left or done: real processes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from tests.orchestration.launching.test_launcher import Place, opened
from tests.tools.code_files import code_of
from tests.tools.stack import wait_for
from tests.tools.warm_python import forks_of_these_tests

pytestmark = pytest.mark.timeout(300)

CODE = code_of(__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ends")


@pytest.fixture(scope="module")
def place(folder: Path, empty_home: Path) -> Iterator[Place]:
    """A home and a code location with saved trees, for all tests of this module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TEST_GRACE", "20")
        for place in opened(folder, empty_home, monkeypatch):
            for file in CODE.glob("*.py"):
                shutil.copy(file, folder)
            forks_of_these_tests().run(["save_trees.py"], folder, os.environ)
            yield place


@pytest.fixture(scope="module", params=["forked", "plain"])
def kind(place: Place, request: pytest.FixtureRequest) -> Iterator[str]:
    """The kind of the workers of several tests, one kind after the other."""
    kind: str = request.param
    with_threads = place.folder / "threads"
    if kind == "plain":
        with_threads.touch()
    # One way or the other: a template that has imported the location already shall do so again.
    os.utime(place.folder / "location.py")
    yield kind
    with_threads.unlink(missing_ok=True)
    os.utime(place.folder / "location.py")


FORKED = pytest.mark.parametrize("kind", ["forked"], indirect=True)


@pytest.fixture
def worker(place: Place, kind: str) -> str:
    """Which kind of worker executes the runs of a test."""
    (place.folder / "notes").unlink(missing_ok=True)
    return kind


def launch(place: Place, tree: str) -> str:
    origin = place.origin()._replace(job_name=tree)
    run = create_run_for_test(
        place.instance,
        job_name=tree,
        job_code_origin=origin,
        run_config={"context": {}},
        status=DagsterRunStatus.NOT_STARTED,
    )
    place.instance.launch_run(run.run_id, workspace=None)  # type: ignore[arg-type]
    return str(run.run_id)


def notes(place: Place) -> list[str]:
    file = place.folder / "notes"
    return sorted(file.read_text().split("\n")[:-1]) if file.exists() else []


@pytest.mark.parametrize("tree", ["alone", "several"])
def test_what_a_function_leaves_to_threads_pools_and_children_is_finished(
    place: Place, worker: str, tree: str
) -> None:
    run_id = launch(place, tree)
    assert place.ended(run_id) == DagsterRunStatus.SUCCESS, place.failure(run_id)
    assert ("plain process" in place.failure(run_id)) == (worker == "plain")
    expected = ["atexit", "child", "pool", "thread"]
    if worker == "plain":  # what was registered before a fork is not a forked worker's to call
        expected.insert(1, "atexit of the module")
    wait_for("the worker to end as a program does", lambda: notes(place) == sorted(expected))


def test_what_does_not_end_within_the_grace_period_is_cut_off_and_named(
    place: Place, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_GRACE", "1")
    run_id = launch(place, "hangs")
    assert place.ended(run_id) == DagsterRunStatus.SUCCESS, place.failure(run_id)
    wait_for("the process to end", lambda: not Path(f"/proc/{notes(place)[0]}").exists())
    assert "Cut off: thread 'endless'" in place.failure(run_id)


def test_a_child_that_a_function_forks_writes_nothing_into_the_run(
    place: Place, worker: str
) -> None:
    run_id = launch(place, "forks")
    assert place.ended(run_id) == DagsterRunStatus.SUCCESS, place.failure(run_id)
    assert "in the child" not in place.failure(run_id)


@pytest.mark.parametrize(
    ("tree", "status"),
    [
        ("kills_its_group", DagsterRunStatus.FAILURE),
        ("exits_at_once", DagsterRunStatus.FAILURE),
        ("kills_the_template", DagsterRunStatus.SUCCESS),
        ("closes_everything", None),
        pytest.param(
            "becomes_nobody", None, marks=pytest.mark.skipif(os.getuid() != 0, reason="needs root")
        ),
    ],
)
@FORKED
def test_whatever_a_function_does_to_its_process_the_run_ends_and_the_next_one_starts(
    place: Place, kind: str, tree: str, status: DagsterRunStatus | None
) -> None:
    ended = place.ended(launch(place, tree))
    assert status in (ended, None)
    assert tree != "kills_the_template" or "killed" in notes(place)
    assert place.ended(launch(place, "forks")) == DagsterRunStatus.SUCCESS


@FORKED
def test_a_module_that_imports_numpy_is_forked_all_the_same(
    place: Place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numpy")
    (place.folder / "notes").unlink(missing_ok=True)
    (place.folder / "numpy").touch()
    os.utime(place.folder / "location.py")
    run_id = launch(place, "counts_threads")
    assert place.ended(run_id) == DagsterRunStatus.SUCCESS, place.failure(run_id)
    assert "plain process" not in place.failure(run_id)
    # A template that was replaced may only now note that it ends.
    assert "None" in notes(place), "what its programs see is the environment as it was"
    # Whoever asks for more threads gets them, and is warned whatever LOGGING says.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    run_id = launch(place, "counts_threads")
    assert place.ended(run_id) == DagsterRunStatus.SUCCESS, place.failure(run_id)
    warning = "threads running (of a library; the environment says OPENBLAS_NUM_THREADS=4"
    assert warning in place.failure(run_id)
    assert warning in (place.home / "proctree_template.log").read_text()
    (place.folder / "numpy").unlink()
    # That worker was a plain one, whose last note would else be among the next test's.
    wait_for("the plain worker to end", lambda: "atexit of the module" in notes(place))
