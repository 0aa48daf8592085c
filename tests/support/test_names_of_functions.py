"""A name stands for the function that its author gave it, or for none; so does a stand-in."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
from django.db import transaction
from django.test import override_settings

from proctree_dagster import functions
from proctree_dagster.exceptions import (
    FunctionAmbiguous,
    FunctionNotAllowed,
    FunctionNotNameable,
    InvalidTree,
    StandInError,
    TreeNotFound,
)
from proctree_dagster.models import ProcessTree
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes
from tests.app.processes import Methods
from tests.tools import TOP

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore::proctree_dagster.exceptions.UnnameableFunctionWarning"),
]

Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test registers be forgotten afterwards."""
    functions.autodiscover()
    monkeypatch.setattr(functions, "_registry", dict(functions._registry))
    monkeypatch.setattr(functions, "_local", {})


def saying(word: str) -> Function:
    """Return a function that can't be named."""

    def say() -> str:
        return word

    return say


def not_in_an_app() -> str:
    return "not in an app"


def not_in_an_app_either() -> str:
    return "not in an app either"


def tree(name: str, func: Function | str, **added: Function) -> ProcessTreeInstance:
    made = ProcessTreeInstance(name, overwrite=True)
    for key, each in added.items():
        made.add_function(key, each)
    return made.add_process("p", func)


def result(results: Any) -> Any:
    assert results["success"], results["errors"]
    return results["results"]["p"]


# --- One key, several functions (W2) --------------------------------------------------------------

PAIRS: dict[str, tuple[Function, Function]] = {
    "nested": (saying("first"), saying("second")),
    "lambdas": (lambda: "first", lambda: "second"),
    "partials": (partial(processes.optional, "first"), partial(processes.optional, "second")),
    "methods": (Methods().bound, saying("second")),
    "not in an app": (not_in_an_app, not_in_an_app_either),
    "in an app": (processes.one, processes.two),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("by_key", [True, False])
def test_of_two_functions_under_one_key_of_a_tree_the_later_one_runs(
    kind: str, by_key: bool
) -> None:
    for func in PAIRS[kind]:
        made = tree("t", "sync" if by_key else func, sync=func)
        made.save()
        assert result(run_tree("t")) == func()
        assert result(run_tree(made)) == func()


@pytest.mark.parametrize("kind", PAIRS)
def test_two_trees_that_use_one_key_run_each_its_own_function(kind: str) -> None:
    first, second = PAIRS[kind]
    one, two = tree("one", "sync", sync=first), tree("two", "sync", sync=second)
    one.save()
    two.save()
    assert result(ProcessTreeManager.execute_tree("one")) == result(one.execute()) == first()
    assert result(ProcessTreeManager.execute_tree("two")) == second()


def test_what_another_process_has_saved_since_is_refused_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree("t", "sync", sync=saying("this process")).save()
    here = ProcessTree.objects.get().processes
    kept = functions._local
    monkeypatch.setattr(functions, "_local", {})
    monkeypatch.setattr(functions, "_process", "another process")
    tree("t", "sync", sync=saying("another process")).save()
    assert ProcessTree.objects.get().processes != here
    monkeypatch.setattr(functions, "_local", kept)
    results = run_tree("t")
    assert not results["success"]
    assert "'sync' can't be named" in str(results["errors"])


def test_after_a_rollback_the_function_that_was_saved_before_runs() -> None:
    tree("t", saying("before")).save()
    with transaction.atomic():
        tree("t", saying("rolled back")).save()
        assert result(run_tree("t")) == "rolled back"
        transaction.set_rollback(True)
    assert result(run_tree("t")) == "before"


def test_a_key_that_was_given_to_two_functions_is_refused_for_a_third_tree() -> None:
    tree("one", "sync", sync=saying("one")).save()
    tree("two", "sync", sync=Methods().bound).save()
    with pytest.raises(InvalidTree, match=r"'sync' belongs to .*saying.*Methods\.bound"):
        tree("three", "sync").save()


def test_a_key_of_process_function_is_not_taken_by_add_function() -> None:
    with pytest.raises(FunctionAmbiguous, match=r"'registered' belongs to .*:under_a_key"):
        tree("t", "registered", registered=saying("mine"))
    tree("t", "registered", registered=processes.under_a_key).save()
    assert result(run_tree("t")) == "registered"


def test_a_row_never_holds_a_key_that_only_a_tree_gave() -> None:
    made = tree("t", "sync", sync=not_in_an_app).save()
    assert made.processes[0]["func"] == "tests.support.test_names_of_functions:not_in_an_app"
    tree("other", "sync").save()
    assert ProcessTree.objects.get(name="other").processes == made.processes


# --- What can't be named (W3) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mine"),
    [
        ("registered", lambda: "mine"),
        ("registered", partial(saying("mine"))),
        ("tests.app.processes:one", lambda: "mine"),
        ("tests_app_processes_one", saying("mine")),
        ("os:system", lambda: "mine"),
        ("<unnameable> registered", lambda: "mine"),
    ],
)
def test_a_function_that_cant_be_named_resolves_to_no_other(name: str, mine: Function) -> None:
    made = ProcessTreeInstance("t").add_process(name, mine)
    row = made.save()
    reference = row.processes[0]["func"]
    with pytest.raises(FunctionNotNameable, match="can't be named, so only the process"):
        functions.resolve(reference)
    for results in (run_tree(made), run_tree("t")):
        assert results["success"], results["errors"]
        assert results["results"] == {name: "mine"}
    for purpose in (made.register_schedule, made.create_command):
        with pytest.raises(FunctionNotNameable):
            purpose()
    with pytest.raises(InvalidTree):
        ProcessTreeManager.submit_tree("t")
    functions._local.clear()  # as in every other process
    results = run_tree("t")
    assert not results["success"]
    assert "can't be named" in str(results["errors"])


