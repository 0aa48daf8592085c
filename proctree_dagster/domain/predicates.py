"""What a value from JSON or from the settings is: text, a number, a whole number within bounds."""

from math import inf
from typing import Any


def is_text(value: Any) -> bool:
    """Return True for a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def are_texts(value: Any) -> bool:
    """Return True for a list of texts, none of which is blank."""
    return isinstance(value, (list, tuple)) and all(map(is_text, value))


def is_number(value: Any, low: float = -inf, high: float = inf) -> bool:
    """Return True for a number from ``low`` to ``high``; True, False and NaN are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: float = -inf, high: float = inf) -> bool:
    """Return True for a whole number from ``low`` to ``high``; True and False are none."""
    return isinstance(value, int) and is_number(value, low, high)
