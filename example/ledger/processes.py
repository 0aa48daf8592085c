"""The processes of the example's two trees: plain functions, called with keyword arguments.

A process receives the context (`organisation`, `period_end`, ...) and, under the names of the
processes that it depends on, their results. It takes what its signature names. The docstrings are
what Dagster shows as the descriptions of the ops.

Results are made of plain dictionaries, lists, numbers and text, so that any executor can hand them
from one process to the next, and Dagster can show them.
"""

from collections import defaultdict
from decimal import Decimal
from typing import TypedDict

from django.db import transaction

from example.ledger.arguments import (
    DateArgument,
    OrganisationArgument,
    find_organisation,
    parse_date,
)
from example.ledger.exceptions import LedgerError
from example.ledger.models import Account, JournalLine, ProfitAndLossLine, TrialBalanceLine
from example.ledger.sources import read_invoices, read_journal_lines

ZERO = Decimal("0.00")


# --- monthly_close --------------------------------------------------------------------------------


class Fetched(TypedDict):
    """How many journal lines were fetched, and their sum: zero if the journals balance."""

    lines: int
    total: Decimal


class TrialBalanceRow(TypedDict):
    """The balance of an account, as a debit or as a credit; the other is zero."""

    account: str
    name: str
    kind: str
    debit: Decimal
    credit: Decimal


class ProfitAndLossRow(TypedDict):
    """An account's amount, or a total, for which `account` is None."""

    account: str | None
    label: str
    amount: Decimal


class Published(TypedDict):
    """What was written, and the figure that everybody asks for first."""

    organisation: str
    period_end: str
    trial_balance_lines: int
    profit_and_loss_lines: int
    profit: Decimal


def fetch_journals(*, organisation: OrganisationArgument) -> Fetched:
    """Fetch the journals that the accounting system made from invoices, bills and payments.

    Lines that were fetched before are updated, so fetching again doubles nothing.
    """
    return _fetch(organisation, JournalLine.Source.JOURNAL)


def fetch_manual_journals(*, organisation: OrganisationArgument) -> Fetched:
    """Fetch the journals that a bookkeeper wrote: salaries, depreciation, accruals.

    Lines that were fetched before are updated, so fetching again doubles nothing.
    """
    return _fetch(organisation, JournalLine.Source.MANUAL_JOURNAL)


def build_trial_balance(
    *,
    organisation: OrganisationArgument,
    period_end: DateArgument,
    fetch_journals: Fetched,
    fetch_manual_journals: Fetched,
) -> list[TrialBalanceRow]:
    """Add up each account to the end of the period. Accounts with a balance of zero are left out.

    Fails if the journals don't balance, since no statement drawn from them could be right.
    """
    organisation = find_organisation(organisation)
    period_end = parse_date(period_end, "period_end")
    if fetch_journals["total"] or fetch_manual_journals["total"]:
        raise LedgerError(
            f"The books of {organisation.name} don't balance: debits exceed credits by "
            f"{fetch_journals['total']} in the journals and by {fetch_manual_journals['total']} "
            "in the manual journals. Correct them in the accounting system and run again."
        )

    # Added up here and not by the database: SQLite would add the amounts as binary fractions.
    balances: defaultdict[Account, Decimal] = defaultdict(lambda: ZERO)
    lines = organisation.journal_lines.filter(date__lte=period_end).select_related("account")
    for line in lines:
        balances[line.account] += line.amount
    return [
        {
            "account": account.code,
            "name": account.name,
            "kind": account.kind,
            "debit": max(balance, ZERO),
            "credit": max(-balance, ZERO),
        }
        for account, balance in sorted(balances.items(), key=lambda item: item[0].code)
        if balance
    ]


def build_profit_and_loss(*, build_trial_balance: list[TrialBalanceRow]) -> list[ProfitAndLossRow]:
    """Draw the profit and loss for the year to date from the trial balance.

    Revenue accounts come first, then expense accounts, each with its total, then the profit.
    """
    rows: list[ProfitAndLossRow] = []
    totals = {Account.Kind.REVENUE: ZERO, Account.Kind.EXPENSE: ZERO}
    for kind in totals:
        # A revenue account has a credit balance as a rule, an expense account a debit balance.
        sign = -1 if kind == Account.Kind.REVENUE else 1
        for line in build_trial_balance:
            if line["kind"] == kind:
                amount = sign * (line["debit"] - line["credit"])
                totals[kind] += amount
                rows.append({"account": line["account"], "label": line["name"], "amount": amount})
        rows.append({"account": None, "label": f"Total {kind}", "amount": totals[kind]})
    profit = totals[Account.Kind.REVENUE] - totals[Account.Kind.EXPENSE]
    rows.append({"account": None, "label": "Profit", "amount": profit})
    return rows


