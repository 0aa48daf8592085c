"""Backfills: a run for each due time of a range of time that has passed."""

import datetime as dt
from collections.abc import Iterator
from itertools import islice

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..exceptions import ScheduleError
from .primary import PrimaryManager, PrimaryModel
from .schedules import ProcessTreeSchedule
from .trees import ProcessTree

MAX_LIMIT = 100

MOST_COUNTED = 10_000
"""How many due times are counted; more are said to be "more"."""


class BackfillState(models.TextChoices):
    """The state of a backfill."""

    RUNNING = "running", _("running")
    STOPPED = "stopped", _("stopped")
    DONE = "done", _("done")


class Backfill(PrimaryModel):
    """A run for each due time of a schedule from one moment to another, the oldest first.

    Its runs are rows of the outbox, a few at once; see ``services.backfills``.
    """

    schedule = models.ForeignKey(
        ProcessTreeSchedule,
        on_delete=models.CASCADE,
        related_name="backfills",
        verbose_name=_("schedule"),
    )
    first = models.DateTimeField(_("from"), help_text=_("The earliest due time that is run."))
    last = models.DateTimeField(
        _("to"),
        help_text=_("The latest one. What the schedule itself has still to run is its own."),
    )
    limit = models.PositiveIntegerField(
        _("limit"),
        default=4,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_LIMIT)],
        help_text=_("How many of its runs are unfinished at the same time, at most."),
    )
    state = models.CharField(
        _("state"),
        max_length=10,
        choices=BackfillState.choices,
        default=BackfillState.RUNNING,
        editable=False,
    )
    reached = models.DateTimeField(
        _("reached"),
        null=True,
        editable=False,
        help_text=_("The due time up to which runs were requested."),
    )
    requested = models.PositiveIntegerField(_("requested"), default=0, editable=False)
    left_out = models.PositiveIntegerField(
        _("left out"),
        default=0,
        editable=False,
        help_text=_("How many due times had a run already."),
    )
    made_by = models.CharField(_("made by"), max_length=150, blank=True, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("backfill")
        verbose_name_plural = _("backfills")
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(last__gte=F("first")),
                name="proctree_backfill_ends_later",
                violation_error_message=_("It must not end before it begins."),
            ),
            models.CheckConstraint(
                condition=Q(limit__range=(1, MAX_LIMIT)), name="proctree_backfill_limit"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.schedule.title}: {self.first:%Y-%m-%d %H:%M} – {self.last:%Y-%m-%d %H:%M}"

    def clean(self) -> None:
        """Refuse what could not be run."""
        super().clean()
        if self.schedule_id is None or self.first is None or self.last is None:
            return
        problem = self.problem(timezone.now())
        if problem:
            raise ValidationError(problem)

    @property
    def process_tree(self) -> ProcessTree:
        """The tree that runs."""
        return self.schedule.process_tree

    def problem(self, now: dt.datetime) -> str:
        """Return why it can't be begun at ``now`` (aware); blank if it can."""
        if self.schedule.for_each:
            return (
                "The schedule has a run for each row (for_each), and a backfill has one for each "
                "due time: submit the runs of a row with submit_tree()."
            )
        unattended = self.process_tree.unattended_problem()
        if unattended is not None:
            return unattended
        try:
            if next(self.due_times_left(now), None) is None:
                return (
                    f"Nothing was due from {self.first} to {self.last} that the schedule "
                    f"({self.schedule.rule_in_words}) does not run itself."
                )
        except ScheduleError as error:
            return str(error)
        return ""

    def due_times_left(self, now: dt.datetime) -> Iterator[dt.datetime]:
        """Return the due times for which nothing was requested yet, the oldest first.

        What is due in future, or is overdue, is the schedule's own while it is enabled.
        """
        last = min(self.last, now)
        for due in self.schedule.due_times_since(self.first, after=self.reached):
            own = self.schedule.claim or self.schedule.next_run
            if due > last or (self.schedule.enabled and own is not None and due >= own):
                return
            yield due

    def left_in_words(self, now: dt.datetime) -> str:
        """Return how many due times are left, or why that can't be said."""
        try:
            left = sum(1 for _ in islice(self.due_times_left(now), MOST_COUNTED + 1))
        except ScheduleError as error:  # the rule was changed since, by SQL or in the code
            return f"? ({error})"
        return f"more than {MOST_COUNTED:,}" if left > MOST_COUNTED else f"{left:,}"
