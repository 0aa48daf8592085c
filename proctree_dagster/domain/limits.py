"""The limit of a tree's runs: how many go on at the same time for each text of a template."""

import string
from collections.abc import Iterable
from typing import Any

from .names import MAX_NAME_LENGTH
from .predicates import is_whole

MAX_LIMIT_PER_KEY = 20
"""Each number is a limit of Dagster's queue, which its pages list."""


def limit_options(one_at_a_time_per: Any, limit_per_key: Any) -> dict[str, Any]:
    """Return the JSON of the limit of a tree's runs; empty where the tree has none."""
    if one_at_a_time_per == "":
        return {}
    several = {} if limit_per_key == 1 else {"limit_per_key": limit_per_key}
    return {"one_at_a_time_per": one_at_a_time_per, **several}


def limit_problems(template: Any, limit: Any) -> Iterable[str]:
    """Yield a sentence for each problem of a limit."""
    if not isinstance(template, str) or len(template) > MAX_NAME_LENGTH:
        yield (
            "The tree's one_at_a_time_per must be a text such as '{organisation.pk}', of at most "
            f"{MAX_NAME_LENGTH} characters, not {template!r:.100}."
        )
    elif problem := _template_problem(template):
        yield f"The tree's one_at_a_time_per {template!r} can't be filled in: {problem}."
    if not is_whole(limit, 1, MAX_LIMIT_PER_KEY):
        yield (
            f"The tree's limit_per_key must be a whole number from 1 to {MAX_LIMIT_PER_KEY}, not "
            f"{limit!r:.100}."
        )


def _template_problem(template: str) -> str:
    """Return what is wrong with a template; blank if it can be filled in."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        return f"{error} (a brace that is meant as one is written twice: '{{{{')"
    unnamed = any(each is not None and (not each or each[0].isdigit()) for each in fields)
    return "each field names a key of the context, as {organisation.pk} does" if unnamed else ""
