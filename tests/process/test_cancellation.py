"""Stopping what runs in another thread: never in the middle of a transaction's end."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction

from proctree_dagster.process import cancellation
from proctree_dagster.process.cancellation import Stop, stoppable
from tests.app.models import Organisation

SECONDS = 60.0


class Asked(BaseException):
    """What is raised in a thread that is asked to stop."""


class Working:
    """A thread that does something until it is asked to stop."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.stop = Stop(Asked)
        self.was_stopped = False
        self.open: bool | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.stop.heeded(), stoppable():
                self._work()
        except Asked:
            self.was_stopped = True
        finally:
            if connection.connection is not None:
                self.open = connection.in_atomic_block or not connection.autocommit
            connections.close_all()

    def end(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def test_code_that_ends_a_transaction_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    in_there, go = threading.Event(), threading.Event()
    said: list[str] = []

    def ends() -> None:
        in_there.set()
        while not go.is_set():
            time.sleep(0.001)  # many lines of Python, at each of which it might be interrupted
        said.append("ended")

    monkeypatch.setattr(cancellation, "PROTECTED", ("a_part_of_django",))
    protected: dict[str, Any] = {"__name__": "a_part_of_django", "ends": ends}
    exec("def exit():\n    ends()\n", protected)  # a function of that module

    def work() -> None:
        protected["exit"]()
        while True:
            time.sleep(0.001)

    working = Working(work)
    assert in_there.wait(SECONDS)
    assert working.stop.ask()
    time.sleep(0.1)
    assert said == []
    go.set()
    working.end()
    assert said == ["ended"]
    assert working.was_stopped


@pytest.fixture
def database_file(tmp_path: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Put the default database into a file of its own, so that each thread has a connection."""
    kept, settings = connections["default"], connections.settings["default"]
    options = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
    with django_db_blocker.unblock():
        file = str(tmp_path / "stopping.sqlite3")
        connections.settings["default"] = {**settings, "NAME": file, "OPTIONS": options}
        del connections["default"]
        try:
            with connections["default"].schema_editor() as editor:
                editor.create_model(Organisation)
            yield
        finally:
            connections["default"].close()
            connections.settings["default"] = settings
            connections["default"] = kept


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asked again then
@pytest.mark.usefixtures("database_file")
def test_a_transaction_that_is_stopped_is_committed_with_its_hooks_or_not_at_all() -> None:
    dice = random.Random(5)
    for number in range(60):
        hooks: list[int] = []

        def work(number: int = number, hooks: list[int] = hooks) -> None:
            turn = 0
            while True:
                turn += 1
                with transaction.atomic():
                    transaction.on_commit(lambda turn=turn: hooks.append(turn))  # type: ignore[misc]
                    Organisation.objects.create(name=f"{number} outer")
                    with transaction.atomic():
                        Organisation.objects.create(name=f"{number} inner")

        working = Working(work)
        time.sleep(dice.uniform(0.005, 0.03))
        working.stop.ask()
        working.end()
        assert working.was_stopped
        assert not working.open
        outer = Organisation.objects.filter(name=f"{number} outer").count()
        assert outer == Organisation.objects.filter(name=f"{number} inner").count() == len(hooks)


@pytest.mark.usefixtures("database_file")
def test_what_is_left_open_all_the_same_is_rolled_back() -> None:
    begun = threading.Event()

    def work() -> None:
        transaction.atomic().__enter__()  # as if its end had been left out
        Organisation.objects.create(name="half")
        begun.set()
        while True:
            time.sleep(0.001)

    working = Working(work)
    assert begun.wait(SECONDS)
    working.stop.ask()
    working.end()
    assert not working.open
    assert not Organisation.objects.filter(name="half").exists()


def test_what_has_lost_the_exception_is_asked_again() -> None:
    begun = threading.Event()
    lost: list[int] = []

    def work() -> None:
        while True:
            try:
                begun.set()
                while True:
                    time.sleep(0.001)
            except Asked:
                lost.append(1)
                if len(lost) == 2:
                    raise

    working = Working(work)
    assert begun.wait(SECONDS)
    working.stop.ask()
    working.end()
    assert working.was_stopped
    assert len(lost) == 2
