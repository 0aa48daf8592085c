"""Turning a draft, which has functions in it, into JSON with references."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .. import functions
from ..domain import tree_spec
from ..exceptions import FunctionError, FunctionNotNameable

Function = Callable[..., Any]


@dataclass
class DraftProcess:
    """A process as it was added, with the author's functions."""

    name: str
    func: Function | str
    options: dict[str, Any]


@dataclass
class Export:
    """A tree as JSON, and the problems of turning it into JSON."""

    data: dict[str, Any]
    """The tree, as ``tree_spec.parse`` takes it; functions by reference."""

    problems: list[str] = field(default_factory=list)
    """The problems of its functions."""

    unnameable: list[str] = field(default_factory=list)
    """Why some functions can't be found by another process."""

    local: dict[str, Function] = field(default_factory=dict)
    """Those functions, by the references in their place."""

    keys: dict[str, str] = field(default_factory=dict)
    """The references of the functions that the author calls by a key."""


def export(
    name: str,
    description: str,
    cache_enabled: bool,
    processes: Iterable[DraftProcess],
    registry: Mapping[str, Function],
    executor: str = "",
    max_concurrent: int | None = None,
    run_tags: Any = (),
) -> Export:
    """Turn a draft into JSON. Raises nothing: it records the problems.

    Parameters
    ----------
    name, description, cache_enabled:
        The tree's.
    processes:
        In the order in which they were added.
    registry:
        Functions by the keys that the tree's author gave them.
    executor, max_concurrent:
        The tree's; blank and ``None`` for the deployment's.
    run_tags:
        Keys of the context whose values are tags of its runs.
    """
    result = Export(
        {
            "name": name,
            "description": description,
            "cache_enabled": cache_enabled,
            "processes": [],
            **tree_spec.executor_options(executor, max_concurrent),
            **tree_spec.run_tag_option(run_tags),
        }
    )
    for process in processes:
        options = dict(process.options)
        options["validation"] = [
            _reference(result, process.name, each, f"{process.name}_validation_{number}", registry)
            for number, each in enumerate(options.get("validation", []), 1)
        ]
        check = options.get("outdated_check")
        if check is not None:
            fallback = f"{process.name}_outdated_check"
            options["outdated_check"] = _reference(result, process.name, check, fallback, registry)
        func = _reference(result, process.name, process.func, process.name, registry)
        result.data["processes"].append(
            {"name": process.name, "func": func, **tree_spec.without_defaults(options)}
        )
    return result


def _reference(
    result: Export,
    process: str,
    func: Function | str,
    fallback: str,
    registry: Mapping[str, Function],
) -> str:
    """Return the reference of a function, and record its problems."""
    key = _key(func, registry)
    if isinstance(func, str) and func in registry:
        func = registry[func]
    try:
        reference = _named(func)
    except FunctionNotNameable as error:
        reference = _unnamed(result, f"Process {process!r}: {error}", key or fallback, func)
    except FunctionError as error:
        result.problems.append(f"Process {process!r}: {error}")
        return str(func)
    if key is not None:
        result.keys[key] = reference
    return reference


def _key(func: Function | str, registry: Mapping[str, Function]) -> str | None:
    """Return the author's key of a function, if it has one."""
    if isinstance(func, str):
        return func
    return next((key for key, each in registry.items() if each is func), None)


def _named(func: Function | str) -> str:
    """Return the reference under which any process finds a function."""
    if not isinstance(func, str):
        if not callable(func):
            raise FunctionError(f"{func!r} is no function.")
        return functions.reference_to(func)
    found = functions.resolve(func)
    if functions.is_offered(func):  # a key of one tree: elsewhere it may mean another function
        with suppress(FunctionNotNameable):
            return functions.reference_to(found)
    return func


def _unnamed(result: Export, why: str, key: str, func: Function | str) -> str:
    """Record that a function can't be named, and return its reference in this process."""
    if isinstance(func, str):
        name = str(result.data["name"])
        found = functions.local_functions(name).get(func)
        if found is None:
            result.problems.append(why)
            return func
        reference, func = func, found
    else:
        reference = functions.unnameable_reference(key, func)
    result.unnameable.append(why)
    result.local[reference] = func
    return reference
