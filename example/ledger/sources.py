"""The accounting system that the ledger reads from.

Files in `data/` stand in for an API such as Xero's, so that the example needs no account there.
`organisations.json` lists the organisations; each has a folder called by its name in lower case
and hyphens, with its accounts, journals, manual journals and unpaid invoices.
"""

import csv
import datetime
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from django.db import transaction
from django.utils.text import slugify

from example.ledger.exceptions import LedgerError
from example.ledger.models import Account, JournalLine, Organisation

DATA = Path(__file__).resolve().parent / "data"

JOURNAL_FILES = {
    JournalLine.Source.JOURNAL: "journals.csv",
    JournalLine.Source.MANUAL_JOURNAL: "manual_journals.csv",
}


@dataclass(frozen=True)
class SourceLine:
    """A journal line as the accounting system has it; `account` is an account's code."""

    reference: str
    line: int
    date: datetime.date
    account: str
    amount: Decimal
    description: str


@dataclass(frozen=True)
class SourceInvoice:
    """An invoice that a customer has not yet paid, or not in full."""

    number: str
    contact: str
    issued: datetime.date
    due: datetime.date
    outstanding: Decimal


def read_journal_lines(organisation: Organisation, source: JournalLine.Source) -> list[SourceLine]:
    """Return every journal line that the accounting system has from one source."""
    return [
        SourceLine(
            reference=row["reference"],
            line=int(row["line"]),
            date=datetime.date.fromisoformat(row["date"]),
            account=row["account"],
            amount=Decimal(row["amount"]),
            description=row["description"],
        )
        for row in _rows(organisation, JOURNAL_FILES[source])
    ]


def read_invoices(organisation: Organisation) -> list[SourceInvoice]:
    """Return the invoices of an organisation that were unpaid at the end of March 2026."""
    return [
        SourceInvoice(
            number=row["number"],
            contact=row["contact"],
            issued=datetime.date.fromisoformat(row["issued"]),
            due=datetime.date.fromisoformat(row["due"]),
            outstanding=Decimal(row["outstanding"]),
        )
        for row in _rows(organisation, "invoices.csv")
    ]


@transaction.atomic
def load_organisations() -> list[Organisation]:
    """Create or update the organisations and their accounts, and return the organisations."""
    organisations = []
    for entry in json.loads((DATA / "organisations.json").read_text(encoding="utf-8")):
        organisation, _ = Organisation.objects.update_or_create(
            name=entry["name"], defaults={"currency": entry["currency"]}
        )
        for row in _rows(organisation, "accounts.csv"):
            Account.objects.update_or_create(
                organisation=organisation,
                code=row["code"],
                defaults={"name": row["name"], "kind": row["kind"]},
            )
        organisations.append(organisation)
    return organisations


def _rows(organisation: Organisation, file_name: str) -> list[dict[str, str]]:
    path = DATA / slugify(organisation.name) / file_name
    if not path.is_file():
        raise LedgerError(
            f"The example has no {file_name} for {organisation.name}: put one at "
            f"{path.relative_to(DATA.parent)} in the ledger app."
        )
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
