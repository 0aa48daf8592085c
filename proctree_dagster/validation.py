"""The one validator of a tree: ``save()``, the model's ``clean()`` and the translator use it."""

from collections.abc import Mapping
from typing import Any

from . import executor_names, functions, spec
from .exceptions import FunctionError, InvalidTree


def validate_tree(data: Mapping[str, Any]) -> spec.TreeSpec:
    """Return the tree if it is valid, and its executor and every function that it names are there.

    Parameters
    ----------
    data:
        A tree as JSON (``TreeSpec.to_dict``).

    Raises
    ------
    InvalidTree
        With every problem of the tree, its functions' included.
    """
    found = [*spec.problems(data), *executor_problems(data), *reference_problems(data)]
    if found:
        raise InvalidTree(str(data.get("name", "")), found)
    return spec.parse(data)


def executor_problems(data: Mapping[str, Any]) -> list[str]:
    """Return a sentence if the executor that the tree names is not there, or not allowed."""
    name = data.get("executor", "")
    problem = executor_names.problem_of_row(name) if isinstance(name, str) else None
    return [] if problem is None else [f"The tree's executor: {problem}."]


def reference_problems(data: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every reference of the tree that can't be resolved."""
    found = []
    processes = data.get("processes")
    for process in processes if isinstance(processes, (list, tuple)) else ():
        if not isinstance(process, Mapping):
            continue  # reported by ``spec.problems``
        for reference in _references(process):
            try:
                functions.resolve(reference)
            except FunctionError as error:
                found.append(f"Process {process.get('name')!r}: {error}")
    return found


def _references(process: Mapping[str, Any]) -> list[str]:
    several = process.get("validation")
    values = [process.get("func"), process.get("outdated_check")]
    values += several if isinstance(several, (list, tuple)) else []
    return [value for value in values if isinstance(value, str) and value.strip()]
