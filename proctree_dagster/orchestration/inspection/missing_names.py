"""The system check of Dagster's internals: reports features whose names this Dagster lacks.

It reads Dagster's source instead of importing it, as the import takes seconds and most Django
processes need none. So it finds missing names, not changed behaviour; ``proctree doctor`` checks
that, too.
"""

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning, register

from ...services.system_checks import is_asked_for
from ..dagster_features import FEATURES
from ..dagster_internals import CORE, NAMES, remedy


@register("proctree_dagster")
def check_internals(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report features that are off with this Dagster, where checks are asked for."""
    return messages() if is_asked_for() else []


def messages() -> list[CheckMessage]:
    """Return a warning for each feature that is off, and an error if no tree can run."""
    missing = missing_names()
    found: list[CheckMessage] = []
    if core := sorted(missing.intersection(CORE)):
        found.append(
            Error(
                "No tree can run with this Dagster: it has no "
                f"{', '.join(f'{NAMES[name]}.{name}' for name in core)}.",
                hint=remedy(),
                id="proctree_dagster.E010",
            )
        )
    for feature in FEATURES:
        if problems := feature.lacking(missing):
            message = feature.message(problems)
            found.append(Warning(message, hint=remedy(), id="proctree_dagster.W006"))
    return found


def missing_names() -> set[str]:
    """Return which of ``NAMES`` are not in the source of the Dagster that is installed."""
    if importlib.util.find_spec("dagster") is None:
        return set()  # unknown, and nothing can run
    return {name for name, module in NAMES.items() if not _has(module, name)}


def _has(module: str, name: str) -> bool:
    """Return whether a module binds a name, or has a module of that name inside."""
    file = _source(module)
    return file is not None and (
        name in _bound(file) or "*" in _bound(file) or _source(f"{module}.{name}") is not None
    )


def _source(module: str) -> Path | None:
    """Return the file of a module; none of it is imported."""
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*inner)
    found = (each for each in (path / "__init__.py", path.with_suffix(".py")) if each.is_file())
    return next(found, None)


@cache
def _bound(file: Path) -> frozenset[str]:
    """Return the names that a module binds when it is imported."""
    return frozenset(_names(ast.parse(file.read_bytes()).body))


def _names(statements: Sequence[ast.stmt]) -> Iterator[str]:
    for each in statements:
        match each:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield each.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in each.names)
            case ast.Assign() | ast.AnnAssign():
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.If() | ast.Try():
                yield from _names([*each.body, *each.orelse])
