"""Reading GraphQL requests: which operations they have, and what a mutation names."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    parse,
    value_from_ast_untyped,
)

MAX_BRACES = 60
"""How deep braces may be nested in a document: deeper ones exhaust a recursive parser."""

MAX_TOKENS = 20_000
"""How many tokens a document may have; the longest of Dagster's own UI has some 2,000."""

LONGEST_TARGET = 2_000
"""Most characters of what a mutation names that are recorded."""

_NAMING = (
    *("runId", "runIds", "parentRunId", "jobName", "pipelineName", "scheduleName", "sensorName"),
    *("instigationSelectorId", "scheduleOriginId", "scheduleSelectorId", "originId", "id"),
    *("repositoryLocationName", "locationName", "backfillId", "concurrencyKey", "limit"),
    *("strategy", "terminatePolicy", "partitionKey", "partitionKeys", "path"),
)
"""The arguments that say what a mutation is about."""

_UNREAD = ("runConfigData", "tags", "extraTags", "attributes", "serializedMetadata")
"""The arguments of which nothing is recorded, whatever its name: a run's configuration and such."""


class Refused(Exception):
    """A request that is not let through; its text says why."""


@dataclass(frozen=True)
class Mutation:
    """One field of a mutation."""

    name: str
    target: str
    """What it names, as ``argument=value`` pairs."""


def read(text: str) -> DocumentNode:
    """Parse a document.

    Raises
    ------
    Refused
        It is no GraphQL, or too large.
    """
    depth = deepest = 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        deepest = max(deepest, depth)
    if deepest > MAX_BRACES:
        raise Refused(f"The query nests braces {deepest} deep; {MAX_BRACES} is the most.")
    try:
        return parse(text, max_tokens=MAX_TOKENS, no_location=True)
    except GraphQLError as error:
        raise Refused(f"The query can't be read: {error.message}") from error


def kinds(document: DocumentNode) -> set[str]:
    """Return the kinds of its operations: ``query``, ``mutation``, ``subscription``."""
    return {each.operation.value for each in _operations(document)}


def mutations(
    document: DocumentNode,
    variables: Mapping[str, Any] | None = None,
    operation_name: str | None = None,
) -> list[Mutation]:
    """Return the fields of a document's mutations, fragments included, with what they name.

    Parameters
    ----------
    document:
        The document.
    variables:
        The values of its variables.
    operation_name:
        Which of its operations is meant; left out, all of them.
    """
    fragments = {
        each.name.value: each
        for each in document.definitions
        if isinstance(each, FragmentDefinitionNode)
    }
    found = []
    for operation in _operations(document):
        name = operation.name.value if operation.name else None
        is_meant = not operation_name or name == operation_name
        if is_meant and operation.operation is OperationType.MUTATION:
            fields = _fields(operation, fragments, set())
            found += [Mutation(each.name.value, _target(each, variables or {})) for each in fields]
    return found


def _operations(document: DocumentNode) -> list[OperationDefinitionNode]:
    return [each for each in document.definitions if isinstance(each, OperationDefinitionNode)]


def _fields(
    node: OperationDefinitionNode | FragmentDefinitionNode | InlineFragmentNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    seen: set[str],
) -> Iterator[FieldNode]:
    """Yield the top-level fields; a fragment that contains itself is read once."""
    for each in node.selection_set.selections:
        if isinstance(each, FieldNode):
            yield each
        elif isinstance(each, InlineFragmentNode):
            yield from _fields(each, fragments, seen)
        elif isinstance(each, FragmentSpreadNode) and each.name.value not in seen:
            seen.add(each.name.value)
            if each.name.value in fragments:
                yield from _fields(fragments[each.name.value], fragments, seen)


def _target(node: FieldNode, variables: Mapping[str, Any]) -> str:
    given = {
        each.name.value: value_from_ast_untyped(each.value, dict(variables))
        for each in node.arguments
    }
    pairs = dict(_naming(given))
    target = " ".join(f"{name}={_short(value)}" for name, value in pairs.items())
    storable = target.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return storable[:LONGEST_TARGET]


def _naming(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of the arguments that say what a mutation is about, however deep."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key not in _UNREAD:
                yield from _naming(each, str(key))
    elif isinstance(value, list) and name not in _NAMING:
        for each in value:
            yield from _naming(each, name)
    elif name in _NAMING and value is not None:
        yield name, value


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
