"""The next due time under a rule that may change, for schedules and ``schedule`` triggers."""

import datetime as dt
from dataclasses import dataclass

from . import due_times
from .schedule_rules import Rule

_DISABLED = " (disabled)"


@dataclass(frozen=True)
class RuleClock:
    """A rule, and the label and anchor stored when the next due time was last set."""

    rule: Rule
    enabled: bool
    noted: str
    """The label under which the next due time was set; blank if it never was."""

    anchor: dt.datetime | None
    """The due time from which the others are counted."""

    @property
    def label(self) -> str:
        """The value of ``noted`` while the next due time is up to date."""
        return f"{self.rule}{'' if self.enabled else _DISABLED}"

    @property
    def is_current(self) -> bool:
        """Whether the next due time follows this rule."""
        return self.noted == self.label

    def new_anchor(self, now: dt.datetime) -> dt.datetime:
        """Return the first due time after ``now`` (aware): no backlog, and no surprise run.

        A switch on or off keeps the rhythm of the due times; a changed rule starts a new one.
        """
        before = self.noted.removesuffix(_DISABLED)
        if not before:
            return due_times.first_due(self.rule, now)
        if before == str(self.rule) and self.anchor is not None:
            return due_times.due_after(self.rule, self.anchor, now)
        return due_times.restarted_due(self.rule, now)

    def due_after(self, after: dt.datetime) -> dt.datetime:
        """Return the first due time after ``after`` (aware)."""
        anchor = self.anchor or due_times.first_due(self.rule, after)
        return due_times.due_after(self.rule, anchor, after)
