"""The functions that a tree may name, to choose from: their references, and where their code is.

Nothing is imported for it but the ``processes`` modules of the installed apps: a module that a
process has not imported may do anything when it is. So the list grows with what is imported, and a
reference that it lacks can still be written by hand.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

from .. import functions
from ..functions import Function
from ..support import project


class Listed(NamedTuple):
    """A function that a tree may name."""

    reference: str
    summary: str
    """The first line of its docstring."""


class Listing(NamedTuple):
    """Some of the functions that a tree may name."""

    functions: list[Listed]
    more: int
    """How many were left out."""


def matching(text: str = "", most: int = 50) -> Listing:
    """Return the functions whose reference holds a text.

    Those registered with a key come first, then those of ``processes`` modules, then the others.

    Parameters
    ----------
    text:
        In small or capital letters; blank: all.
    most:
        How many at most.
    """
    wanted = text.strip().lower()
    found = sorted(
        (_rank(reference), reference, func)
        for reference, func in _all().items()
        if wanted in reference.lower()
    )
    listed = [Listed(reference, summary(func)) for _, reference, func in found[:most]]
    return Listing(listed, max(len(found) - most, 0))


def _rank(reference: str) -> int:
    module, colon, _ = reference.partition(":")
    if not colon:
        return 0
    return 1 if module.rpartition(".")[2] == "processes" else 2


def _all() -> dict[str, Function]:
    """Return the functions by their references; a registered one by its key only."""
    by_key = functions.registered()
    registered = {id(func) for func in by_key.values()}
    found = {
        functions.describe(func): func
        for name, module in sorted(sys.modules.items())
        if isinstance(module, ModuleType) and functions.is_allowed(name)
        for func in _functions_of(module, name)
        if id(func) not in registered
    }
    return {**by_key, **found}


def _functions_of(module: ModuleType, name: str) -> Iterator[Function]:
    """Return the public functions that a module defines at its top level."""
    for attribute, value in list(vars(module).items()):
        is_its_own = isinstance(value, FunctionType) and value.__module__ == name
        if is_its_own and value.__qualname__ == attribute and not attribute.startswith("_"):
            yield value


def summary(func: Function) -> str:
    """Return the first line of a function's docstring; blank if it has none."""
    text = inspect.getdoc(func) or ""
    return text.strip().partition("\n")[0]


def place(func: Function) -> str:
    """Return the file and line of a function's code, as ``ledger/processes.py:17``.

    The file is relative to the project's folder, or to a nearer one from which modules are
    imported. Blank if it is unknown.
    """
    try:
        plain = inspect.unwrap(func)
        code = getattr(plain, "__func__", plain).__code__
    except (AttributeError, ValueError):  # no Python function, or one that wraps itself
        return ""
    return f"{_relative(Path(code.co_filename))}:{code.co_firstlineno}"


def _relative(file: Path) -> str:
    roots = [project.root(), *map(Path, filter(None, sys.path))]
    above = [root for root in roots if root is not None and file.is_relative_to(root)]
    nearest = max(above, key=lambda root: len(root.parts), default=file.parent)
    return file.relative_to(nearest).as_posix()
