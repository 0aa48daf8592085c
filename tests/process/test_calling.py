"""How a function is called: whose signature counts, and that its work is done when it returns."""

import asyncio
import itertools
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial, update_wrapper, wraps
from typing import Any, NamedTuple
from unittest.mock import MagicMock, Mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.utils.decorators import method_decorator

from proctree_dagster.domain.tree_spec import ProcessSpec
from proctree_dagster.exceptions import ArgumentError, FunctionError
from proctree_dagster.process.calling import bind_arguments, takes
from proctree_dagster.process.run import Outcome, Process, run_process
from proctree_dagster.services.trigger_evaluation import ask
from proctree_dagster.testing import run_tree
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db  # each call looks after the database connections

Function = Callable[..., Any]


def outcome_of(func: Function, context: dict[str, Any] | None = None, **parts: Any) -> Outcome:
    return run_process(Process(ProcessSpec("p", "a:function"), func, **parts), context or {}, {})


def result_of(func: Function, context: dict[str, Any] | None = None) -> Any:
    return outcome_of(func, context).result


# --- Decorators that supply an argument -----------------------------------------------------------


def with_client(func: Function) -> Function:
    """Supply ``client``."""

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, client="the client", **kwargs)

    return wrapper


def with_client_first(func: Function) -> Function:
    """Supply the first argument, whatever it is called."""

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func("the client", *args, **kwargs)

    return wrapper


def with_client_awaited(func: Function) -> Function:
    @wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return await func(*args, client="the client", **kwargs)

    return wrapper


class WithClient:
    """The same as a class."""

    def __init__(self, func: Function) -> None:
        self.func = func
        update_wrapper(self, func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, client="the client", **kwargs)


class Proxy:
    """A decorator like those of wrapt: it passes for what it wraps, its class included."""

    def __init__(self, wrapped: Function) -> None:
        object.__setattr__(self, "__wrapped__", wrapped)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.__wrapped__)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "__wrapped__"), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, client="the client", **kwargs)


def passes(func: Function) -> Function:
    """Add nothing, as one that logs or measures does."""

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


def with_tenant_from_id(func: Function) -> Function:
    """Consume one argument and supply another."""

    @wraps(func)
    def wrapper(*args: Any, tenant_id: int, **kwargs: Any) -> Any:
        return func(*args, tenant=f"tenant {tenant_id}", **kwargs)

    return wrapper


def sync(client: str, day: str = "today") -> tuple[str, str]:
    return client, day


async def sync_awaited(client: str, day: str = "today") -> tuple[str, str]:
    return client, day


class Service:
    @with_client
    def method(self, client: str, day: str = "today") -> tuple[str, str]:
        return client, day

    @classmethod
    @with_client
    def of_class(cls, client: str, day: str = "today") -> tuple[str, str]:
        return client, day

    @staticmethod
    @with_client
    def static(client: str, day: str = "today") -> tuple[str, str]:
        return client, day

    @method_decorator(with_client)
    def by_django(self, client: str, day: str = "today") -> tuple[str, str]:
        return client, day


SUPPLIERS: dict[str, Function] = {
    "functools.wraps": with_client(sync),
    "positional": with_client_first(sync),
    "async": with_client_awaited(sync_awaited),
    "class": WithClient(sync),
    "proxy": Proxy(sync),
    "stacked": passes(transaction.atomic(with_client(passes(sync)))),
    "cached": lru_cache(with_client(sync)),
    "sync_to_async": sync_to_async(with_client(sync)),
    "async_to_sync": async_to_sync(with_client_awaited(sync_awaited)),
    "method": Service().method,
    "class method": Service.of_class,
    "static method": Service.static,
    "method_decorator": Service().by_django,
    "partial": partial(with_client(sync)),
}


@pytest.mark.parametrize("style", SUPPLIERS)
def test_an_argument_that_a_decorator_supplies_is_not_asked_for(style: str) -> None:
    func = SUPPLIERS[style]
    assert result_of(func, {"other": 1}) == ("the client", "today")
    assert result_of(func, {"other": 1, "day": "monday", "self": 1, "cls": 2}) == (
        "the client",
        "monday",
    )


