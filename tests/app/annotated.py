"""Functions whose annotations say what they take."""

import datetime as dt
import functools
import uuid
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

from example.ledger.models import Account
from example.ledger.models import Organisation as Books
from tests.app.models import Customer, Organisation


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


def everything(
    text: str,
    whole: int,
    part: float = 0.5,
    amount: Decimal = Decimal("1.50"),
    day: dt.date | None = None,
    at: dt.datetime | None = None,
    time: dt.time = dt.time(9),
    key: uuid.UUID | None = None,
    dry_run: bool = False,
    sure: bool | None = None,
    kind: Literal["sale", "bill"] = "sale",
    choice: Kind | None = None,
    listed: list[int] | None = None,
    either: int | str = "auto",
    anything: Any = None,
    organisation: Organisation | None = None,
) -> str:
    """Take one of each type.

    Parameters
    ----------
    text:
        What <b>it</b> is for.
    """
    return text


def of_customer(customer: Customer) -> str:
    """Take a row that holds a secret."""
    return str(customer.name)


def of_account(account: Account) -> str:
    """Take a row that can be searched in the example's admin."""
    return str(account.name)


def of_books(books: Books) -> str:
    """Take a row that can't be searched in the example's admin."""
    return str(books.name)


def takes_secrets(api_key: str, settings: dict[str, Any], **others: Any) -> None:
    """Take secrets."""


def with_stand_ins(
    organisation: Organisation | str | int, day: dt.date | str, until: dt.date | str = "today"
) -> str:
    """Take a row and dates, or what stands for them."""
    return f"{organisation} {day} {until}"
