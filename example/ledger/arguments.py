"""What a context may say for an organisation or a date, and what is meant by it.

A context that was written in Python holds an `Organisation` and a `datetime.date`. One that was
typed as YAML or JSON, in Dagster's Launchpad or on the command line, holds a name or a number, and
a date as text. Processes accept both.
"""

import datetime
from typing import TypeAlias

from example.ledger.exceptions import LedgerError
from example.ledger.models import Organisation

OrganisationArgument: TypeAlias = Organisation | str | int
DateArgument: TypeAlias = datetime.date | str


def find_organisation(value: OrganisationArgument) -> Organisation:
    """Return the organisation that is meant: itself, or the one with that name or primary key.

    Raises
    ------
    LedgerError
        There is none; the message names those that there are.
    """
    if isinstance(value, Organisation):
        return value
    lookup = {"pk": value} if isinstance(value, int) else {"name": value}
    organisation = Organisation.objects.filter(**lookup).first()
    if organisation is None:
        known = ", ".join(f"{each.name!r} ({each.pk})" for each in Organisation.objects.all())
        advice = (
            f"Give the name or number of one of: {known}."
            if known
            else "There are none yet: run `python manage.py setup_example`."
        )
        raise LedgerError(f"There is no organisation {value!r}. {advice}")
    return organisation


def parse_date(value: DateArgument, name: str) -> datetime.date:
    """Return the date that is meant: itself, or the one that is written as YYYY-MM-DD.

    Raises
    ------
    LedgerError
        It is no date; the message names the argument.
    """
    if isinstance(value, str):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            pass
    # A `datetime` is a `date` to Python, but can't be compared with one.
    elif isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    raise LedgerError(f"{name} must be a date such as 2026-03-31, not {value!r}.")
