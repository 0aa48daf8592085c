"""The surroundings of a process: its caller's, and left behind by none."""

import contextvars
import decimal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from asgiref.local import Local
from dagster import DagsterInstance
from django.utils import timezone, translation

from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.process.run import Process, call_with, run_process
from proctree_dagster.support.call_context import carried, isolated
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app.models import Organisation

variable = contextvars.ContextVar("variable", default="unset")
local = Local()

CALLERS = ("de", "America/New_York", "caller's", "caller's", 11)
meeting = threading.Barrier(2, timeout=60)


def seen() -> tuple[Any, ...]:
    """Return what a function finds around it."""
    return (
        translation.get_language(),
        timezone.get_current_timezone_name(),
        variable.get(),
        getattr(local, "value", None),
        decimal.getcontext().prec,
    )


def look(**kwargs: Any) -> tuple[Any, ...]:
    """Return what it finds."""
    return seen()


async def look_async() -> tuple[Any, ...]:
    """Return what it finds, awaited."""
    return seen()


def change(**kwargs: Any) -> bool:
    """Change everything that can be changed."""
    translation.activate("fr")
    timezone.activate("Asia/Tokyo")
    variable.set("changed")
    local.value = "changed"
    decimal.getcontext().prec = 3
    return True


async def change_async() -> bool:
    """Change everything, awaited."""
    return change()


def change_beside() -> tuple[Any, ...]:
    """Change everything while another does, then return what it finds."""
    before = seen()
    meeting.wait()
    change()
    meeting.wait()
    return before


@pytest.fixture(autouse=True)
def functions_here(settings: Any) -> None:
    """Let trees name the functions of this module."""
    settings.PROCTREE = {**settings.PROCTREE, "FUNCTION_MODULES": [__name__]}


@pytest.fixture
def caller() -> Iterator[None]:
    """Give the test surroundings of its own."""
    before = decimal.getcontext().prec
    with ExitStack() as stack:
        stack.enter_context(translation.override("de"))
        stack.enter_context(timezone.override("America/New_York"))
        token = variable.set("caller's")
        local.value = "caller's"
        decimal.getcontext().prec = 11
        yield
        decimal.getcontext().prec = before
        del local.value
        variable.reset(token)


def run(func: Callable[..., Any], **options: Any) -> Any:
    return run_process(Process(ProcessSpec("p", "f", **options), func), {}, {}).result


@pytest.mark.django_db
@pytest.mark.usefixtures("caller")
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("func", [look, look_async])
@pytest.mark.parametrize("changes", [change, change_async])
def test_each_call_begins_with_the_callers_and_leaves_none_behind(
    timeout: float | None, func: Any, changes: Any
) -> None:
    assert run(changes, timeout=timeout)
    assert run(func, timeout=timeout) == CALLERS
    assert seen() == CALLERS


@pytest.mark.django_db
@pytest.mark.usefixtures("caller")
def test_neither_a_check_nor_a_validation_changes_what_the_function_finds() -> None:
    process = Process(
        ProcessSpec("p", "f"),
        look,
        validations=(lambda result: change(),),
        outdated_check=change,
    )
    assert run_process(process, {}, {}).result == CALLERS
    assert call_with("The trigger", change, {}) is True
    assert seen() == CALLERS


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("caller")
def test_side_by_side_they_have_the_callers_and_not_each_others(instance: DagsterInstance) -> None:
    tree = ProcessTreeInstance("tree")
    tree.add_process("plain", change_beside).add_process("timed", change_beside, timeout=60)
    tree.add_process("after", look, ["plain", "timed"])
    results = tree.execute()["results"]
    assert results == {"plain": CALLERS, "timed": CALLERS, "after": CALLERS}
    assert seen() == CALLERS


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("caller")
def test_the_trees_of_a_family_have_the_callers(instance: DagsterInstance) -> None:
    ProcessTreeInstance("second").add_process("p", look).save()
    ProcessTreeInstance("beside").add_process("p", change).save()
    first = ProcessTreeInstance("first").add_process("p", change)
    first.add_dependent_tree("second").add_sibling_tree("beside").save()
    results = ProcessTreeManager.execute_with_dependents("first")
    assert results["success"]
    assert results["followers"]["second"]["results"] == {"p": CALLERS}
    assert seen() == CALLERS


@pytest.mark.usefixtures("caller")
def test_what_is_carried_is_a_copy() -> None:
    found: list[tuple[Any, ...]] = []

    def work() -> None:
        found.append(seen())
        change()

    thread = threading.Thread(target=carried(work))
    thread.start()
    thread.join()
    isolated(change)
    assert found == [CALLERS]
    assert seen() == CALLERS


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("executor", ["in_process", "threads"])
def test_what_a_process_changes_in_its_context_is_its_own(
    instance: DagsterInstance, executor: str
) -> None:
    def soil(rows: list[int], organisation: Organisation) -> None:
        rows.append(1)
        organisation.name = "soiled"

    def keep(organisation: Organisation) -> None:
        Organisation.objects.filter(pk=organisation.pk).update(name="saved meanwhile")

    found: list[Any] = []

    def find(rows: list[int], organisation: Organisation) -> None:
        found.append((list(rows), organisation.name))

    def find_and_soil(rows: list[int], organisation: Organisation) -> None:
        find(rows, organisation)
        soil(rows, organisation)
        if len(found) == 1:
            raise ValueError("the first try")

    rows: list[int] = []
    organisation = Organisation.objects.create(name="clean")
    tree = ProcessTreeInstance("t").set_executor(executor)
    tree.add_process("soil", soil).add_process("twice", find_and_soil, ["soil"], retries=1)
    tree.add_process("keep", keep, ["twice"]).add_process("find", find, ["keep"])
    results = tree.execute({"rows": rows, "organisation": organisation})
    assert results["success"], results["errors"]
    assert found == [([], "clean"), ([], "clean"), ([], "saved meanwhile")]
    assert (rows, organisation.name) == ([], "clean")


@pytest.mark.django_db(transaction=True)
def test_a_row_that_a_process_has_deleted_is_passed_on_as_it_was(
    instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    def delete(organisation: Organisation) -> None:
        Organisation.objects.filter(pk=organisation.pk).delete()

    tree = ProcessTreeInstance("t").add_process("delete", delete)
    tree.add_process("say", lambda organisation: organisation.name, ["delete"])
    results = tree.execute({"organisation": Organisation.objects.create(name="gone")})
    assert results["results"]["say"] == "gone"
    assert "As it was when the run began" in caplog.text
