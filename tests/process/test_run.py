"""One process: what its function is called with, and what it came to."""

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial, wraps
from typing import Any

import pytest
from django.db import connection

from proctree_dagster.domain.texts import explain
from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.exceptions import ArgumentError
from proctree_dagster.process import run as process
from proctree_dagster.process.run import Outcome, Process, bind_arguments, run_process
from tests.app.processes import Methods, asynchronous, echo, fail, needs, optional

pytestmark = pytest.mark.django_db  # each call looks after the database connections


def completed(result: Any) -> Outcome:
    return Outcome("completed", result)


def called(name: str, func: Callable[..., Any], **options: Any) -> Process:
    """Return a process, ready to be run."""
    return Process(ProcessSpec(name, "a:function", **options), func)


def run(
    func: Callable[..., Any],
    context: dict[str, Any] | None = None,
    outcomes: dict[str, Outcome] | None = None,
) -> Any:
    """Run a process called ``sync`` and return its result."""
    outcome = run_process(called("sync", func), context or {}, outcomes or {})
    assert outcome.status == "completed"
    assert outcome.error is None
    assert not outcome.cached
    return outcome.result


# --- Arguments ------------------------------------------------------------------------------------


def test_a_process_is_called_with_the_context_and_its_dependencies_results() -> None:
    assert run(echo, {"tenant": "123"}, {"fetch": completed([1, 2])}) == {
        "tenant": "123",
        "fetch": [1, 2],
    }


def test_a_dependency_wins_over_a_context_key_of_the_same_name() -> None:
    assert run(echo, {"fetch": "context"}, {"fetch": completed("result")}) == {"fetch": "result"}


@pytest.mark.parametrize("result", [None, 0, False, "", [], {}])
def test_a_dependency_that_completed_is_passed_whatever_its_result(result: Any) -> None:
    assert run(echo, {}, {"fetch": completed(result)}) == {"fetch": result}
    assert run(optional, {}, {"argument": completed(result)}) == result


def test_a_result_from_the_cache_is_passed() -> None:
    assert run(echo, {}, {"fetch": Outcome("cached", None, cached=True)}) == {"fetch": None}


@pytest.mark.parametrize("status", ["failed", "skipped", "pending", "running"])
def test_a_dependency_without_a_result_is_not_passed(status: process.Status) -> None:
    outcomes = {"argument": Outcome(status, "left over"), "other": completed(1)}
    assert run(echo, {}, outcomes) == {"other": 1}
    assert run(optional, {}, outcomes) == "the default"


def test_names_that_are_no_identifiers_are_passed_as_written_to_kwargs() -> None:
    outcomes = {"fetch the books": completed(1), "class": completed(2), "名前-2": completed(3)}
    assert run(echo, {"": 0}, outcomes) == {
        "fetch the books": 1,
        "class": 2,
        "名前-2": 3,
        "": 0,
    }


def test_a_function_without_kwargs_is_given_only_what_its_signature_takes() -> None:
    def function(a: int, *, b: int = 2) -> tuple[int, int]:
        return a, b

    assert run(function, {"a": 1, "b": 5, "c": 9}, {"fetch the books": completed(1)}) == (1, 5)
    assert run(function, {"a": 1}) == (1, 2)


def test_a_function_without_parameters_is_called_without_arguments() -> None:
    assert run(lambda: "called", {"a": 1}, {"b": completed(2)}) == "called"


def test_args_are_left_empty() -> None:
    def function(*args: Any, a: int = 0) -> tuple[Any, int]:
        return args, a

    assert run(function, {"a": 1, "args": 2}) == ((), 1)


def test_a_function_with_kwargs_gets_its_named_arguments_and_the_rest() -> None:
    def function(a: int, **rest: Any) -> tuple[int, dict[str, Any]]:
        return a, rest

    assert run(function, {"a": 1, "b": 2}) == (1, {"b": 2})


def test_methods_are_not_given_self_or_cls() -> None:
    assert run(Methods.static, {"argument": 1, "cls": 2}) == 1
    assert run(Methods.of_class, {"argument": 1, "cls": 2}) == "Methods: 1"
    assert run(Methods().bound, {"self": 2}) == "bound"


def test_a_partial_takes_what_is_left() -> None:
    assert run(partial(needs, argument=5), {"other": 1}) == 5
    assert run(partial(echo, half=True), {"a": 1}) == {"half": True, "a": 1}


def test_a_decorated_function_is_given_what_the_one_inside_takes() -> None:
    @wraps(needs)
    def wrapper(**kwargs: Any) -> Any:
        return needs(**kwargs)

    assert run(wrapper, {"argument": 1, "other": 2}) == 1


