"""Schedules of trees."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, router
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .. import context as contexts
from ..domain import names, tree_spec
from ..domain.names import MAX_NAME_LENGTH
from ..domain.rule_clocks import RuleClock
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.schedule_rules import MAX_INTERVAL, CronRule
from ..exceptions import ContextError, ScheduleError
from . import calendars, context_schema
from .context_schema import SCHEDULED_FOR
from .fields import (
    ContextField,
    TagsField,
    saved_by_code_field,
)
from .for_each import ForEachModel
from .schedule_clock import ScheduleClock
from .schedule_queries import ProcessTreeScheduleQuerySet
from .trees import ProcessTree

_LATER = ("not_after_minutes", "business_days", "calendar", "start_date", "end_date")
"""The options that count for drift only where they are set: 0.1 did not have them."""

_AS_TEXT = ("interval_minutes", "start_time", "start_date", "end_date")
"""The options of a rule that may be given as text."""


class ProcessTreeSchedule(ForEachModel, ScheduleClock):
    """A schedule of a tree; a schedule in Dagster."""

    clock_fields = frozenset(
        [
            *("last_run", "next_run", "anchor", "next_run_rule", "claim", "claimed_at"),
            *("last_due", "last_run_id", "last_run_status", "last_ended", "last_run_worker"),
            *("dropped_due", "dropped_why", "stopped_in_dagster"),
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
    def rule_in_words(self) -> str:
        """The schedule's rule in words, also if it is invalid, with what it has a run for each."""
        each = self.for_each_in_words
        return f"{super().rule_in_words}{f', for each {each}' if each else ''}"

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
            if field.name in _AS_TEXT:  # Django takes strings, too
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
        if self.calendar and not self.business_days:
            self.business_days = "skip"
        if self.start_date and self.end_date and self.end_date < self.start_date:
            problems["end_date"] = _("It is before the start date, so nothing would ever be due.")
        if not problems and (self.business_days or self.start_date):
            problems |= self._calendar_problems()
        if self.enabled and self.process_tree_id is not None:
            problem = self.process_tree.unattended_problem()
            if problem is not None:
                problems["enabled"] = problem
        if self.enabled or self._state.adding:  # a broken one can be switched off
            problems |= self.for_each_problems()
        if problems:
            raise ValidationError(problems)

    def _calendar_problems(self) -> dict[str, str]:
        """Return what is wrong with its calendar: also that it never has a business day."""
        try:
            calendars.business_days(self.calendar)
        except ScheduleError as error:
            return {"calendar": str(error)}
        try:
            RuleClock(self.rule, True, "", None).due_after(timezone.now())
        except ScheduleError as error:
            return {"business_days": str(error)}
        return {}

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
                **{name: str(getattr(self, name)) for name in _LATER if getattr(self, name)},
                "context": self.context,
                "tags": self.tags,
                **self.for_each_options,
            }
        )

    def context_problems(self) -> list[str]:
        """Return a sentence for each key that its runs would lack, or that nothing takes.

        It is no part of ``clean()``: a context that became invalid with a change of the code must
        not prevent an operator from disabling the schedule.
        """
        schema = context_schema.of_tree(self.process_tree.to_dict(), self._passed)
        is_unknown = isinstance(self.for_each, dict) and "function" in self.for_each
        return schema.problems({**self.context, **self._passed}, partial=is_unknown)

    @property
    def _passed(self) -> dict[str, Any]:
        """The keys that its runs are given besides its context."""
        passed = self.sample_of_row()
        if self.pass_scheduled_for:
            passed |= contexts.encode({SCHEDULED_FOR: timezone.now()})
        return passed