def test_what_a_decorator_names_itself_is_asked_for_and_passed() -> None:
    @with_tenant_from_id
    def function(tenant: str, day: str = "today") -> tuple[str, str]:
        return tenant, day

    assert result_of(function, {"tenant_id": 7, "day": "monday", "other": 1}) == (
        "tenant 7",
        "monday",
    )
    with pytest.raises(ArgumentError, match="needs 'tenant_id', but"):
        outcome_of(function)


def test_a_decorator_without_kwargs_gets_what_it_names_and_nothing_else() -> None:
    @wraps(sync)
    def wrapper(tenant_id: int) -> Any:
        return sync(f"client of {tenant_id}")

    assert result_of(wrapper, {"tenant_id": 7, "day": "monday"}) == ("client of 7", "today")


# --- Decorators that pass everything on -----------------------------------------------------------


def two(a: int, b: int = 2) -> tuple[int, int]:
    return a, b


class Passing:
    """Holds methods."""

    @method_decorator(passes)
    def method(self, a: int, b: int = 2) -> tuple[int, int]:
        return a, b


PASSING: dict[str, Function] = {
    "functools.wraps": passes(two),
    "stacked": passes(passes(two)),
    "transaction.atomic": transaction.atomic(two),
    "lru_cache": lru_cache(two),
    "lru_cache of a decorated one": lru_cache(passes(two)),
    "sync_to_async": sync_to_async(two),
    "sync_to_async of a decorated one": sync_to_async(passes(two)),
    "method_decorator": Passing().method,
    "partial": partial(passes(two)),
    "partial of lru_cache": partial(lru_cache(two)),
}


@pytest.mark.parametrize("style", PASSING)
def test_through_a_decorator_that_passes_everything_on_only_what_is_taken_is_passed(
    style: str,
) -> None:
    assert result_of(PASSING[style], {"a": 1, "other": 5, "args": 1, "kwargs": 2}) == (1, 2)


