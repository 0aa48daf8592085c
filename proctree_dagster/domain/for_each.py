"""Schedules with a run for each row: what their ``for_each`` says, and how the runs are spread.

Whether the model, the fields and the function exist is checked by ``models.validation``.
"""

import datetime as dt
import keyword
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from .predicates import is_text

MAX_SPREAD = 7 * 24 * 60
"""The most minutes over which runs are spread: a week."""

NAMESPACE = uuid.UUID("5f3b9d0a-6c1e-5a52-9f0e-3c1f5b7a2d44")
"""The namespace of the ids of these runs."""


def problems(for_each: Any) -> list[str]:
    """Return a sentence for each problem of a ``for_each`` as it is saved; ``{}`` is none."""
    if not isinstance(for_each, Mapping):
        return [f"for_each must be a dictionary with a model or a function, not {for_each!r:.100}."]
    if not for_each:
        return []
    unknown = sorted(set(map(str, for_each)) - {"model", "filter", "function"})
    found = [f"for_each has no key {key!r}; known: model, filter, function." for key in unknown]
    if ("model" in for_each) == ("function" in for_each):
        found.append("for_each names a model or a function, and one of them only.")
    if "function" in for_each:
        if not is_text(for_each["function"]):
            found.append("for_each: function is a registered key, or 'module:qualname'.")
        if "filter" in for_each:
            found.append("for_each: a filter needs a model.")
    else:
        found += _problems_of_rows(for_each)
    return found


def _problems_of_rows(for_each: Mapping[str, Any]) -> Iterable[str]:
    model, chosen = for_each.get("model"), for_each.get("filter", {})
    parts = model.split(".") if isinstance(model, str) else []
    if len(parts) != 2 or not all(map(is_text, parts)):
        yield (
            "for_each: model must be written as 'app.Model', such as 'ledger.Organisation', not "
            f"{model!r:.100}."
        )
    if not isinstance(chosen, Mapping) or not all(isinstance(key, str) for key in chosen):
        yield (
            "for_each: filter must be a dictionary of field lookups, such as {'active': True}, not "
            f"{chosen!r:.100}."
        )


def problems_of_name(name: Any) -> list[str]:
    """Return a sentence if a text can't be the key of the context that holds the row."""
    if isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name):
        return []
    return [f"as_ is the name of an argument, such as 'organisation', not {name!r:.100}."]


def order(written: str) -> list[str]:
    """Return the fields by which rows are ordered: ``-size, name``."""
    return [part.strip() for part in written.split(",") if part.strip()]


def run_id(schedule: str, due: dt.datetime, key: str) -> uuid.UUID:
    """Return the id of the run of a row: always the same for a schedule, a due time and a row."""
    moment = due.astimezone(dt.UTC).isoformat()
    return uuid.uuid5(NAMESPACE, f"{schedule}\n{moment}\n{key}")


def times(count: int, begin: dt.datetime, spread_minutes: int) -> list[dt.datetime | None]:
    """Return not before when each of several runs is made; ``None``: at once.

    Parameters
    ----------
    count:
        How many runs.
    begin:
        When the first one is made.
    spread_minutes:
        Over how many minutes they are spread evenly.
    """
    if not spread_minutes or count < 2:
        return [None] * count
    step = dt.timedelta(minutes=spread_minutes) / count
    return [None, *(begin + number * step for number in range(1, count))]
