"""The next due time under a rule that may change, for schedules and ``schedule`` triggers."""

import datetime as dt
from dataclasses import dataclass

from . import due_times
from .business_days import BusinessRule
from .due_times import AnyRule
from .names import short_hash
from .schedule_rules import Rule

_DISABLED = " (disabled)"

_LONGEST = 270
"""How many characters of a rule are noted; of a longer one a hash is, too."""


@dataclass(frozen=True)
class RuleClock:
    """A rule, and the label and anchor stored when the next due time was last set."""

    rule: AnyRule
    enabled: bool
    noted: str
    """The label under which the next due time was set; blank if it never was."""

    anchor: dt.datetime | None
    """The due time from which the others are counted."""

    @property
    def label(self) -> str:
        """The value of ``noted`` while the next due time is up to date."""
        return f"{self._rule_as_noted}{'' if self.enabled else _DISABLED}"

    @property
    def _rule_as_noted(self) -> str:
        """The rule as text that fits into its column, whatever its calendar is called."""
        text = str(self.rule)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… {short_hash(text)}"

    @property
    def is_current(self) -> bool:
        """Whether the next due time follows this rule."""
        return self.noted == self.label

    @property
    def base(self) -> Rule:
        """The rule without a calendar, from whose due times the others are counted."""
        return self.rule.base if isinstance(self.rule, BusinessRule) else self.rule

    def first_due(self, now: dt.datetime, anchor: dt.datetime) -> dt.datetime:
        """Return the first due time after ``now`` (aware), counted from a new anchor."""
        if isinstance(self.rule, BusinessRule):
            return due_times.due_after(self.rule, anchor, now)
        return anchor

    def new_anchor(self, now: dt.datetime) -> dt.datetime:
        """Return the first due time after ``now`` (aware): no backlog, and no surprise run.

        Of ``base``, that is. A switch on or off, a calendar and a first or last date keep the
        rhythm of the due times; another ``base`` starts a new one.
        """
        before = self.noted.removesuffix(_DISABLED)
        if not before:
            return due_times.first_due(self.base, now)
        is_of_base = before == self._rule_as_noted or before.partition(", ")[0] == str(self.base)
        if is_of_base and self.anchor is not None:
            return due_times.due_after(self.base, self.anchor, now)
        return due_times.restarted_due(self.base, now)

    def due_after(self, after: dt.datetime) -> dt.datetime:
        """Return the first due time after ``after`` (aware)."""
        anchor = self.anchor or due_times.first_due(self.base, after)
        return due_times.due_after(self.rule, anchor, after)
