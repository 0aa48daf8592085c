"""The context on the command line: ``--context JSON``, and ``--set key=value``."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from django.apps import apps
from django.core.management.base import CommandParser
from django.db import models

from .. import context as contexts
from ..exceptions import ContextError
from ..models.context_schema import UNSAID, WRITTEN, ContextSchema, accepts, members
from .pairs import split

_ROW = re.compile(r"([A-Za-z_]\w*\.[A-Za-z_]\w*):(.+)", re.DOTALL)
"""A row of a model: ``ledger.Organisation:1``."""


def add_arguments(parser: CommandParser, use: str) -> None:
    """Add ``--context`` and ``--set``.

    Parameters
    ----------
    parser:
        The command's.
    use:
        Their use, in a sentence.
    """
    parser.add_argument(
        "--context",
        metavar="JSON",
        help='Keyword arguments as a JSON object, such as \'{"tenant_id": "123"}\'. ' + use,
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="One keyword argument; may be repeated. The value is JSON, or text, or a row of a "
        "model: --set organisation=ledger.Organisation:1.",
    )


def read(options: Mapping[str, Any], schema: ContextSchema) -> dict[str, Any] | None:
    """Return the typed context as JSON; ``None`` if there is none.

    Parameters
    ----------
    options:
        The command's.
    schema:
        The schema of the tree's context.

    Raises
    ------
    ContextError
        It can't be read, or stored.
    """
    if options["context"] is None and not options["set"]:
        return None
    given = {} if options["context"] is None else contexts.parse_json(options["context"])
    return contexts.encode({**given, **parse_pairs(options["set"], schema)})


def parse_pairs(pairs: Iterable[str], schema: ContextSchema) -> dict[str, Any]:
    """Return the context of ``key=value`` pairs as JSON.

    Parameters
    ----------
    pairs:
        Each ``key=value``. A value is a row of a model if it is written ``app.Model:pk``, JSON if
        it can be read as that (``5``, ``true``, ``[1, 2]``), and text otherwise. Where that does
        not suit the annotation of a function, it is what suits: a bare key is a row of the model
        that is named there, ``2026-03-31`` a date, ``0.25`` a ``Decimal``, ``5`` a text.
    schema:
        The schema of the tree's context.

    Raises
    ------
    ContextError
        A pair has no ``=``, a key is given twice.
    """
    found: dict[str, Any] = {}
    for name, text in split(pairs, "--set", "year=2026", ContextError).items():
        key = schema.keys.get(name)
        found[name] = _parse(text, UNSAID if key is None else key.annotation)
    return found


def _parse(text: str, annotation: Any) -> Any:
    if (match := _ROW.fullmatch(text)) and (model := _model(match[1])) is not None:
        return _reference(model, _json_or_text(match[2]))
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
            return _reference(kind, value)
    return value


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


def _reference(model: type[models.Model], pk: Any) -> dict[str, Any]:
    return {"$model": model._meta.label, "pk": pk}