def publish_statements(
    *,
    organisation: OrganisationArgument,
    period_end: DateArgument,
    build_trial_balance: list[TrialBalanceRow],
    build_profit_and_loss: list[ProfitAndLossRow],
) -> Published:
    """Write both statements to the database, in place of those that the period already has.

    They change together or not at all: no reader sees the one without the other.
    """
    organisation = find_organisation(organisation)
    period_end = parse_date(period_end, "period_end")
    accounts = {account.code: account for account in organisation.accounts.all()}
    trial_balance = [
        TrialBalanceLine(
            organisation=organisation,
            period_end=period_end,
            account=accounts[row["account"]],
            debit=row["debit"],
            credit=row["credit"],
        )
        for row in build_trial_balance
    ]
    profit_and_loss = [
        ProfitAndLossLine(
            organisation=organisation,
            period_end=period_end,
            position=position,
            account=accounts[row["account"]] if row["account"] else None,
            label=row["label"],
            amount=row["amount"],
        )
        for position, row in enumerate(build_profit_and_loss, start=1)
    ]
    with transaction.atomic():
        organisation.trial_balance_lines.filter(period_end=period_end).delete()
        organisation.profit_and_loss_lines.filter(period_end=period_end).delete()
        TrialBalanceLine.objects.bulk_create(trial_balance)
        ProfitAndLossLine.objects.bulk_create(profit_and_loss)
    return {
        "organisation": organisation.name,
        "period_end": period_end.isoformat(),
        "trial_balance_lines": len(trial_balance),
        "profit_and_loss_lines": len(profit_and_loss),
        "profit": profit_and_loss[-1].amount,
    }


def _fetch(organisation: OrganisationArgument, source: JournalLine.Source) -> Fetched:
    organisation = find_organisation(organisation)
    lines = read_journal_lines(organisation, source)
    accounts = {account.code: account for account in organisation.accounts.all()}
    unknown = sorted({line.account for line in lines} - accounts.keys())
    if unknown:
        raise LedgerError(
            f"{organisation.name} has no account {', '.join(unknown)}. Add it in the admin, or "
            "load the example's accounts with `python manage.py setup_example`."
        )
    JournalLine.objects.bulk_create(
        [
            JournalLine(
                organisation=organisation,
                source=source,
                reference=line.reference,
                line=line.line,
                date=line.date,
                account=accounts[line.account],
                amount=line.amount,
                description=line.description,
            )
            for line in lines
        ],
        update_conflicts=True,
        unique_fields=["organisation", "source", "reference", "line"],
        update_fields=["date", "account", "amount", "description"],
    )
    return {"lines": len(lines), "total": sum((line.amount for line in lines), ZERO)}


# --- receivables_reminder -------------------------------------------------------------------------


class OverdueInvoice(TypedDict):
    """An unpaid invoice past its due date."""

    number: str
    contact: str
    due: str
    days_overdue: int
    outstanding: Decimal


class Reminder(TypedDict):
    """What to tell a customer about an overdue invoice."""

    number: str
    contact: str
    outstanding: Decimal
    text: str


class ReminderSummary(TypedDict):
    """How many reminders of each kind there are, and how much money they ask for."""

    organisation: str
    as_of: str
    first: int
    second: int
    final: int
    outstanding: Decimal


def list_overdue_invoices(
    *, organisation: OrganisationArgument, as_of: DateArgument
) -> list[OverdueInvoice]:
    """List the invoices that should have been paid before `as_of`, the longest overdue first."""
    organisation = find_organisation(organisation)
    as_of = parse_date(as_of, "as_of")
    overdue = [invoice for invoice in read_invoices(organisation) if invoice.due < as_of]
    return [
        {
            "number": invoice.number,
            "contact": invoice.contact,
            "due": invoice.due.isoformat(),
            "days_overdue": (as_of - invoice.due).days,
            "outstanding": invoice.outstanding,
        }
        for invoice in sorted(overdue, key=lambda invoice: invoice.due)
    ]


def remind_at_30_days(*, list_overdue_invoices: list[OverdueInvoice]) -> list[Reminder]:
    """Write a first, friendly reminder for invoices 30 to 59 days overdue."""
    return _remind(list_overdue_invoices, range(30, 60), "Perhaps it slipped your mind?")


def remind_at_60_days(*, list_overdue_invoices: list[OverdueInvoice]) -> list[Reminder]:
    """Write a second, firmer reminder for invoices 60 to 89 days overdue."""
    return _remind(list_overdue_invoices, range(60, 90), "Please pay within seven days.")


def remind_at_90_days(*, list_overdue_invoices: list[OverdueInvoice]) -> list[Reminder]:
    """Write a final notice for invoices 90 days overdue or more."""
    return _remind(list_overdue_invoices, range(90, 100_000), "Your account is now on hold.")


def summarise_reminders(
    *,
    organisation: OrganisationArgument,
    as_of: DateArgument,
    remind_at_30_days: list[Reminder],
    remind_at_60_days: list[Reminder],
    remind_at_90_days: list[Reminder],
) -> ReminderSummary:
    """Count the reminders and add up the money that they ask for."""
    reminders = remind_at_30_days + remind_at_60_days + remind_at_90_days
    return {
        "organisation": find_organisation(organisation).name,
        "as_of": parse_date(as_of, "as_of").isoformat(),
        "first": len(remind_at_30_days),
        "second": len(remind_at_60_days),
        "final": len(remind_at_90_days),
        "outstanding": sum((reminder["outstanding"] for reminder in reminders), ZERO),
    }


def _remind(invoices: list[OverdueInvoice], days: range, closing: str) -> list[Reminder]:
    return [
        {
            "number": invoice["number"],
            "contact": invoice["contact"],
            "outstanding": invoice["outstanding"],
            "text": (
                f"Invoice {invoice['number']}, of which {invoice['outstanding']} is outstanding, "
                f"was due on {invoice['due']}, {invoice['days_overdue']} days ago. {closing}"
            ),
        }
        for invoice in invoices
        if invoice["days_overdue"] in days
    ]
