"""Functions whose annotations say what they take."""

import datetime as dt
import functools
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from tests.app.models import Organisation


class Kind(Enum):
    """What an invoice may be."""

    SALE = "sale"
    BILL = "bill"


def name_of(organisation: Organisation) -> str:
    """Take a row, as its annotation says."""
    return str(organisation.name)


def fetch_invoices(
    organisation: Organisation,
    year: int,
    kind: Literal["sale", "bill"] = "sale",
    since: dt.date | None = None,
) -> list[dict[str, Any]]:
    """Fetch a year's invoices.

    Parameters
    ----------
    organisation:
        Whose invoices.
    year:
        The year
        that they are of.
    kind : {"sale", "bill"}
        Which of them.
    """
    return [{"organisation": organisation.pk, "year": year, "kind": kind, "since": str(since)}]


def total(
    fetch: list[dict[str, Any]],
    year: int,
    rate: Annotated[Decimal, "Of the tax."] = Decimal("0.25"),
) -> Decimal:
    """Add invoices up.

    Args:
        fetch: What was fetched.
        year: Not this: the first one counts.
    """
    return len(fetch) * year * rate


def write(total: Any, *, title: str, kinds: list[Kind] | None = None, dry_run: bool = False) -> str:
    """Write it down."""
    return title


def takes_anything(year: int, **context: Any) -> list[str]:
    """Take whatever there is."""
    return sorted(context)


def takes_nothing() -> None:
    """Take nothing."""


def is_outdated(region: str, cutoff: int = 5) -> bool:
    """Ask about a region."""
    return bool(region)


def is_outdated_by_context(context: dict[str, Any]) -> bool:
    """Ask about whatever there is."""
    return True


def supplies_year(func: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function its year."""

    @functools.wraps(func)
    def wrapper(**kwargs: Any) -> Any:
        return func(year=2026, **kwargs)

    return wrapper


@supplies_year
def decorated(year: int, title: str) -> str:
    """Take what its decorator supplies, and more."""
    return f"{title} {year}"


def unreadable(year: "Unimported") -> int:  # type: ignore[name-defined]  # noqa: F821
    """Have an annotation that only a type checker could read."""
    return int(year)
