"""Plain functions for tests of trees: each does one thing, and says so in its name."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from os import getcwd as imported_function  # noqa: F401  # a way round the allow-list, for a test
from typing import Any

from proctree_dagster.functions import process_function


def one() -> int:
    """Return 1."""
    return 1


def two() -> int:
    """Return 2."""
    return 2


def add(**kwargs: Any) -> int:
    """Add up whatever numbers it is given."""
    return sum(value for value in kwargs.values() if isinstance(value, int))


def echo(**kwargs: Any) -> dict[str, Any]:
    """Return what it is called with."""
    return kwargs


def nothing() -> None:
    """Return None."""


def zero() -> int:
    """Return 0."""
    return 0


def fail(**kwargs: Any) -> None:
    """Raise a ValueError."""
    raise ValueError("this process always fails")


def needs(argument: Any) -> Any:
    """Return its one argument, without which it can't be called."""
    return argument


def optional(argument: Any = "the default") -> Any:
    """Return its argument, or the default."""
    return argument


def pause(seconds: float = 0.2) -> float:
    """Sleep, and return how long."""
    time.sleep(seconds)
    return seconds


def process_id() -> int:
    """Return the id of the operating system's process that it runs in."""
    return os.getpid()


async def asynchronous(argument: Any = None) -> Any:
    """Return its argument, after giving way to others."""
    await asyncio.sleep(0)
    return argument


class Methods:
    """Functions that are named by their qualname."""

    @staticmethod
    def static(argument: Any = "static") -> Any:
        """Return its argument."""
        return argument

    @classmethod
    def of_class(cls, argument: Any = "class") -> Any:
        """Return the class's name and its argument."""
        return f"{cls.__name__}: {argument}"

    def bound(self) -> str:
        """Return a word: nobody can name the instance."""
        return "bound"


@process_function("registered")
def under_a_key() -> str:
    """Return a word; rows call it by its key."""
    return "registered"


NOT_A_FUNCTION = 42
half_of_echo = partial(echo, half=True)
a_lambda = lambda: 3  # noqa: E731


calls: list[str] = []
"""What ``noted`` was called for, in this process."""


def noted(name: str = "noted", **kwargs: Any) -> dict[str, Any]:
    """Note that it was called, and return what it was called with."""
    calls.append(name)
    return {"calls": len(calls), **kwargs}


def noted_nothing() -> None:
    """Note that it was called, and return None."""
    calls.append("nothing")


def up_to_date(**kwargs: Any) -> bool:
    """Say that nothing needs to be done."""
    return False


def out_of_date(**kwargs: Any) -> bool:
    """Say that something needs to be done."""
    return True


wanted: list[bool] = []
"""What ``is_wanted`` answers, in this process: the last."""


def is_wanted() -> bool:
    """Answer a trigger that asks."""
    return bool(wanted) and wanted[-1]


def exits() -> bool:
    """Do what ends a process that does not expect it."""
    raise SystemExit(3)


def leaves(result: Any) -> bool:
    """Do so instead of saying anything of a result."""
    raise SystemExit(3)


def cannot_tell(**kwargs: Any) -> bool:
    """Raise instead of saying whether something needs to be done."""
    raise OSError("the clock is away")


def is_positive(result: Any) -> bool:
    """Say whether a result is above zero."""
    return bool(result > 0)


def is_even(result: Any) -> tuple[bool, str]:
    """Say whether a result is even, and what is wrong if it is not."""
    return result % 2 == 0, f"{result} is odd"


def raises(result: Any) -> bool:
    """Raise instead of saying anything of a result."""
    raise LookupError("no such ledger")


def flaky(times: int = 1) -> str:
    """Fail as often as it is told, then succeed."""
    calls.append("flaky")
    if len(calls) <= times:
        raise ConnectionError(f"try {len(calls)}")
    return f"after {len(calls)}"


def flaky_after_success() -> int:
    """Succeed once."""
    calls.append("flaky_after_success")
    if calls.count("flaky_after_success") > 1:
        raise ConnectionError("the second time")
    return 1


def unpicklable() -> Any:
    """Return what can't be pickled."""
    return threading.Lock()


def not_a_number() -> float:
    """Return what JSON lacks."""
    return float("nan")


def totals() -> dict[str, Any]:
    """Return what response variables are taken from."""
    return {"total": "1.50", "count": 2}


class Shortfall(Exception):
    """An error as many are written: it is pickled with its message alone, and takes two."""

    def __init__(self, account: str, amount: int) -> None:
        super().__init__(f"{account}: {amount}")


def not_read_again() -> Exception:
    """Return what can be pickled, and not be read again."""
    return Shortfall("cash", 3)


def large() -> bytes:
    """Return 50 MB."""
    return b"x" * 50_000_000


def size_of(large: bytes) -> int:
    """Return how large a result is."""
    return len(large)


def count_organisations() -> int:
    """Return how many organisations it sees."""
    from tests.app.models import Organisation

    return Organisation.objects.count()


class Shy:
    """Can't be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not telling")


class Mute(Exception):
    """Has a message that can't be read."""

    def __str__(self) -> str:
        raise RuntimeError("not telling")


def shy() -> Shy:
    """Return what can't be shown."""
    return Shy()


class Exiting:
    """Ends whoever shows it."""

    def __repr__(self) -> str:
        raise SystemExit(3)


def exits_when_shown() -> Exiting:
    """Return what raises SystemExit when it is shown."""
    return Exiting()


def fails_mutely() -> None:
    """Raise what can't be shown."""
    raise Mute


def bad_text() -> str:
    """Return text that no stream takes."""
    return "\ud800 and more"


def many_digits() -> int:
    """Return a number of more digits than Python writes."""
    return 10**5000


def tenants(region: str = "all") -> Iterator[dict[str, Any]]:
    """Yield the contexts of a schedule's runs: one for each organisation."""
    from .models import Organisation

    for name in Organisation.objects.order_by("name").values_list("name", flat=True):
        yield {"tenant": name, "place": region}


def fails_for_brook(organisation: Any) -> str:
    """Fail for one of the organisations."""
    if organisation.name == "brook":
        raise ValueError("not for brook")
    return str(organisation.name)


def no_contexts() -> int:
    """Return what is no list of contexts."""
    return 5


def noted_date(date: Any) -> Any:
    """Answer as no calendar may."""
    return date
