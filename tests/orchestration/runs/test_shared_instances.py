"""What uses a home's instance in one process uses one instance, one after another and at once."""

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from pytest_django import Settings

from proctree_dagster.exceptions import InstanceError
from proctree_dagster.orchestration import homes
from proctree_dagster.orchestration.runs import shared_instances
from proctree_dagster.orchestration.runs.opening import open_instance
from proctree_dagster.orchestration.runs.shared_instances import shared_by_reference
from proctree_dagster.orchestration.storage import ProctreeInstance
from tests.conftest import skip_without


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[DagsterInstance]:
    """The instances that were closed."""
    shared_instances.close_unused()
    found: list[DagsterInstance] = []
    dispose = DagsterInstance.dispose

    def note(instance: DagsterInstance) -> None:
        found.append(instance)
        dispose(instance)

    monkeypatch.setattr(DagsterInstance, "dispose", note)
    return found


def opened(*, to_execute: bool = False) -> DagsterInstance:
    """Return the instance that a user gets; it is unused again."""
    with open_instance(to_execute=to_execute) as instance:
        assert instance.get_runs() == []
        return instance


def test_what_uses_a_home_at_the_same_time_uses_one_instance_and_leaves_it_open(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    with open_instance() as outer, open_instance(persistent=True) as inner:
        assert inner is outer
    assert opened() is outer
    assert closed == []


def test_two_runs_have_one_each_and_a_run_has_what_is_open(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    with open_instance() as asked:
        with open_instance(to_execute=True) as first:
            assert first is asked
            with open_instance(to_execute=True) as nested:
                assert nested is not first
            with open_instance() as asked_meanwhile:
                assert asked_meanwhile is first
        with open_instance(to_execute=True) as next_one:
            assert next_one is asked, "the first run has ended"
    assert closed == []


def test_no_more_are_left_open_than_a_few(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    more = 3
    with ExitStack() as runs:
        for _ in range(shared_instances.MOST_IDLE + more):
            runs.enter_context(open_instance(to_execute=True))
    assert len(closed) == more


def test_one_is_closed_by_the_next_user_when_it_was_unused_for_long(
    dagster_home: Path, closed: list[DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened()
    monkeypatch.setattr(shared_instances, "IDLE_SECONDS", 0.0)
    assert opened() is not before
    assert before in closed


def test_one_is_replaced_after_many_uses(
    dagster_home: Path, closed: list[DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_instances, "MOST_USES", 3)
    used = [opened() for _ in range(4)]
    assert used[0] is used[1] is used[2] is not used[3]
    assert closed == [used[0]]


def test_one_whose_user_has_failed_is_closed(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    with pytest.raises(ValueError, match="no"), open_instance() as failed:
        raise ValueError("no")
    assert closed == [failed]
    assert opened() is not failed


def test_what_a_process_leaves_open_is_closed_at_its_end(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    unused = opened()
    with open_instance(to_execute=True) as used:
        assert used is unused
        shared_instances.close_unused()  # registered with atexit
        assert closed == []
    shared_instances.close_unused()
    assert closed == [used]


def test_files_are_held_open_during_a_run_and_by_nobody_else_and_not_while_a_child_is_forked(
    dagster_home: Path,
) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        skip_without("/proc")

    def held() -> set[str]:
        links = [each.readlink() for each in descriptors.iterdir() if each.is_symlink()]
        return {each.name for each in links if dagster_home in each.parents}

    def fork() -> int:
        child = os.fork()
        if child == 0:
            os._exit(bool(held()))
        return os.waitpid(child, 0)[1]

    assert opened().run_coordinator
    assert held() == set()
    with open_instance(to_execute=True) as instance:
        assert {"runs.db", "index.db", "schedules.db"} <= held()
        assert fork() == 0
        assert instance.get_runs() == []
    assert held() == set()


def change_settings(home: Path) -> None:
    with (home / "dagster.yaml").open("a") as file:
        file.write("nux:\n  enabled: false\n")


def replace_folder(home: Path) -> None:
    home.rename(home.with_name("away"))
    shutil.copytree(home.with_name("away"), home, copy_function=shutil.copy2)


def remove_settings(home: Path) -> None:
    (home / "dagster.yaml").unlink()


def replace_database(home: Path) -> None:
    (home / "history" / "runs.db").unlink()


@pytest.mark.parametrize(
    "change", [change_settings, replace_folder, remove_settings, replace_database]
)
def test_a_home_that_was_changed_since_is_opened_anew(
    dagster_home: Path, change: Callable[[Path], None], closed: list[DagsterInstance]
) -> None:
    before = opened()
    change(dagster_home)
    assert opened() is not before
    assert closed == [before]


def test_a_home_is_opened_anew_when_the_environment_has_changed(
    dagster_home: Path, closed: list[DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = opened()
    monkeypatch.setenv("DAGSTER_PG_HOST", "elsewhere")
    assert opened() is not before
    assert closed == [before]


def test_one_of_another_home_is_closed(
    dagster_home: Path, closed: list[DagsterInstance], settings: Settings, tmp_path: Path
) -> None:
    before = opened()
    other = tmp_path / "other"
    shutil.copytree(dagster_home, other)
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(other)}
    assert opened() is not before
    assert closed == [before]


@pytest.mark.parametrize("change", [change_settings, replace_folder, remove_settings])
def test_a_home_that_was_changed_meanwhile_is_opened_anew(
    dagster_home: Path, change: Callable[[Path], None], closed: list[DagsterInstance]
) -> None:
    with open_instance() as before:
        change(dagster_home)
        with open_instance() as after:
            assert after is not before
        assert before not in closed, "it is still used"
    assert opened() is after
    assert closed == [before]


def test_a_thread_has_another_one_since_its_runs_capture_no_output(dagster_home: Path) -> None:
    def use() -> DagsterInstance:
        with open_instance() as instance:
            return instance

    with open_instance() as mine, ThreadPoolExecutor(1) as pool:
        assert pool.submit(use).result() is not mine


def test_threads_that_open_a_home_at_once_are_all_served(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    start = threading.Barrier(8)

    def use(_: int) -> DagsterInstance:
        start.wait(30)
        with open_instance() as instance:
            assert instance.get_runs() == []
            assert instance not in closed
            return instance

    with ThreadPoolExecutor(8) as pool:
        used = list(pool.map(use, range(8)))
    shared_instances.close_unused()
    assert len(set(map(id, closed))) == len(closed), "none was closed twice"
    assert {id(instance) for instance in closed} == {id(instance) for instance in used}


def test_a_forked_child_opens_its_own(dagster_home: Path) -> None:
    with open_instance() as parents:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with open_instance() as instance:
                    code = 0 if instance is not parents and instance.get_runs() == [] else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert parents.get_runs() == []


def test_a_home_that_can_not_be_opened_is_tried_again(
    dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(home: str) -> DagsterInstance:
        raise InstanceError("not now")

    with monkeypatch.context() as patched:
        patched.setattr(homes, "open_home", refuse)
        with pytest.raises(InstanceError, match="not now"), open_instance():
            pass
    with open_instance() as instance:
        assert instance.get_runs() == []


# By a reference of another process


def referred(ref: InstanceRef) -> DagsterInstance:
    """Return the instance that a user of a reference gets; it is unused again."""
    with shared_by_reference(ref) as instance:
        assert instance.get_runs() == []
        return instance


@pytest.fixture
def ref(dagster_home: Path) -> InstanceRef:
    return InstanceRef.from_dir(str(dagster_home))


def test_who_has_a_reference_uses_the_instance_that_is_open(
    dagster_home: Path, ref: InstanceRef, closed: list[DagsterInstance]
) -> None:
    with shared_by_reference(ref) as outer, shared_by_reference(ref) as inner:
        assert inner is outer
    assert referred(InstanceRef.from_dir(str(dagster_home))) is outer
    assert closed == []


def test_what_a_reference_says_counts_not_the_settings_of_this_machine(
    dagster_home: Path, ref: InstanceRef
) -> None:
    (dagster_home / "dagster.yaml").unlink()
    assert type(referred(ref)) is ProctreeInstance
    assert type(opened()) is DagsterInstance


def test_another_reference_is_another_instance(
    dagster_home: Path, ref: InstanceRef, closed: list[DagsterInstance]
) -> None:
    before = referred(ref)
    change_settings(dagster_home)
    assert referred(InstanceRef.from_dir(str(dagster_home))) is not before
    assert closed == [before]


def test_one_by_a_reference_and_one_of_a_home_stay_open_side_by_side(
    ref: InstanceRef, closed: list[DagsterInstance]
) -> None:
    by_reference, of_home = referred(ref), opened()
    assert by_reference is not of_home
    assert (referred(ref), opened()) == (by_reference, of_home)
    assert closed == []


@pytest.mark.parametrize("change", [replace_folder, replace_database])
def test_one_by_a_reference_is_opened_anew_when_its_databases_are_others(
    dagster_home: Path,
    ref: InstanceRef,
    change: Callable[[Path], None],
    closed: list[DagsterInstance],
) -> None:
    before = referred(ref)
    change(dagster_home)
    assert referred(ref) is not before
    assert closed == [before]


def test_one_by_a_reference_whose_user_has_failed_is_closed(
    ref: InstanceRef, closed: list[DagsterInstance]
) -> None:
    with pytest.raises(ValueError, match="no"), shared_by_reference(ref) as failed:
        raise ValueError("no")
    assert closed == [failed]


def test_threads_with_one_reference_are_all_served(ref: InstanceRef) -> None:
    start = threading.Barrier(8)

    def use(_: int) -> DagsterInstance:
        start.wait(30)
        return referred(ref)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert referred(ref) is referred(ref)
