"""The example's figures add up, and its processes say clearly what is wrong.

Processes are called here as what they are, plain functions, in the order of their dependencies.
"""

import datetime
from collections import Counter, defaultdict
from decimal import Decimal

import pytest

from example.ledger import processes
from example.ledger.exceptions import LedgerError
from example.ledger.models import Account, JournalLine, Organisation
from example.ledger.processes import Published
from example.ledger.sources import load_organisations, read_invoices, read_journal_lines

QUIVER_TREE = "Quiver Tree Coffee"
HARBOUR_LANE = "Harbour Lane Design"
NAMES = [QUIVER_TREE, HARBOUR_LANE]
FEBRUARY = datetime.date(2026, 2, 28)
MARCH = datetime.date(2026, 3, 31)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def organisations() -> dict[str, Organisation]:
    return {each.name: each for each in load_organisations()}


def close(organisation: Organisation | str | int, period_end: datetime.date | str) -> Published:
    """Run monthly_close by hand."""
    journals = processes.fetch_journals(organisation=organisation)
    manual_journals = processes.fetch_manual_journals(organisation=organisation)
    trial_balance = processes.build_trial_balance(
        organisation=organisation,
        period_end=period_end,
        fetch_journals=journals,
        fetch_manual_journals=manual_journals,
    )
    return processes.publish_statements(
        organisation=organisation,
        period_end=period_end,
        build_trial_balance=trial_balance,
        build_profit_and_loss=processes.build_profit_and_loss(build_trial_balance=trial_balance),
    )


def remind(organisation: Organisation | str | int) -> processes.ReminderSummary:
    """Run receivables_reminder by hand."""
    overdue = processes.list_overdue_invoices(organisation=organisation, as_of=MARCH)
    return processes.summarise_reminders(
        organisation=organisation,
        as_of=MARCH,
        remind_at_30_days=processes.remind_at_30_days(list_overdue_invoices=overdue),
        remind_at_60_days=processes.remind_at_60_days(list_overdue_invoices=overdue),
        remind_at_90_days=processes.remind_at_90_days(list_overdue_invoices=overdue),
    )


def balance_of(organisation: Organisation, *kinds: Account.Kind) -> Decimal:
    """Add up journal lines straight from the files: debits positive, to the end of March."""
    codes = set(organisation.accounts.filter(kind__in=kinds).values_list("code", flat=True))
    return sum(
        (
            line.amount
            for source in JournalLine.Source
            for line in read_journal_lines(organisation, source)
            if line.account in codes and line.date <= MARCH
        ),
        Decimal(0),
    )


# --- The books that are shipped -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_journal_sums_to_zero_on_one_date(
    name: str, organisations: dict[str, Organisation]
) -> None:
    for source in JournalLine.Source:
        totals: defaultdict[str, Decimal] = defaultdict(Decimal)
        dates: defaultdict[str, set[datetime.date]] = defaultdict(set)
        positions: Counter[tuple[str, int]] = Counter()
        for line in read_journal_lines(organisations[name], source):
            totals[line.reference] += line.amount
            dates[line.reference].add(line.date)
            positions[line.reference, line.line] += 1
        assert totals
        assert {reference for reference, total in totals.items() if total} == set()
        assert {reference for reference, days in dates.items() if len(days) > 1} == set()
        assert max(positions.values()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_unpaid_invoices_are_what_the_receivables_account_says(
    name: str, organisations: dict[str, Organisation]
) -> None:
    organisation = organisations[name]
    receivable = sum(
        line.amount
        for source in JournalLine.Source
        for line in read_journal_lines(organisation, source)
        if line.account == "610"
    )
    assert sum(invoice.outstanding for invoice in read_invoices(organisation)) == receivable


def test_loading_the_organisations_again_doubles_nothing() -> None:
    before = Organisation.objects.count(), Account.objects.count()
    load_organisations()
    assert (Organisation.objects.count(), Account.objects.count()) == before


# --- monthly_close --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "period_end", "profit"),
    [
        (QUIVER_TREE, MARCH, Decimal("10965.41")),
        (QUIVER_TREE, FEBRUARY, Decimal("6895.00")),
        (HARBOUR_LANE, MARCH, Decimal("5860.79")),
        (HARBOUR_LANE, FEBRUARY, Decimal("3032.31")),
    ],
)
def test_the_profit_of_each_period(name: str, period_end: datetime.date, profit: Decimal) -> None:
    assert close(name, period_end)["profit"] == profit