def test_checks_that_cant_be_named_resolve_to_no_others() -> None:
    asked: list[str] = []

    def asks(who: str) -> Function:
        def ask(**kwargs: Any) -> bool:
            asked.append(who)
            return True

        return ask

    functions.register("p_validation_1", asks("registered"))
    functions.register("p_outdated_check", asks("registered"))
    made = ProcessTreeInstance("t").add_process(
        "p",
        processes.one,
        validation=lambda result: asks("mine")(),
        outdated_check=asks("mine"),
    )
    made.save()
    assert result(run_tree("t")) == 1
    assert asked == ["mine", "mine"]


def test_a_saved_tree_that_cant_be_named_is_loaded_and_saved_where_it_was_saved_only() -> None:
    tree("t", saying("mine")).save()
    loaded = ProcessTreeManager.get_tree("t").set_description("Changed.")
    loaded.save()
    assert result(run_tree("t")) == result(loaded.execute()) == "mine"
    functions._local.clear()
    with pytest.raises(InvalidTree, match="can't be named"):
        ProcessTreeManager.get_tree("t").save()


def test_no_key_may_look_like_what_cant_be_named() -> None:
    with pytest.raises(Exception, match="A function's key is"):
        functions.register("<unnameable> fetch 12345678", processes.one)


# --- Stand-ins (W4) -------------------------------------------------------------------------------


def stub() -> str:
    return "stub"


def run_saved(given: dict[str, Any]) -> Any:
    return run_tree("t", functions=given)


def run_registry(given: dict[str, Any]) -> Any:
    return ProcessTreeManager.execute_tree("t", func_registry=given)


def run_instance(given: dict[str, Any]) -> Any:
    return ProcessTreeManager.get_tree("t").execute(functions=given)


def run_changed_instance(given: dict[str, Any]) -> Any:
    changed = ProcessTreeManager.get_tree("t").set_description("Not saved.")
    return run_tree(changed, functions=given)


