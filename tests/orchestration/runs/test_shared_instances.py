"""What uses a home's instance at the same time in one process uses one instance."""

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dagster import DagsterInstance

from proctree_dagster.exceptions import InstanceError
from proctree_dagster.orchestration import homes
from proctree_dagster.orchestration.runs.opening import open_instance


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[DagsterInstance]:
    """The instances that were closed."""
    found: list[DagsterInstance] = []
    dispose = DagsterInstance.dispose

    def note(instance: DagsterInstance) -> None:
        found.append(instance)
        dispose(instance)

    monkeypatch.setattr(DagsterInstance, "dispose", note)
    return found


def test_what_uses_a_home_at_the_same_time_uses_one_instance(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    with open_instance() as outer:
        with open_instance(persistent=True) as inner:
            assert inner is outer
        assert closed == [], "it is still used"
    assert closed == [outer]
    with open_instance() as later:
        assert later is not outer, "a home is looked at again when nobody uses it"


def test_it_stays_open_for_the_last_of_its_users(
    dagster_home: Path, closed: list[DagsterInstance]
) -> None:
    first = open_instance()
    instance = first.__enter__()
    with open_instance() as second:
        first.__exit__(None, None, None)
        assert second is instance
        assert closed == []
        assert second.get_runs() == []
    assert closed == [instance]


def test_two_runs_have_one_each_and_a_run_has_what_is_open(dagster_home: Path) -> None:
    with open_instance() as asked:
        with open_instance(to_execute=True) as first:
            assert first is asked
            with open_instance(to_execute=True) as nested:
                assert nested is not first
            with open_instance() as asked_meanwhile:
                assert asked_meanwhile is first
        with open_instance(to_execute=True) as next_one:
            assert next_one is asked, "the first run has ended"


def change_settings(home: Path) -> None:
    with (home / "dagster.yaml").open("a") as file:
        file.write("nux:\n  enabled: false\n")


def replace_folder(home: Path) -> None:
    home.rename(home.with_name("away"))
    shutil.copytree(home.with_name("away"), home, copy_function=shutil.copy2)


def remove_settings(home: Path) -> None:
    (home / "dagster.yaml").unlink()


@pytest.mark.parametrize("change", [change_settings, replace_folder, remove_settings])
def test_a_home_that_was_changed_meanwhile_is_opened_anew(
    dagster_home: Path, change: Callable[[Path], None], closed: list[DagsterInstance]
) -> None:
    with open_instance() as before:
        change(dagster_home)
        with open_instance() as after:
            assert after is not before
        assert closed == [after]
    assert closed == [after, before]


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
