"""Pauses of schedules."""

import datetime as dt
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..domain.pauses import Span
from ..domain.texts import in_utc
from .primary import PrimaryModel, PrimaryQuerySet
from .trees import ProcessTree

if TYPE_CHECKING:
    from .schedules import ProcessTreeSchedule


class PauseQuerySet(PrimaryQuerySet["Pause"]):
    """Queries of pauses."""

    def active(self, now: dt.datetime) -> "PauseQuerySet":
        """Those that hold runs now."""
        return self.active_since(now, now)

    def active_since(self, moment: dt.datetime, now: dt.datetime) -> "PauseQuerySet":
        """Those that hold runs now, or have done so at or after a moment."""
        return self.filter(Q(until__isnull=True) | Q(until__gt=moment), since__lte=now)

    def not_over(self, now: dt.datetime) -> "PauseQuerySet":
        """Those that hold runs now, or are going to."""
        return self.filter(Q(until__isnull=True) | Q(until__gt=now))

    def of(self, schedule: Any, tree: Any) -> "PauseQuerySet":
        """Those that concern a schedule: its own, its tree's, and those of everything.

        Parameters
        ----------
        schedule, tree:
            The keys of the schedule and its tree, or what stands for them in a query.
        """
        of_tree = Q(schedule__isnull=True, process_tree=tree)
        of_all = Q(schedule__isnull=True, process_tree__isnull=True)
        return self.filter(Q(schedule=schedule) | of_tree | of_all)

    def since_due(self, due: Any, now: dt.datetime) -> "PauseQuerySet":
        """Those that have to do with what is due at ``due``, or since: active, or dropping."""
        dropping = Q(drop=True) & (Q(until__gt=due) | Q(until__isnull=True))
        is_on = Q(until__isnull=True) | Q(until__gt=now)
        return self.filter(is_on | dropping, since__lte=now)


class Pause(PrimaryModel):
    """Holds scheduled runs for a while: of everything, of a tree, or of one schedule."""

    process_tree = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="pauses",
        verbose_name=_("process tree"),
        help_text=_("Whose schedules are held. Blank: those of all trees."),
    )
    schedule = models.ForeignKey(
        "ProcessTreeSchedule",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="pauses",
        verbose_name=_("schedule"),
        help_text=_("One schedule alone. Blank: all of the tree's."),
    )
    since = models.DateTimeField(_("from"), default=timezone.now)
    until = models.DateTimeField(
        _("until"),
        null=True,
        blank=True,
        help_text=_("The moment at which runs may start again. Blank: when somebody ends it."),
    )
    reason = models.CharField(_("reason"), max_length=200)
    drop = models.BooleanField(
        _("drop due times"),
        default=False,
        help_text=_(
            "Whether due times in the pause are dropped. Otherwise they are kept, and become one "
            "run when it ends."
        ),
    )
    made_by = models.CharField(_("made by"), max_length=150, blank=True, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    objects = PauseQuerySet.as_manager()

    class Meta:
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        ordering = ["-since", "-pk"]
        indexes = [models.Index(fields=["until", "since"], name="proctree_pause_until")]
        constraints = [
            models.CheckConstraint(
                condition=Q(until__isnull=True) | Q(until__gt=F("since")),
                name="proctree_pause_ends_later",
                violation_error_message=_("It must end after it begins."),
            )
        ]

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save it; that of a schedule has the schedule's tree, too."""
        if self.schedule is not None:
            self.process_tree = self.schedule.process_tree
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a schedule of another tree."""
        super().clean()
        schedule = self.schedule
        if schedule is None or self.process_tree_id in (None, schedule.process_tree_id):
            return
        raise ValidationError({"schedule": _("It is a schedule of another process tree.")})

    @property
    def what(self) -> str:
        """What it holds: a schedule's title, a tree's name, or ``everything``."""
        if self.schedule is not None:
            return self.schedule.title
        return "everything" if self.process_tree is None else self.process_tree.name

    @property
    def span(self) -> Span:
        """When it holds runs, and what happens to the due times."""
        return Span(self.since, self.until, self.drop)

    def is_active(self, now: dt.datetime) -> bool:
        """Return whether it holds runs now (aware)."""
        return self.span.covers(now)

    def concerns(self, schedule: "ProcessTreeSchedule") -> bool:
        """Return whether it holds a schedule's runs while it is active."""
        if self.schedule_id is not None:
            return self.schedule_id == schedule.pk
        return self.process_tree_id in (None, schedule.process_tree_id)

    @property
    def in_words(self) -> str:
        """Until when, and why: ``until 2026-06-10 18:00 UTC (migrating)``."""
        until = "until it is resumed" if self.until is None else f"until {in_utc(self.until)}"
        return f"{until} ({self.reason})"


def in_words(pauses: Iterable[Pause]) -> str:
    """Return until when and why something is paused; of several pauses, each."""
    return ", and ".join(each.in_words for each in pauses)