@pytest.fixture
def saved() -> Iterator[None]:
    """A tree of three processes, of which each notes its calls."""
    (
        ProcessTreeInstance("t")
        .add_process("fetch", processes.noted)
        .add_process("post", "registered")
        .add_process("p", processes.noted, ["fetch", "post"])
        .save()
    )
    processes.calls.clear()
    yield
    processes.calls.clear()


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("run", [run_saved, run_registry, run_instance, run_changed_instance])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fecth": stub}, "no process or function 'fecth' .*did you mean 'fetch'"),
        ({"nonsense": stub}, "'nonsense' to stand in for .it has 'fetch', 'post', 'p'"),
        ({"fetch": stub, "Fetch": stub}, "'Fetch' .*did you mean 'fetch'"),
        ({"tests.app.processes:notde": stub}, "did you mean 'tests.app.processes:noted'"),
        ({"registred": stub}, "did you mean 'registered'"),
        ({"fecth": processes.under_a_key}, "'fecth' .*did you mean 'fetch'"),
        ({"": stub}, "no process or function ''"),
        ({None: stub}, "no process or function None"),
        ({"fetch": None}, "given for 'fetch' is None, which can't be called"),
        ({"fetch": "registered"}, "given for 'fetch' is 'registered', which can't be called"),
    ],
)
def test_a_stand_in_that_stands_for_nothing_is_refused_and_nothing_runs(
    run: Function, given: dict[Any, Any], said: str
) -> None:
    with pytest.raises(StandInError, match=said):
        run(given)
    assert processes.calls == []


class Falsy:
    """A stand-in that counts as false, as an empty mock may."""

    def __len__(self) -> int:
        return 0

    def __call__(self, **kwargs: Any) -> str:
        return "stub"


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("run", [run_saved, run_registry, run_instance, run_changed_instance])
@pytest.mark.parametrize("name", ["p", "tests.app.processes:noted"])
@pytest.mark.parametrize("func", [lambda: "stub", Falsy()])
def test_a_stand_in_is_named_by_process_or_reference(
    run: Function, name: str, func: Function
) -> None:
    assert result(run({name: func})) == "stub"


def test_a_key_of_several_functions_of_a_tree_stands_for_none_of_them() -> None:
    tree("t", "sync", sync=processes.one).add_process("q", processes.two).save()
    tree("other", "sync", sync=processes.two).save()
    with pytest.raises(StandInError, match="'sync' is a key of several of its functions"):
        run_tree("t", functions={"sync": lambda: "stand-in"})
    assert run_tree("t", functions={"p": lambda: "stand-in"})["results"] == {
        "p": "stand-in",
        "q": 2,
    }
    assert result(run_tree("other", functions={"sync": lambda: "stand-in"})) == "stand-in"