@pytest.mark.parametrize("style", PASSING)
def test_what_no_decorator_supplies_is_an_error_that_names_it(style: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        outcome_of(PASSING[style], {"other": 5})
    assert "Process 'p': its function" in str(raised.value)
    assert "needs 'a', but context and dependencies gave 'other'" in str(raised.value)


def test_what_a_decorator_supplies_and_the_context_too_is_an_error_that_names_both() -> None:
    @wraps(two)
    def supplies(*args: Any, **kwargs: Any) -> Any:
        given: Any = two
        return given(*args, b=3, **kwargs)

    assert result_of(supplies, {"a": 1}) == (1, 3)
    with pytest.raises(ArgumentError, match="a decorator of its function 'two' supplies 'b'"):
        outcome_of(supplies, {"a": 1, "b": 2})


def test_a_partial_of_a_decorated_function_takes_what_is_left() -> None:
    assert result_of(partial(passes(two), 1), {"a": 9, "b": 5, "c": 1}) == (1, 5)
    assert result_of(partial(passes(two), b=7), {"a": 1, "c": 1}) == (1, 7)


def test_a_decorated_function_with_kwargs_gets_everything() -> None:
    assert result_of(passes(processes.echo), {"a": 1, "b": 2}) == {"a": 1, "b": 2}


def test_a_wrapper_that_does_not_say_what_it_wraps_gets_everything() -> None:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return kwargs

    assert result_of(wrapper, {"a": 1}) == {"a": 1}
    assert result_of(Mock(return_value=3), {"a": 1}) == 3


def test_a_signature_that_a_decorator_declares_counts() -> None:
    import inspect

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return kwargs

    wrapper.__signature__ = inspect.signature(two)  # type: ignore[attr-defined]
    assert result_of(wrapper, {"a": 1, "c": 3}) == {"a": 1}


def test_a_type_error_of_the_functions_own_stays_what_it_is() -> None:
    @passes
    def function(a: int) -> Any:
        return two()  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'") as raised:
        outcome_of(function, {"a": 1})
    assert not isinstance(raised.value, ArgumentError)


def test_wrappers_that_go_round_in_a_circle_are_looked_through_to_an_end() -> None:
    def function(**kwargs: Any) -> Any:
        return kwargs

    function.__wrapped__ = function  # type: ignore[attr-defined]
    assert takes(function).everything
    assert bind_arguments("It", function, {"a": 1}) == {"a": 1}


# --- Functions that yield -------------------------------------------------------------------------


def generator(times: int = 3) -> Iterator[int]:
    for number in range(times):
        processes.calls.append(f"yield {number}")
        yield number


async def async_generator(times: int = 3) -> AsyncIterator[int]:
    for number in range(times):
        processes.calls.append(f"yield {number}")
        await asyncio.sleep(0)
        yield number


async def async_returns_generator() -> Any:
    return generator()


class Generators:
    """Callables that yield."""

    def __call__(self) -> Iterator[int]:
        yield from generator()

    @staticmethod
    def static() -> Iterator[int]:
        yield from generator()


class Awaitable:
    """Awaitable without being a coroutine."""

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return generator()


YIELDING: dict[str, Function] = {
    "generator": generator,
    "async generator": async_generator,
    "returns a generator": lambda: generator(),
    "returns an async generator": lambda: async_generator(),
    "async, returns a generator": async_returns_generator,
    "returns a coroutine": lambda: async_returns_generator(),
    "returns an awaitable": Awaitable,
    "returns a coroutine of a coroutine": lambda: asyncio.sleep(0, async_returns_generator()),
    "decorated": passes(generator),
    "decorated async": passes(async_generator),
    "atomic": transaction.atomic(generator),
    "partial": partial(generator, times=3),
    "callable": Generators(),
    "static": Generators.static,
    "map": lambda: map(int, generator()),
    "filter": lambda: filter(lambda each: True, generator()),
    "enumerate": lambda: (each for _, each in enumerate(generator())),
    "itertools": lambda: itertools.chain(generator()),
    "iter with a function": lambda: iter(partial(next, generator(), "end"), "end"),
    "future": lambda: in_a_thread(generator),
    "future of a future": lambda: in_a_thread(in_a_thread, lambda: list(generator())),
}


def in_a_thread(func: Function, *args: Any) -> "Future[Any]":
    """Return what is being done in a thread that nobody waits for."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(func, *args)
    pool.shutdown(wait=False)
    return future


@pytest.mark.usefixtures("no_calls_yet")
@pytest.mark.parametrize("style", YIELDING)
def test_what_yields_is_run_to_its_end_and_its_list_is_the_result(style: str) -> None:
    assert result_of(YIELDING[style]) == [0, 1, 2]
    assert processes.calls == ["yield 0", "yield 1", "yield 2"]


@pytest.mark.usefixtures("no_calls_yet")
@pytest.mark.parametrize("left", [generator, async_generator, async_returns_generator])
def test_what_is_left_undone_in_a_result_is_done(left: Function) -> None:
    done, others = [0, 1, 2], ["a", {"b": 1}]
    assert result_of(lambda: [left(), *others]) == [done, *others]
    assert result_of(lambda: (left(), left())) == (done, done)
    assert result_of(lambda: {"rows": left(), "others": others}) == {"rows": done, "others": others}
    assert result_of(lambda: [in_a_thread(generator)]) == [done]
    assert len(processes.calls) == 3 * 5


class Rows(NamedTuple):
    rows: Any
    total: int = 1


@dataclass
class Answer:
    rows: Any


@dataclass(slots=True)
class SlimAnswer:
    rows: Any


class OwnList(list[Any]):
    """A kind of list of a project's own."""


@pytest.mark.usefixtures("no_calls_yet")
@pytest.mark.parametrize("left", [generator, async_generator, async_returns_generator])
def test_what_is_left_undone_deep_in_a_result_is_done(left: Function) -> None:
    done = [0, 1, 2]
    assert result_of(lambda: {"acme": {"sent": left()}}) == {"acme": {"sent": done}}
    assert result_of(lambda: [[(left(), 1)]]) == [[(done, 1)]]
    assert result_of(lambda: {"a": [left()], "b": [2]}) == {"a": [done], "b": [2]}
    assert result_of(lambda: Rows(left())) == Rows(done)
    assert result_of(lambda: OrderedDict(sent=left())) == OrderedDict(sent=done)
    assert result_of(lambda: (left() for _ in range(2))) == [done, done]
    assert len(processes.calls) == 3 * 7


@pytest.mark.usefixtures("no_calls_yet")
@pytest.mark.parametrize(
    "holder",
    [
        lambda left: {left},
        lambda left: frozenset([left]),
        lambda left: deque([left]),
        Answer,
        SlimAnswer,
        lambda left: OwnList([left]),
        lambda left: defaultdict(list, sent=left),
        lambda left: {"deep": [Answer([left])]},
    ],
)
def test_work_that_is_left_undone_where_it_can_t_be_done_fails_the_process(
    holder: Function,
) -> None:
    with pytest.raises(FunctionError, match=r"unfinished work in a .*nothing of that was run"):
        outcome_of(lambda: holder(generator()))
    assert processes.calls == []


def test_a_context_manager_in_a_result_fails_the_process() -> None:
    with pytest.raises(FunctionError, match="nothing of it was run"):
        outcome_of(lambda: {"lock": contextmanager(generator)()})


def test_a_result_without_work_is_returned_as_it_is() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    for result in (Answer([1]), deque([1]), {1}, OwnList(["a"]), {"a": {"b": [None]}}, circle):
        assert result_of(lambda: result) is result  # noqa: B023


def test_the_groups_of_a_result_are_kept() -> None:
    grouped = result_of(lambda: itertools.groupby("aab"))
    assert grouped == [("a", ["a", "a"]), ("b", ["b"])]


def test_an_error_in_a_thread_that_a_function_has_left_is_the_process_failure() -> None:
    for result in (lambda: in_a_thread(processes.fail), lambda: [in_a_thread(processes.fail)]):
        with pytest.raises(ValueError, match="always fails"):
            outcome_of(result)


def test_a_function_that_is_a_context_manager_by_mistake_is_refused() -> None:
    for mistaken in (contextmanager(generator), asynccontextmanager(async_generator)):
        with pytest.raises(FunctionError, match="nothing of it was run"):
            outcome_of(mistaken)


@pytest.mark.parametrize("result", [itertools.count(), itertools.cycle("ab"), itertools.repeat(1)])
def test_what_has_no_end_is_returned_as_it_is(result: Any) -> None:
    assert result_of(lambda: result) is result


def test_an_error_half_way_is_the_process_failure() -> None:
    def fails() -> Iterator[int]:
        yield 1
        raise ConnectionError("half-way")

    with pytest.raises(ConnectionError, match="half-way"):
        outcome_of(fails)


@pytest.mark.filterwarnings("ignore::proctree_dagster.exceptions.UnnameableFunctionWarning")
def test_the_list_is_passed_on_validated_and_extracted_from() -> None:
    tree = (
        ProcessTreeInstance("lines")
        .add_process(
            "lines", partial(generator), validation=lambda result: len(result) == 3, timeout=60
        )
        .add_process("count", lambda lines: len(lines), ["lines"])
    )
    results = run_tree(tree)
    assert results["success"], results["errors"]
    assert results["results"] == {"lines": [0, 1, 2], "count": 3}


@pytest.mark.parametrize("result", [[1], (1,), "text", {1: 2}, {1}, range(3), b"x", iter([1])])
def test_what_does_no_work_of_its_own_is_returned_as_it_is(result: Any) -> None:
    assert result_of(lambda: result) is result


def test_a_mock_is_returned_as_it_is() -> None:
    mock = MagicMock()
    assert result_of(lambda: mock) is mock


def test_a_validation_that_yields_has_not_passed() -> None:
    def check(result: Any) -> Iterator[bool]:
        yield False

    tree = ProcessTreeInstance("checked").add_process("p", lambda: 1, validation=check)
    results = run_tree(tree)
    assert not results["success"]
    assert "yields" in results["errors"]["p"]


def test_a_trigger_whose_function_yields_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "is_wanted", generator)
    generator.__module__, before = processes.__name__, generator.__module__
    try:
        with pytest.raises(Exception, match="generator yields"):
            ask("custom", {"function": "tests.app.processes:is_wanted"}, {})
    finally:
        generator.__module__ = before


def test_a_file_cannot_be_passed_on_and_the_error_says_so() -> None:
    tree = (
        ProcessTreeInstance("file")
        .add_process("opened", lambda: open(__file__))  # noqa: PTH123, SIM115
        .add_process("read", lambda opened: opened.read(), ["opened"])
    )
    results = run_tree(tree)
    assert "'opened'" in results["errors"]["read"]
    assert "can't be pickled" in results["errors"]["read"]
