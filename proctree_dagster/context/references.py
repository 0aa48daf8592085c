"""References to secrets, which a context holds in place of their values."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

SECRET = "$secret"  # noqa: S105  # a key
"""The reserved key of a reference in JSON: ``{"$secret": "XERO_TOKEN"}``."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:#@-]{0,199}")


@dataclass(frozen=True)
class Secret:
    """A secret's name in a context; the function that takes it is given its value, a text.

    Parameters
    ----------
    name:
        What ``PROCTREE["SECRETS"]`` knows it by; by default a variable of the environment.

    Raises
    ------
    ValueError
        It is no name.

    Examples
    --------
    ::

        tree.execute({"token": Secret("XERO_TOKEN")})
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None:
            raise ValueError(
                "the name of a secret has at most 200 letters, digits and '_./:#@-', and begins "
                "with a letter, a digit or '_'"
            )

    def __str__(self) -> str:
        return f"<secret {self.name}>"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def is_reference(value: Any) -> TypeGuard[Mapping[str, str]]:
    """Return whether JSON is a reference to a secret, which is none itself."""
    return (
        isinstance(value, Mapping) and value.keys() == {SECRET} and isinstance(value[SECRET], str)
    )


def names_in(value: Any) -> Iterator[str]:
    """Yield the names of the secrets that JSON refers to, however deep."""
    if is_reference(value):
        yield value[SECRET]
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from names_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from names_in(each)