@pytest.mark.parametrize("autospec", [False, True])
def test_a_function_that_a_test_patches_by_a_mock_is_the_mock(
    autospec: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree("t", processes.one).save()
    with mock.patch("tests.app.processes.one", autospec=autospec, return_value=7) as patched:
        assert result(run_tree("t")) == 7
        patched.assert_called_once_with()
        monkeypatch.setattr("proctree_dagster.support.isolation.in_test", lambda: False)
        with pytest.raises(FunctionNotAllowed):
            functions.resolve("tests.app.processes:one")


@pytest.mark.usefixtures("saved")
def test_a_stand_in_for_a_function_stands_in_wherever_the_tree_names_it() -> None:
    results = run_saved({"tests.app.processes:noted": stub, "registered": stub})
    assert results["results"] == {"fetch": "stub", "post": "stub", "p": "stub"}


def test_a_stand_in_for_a_process_is_none_for_a_function_of_that_name() -> None:
    reference = "tests.app.processes:one"
    ProcessTreeInstance("t").add_process(reference, processes.two).add_process(
        "p", processes.one
    ).save()
    assert run_saved({reference: stub})["results"] == {reference: "stub", "p": 1}


def test_a_key_of_the_tree_names_what_it_stands_for() -> None:
    made = tree("t", "sync", sync=processes.one)
    made.save()
    assert result(run_tree(made, functions={"sync": stub})) == "stub"
    assert result(run_registry({"sync": stub})) == "stub"
    tree("t", "sync", sync=saying("mine")).save()
    assert result(run_registry({"sync": stub})) == "stub"
    functions._local.clear()
    assert result(run_registry({"sync": stub})) == "stub"


def test_a_function_that_the_tree_names_may_be_given_under_any_name() -> None:
    tree("t", processes.one).save()
    assert result(run_registry({"its key in another project": processes.one})) == 1


# --- load() (W9) ----------------------------------------------------------------------------------


def test_load_on_a_tree_fills_it_and_what_is_saved_then_is_all_of_it() -> None:
    tree("t", processes.one).set_description("Saved.").save()
    filled = ProcessTreeInstance("t", overwrite=True)
    assert filled.load("t") is filled
    assert filled.description == "Saved."
    filled.add_process("q", processes.two, ["p"]).save()
    row = ProcessTree.objects.get()
    assert [process["name"] for process in row.processes] == ["p", "q"]
    assert row.description == "Saved."
    assert [each.has_process("p") for each in (filled, filled.load())] == [True, True]


def test_load_on_the_class_returns_the_saved_tree() -> None:
    tree("t", processes.one).save()

    class Mine(ProcessTreeInstance):
        pass

    assert type(Mine.load("t")) is Mine
    assert ProcessTreeInstance.load(name="t").has_process("p")
    with pytest.raises(TypeError, match="needs the name"):
        ProcessTreeInstance.load()


def test_load_with_another_name_makes_it_that_tree() -> None:
    tree("t", processes.one).save()
    tree("other", processes.two).add_dependent_tree("t").save()
    other = ProcessTreeInstance("t", overwrite=True).load("other")
    assert other.name == "other"
    other.set_executor("in_process").save()
    rows = {row.name: row for row in ProcessTree.objects.all()}
    assert rows["t"].executor == ""
    assert rows["other"].executor == "in_process"
    assert rows["other"].linked_trees() == {"dependent_trees": ["t"]}


def test_load_of_what_is_not_there_changes_nothing() -> None:
    made = tree("t", processes.one)
    with pytest.raises(TreeNotFound):
        made.load("gone")
    assert made.has_process("p")


def test_what_load_drops_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tree("t", processes.one).save()
    made = ProcessTreeInstance("t", overwrite=True).add_process("mine", processes.two)
    made.load("t")
    assert "'mine'" in caplog.text
    assert not made.has_process("mine")


def test_keys_that_were_added_before_load_stay_known() -> None:
    tree("t", processes.one).save()
    filled = ProcessTreeInstance("t", overwrite=True).add_function("mine", processes.two).load()
    filled.add_process("q", "mine").save()
    assert ProcessTree.objects.get().processes[1]["func"] == "tests.app.processes:two"


# --- A function that was typed (T5) ---------------------------------------------------------------

TYPED = """
def typed():
    return 1

from proctree_dagster import functions
from proctree_dagster.exceptions import FunctionNotNameable

try:
    functions.reference_to(typed)
except FunctionNotNameable as error:
    print(error)

"""


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["manage.py", "shell", "-v", "0", "-c", TYPED], ""),
        (["manage.py", "shell", "-v", "0"], TYPED),
        (["-c", f"import django; django.setup()\n{TYPED}"], ""),
        (["-"], f"import django; django.setup()\n{TYPED}"),
        (["-i"], f"import django; django.setup()\n{TYPED}"),
    ],
)
def test_of_a_function_typed_in_a_shell_it_is_said_that_nothing_can_be_imported_from_there(
    arguments: list[str], stdin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.settings")
    ran = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=TOP,
        check=False,
    )
    said = ran.stdout
    assert (
        "'typed' was typed in a shell or a notebook, which nothing can be imported from" in said
    ), ran
    assert "Move it to the top level of a module, such as the 'processes' module" in said


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("<ipython-input-3-5f6c>", "__main__"),
        ("/tmp/ipykernel_4711/12345.py", "__main__"),
        ("<console>", "__console__"),
        ("<string>", None),
    ],
)
def test_a_function_of_a_notebook_or_of_exec_was_typed(file: str, module: str | None) -> None:
    namespace: dict[str, Any] = {} if module is None else {"__name__": module}
    exec(compile("def typed():\n    return 1\n", file, "exec"), namespace)
    with pytest.raises(FunctionNotNameable, match="'typed' was typed in a shell or a notebook"):
        functions.reference_to(namespace["typed"])


def test_a_typed_function_runs_in_the_shell_and_the_warning_says_that_nothing_else_can() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def typed():\n    return 1\n", "<console>", "exec"), namespace)
    made = tree("t", namespace["typed"])
    with pytest.warns(match="'typed' was typed in a shell.*only this process can run the tree"):
        made.save()
    assert result(run_tree("t")) == 1


def test_a_stand_in_may_be_of_a_module_that_is_not_allowed() -> None:
    tree("t", processes.one).save()
    with override_settings(PROCTREE={"FUNCTION_MODULES": ["tests.app"]}):
        assert result(run_saved({"p": not_in_an_app})) == "not in an app"
