"""Schedules of trees."""

import datetime as dt
from collections.abc import Container, Iterable
from itertools import islice
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, router
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .. import context as contexts
from ..domain import due_times as intervals
from ..domain import names, tree_spec
from ..domain.names import MAX_NAME_LENGTH
from ..domain.rule_clocks import RuleClock
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.schedule_rules import MAX_INTERVAL, CronRule, IntervalRule, Rule
from ..exceptions import ContextError, ScheduleError
from . import context_schema
from .context_schema import SCHEDULED_FOR
from .fields import (
    ClockFieldsModel,
    ContextField,
    TagsField,
    saved_by_code_field,
    validate_timezone,
)
from .trees import ProcessTree

WATCHED_AFTER = dt.timedelta(minutes=2)
"""Age of a scheduled run from which each minute's tick checks whether it still runs."""


OVERDUE_AFTER = dt.timedelta(minutes=3)
"""How long after its due time a schedule without a run counts as overdue.

A daemon polls every minute, and a new due time is seen within another.
"""


class RunStatus(models.TextChoices):
    """The status of the last scheduled run."""

    STARTED = "started", _("started")
    SUCCESS = "success", _("success")
    FAILURE = "failure", _("failure")
    CANCELED = "canceled", _("canceled")


class ProcessTreeScheduleQuerySet(models.QuerySet["ProcessTreeSchedule"]):
    """Queries of schedules."""

    def overdue(self, now: dt.datetime) -> "ProcessTreeScheduleQuerySet":
        """Those for which ``is_overdue(now)`` is true."""
        waits_for_run = models.Q(last_run_status=RunStatus.STARTED, allow_overlap=False)
        limit = now - OVERDUE_AFTER
        waits = models.Q(claim__isnull=True, next_run__lt=limit)
        is_claimed = models.Q(claim__isnull=False, claimed_at__lt=limit)
        on = self.filter(enabled=True, stopped_in_dagster=False).exclude(waits_for_run)
        return on.filter(waits | is_claimed)

    def default(self) -> "ProcessTreeScheduleQuerySet":
        """Those that trees have where no name is given."""
        return self.filter(name=DEFAULT_SCHEDULE)

    def what_can_be_read(self, pk: Any, error: Exception) -> "ProcessTreeSchedule | None":
        """Return a schedule that can't be read, with its names; the rest raises when it is used."""
        found = self.only("pk", "name", "dagster_name", "process_tree").filter(pk=pk).first()
        if found is not None:
            found.context, found.unreadable = {}, error
        return found

    def bulk_create(self, objs: Iterable["ProcessTreeSchedule"], *args: Any, **kwargs: Any) -> Any:
        """Save several schedules, each with its name in Dagster."""
        schedules, given = list(objs), set[str]()
        for schedule in schedules:
            if not schedule.dagster_name:
                schedule.dagster_name = self.unused_dagster_name(schedule, given)
            given.add(schedule.dagster_name)
        return super().bulk_create(schedules, *args, **kwargs)

    def unused_dagster_name(
        self, schedule: "ProcessTreeSchedule", taken: Container[str] = ()
    ) -> str:
        """Return the name in Dagster for a new schedule.

        It depends on the tree's job name and the schedule's name alone, unless a renamed schedule
        still has that name, or it is in ``taken``.
        """
        tree, number = schedule.process_tree, 1
        job_name = names.dagster_name(tree.job_name or tree.name)
        candidate = names.schedule_name(job_name, schedule.name)
        while candidate in taken or self.filter(dagster_name=candidate).exists():
            number += 1
            candidate = names.schedule_name(job_name, schedule.name, number)
        return candidate


