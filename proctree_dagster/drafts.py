"""A tree as its author wrote it, with functions in it, and turning it into JSON."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import functions, spec
from .exceptions import FunctionError, FunctionNotNameable

Function = Callable[..., Any]


@dataclass
class DraftProcess:
    """A process as it was added: its functions are still what the author gave."""

    name: str
    func: Function | str
    options: dict[str, Any]


@dataclass
class Export:
    """A tree turned into JSON, and what stood in the way."""

    data: dict[str, Any]
    """The tree, as ``spec.parse`` takes it; functions by reference."""

    problems: list[str] = field(default_factory=list)
    """What is wrong with its functions."""

    unnameable: list[str] = field(default_factory=list)
    """Why some functions can't be found by another process."""

    local: dict[str, Function] = field(default_factory=dict)
    """Those functions, by the references that stand for them."""


def export(
    name: str,
    description: str,
    cache_enabled: bool,
    processes: Iterable[DraftProcess],
    registry: Mapping[str, Function],
    executor: str = "",
    max_concurrent: int | None = None,
) -> Export:
    """Turn a draft into JSON. Nothing is raised: what is wrong is noted.

    Parameters
    ----------
    name, description, cache_enabled:
        The tree's.
    processes:
        In the order in which they were added.
    registry:
        Functions by the keys that the tree's author gave them.
    executor, max_concurrent:
        The tree's; blank and ``None`` for what the deployment says.
    """
    result = Export(
        {
            "name": name,
            "description": description,
            "cache_enabled": cache_enabled,
            "processes": [],
            **spec.executor_options(executor, max_concurrent),
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
            {"name": process.name, "func": func, **spec.without_defaults(options)}
        )
    return result


def _reference(
    result: Export,
    process: str,
    func: Function | str,
    fallback: str,
    registry: Mapping[str, Function],
) -> str:
    """Return the reference of a function, and note what is wrong with it."""
    if isinstance(func, str) and func in registry:
        fallback, func = func, registry[func]
    what = f"Process {process!r}"
    try:
        if isinstance(func, str):
            functions.resolve(func)
            return func
        if not callable(func):
            raise FunctionError(f"{func!r} is no function.")
        return functions.reference_to(func)
    except FunctionNotNameable as error:
        result.unnameable.append(f"{what}: {error}")
        reference = next(
            (key for key, each in registry.items() if each is func),
            str(fallback).replace(":", "_"),
        )
        if callable(func):  # it is: only a callable raises this
            result.local[reference] = func
        return reference
    except FunctionError as error:
        result.problems.append(f"{what}: {error}")
        return str(func)
