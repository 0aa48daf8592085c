"""Stand-ins: a caller's functions that replace the tree's in one run."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import functions
from ..exceptions import FunctionError, StandInError
from ..models.validation import tree_validation

Function = Callable[..., Any]


class StandIns:
    """A caller's functions, by what they stand in for.

    The name of a process means that process, not a function of the same name.

    Parameters
    ----------
    given:
        Functions by process name, reference or key.
    processes:
        The names of the tree's processes.
    """

    def __init__(self, given: Mapping[str, Function], processes: Iterable[str]) -> None:
        names = set(processes)
        self._processes = {name: func for name, func in given.items() if name in names}
        self._functions = {name: func for name, func in given.items() if name not in names}

    def for_process(self, name: str) -> Function | None:
        """Return the stand-in for a process, if there is one."""
        return self._processes.get(name)

    def for_process_or_function(self, name: str, reference: str) -> Function | None:
        """Return the stand-in for a process, or else for its function."""
        found = self.for_process(name)
        return self.for_function(reference) if found is None else found

    def for_function(self, reference: str) -> Function | None:
        """Return the stand-in for a function wherever the tree names it."""
        return next(
            (self._functions[name] for name in names_of(reference) if name in self._functions),
            None,
        )


def names_of(reference: str) -> list[str]:
    """Return the names by which a caller may give a stand-in for a function of a tree.

    They are the author's key of a function that can't be named, the keys under which it is
    registered in this process, and its reference.
    """
    own = [functions.given_name(reference)] if functions.is_unnameable(reference) else []
    return [*own, *functions.keys_of(reference), reference]


def check(data: Mapping[str, Any], given: Mapping[str, Function]) -> None:
    """Refuse functions that stand in for nothing.

    Parameters
    ----------
    data:
        The tree as JSON.
    given:
        Functions by process name, reference or key.

    Raises
    ------
    StandInError
        The tree has no process or function of that name, or several functions, or something given
        can't be called; names every one, and what it may have meant.
    """
    processes = {
        process["name"]: process.get("func")
        for process in tree_validation.processes_of(data)
        if isinstance(process.get("name"), str)
    }
    references = dict.fromkeys(tree_validation.references(data))
    known = dict.fromkeys([*processes, *(name for each in references for name in names_of(each))])
    found = []
    for name, func in given.items():
        if not callable(func):
            found.append(f"what is given for {name!r} is {func!r}, which can't be called")
        elif name not in known and (
            (reference := reference_of(func)) not in references
            or _is_meant_for_another(name, reference, processes)
        ):
            found.append(
                _unknown(name, [each for each in known if not functions.is_unnameable(each)])
            )
        elif name not in processes:
            found += _ambiguous(name, [each for each in references if name in names_of(each)])
    if found:
        raise StandInError(
            f"The process tree {data.get('name')!r} was not run: {'; '.join(found)}."
        )


def reference_of(func: Function) -> str | None:
    """Return the reference of a given function, which may be the tree's own one."""
    try:
        return functions.reference_to(func)
    except FunctionError:
        return None


def _is_meant_for_another(
    name: object, reference: str | None, processes: Mapping[str, Any]
) -> bool:
    """Return whether a name closely matches that of a process with another function."""
    close = difflib.get_close_matches(str(name), processes, cutoff=0.8)
    return bool(close) and all(processes[each] != reference for each in close)


def _ambiguous(name: object, references: list[str]) -> list[str]:
    """Return a sentence if a key stands for several functions, as other trees use it, too."""
    if len(references) < 2:
        return []
    return [
        f"{name!r} is a key of several of its functions ({', '.join(map(repr, references))}); say "
        "which by its reference, or name a process"
    ]


def _unknown(name: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=3)
    hint = (
        f"did you mean {' or '.join(map(repr, close))}?"
        if close
        else (f"it has {', '.join(map(repr, known)) or 'none'}")
    )
    return f"it has no process or function {name!r} to stand in for ({hint})"
