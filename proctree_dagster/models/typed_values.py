"""Values of a context as a person types them into one line: JSON, text, or what a type asks for."""

import json
import re
from typing import Any

from django.apps import apps
from django.db import models

from ..context import is_reference
from .context_schema import WRITTEN, accepts, members

_ROW = re.compile(r"([A-Za-z_]\w*\.[A-Za-z_]\w*):(.+)", re.DOTALL)
"""A row of a model: ``ledger.Organisation:1``."""


def parse(text: str, annotation: Any) -> Any:
    """Return the JSON that a typed text stands for.

    It is a row of a model if it is written ``app.Model:pk``, JSON if it can be read as that (``5``,
    ``true``, ``[1, 2]``), and text otherwise. Where that does not suit the annotation, it is what
    suits: a bare key is a row of the model that is named there, ``2026-03-31`` a date, ``0.25`` a
    ``Decimal``, ``5`` a text.

    Parameters
    ----------
    text:
        The text.
    annotation:
        The type that is asked for; ``context_schema.UNSAID`` for any.
    """
    if (match := _ROW.fullmatch(text)) and (model := _model(match[1])) is not None:
        return reference(model, _json_or_text(match[2]))
    value = _json_or_text(text)
    if accepts(annotation, value):
        return value
    for kind in members(annotation):
        if kind is str:
            return text
        if kind in WRITTEN:
            return {WRITTEN[kind][0]: text}
        is_model = isinstance(kind, type) and issubclass(kind, models.Model)
        if is_model and isinstance(value, int | str) and not isinstance(value, bool):
            return reference(kind, value)
    return value


def text_or_secret(text: str) -> Any:
    """Return a typed text as it is; a reference to a secret as JSON."""
    value = _json_or_text(text) if text.lstrip().startswith("{") else text
    return value if is_reference(value) else text


def written(value: Any, annotation: Any) -> str:
    """Return the text that ``parse`` reads as this JSON."""
    if isinstance(value, str) and parse(value, annotation) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def reference(model: type[models.Model], pk: Any) -> dict[str, Any]:
    """Return a row of a model as JSON."""
    return {"$model": model._meta.label, "pk": pk}


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
