"""The record of what people change in Dagster's UI: a row for each, and a line in the log."""

import logging
from collections.abc import Mapping
from typing import Any

from ..models import DagsterAction
from ..services.dagster_access import MUTATIONS, Visitor
from . import documents

logger = logging.getLogger(__name__)


def record(
    visitor: Visitor, address: str, mutations: list[documents.Mutation], *, allowed: bool
) -> None:
    """Record mutations that a user has sent.

    An error in the record does not undo what was done; it is logged.
    """
    for each in mutations:
        logger.info(
            "Dagster's UI: %r at %s %s %s %r %s",
            *(visitor.username, address or "?", "did" if allowed else "was refused"),
            *(each.name, each.target, " ".join(visitor.launched)),
        )
        try:
            DagsterAction.objects.create(
                user_id=visitor.user_id[:255],
                username=visitor.username[:255],
                action=each.name[:100],
                target=each.target,
                run_ids=visitor.launched,
                allowed=allowed,
                address=address[:45],
            )
        except Exception:  # what was done is done; the answer must say so
            logger.exception("What %s did in Dagster could not be recorded.", visitor.username)


def recorder(address: str) -> Any:
    """Return the function that Dagster's webserver calls after each query (``OnMutation``)."""

    def on_query(
        visitor: Visitor,
        query: str,
        variables: Mapping[str, Any] | None,
        operation_name: str | None,
    ) -> None:
        if "mutation" not in query:
            return
        try:
            found = documents.mutations(documents.read(query), variables, operation_name)
        except (documents.Refused, RecursionError):  # the gate has read it, less deep in a stack
            logger.exception("What %s did in Dagster could not be read.", visitor.username)
            return
        for each in found:
            permission = MUTATIONS.get(each.name, "")
            record(visitor, address, [each], allowed=permission in visitor.allowed)

    return on_query
