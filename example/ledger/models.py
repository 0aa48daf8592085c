"""The books of an organisation (accounts, journal lines) and the statements drawn from them."""

from django.db import models


class Organisation(models.Model):
    """A business whose books are kept here."""

    name = models.CharField(max_length=100, unique=True)
    currency = models.CharField(max_length=3, help_text="ISO 4217 code, such as ZAR.")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Account(models.Model):
    """One line of an organisation's chart of accounts."""

    class Kind(models.TextChoices):
        """The five kinds of account; the last two make up the profit and loss."""

        ASSET = "asset"
        LIABILITY = "liability"
        EQUITY = "equity"
        REVENUE = "revenue"
        EXPENSE = "expense"

    organisation = models.ForeignKey(
        Organisation, on_delete=models.CASCADE, related_name="accounts"
    )
    code = models.CharField(max_length=10)
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=10, choices=Kind.choices)

    class Meta:
        ordering = ["organisation", "code"]
        constraints = [
            models.UniqueConstraint(fields=["organisation", "code"], name="ledger_account_code"),
        ]

    def __str__(self) -> str:
        return f"{self.code} {self.name}"


class JournalLine(models.Model):
    """One side of a journal. The lines of a journal share its reference and sum to zero."""

    class Source(models.TextChoices):
        """Who wrote the journal: the accounting system, or a bookkeeper by hand."""

        JOURNAL = "journal"
        MANUAL_JOURNAL = "manual journal"

    organisation = models.ForeignKey(
        Organisation, on_delete=models.CASCADE, related_name="journal_lines"
    )
    source = models.CharField(max_length=20, choices=Source.choices)
    reference = models.CharField(max_length=30)
    line = models.PositiveSmallIntegerField(help_text="Position in the journal, from 1.")
    date = models.DateField()
    account = models.ForeignKey(Account, on_delete=models.RESTRICT, related_name="journal_lines")
    amount = models.DecimalField(
        max_digits=14, decimal_places=2, help_text="Debits are positive, credits negative."
    )
    description = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["organisation", "date", "source", "reference", "line"]
        constraints = [
            # What makes fetching the same journals again an update, not a second copy.
            models.UniqueConstraint(
                fields=["organisation", "source", "reference", "line"], name="ledger_journal_line"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reference}/{self.line}"


class TrialBalanceLine(models.Model):
    """The balance of one account at the end of a period: either a debit or a credit."""

    organisation = models.ForeignKey(
        Organisation, on_delete=models.CASCADE, related_name="trial_balance_lines"
    )
    period_end = models.DateField()
    account = models.ForeignKey(
        Account, on_delete=models.RESTRICT, related_name="trial_balance_lines"
    )
    debit = models.DecimalField(max_digits=14, decimal_places=2)
    credit = models.DecimalField(max_digits=14, decimal_places=2)

    class Meta:
        ordering = ["organisation", "-period_end", "account__code"]
        constraints = [
            models.UniqueConstraint(
                fields=["organisation", "period_end", "account"], name="ledger_trial_balance_line"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} at {self.period_end}"


class ProfitAndLossLine(models.Model):
    """One line of a profit and loss statement: an account, or a total if it has none."""

    organisation = models.ForeignKey(
        Organisation, on_delete=models.CASCADE, related_name="profit_and_loss_lines"
    )
    period_end = models.DateField()
    position = models.PositiveSmallIntegerField(help_text="Place in the statement, from 1.")
    account = models.ForeignKey(
        Account,
        on_delete=models.RESTRICT,
        null=True,
        blank=True,
        related_name="profit_and_loss_lines",
    )
    label = models.CharField(max_length=100)
    amount = models.DecimalField(max_digits=14, decimal_places=2)

    class Meta:
        ordering = ["organisation", "-period_end", "position"]
        constraints = [
            models.UniqueConstraint(
                fields=["organisation", "period_end", "position"],
                name="ledger_profit_and_loss_line",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.label} at {self.period_end}"
