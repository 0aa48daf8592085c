"""``--set key=value`` on the command line: a run's context, typed one value at a time."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from django.apps import apps
from django.db import models

from .. import functions
from ..exceptions import ContextError, FunctionError
from ..models import ProcessTree
from ..validation import processes_of

_ROW = re.compile(r"([A-Za-z_]\w*\.[A-Za-z_]\w*):(.+)", re.DOTALL)
"""A row of a model: ``ledger.Organisation:1``."""


def parse_pairs(pairs: Iterable[str], row: ProcessTree) -> dict[str, Any]:
    """Return the context that ``key=value`` pairs say, as JSON.

    Parameters
    ----------
    pairs:
        Each ``key=value``. A value is JSON if it can be read as that (``5``, ``true``, ``[1, 2]``),
        a row of a model if it is written ``app.Model:pk``, and text otherwise. A bare key of a row
        will do where a function's annotation names the model.
    row:
        The tree whose functions are asked for their annotations.

    Raises
    ------
    ContextError
        A pair has no ``=``, a key is given twice.
    """
    found: dict[str, Any] = {}
    annotated: Mapping[str, type[models.Model]] | None = None
    for pair in pairs:
        key, is_pair, text = pair.partition("=")
        if not is_pair or not key:
            raise ContextError(f"--set takes key=value, such as --set year=2026, not {pair!r}.")
        if key in found:
            raise ContextError(f"--set gives {key!r} twice.")
        value = _parse(text)
        if isinstance(value, int | str) and not isinstance(value, bool):
            if annotated is None:
                annotated = _annotated_models(row)
            if key in annotated:
                value = _reference(annotated[key]._meta.label, value)
        found[key] = value
    return found


def _parse(text: str) -> Any:
    if (match := _ROW.fullmatch(text)) and (model := _model(match[1])) is not None:
        return _reference(model._meta.label, _json_or_text(match[2]))
    return _json_or_text(text)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _model(label: str) -> type[models.Model] | None:
    try:
        return apps.get_model(label)
    except LookupError:
        return None


def _reference(label: str, pk: Any) -> dict[str, Any]:
    return {"$model": label, "pk": pk}


def _annotated_models(row: ProcessTree) -> dict[str, type[models.Model]]:
    """Return the arguments of a tree's functions that are annotated with a model."""
    found: dict[str, type[models.Model]] = {}
    for process in processes_of({"processes": row.processes}):
        try:
            hints = get_type_hints(functions.resolve(str(process.get("func"))))
        except (FunctionError, NameError, TypeError, AttributeError):
            continue  # the run says so; or a name that is imported for type checkers only
        for name, hint in hints.items():
            if name != "return" and isinstance(hint, type) and issubclass(hint, models.Model):
                found.setdefault(name, hint)
    return found