class ProcessTreeSchedule(ClockFieldsModel):
    """A schedule of a tree; a schedule in Dagster."""

    clock_fields = frozenset(
        [
            *("last_run", "next_run", "anchor", "next_run_rule", "claim", "claimed_at"),
            *("last_due", "last_run_id", "last_run_status", "last_run_worker"),
            "stopped_in_dagster",
        ]
    )

    process_tree = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="schedules",
        related_query_name="schedule",
        verbose_name=_("process tree"),
    )
    name = models.CharField(
        _("name"),
        max_length=MAX_NAME_LENGTH,
        default=DEFAULT_SCHEDULE,
        db_default=DEFAULT_SCHEDULE,
        help_text=_("What tells it from other schedules of the tree: a customer's name, say."),
    )
    # Null in a row that SQL or an earlier release has written, until it is listed.
    dagster_name = models.CharField(  # noqa: DJ001
        _("name in Dagster"),
        max_length=2 * MAX_NAME_LENGTH + 60,
        unique=True,
        null=True,
        editable=False,
        help_text=_("Set once, so a renamed schedule keeps its history and its switch there."),
    )
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
    allow_overlap = models.BooleanField(
        _("allow overlap"),
        default=False,
        help_text=_("Whether a scheduled run may start while the last one is still running."),
    )
    pass_scheduled_for = models.BooleanField(
        _("pass the due time"),
        default=False,
        help_text=_("Whether a scheduled run finds its due time in its context: scheduled_for."),
    )
    context = ContextField(
        _("context"),
        default=dict,
        blank=True,
        help_text=_("Default keyword arguments of a run, as JSON."),
    )
    tags = TagsField(_("tags"), help_text=_("Tags of its runs, as JSON: a text by each name."))
    saved_by_code = saved_by_code_field()
    last_run = models.DateTimeField(_("last run"), null=True, blank=True, editable=False)
    next_run = models.DateTimeField(
        _("next run"),
        null=True,
        blank=True,
        editable=False,  # a form that was opened before a due time would request it again
        help_text=_("The next due time. Blank: due now."),
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
    last_run_worker = models.CharField(
        _("last run's worker"),
        max_length=300,
        blank=True,
        default="",
        editable=False,
        help_text=_("The process that runs it: host, id and start time."),
    )
    stopped_in_dagster = models.BooleanField(
        _("stopped in Dagster"),
        default=False,
        editable=False,
        help_text=_("Whether Dagster's own switch of the schedule was off at the last check."),
    )

    unreadable: Exception | None = None
    """Why it can't be read, where only its names are loaded (``what_can_be_read``)."""

    objects = ProcessTreeScheduleQuerySet.as_manager()

    class Meta:
        verbose_name = _("process tree schedule")
        verbose_name_plural = _("process tree schedules")
        ordering = ["process_tree__name", "name"]
        indexes = [
            models.Index(fields=["enabled", "next_run"], name="proctree_schedule_due"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["process_tree", "name"],
                name="proctree_schedule_name",
                violation_error_message=_("The process tree has a schedule of this name already."),
            ),
            models.CheckConstraint(
                # Both sides compare with null: SQL accepts a row for which a check is unknown.
                condition=models.Q(
                    cron="",
                    interval_minutes__isnull=False,
                    interval_minutes__range=(1, MAX_INTERVAL),
                )
                | (~models.Q(cron="") & models.Q(interval_minutes__isnull=True)),
                name="proctree_schedule_interval_or_cron",
                violation_error_message=_(
                    "Give an interval from 1 minute to 525,600 (a year), or a cron; not both."
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title}: {self.rule_in_words}"

    @property
    def title(self) -> str:
        """Its tree's name, and its own if that is not the default one."""
        tree = str(self.process_tree)
        return tree if self.is_default else f"{tree} ({self.name})"

    @property
    def is_default(self) -> bool:
        """Whether it is the one that a tree has where no name is given."""
        return self.name == DEFAULT_SCHEDULE

    def save(self, *args: Any, using: str | None = None, **kwargs: Any) -> None:
        """Save the row; a changed rule recomputes ``anchor`` and ``next_run``.

        Clock fields (``last_run``, ``next_run``, claims, …) are saved only where they were changed
        on this object: a slow edit must not undo a claim that was made meanwhile.
        """
        self.context = contexts.encode(self.context)
        for field in self._meta.concrete_fields:
            if field.name in ("interval_minutes", "start_time"):  # Django takes strings, too
                setattr(self, field.name, field.to_python(getattr(self, field.name)))
        alias = using or router.db_for_write(ProcessTreeSchedule, instance=self)
        schedules = ProcessTreeSchedule.objects.using(alias)
        is_copy = self.pk is None and schedules.filter(dagster_name=self.dagster_name).exists()
        if is_copy or (self._state.adding and not self.dagster_name):
            self.dagster_name = schedules.unused_dagster_name(self)
        super().save(*args, using=using, **kwargs)
        if "process_tree" in self._state.fields_cache:
            self.process_tree.remember_schedule(self)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Delete the row; its tree, if it is loaded, has it no longer."""
        deleted = super().delete(*args, **kwargs)
        if "process_tree" in self._state.fields_cache:
            self.process_tree.forget_schedules()
        return deleted

    def name_in_dagster(self) -> str:
        """Return its name in Dagster; a row that was written past the model is given one first."""
        if not self.dagster_name:
            schedules = ProcessTreeSchedule.objects.all()
            self.dagster_name = schedules.unused_dagster_name(self)
            schedules.filter(pk=self.pk, dagster_name=None).update(dagster_name=self.dagster_name)
        return self.dagster_name

    def clean(self) -> None:
        """Refuse a context that can't be stored, and an invalid rule."""
        super().clean()
        self.tags = {} if self.tags is None else self.tags  # a form left it empty
        problems: dict[str, Any] = {}
        if found := list(names.strict_problems("The schedule", self.name)):
            problems["name"] = " ".join(found)
        try:
            self.context = contexts.encode({} if self.context is None else self.context)
        except ContextError as error:
            problems["context"] = str(error)
        if self.cron:
            try:
                CronRule(self.cron, "UTC")
            except ScheduleError as error:
                problems["cron"] = str(error)
        if self.enabled and self.process_tree_id is not None:
            problem = self.process_tree.unattended_problem()
            if problem is not None:
                problems["enabled"] = problem
        if problems:
            raise ValidationError(problems)

    @property
    def rule(self) -> Rule:
        """The schedule's rule.

        Raises
        ------
        ScheduleError
            It is invalid.
        """
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

    @property
    def digest(self) -> str:
        """A hash of what ``register_schedule()`` sets, without ``enabled``."""
        return tree_spec.digest(
            {
                "cron": self.cron,
                "interval_minutes": self.interval_minutes,
                "start_time": None if self.start_time is None else f"{self.start_time:%H:%M}",
                "timezone": self.timezone,
                "allow_overlap": self.allow_overlap,
                "pass_scheduled_for": self.pass_scheduled_for,
                "context": self.context,
                "tags": self.tags,
            }
        )

    def context_problems(self) -> list[str]:
        """Return a sentence for each key that its runs would lack, or that nothing takes.

        It is no part of ``clean()``: a context that became invalid with a change of the code must
        not prevent an operator from disabling the schedule.
        """
        schema = context_schema.of_tree(self.process_tree.to_dict(), self._passed)
        return schema.problems({**self.context, **self._passed})

    @property
    def _passed(self) -> dict[str, Any]:
        """The keys that its runs are given besides its context."""
        if not self.pass_scheduled_for:
            return {}
        return contexts.encode({SCHEDULED_FOR: timezone.now()})

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
            self.next_run = self.anchor
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
    def held_back_by(self) -> str:
        """What keeps the schedule from running: Django's ``enabled``, Dagster's switch, or both.

        Blank if nothing does. Dagster's switch stops the daemon's ticks only; this is its state at
        the last poll (see ``orchestration.serving.schedule_status``).
        """
        holders = [("Django", not self.enabled), ("Dagster", self.stopped_in_dagster)]
        return " and ".join(name for name, holds in holders if holds)

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
        if self.last_run_status == RunStatus.STARTED and not self.allow_overlap:
            return False  # the due time waits for that run's end
        waiting = self.claimed_at if self.claim else self.next_run
        return waiting is not None and now - waiting > OVERDUE_AFTER

    def next_due_times(self, count: int, now: dt.datetime) -> list[dt.datetime]:
        """Return the next due times; the first one may have passed, if nothing has run it yet.

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
        while len(found) < count:
            found.append(self.due_after(max(found[-1], now)))
        return found

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
        that is settled; so does one whose UTC offset changes soon, until it has changed.
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
        if overdue or watched or unsettled or intervals.clock_changes(self.rule, now):
            return [intervals.EVERY_MINUTE], "UTC"
        return intervals.cron_cover(self.rule, self.anchor or now)