def test_a_builtin_without_a_signature_is_given_everything() -> None:
    assert run(dict, {"a": 1}, {"b": completed(2)}) == {"a": 1, "b": 2}


def test_a_missing_argument_is_an_error_that_names_it_the_process_and_what_was_there() -> None:
    with pytest.raises(ArgumentError) as raised:
        run(needs, {"tenant": 1}, {"fetch": completed(2), "skipped": Outcome("skipped")})
    message = str(raised.value)
    assert "Process 'sync'" in message
    assert "its function 'needs' needs 'argument'" in message
    assert "gave 'fetch', 'tenant'." in message
    assert "'skipped'" not in message
    assert "Add it to the context" in message
    assert isinstance(raised.value, TypeError)


def test_every_missing_argument_is_named_and_nothing_was_there() -> None:
    def function(a: int, b: int, *, c: int, d: int = 0) -> None: ...

    with pytest.raises(ArgumentError, match=r"needs 'a', 'b', 'c', but .* gave nothing\."):
        run(function)


def test_a_missing_argument_is_found_before_the_function_is_called() -> None:
    called = []

    def function(a: int, **rest: Any) -> None:
        called.append(a)

    with pytest.raises(ArgumentError):
        run(function, {"b": 1})
    assert called == []


def test_a_positional_only_argument_can_not_be_given() -> None:
    def function(a: int, /, b: int) -> None: ...

    with pytest.raises(ArgumentError, match="needs 'a', but"):
        run(function, {"a": 1, "b": 2})
    with pytest.raises(ArgumentError, match=r"by position only.*Leave out the '/'"):
        run(function, {"a": 1, "b": 2})
    with pytest.raises(ArgumentError, match="needs 'a', but context and dependencies gave 'b'"):
        run(function, {"b": 2})


def test_a_positional_only_argument_with_a_default_keeps_it() -> None:
    def function(a: int = 7, /, **rest: Any) -> tuple[int, dict[str, Any]]:
        return a, rest

    def without_kwargs(a: int = 7, /, b: int = 0) -> tuple[int, int]:
        return a, b

    assert run(function, {"a": 1}) == (7, {"a": 1})
    assert run(without_kwargs, {"a": 1, "b": 2}) == (7, 2)


def test_binding_leaves_what_is_available_as_it_was() -> None:
    available = {"a": 1}
    bind_arguments("Process 'sync'", echo, available)["b"] = 2
    assert available == {"a": 1}


# --- Calling --------------------------------------------------------------------------------------


def test_an_async_function_is_awaited() -> None:
    assert run(asynchronous, {"argument": 5, "other": 1}) == 5


def test_a_decorated_async_function_is_awaited() -> None:
    @wraps(asynchronous)
    def wrapper(**kwargs: Any) -> Any:
        return asynchronous(**kwargs)

    class Caller:
        async def __call__(self, a: int) -> int:
            await asyncio.sleep(0)
            return a

    assert run(wrapper, {"argument": 5}) == 5
    assert run(partial(asynchronous, argument=6)) == 6
    assert run(Caller(), {"a": 7}) == 7


def test_an_async_function_that_raises_raises() -> None:
    async def function() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run(function)


def test_an_async_function_sees_the_callers_context_variables() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")

    async def function() -> str:
        return variable.get()

    assert run(function) == "set"


def test_whatever_the_function_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="this process always fails"):
        run(fail)


def test_an_outcome_tells_how_long_the_call_took() -> None:
    def function() -> None:
        import time

        time.sleep(0.02)

    outcome = run_process(called("sync", function), {}, {})
    assert 0.02 <= outcome.seconds < 5


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [None, LookupError("gone")])
def test_stale_connections_are_closed_before_and_after_each_call(error: Exception | None) -> None:
    # A connection on which an error occurred is checked, and closed if it is of no more use.
    seen: list[bool] = []

    def function() -> None:
        seen.append(connection.errors_occurred)
        connection.errors_occurred = True
        if error is not None:
            raise error

    connection.ensure_connection()
    connection.errors_occurred = True
    with nullcontext() if error is None else pytest.raises(LookupError):
        run(function)
    assert seen == [False]
    assert connection.errors_occurred is False


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("pending", False),
        ("running", False),
        ("completed", True),
        ("failed", False),
        ("skipped", False),
        ("cached", True),
    ],
)
def test_only_what_completed_or_came_from_the_cache_has_a_result(
    status: process.Status, expected: bool
) -> None:
    assert Outcome(status).has_result is expected


def test_an_exception_is_explained_by_its_type_and_message() -> None:
    assert explain(ValueError("bad value")) == "ValueError: bad value"
    assert explain(ValueError()) == "ValueError"