@pytest.mark.parametrize("name", NAMES)
def test_debits_equal_credits(name: str, organisations: dict[str, Organisation]) -> None:
    close(name, MARCH)
    lines = organisations[name].trial_balance_lines.filter(period_end=MARCH)
    debits = sum(line.debit for line in lines)
    assert debits == sum(line.credit for line in lines) > 0
    assert all(min(line.debit, line.credit) == 0 for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_the_profit_is_what_net_assets_gained_beyond_the_owners_part(
    name: str, organisations: dict[str, Organisation]
) -> None:
    organisation = organisations[name]
    net_assets = balance_of(organisation, Account.Kind.ASSET, Account.Kind.LIABILITY)
    equity = -balance_of(organisation, Account.Kind.EQUITY)
    assert close(organisation, MARCH)["profit"] == net_assets - equity


def test_the_profit_and_loss_reads_as_a_statement(organisations: dict[str, Organisation]) -> None:
    close(HARBOUR_LANE, MARCH)
    lines = organisations[HARBOUR_LANE].profit_and_loss_lines.filter(period_end=MARCH)
    assert [(line.label, line.amount) for line in lines] == [
        ("Design fees", Decimal("34530.50")),
        ("Retainers", Decimal("5400.00")),
        ("Total revenue", Decimal("39930.50")),
        ("Subcontractors", Decimal("3900.00")),
        ("Bank charges", Decimal("55.95")),
        ("Software", Decimal("692.75")),
        ("Depreciation", Decimal("800.01")),
        ("Insurance", Decimal("396.00")),
        ("Rent", Decimal("4050.00")),
        ("Salaries", Decimal("24175.00")),
        ("Total expense", Decimal("34069.71")),
        ("Profit", Decimal("5860.79")),
    ]


def test_running_again_doubles_nothing_and_keeps_other_periods(
    organisations: dict[str, Organisation],
) -> None:
    organisation = organisations[QUIVER_TREE]
    february = close(organisation, FEBRUARY)
    first = close(organisation, MARCH)
    lines = organisation.journal_lines.count()
    assert close(organisation, MARCH) == first
    assert organisation.journal_lines.count() == lines
    assert (
        organisation.trial_balance_lines.filter(period_end=MARCH).count()
        == (first["trial_balance_lines"])
    )
    assert (
        organisation.trial_balance_lines.filter(period_end=FEBRUARY).count()
        == (february["trial_balance_lines"])
    )


def test_fetching_again_brings_a_changed_line_up_to_date(
    organisations: dict[str, Organisation],
) -> None:
    organisation = organisations[QUIVER_TREE]
    fetched = processes.fetch_journals(organisation=organisation)
    JournalLine.objects.filter(reference="INV-1001", line=1).update(amount=1, description="")
    assert processes.fetch_journals(organisation=organisation) == fetched
    line = JournalLine.objects.get(reference="INV-1001", line=1)
    assert (line.amount, line.description) == (Decimal("28520.00"), "Bellweather Hotels")
    assert organisation.journal_lines.count() == fetched["lines"]


def test_an_organisation_may_be_named_or_numbered_and_a_date_written(
    organisations: dict[str, Organisation],
) -> None:
    organisation = organisations[HARBOUR_LANE]
    expected = close(organisation, MARCH)
    assert close(HARBOUR_LANE, "2026-03-31") == expected
    assert close(organisation.pk, "2026-03-31") == expected


# --- receivables_reminder -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counts", "outstanding"),
    [
        (QUIVER_TREE, (1, 1, 1), Decimal("15802.50")),
        (HARBOUR_LANE, (2, 1, 1), Decimal("19314.00")),
    ],
)
def test_overdue_invoices_are_reminded_of_by_age(
    name: str, counts: tuple[int, int, int], outstanding: Decimal
) -> None:
    summary = remind(name)
    assert (summary["first"], summary["second"], summary["final"]) == counts
    assert summary["outstanding"] == outstanding


def test_a_reminder_says_what_is_owed_and_since_when() -> None:
    overdue = processes.list_overdue_invoices(organisation=QUIVER_TREE, as_of="2026-03-31")
    assert [invoice["number"] for invoice in overdue] == [
        "INV-0931",
        "INV-0968",
        "INV-1002",
        "INV-1004",
    ]
    (reminder,) = processes.remind_at_90_days(list_overdue_invoices=overdue)
    assert reminder["text"] == (
        "Invoice INV-0931, of which 4025.00 is outstanding, was due on 2025-11-19, "
        "132 days ago. Your account is now on hold."
    )


# --- Errors ---------------------------------------------------------------------------------------


def test_an_unknown_organisation_is_refused_with_those_that_there_are(
    organisations: dict[str, Organisation],
) -> None:
    with pytest.raises(LedgerError) as error:
        processes.fetch_journals(organisation="Acme")
    assert str(error.value) == (
        "There is no organisation 'Acme'. Give the name or number of one of: "
        f"'{HARBOUR_LANE}' ({organisations[HARBOUR_LANE].pk}), "
        f"'{QUIVER_TREE}' ({organisations[QUIVER_TREE].pk})."
    )


def test_an_empty_database_says_how_to_fill_it() -> None:
    Organisation.objects.all().delete()
    with pytest.raises(LedgerError, match=r"run `python manage.py setup_example`"):
        processes.fetch_journals(organisation=1)


@pytest.mark.parametrize("value", ["31 March", 20260331, datetime.datetime(2026, 3, 31, 12)])
def test_what_is_no_date_is_refused_by_name(value: datetime.date | str) -> None:
    with pytest.raises(LedgerError, match=r"^period_end must be a date such as 2026-03-31, not "):
        close(QUIVER_TREE, value)


def test_journals_out_of_balance_make_no_statement() -> None:
    with pytest.raises(LedgerError, match=r"Quiver Tree Coffee don't balance.* by 0.10 in the jou"):
        processes.build_trial_balance(
            organisation=QUIVER_TREE,
            period_end=MARCH,
            fetch_journals={"lines": 2, "total": Decimal("0.10")},
            fetch_manual_journals={"lines": 0, "total": Decimal("0.00")},
        )


def test_an_account_that_is_not_in_the_chart_is_named() -> None:
    Account.objects.filter(code__in=["610", "820"]).delete()
    with pytest.raises(LedgerError, match=r"Quiver Tree Coffee has no account 610, 820"):
        processes.fetch_journals(organisation=QUIVER_TREE)
    assert not JournalLine.objects.exists()


def test_an_organisation_without_files_is_told_where_they_belong() -> None:
    Organisation.objects.create(name="New Venture", currency="ZAR")
    with pytest.raises(LedgerError, match=r"no journals.csv for New Venture.*data/new-venture/"):
        processes.fetch_journals(organisation="New Venture")
