"""The context on the command line: ``--context JSON``, and ``--set key=value``."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.management.base import CommandParser

from .. import context as contexts
from ..exceptions import ContextError
from ..models import typed_values
from ..models.context_schema import UNSAID, ContextSchema
from .pairs import split


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
        Each ``key=value``; for what a value may be see ``typed_values.parse``.
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
        found[name] = typed_values.parse(text, UNSAID if key is None else key.annotation)
    return found
