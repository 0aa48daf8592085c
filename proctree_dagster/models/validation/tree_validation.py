"""The one validator of a tree: ``save()``, the model's ``clean()`` and the translator use it."""

from collections.abc import Mapping
from typing import Any

from ... import functions
from ...context import sensitive, tagging
from ...domain import tree_spec
from ...exceptions import FunctionError, InvalidTree
from . import executor_names


def validate_tree(data: Mapping[str, Any]) -> tree_spec.TreeSpec:
    """Return the tree if it is valid, and its executor and every function that it names exist.

    Parameters
    ----------
    data:
        A tree as JSON (``TreeSpec.to_dict``).

    Raises
    ------
    InvalidTree
        With every problem of the tree, its functions' included.
    """
    problems = run_tag_problems(data)
    try:
        found = validated(data)[0]
    except InvalidTree as error:
        problems = [*error.problems, *problems]
    if problems:
        raise InvalidTree(str(data.get("name", "")), problems)
    return found


def validated(data: Mapping[str, Any]) -> tuple[tree_spec.TreeSpec, dict[str, functions.Function]]:
    """Return a tree and its functions by reference; see ``validate_tree``."""
    found, problems = resolved(data)
    problems = [*tree_spec.problems(data), *executor_problems(data), *problems]
    if problems:
        raise InvalidTree(str(data.get("name", "")), problems)
    return tree_spec.read(data), found


def executor_problems(data: Mapping[str, Any]) -> list[str]:
    """Return a sentence if the tree's executor does not exist, or is not allowed."""
    name = data.get("executor", "")
    problem = executor_names.problem_of_row(name) if isinstance(name, str) else None
    return [] if problem is None else [f"The tree's executor: {problem}."]


def run_tag_problems(data: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each key whose value is to be a tag, and that names a secret.

    Runs are created without such a tag, so it is reported only when the tree is saved.
    """
    found = tagging.limit_problems(data.get("one_at_a_time_per", ""))
    keys = data.get("run_tags")
    named = [each for each in keys if isinstance(each, str)] if isinstance(keys, list) else []
    return found + [
        f"The tree's run_tags name {key!r}, which is called like a secret: tags are shown to "
        "everybody who sees the runs."
        for key in named
        if sensitive.is_sensitive_name(key)
    ]


def resolved(data: Mapping[str, Any]) -> tuple[dict[str, functions.Function], list[str]]:
    """Return a tree's functions by reference, and a sentence for each that can't be resolved."""
    found: dict[str, functions.Function] = {}
    problems = []
    for process in processes_of(data):
        for reference in references_of(process):
            try:
                if reference not in found:
                    found[reference] = functions.resolve(reference)
            except FunctionError as error:
                problems.append(f"Process {process.get('name')!r}: {error}")
    return found, problems


def references(data: Mapping[str, Any]) -> list[str]:
    """Return the references of a tree, valid or not."""
    return [each for process in processes_of(data) for each in references_of(process)]


def process_names(data: Mapping[str, Any]) -> list[Any]:
    """Return the names of a tree's processes, valid or not."""
    return [process.get("name") for process in processes_of(data)]


def unnameable(data: Mapping[str, Any]) -> list[str]:
    """Return the names of the processes that have a function which can't be named.

    No process but the one that saved the tree can run it.
    """
    return [
        str(process.get("name"))
        for process in processes_of(data)
        if any(map(functions.is_unnameable, references_of(process)))
    ]


def processes_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the processes of a tree, valid or not."""
    processes = data.get("processes")
    if not isinstance(processes, (list, tuple)):
        return []  # reported by ``tree_spec.problems``, as are those that are no objects
    return [process for process in processes if isinstance(process, Mapping)]


def references_of(process: Mapping[str, Any]) -> list[str]:
    """Return the references of a process, valid or not."""
    several = process.get("validation")
    values = [process.get("func"), process.get("outdated_check")]
    values += several if isinstance(several, (list, tuple)) else []
    return [value for value in values if isinstance(value, str) and value.strip()]
