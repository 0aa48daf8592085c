"""When a schedule is due: its rule, and the times that claims and runs leave on its row."""

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..domain import due_times as intervals
from ..domain.business_days import BusinessRule
from ..domain.due_times import AnyRule
from ..domain.rule_clocks import RuleClock
from ..domain.schedule_rules import MAX_INTERVAL, CronRule, IntervalRule, Rule
from ..exceptions import ScheduleError
from ..support.row_reading import readable
from . import calendars
from .fields import ClockFieldsModel, validate_timezone
from .schedule_queries import OVERDUE_AFTER, RunStatus

if TYPE_CHECKING:
    from .pauses import Pause

WATCHED_AFTER = dt.timedelta(minutes=2)
"""Age of a scheduled run from which each minute's tick checks whether it still runs."""


class BusinessDays(models.TextChoices):
    """What becomes of a due time on a day that is no business day."""

    SKIP = "skip", _("it is skipped")
    NEXT = "next", _("it moves to the next business day")
    PREVIOUS = "previous", _("it moves to the business day before")
    FIRST = "first", _("only the first business day of a month counts")
    LAST = "last", _("only the last business day of a month counts")


class ScheduleClock(ClockFieldsModel):
    """The part of a schedule that says when it is due."""

    if TYPE_CHECKING:
        process_tree_id: int

    enabled = models.BooleanField(
        _("enabled"),
        default=True,
        help_text=_("A disabled schedule skips its due times; Dagster shows them as skipped."),
    )
    interval_minutes = models.PositiveIntegerField(
        _("interval in minutes"),
        default=60,
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_INTERVAL)],
        help_text=_("Minutes between two due times, from one to a year. Blank if there is a cron."),
    )
    cron = models.CharField(
        _("cron"),
        max_length=200,
        blank=True,
        default="",
        help_text=_("Instead of an interval: minute, hour, day, month, weekday: 0 9 * * 1-5."),
    )
    start_time = models.TimeField(
        _("start time"),
        null=True,
        blank=True,
        help_text=_(
            "Wall-clock time of the first due time; seconds are dropped. Blank: counted from "
            "midnight, beginning with the next one: every hour begins with the next hour."
        ),
    )
    timezone = models.CharField(
        _("time zone"),
        max_length=64,
        blank=True,
        default="",
        validators=[validate_timezone],
        help_text=_("IANA zone of the start time or the cron. Blank: Django's TIME_ZONE."),
    )
    business_days = models.CharField(
        _("business days"),
        max_length=10,
        choices=BusinessDays.choices,
        blank=True,
        default="",
        db_default="",
        help_text=_("What becomes of a due time on any other day. Blank: it is run."),
    )
    calendar = models.CharField(
        _("calendar"),
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text=_("Which days these are: weekdays, holidays:ZA, or a function, app.module:name."),
    )
    start_date = models.DateField(
        _("start date"),
        null=True,
        blank=True,
        help_text=_("Nothing is due before this date, in its time zone. Blank: at once."),
    )
    end_date = models.DateField(
        _("end date"),
        null=True,
        blank=True,
        help_text=_("Nothing is due after this date, in its time zone. Blank: it has no end."),
    )
    allow_overlap = models.BooleanField(
        _("allow overlap"),
        default=False,
        help_text=_("Whether a scheduled run may start while the last one is still running."),
    )
    last_run = models.DateTimeField(_("last run"), null=True, blank=True, editable=False)
    next_run = models.DateTimeField(
        _("next run"),
        null=True,
        blank=True,
        editable=False,  # a form that was opened before a due time would request it again
        help_text=_("The next due time. Blank: due now. In the year 9999: it has ended."),
    )
    anchor = models.DateTimeField(
        _("anchor"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The due time from which the others are counted."),
    )
    next_run_rule = models.CharField(
        _("rule of next run"),
        max_length=300,
        blank=True,
        default="",
        editable=False,
        help_text=_("The rule that set the next run; another rule sets it anew."),
    )
    claim = models.DateTimeField(
        _("claim"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The due time that is claimed and has no run yet."),
    )
    claimed_at = models.DateTimeField(_("claimed at"), null=True, blank=True, editable=False)
    last_run_id = models.CharField(
        _("last run's id"),
        max_length=64,
        blank=True,
        default="",
        editable=False,
        help_text=_("Id of the run that took the latest claim."),
    )
    last_due = models.DateTimeField(
        _("last due time"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The due time that the last run stands for."),
    )
    last_run_status = models.CharField(
        _("last run's status"),
        max_length=10,
        choices=RunStatus.choices,
        blank=True,
        default="",
        editable=False,
    )
    last_ended = models.DateTimeField(
        _("last run's end"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When the last run was seen to have ended."),
    )
    last_run_worker = models.CharField(
        _("last run's worker"),
        max_length=300,
        blank=True,
        default="",
        editable=False,
        help_text=_("The process that runs it: host, id and start time."),
    )
    not_after_minutes = models.PositiveIntegerField(
        _("not after, in minutes"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_INTERVAL)],
        help_text=_(
            "A due time that is later than this is dropped. Blank: it is run, however late."
        ),
    )
    dropped_due = models.DateTimeField(
        _("last dropped due time"), null=True, blank=True, editable=False
    )
    dropped_why = models.CharField(
        _("why it was dropped"),
        max_length=300,
        blank=True,
        default="",
        db_default="",
        editable=False,
    )
    stopped_in_dagster = models.BooleanField(
        _("stopped in Dagster"),
        default=False,
        editable=False,
        help_text=_("Whether Dagster's own switch of the schedule was off at the last check."),
    )

    pauses_now: "Sequence[Pause] | None" = None
    """The pauses that hold it now, if they were noted (``services.pauses.Active``)."""

    was_paused: bool | None = None
    """Whether one has held it until a moment ago, if that was noted."""

    class Meta:
        abstract = True

    @property
    def rule(self) -> AnyRule:
        """The schedule's rule, with its calendar.

        Raises
        ------
        ScheduleError
            It is invalid.
        """
        if not self.business_days and self.start_date is None and self.end_date is None:
            return self.base_rule
        is_business_day = calendars.business_days(self.calendar)
        name, days = self.calendar or calendars.WEEKDAYS, self.business_days
        dates = (self.start_date, self.end_date)
        return BusinessRule(self.base_rule, days, name, is_business_day, *dates)  # type: ignore[arg-type]

    @property
    def base_rule(self) -> Rule:
        """The schedule's rule without its calendar; raises as ``rule`` does."""
        zone = self.timezone or settings.TIME_ZONE
        if self.cron:
            return CronRule(self.cron, zone)
        if self.interval_minutes is None:
            raise ScheduleError("It has neither an interval nor a cron.")
        return IntervalRule(self.interval_minutes, self.start_time, zone)

    @property
    def rule_in_words(self) -> str:
        """The schedule's rule in words, also if it is invalid."""
        try:
            return self.rule.in_words
        except ScheduleError:
            zone = self.timezone or settings.TIME_ZONE
            return f"at {self.cron or f'every {self.interval_minutes} min'} in {zone}"

    @property
    def current_rule(self) -> str:
        """The value of ``next_run_rule`` while that is up to date."""
        return self._clock.label

    @property
    def _clock(self) -> RuleClock:
        return RuleClock(self.rule, self.enabled, self.next_run_rule, self.anchor)

    def align(self, now: dt.datetime) -> list[str]:
        """Set ``anchor`` and ``next_run`` to the next due time if the rule has changed.

        So it does for a new schedule, and after a change of the rule or of ``enabled`` by any
        means, SQL included: there is no backlog and no surprise run.

        Parameters
        ----------
        now:
            Aware.

        Returns
        -------
        list[str]
            The fields that were changed on this object; nothing is saved.
        """
        clock = self._clock
        if clock.is_current:
            return []
        self.anchor = clock.new_anchor(now)
        if clock.noted or self.next_run is None:  # a new row may set its first due time
            self.next_run = clock.first_due(now, self.anchor)
        self.next_run_rule = clock.label
        changed = ["anchor", "next_run", "next_run_rule"]
        if not self.enabled:
            # A claim that no run has taken is withdrawn: nothing starts while it is disabled.
            self.claim = self.claimed_at = None
            changed += ["claim", "claimed_at"]
        return changed

    def due_after(self, after: dt.datetime) -> dt.datetime:
        """Return the first due time after ``after`` (aware)."""
        return self._clock.due_after(after)

    def due_times(self, first: dt.datetime, last: dt.datetime, most: int) -> int:
        """Return how many due times there are from the due time ``first`` to ``last`` (aware).

        They are counted one by one, up to ``most``; there may be more.
        """
        due_times = intervals.due_times(self.rule, self.anchor or first, first, last)
        return sum(1 for _ in islice(due_times, most))

    def due_times_since(
        self, first: dt.datetime, after: dt.datetime | None = None
    ) -> Iterator[dt.datetime]:
        """Return the due times from ``first`` on, also those before the schedule was saved.

        Parameters
        ----------
        first:
            Aware; the earliest one that is wanted.
        after:
            Aware; only those after it.

        Raises
        ------
        ScheduleError
            The rule is invalid.
        """
        rule, base = self.rule, self._clock.base
        anchor = intervals.earlier_anchor(base, self.anchor or first, first)
        due = max(first - dt.timedelta(microseconds=1), after or first - dt.timedelta(seconds=1))
        while (due := intervals.due_after(rule, anchor, due)) < intervals.NEVER:
            if due >= first:
                yield due

    def needs_check(self, at: dt.datetime) -> bool:
        """Return whether a check at ``at`` (aware) could find anything but "not due".

        Cheap: it lets one query rule out most schedules.
        """
        return (
            self.claim is not None
            or self.last_run_status == RunStatus.STARTED
            or self.next_run is None
            or self.next_run <= at
            or self.next_run_rule != self.current_rule
        )

    @property
    def has_ended(self) -> bool:
        """Whether nothing is due any more: the last due time before its ``end_date`` has passed."""
        return self.next_run is not None and self.next_run >= intervals.NEVER

    @property
    def held_back_by(self) -> str:
        """What keeps the schedule from running: Django's ``enabled``, Dagster's switch, a pause.

        Blank if nothing does. Dagster's switch stops the daemon's ticks only; this is its state at
        the last poll (see ``orchestration.serving.schedule_status``).
        """
        holders = [
            ("Django", not self.enabled),
            ("Dagster", self.stopped_in_dagster),
            ("a pause", bool(self.active_pauses())),
        ]
        return " and ".join(name for name, holds in holders if holds)

    def active_pauses(self) -> "Sequence[Pause]":
        """Return the pauses that hold it now: as noted with many schedules, or read."""
        if self.pauses_now is None:
            pauses: Any = apps.get_model("proctree_dagster", "Pause").objects
            of_it = pauses.active(timezone.now()).of(self.pk, self.process_tree_id)
            self.pauses_now = readable(of_it)
        return self.pauses_now

    def should_run(self) -> bool:
        """Return whether the schedule is due now."""
        return self.is_due(timezone.now())

    def is_due(self, at: dt.datetime) -> bool:
        """Return whether the schedule is due at ``at`` (aware), however late that is."""
        up_to_date = self.next_run_rule == self.current_rule
        return self.enabled and up_to_date and (self.next_run is None or self.next_run <= at)

    def is_overdue(self, now: dt.datetime) -> bool:
        """Return whether a due time passed long ago, and nothing has claimed it or holds it back.

        Parameters
        ----------
        now:
            Aware.
        """
        if not self.enabled or self.stopped_in_dagster:
            return False
        if self._waits_for_last_run(now - OVERDUE_AFTER):
            return False
        waiting = self.claimed_at if self.claim else self.next_run
        is_late = waiting is not None and now - waiting > OVERDUE_AFTER
        return is_late and not self.active_pauses() and not self._was_paused(now)

    def _waits_for_last_run(self, since: dt.datetime) -> bool:
        """Return whether what is due waits for the last run's end, or did so until a moment ago."""
        if self.allow_overlap:
            return False
        has_just_ended = self.last_ended is not None and self.last_ended > since
        return self.last_run_status == RunStatus.STARTED or has_just_ended

    def _was_paused(self, now: dt.datetime) -> bool:
        """Return whether a pause has held it until a moment ago: as noted, or read."""
        if self.was_paused is None:
            pauses: Any = apps.get_model("proctree_dagster", "Pause").objects
            found = pauses.active_since(now - OVERDUE_AFTER, now)
            self.was_paused = found.of(self.pk, self.process_tree_id).exists()
        return self.was_paused

    def next_due_times(self, count: int, now: dt.datetime) -> list[dt.datetime]:
        """Return the next due times; the first one may have passed, if nothing has run it yet.

        There are fewer, or none, if it ends before.

        Parameters
        ----------
        count:
            How many.
        now:
            Aware.

        Raises
        ------
        ScheduleError
            The rule is invalid.
        """
        _known = self.rule.zone  # raises for an unknown one
        found = [self.next_run or now]
        while len(found) < count and found[-1] < intervals.NEVER:
            found.append(self.due_after(max(found[-1], now)))
        return [due for due in found if due < intervals.NEVER]

    def update_next_run_time(self) -> dt.datetime:
        """Compute ``next_run`` from now and return it; save it and other changes of this object.

        Fields that were not changed on this object, such as ``last_run``, keep their stored values.
        """
        now = timezone.now()
        if not self.align(now):
            self.next_run = self.due_after(now)
        self.save(update_fields=self._changed() if self._is_there() else None)
        return self.next_run  # type: ignore[return-value]  # set by either branch

    def cover(self, now: dt.datetime) -> tuple[list[str], str]:
        """Return the crons that Dagster ticks by, and their zone.

        A schedule that is overdue, or has an open claim or a long run, ticks every minute until
        that is settled; so does one whose UTC offset changes soon, until it has changed. One that
        has ended ticks once a year, as Dagster has no cron for never.
        """
        grace = dt.timedelta(seconds=30)  # the tick of the due time itself may still be under way
        overdue = self.next_run is None or self.next_run < now - grace
        # A long run: it may have died without recording its end.
        watched = (
            self.last_run_status == RunStatus.STARTED
            and self.last_run is not None
            and self.last_run < now - WATCHED_AFTER
        )
        unsettled = self.claim is not None or self.next_run_rule != self.current_rule
        if overdue or watched or unsettled:
            return [intervals.EVERY_MINUTE], "UTC"
        if self.has_ended:
            return [intervals.YEARLY], "UTC"
        if intervals.clock_changes(self.rule, now):
            return [intervals.EVERY_MINUTE], "UTC"
        return intervals.cron_cover(self.rule, self.anchor or now)
