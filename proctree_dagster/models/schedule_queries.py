"""Queries of schedules."""

import datetime as dt
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.db import models
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from ..domain import names
from ..domain.run_tags import DEFAULT_SCHEDULE
from .primary import PrimaryQuerySet

if TYPE_CHECKING:
    from .schedules import ProcessTreeSchedule

OVERDUE_AFTER = dt.timedelta(minutes=3)
"""How long after its due time a schedule without a run counts as overdue.

A daemon polls every minute, and a new due time is seen within another.
"""


TREE = models.OuterRef("process_tree")
"""The key of a schedule's tree, in a query of its pauses."""


class RunStatus(models.TextChoices):
    """The status of the last scheduled run."""

    STARTED = "started", _("started")
    SUCCESS = "success", _("success")
    FAILURE = "failure", _("failure")
    CANCELED = "canceled", _("canceled")


class ProcessTreeScheduleQuerySet(PrimaryQuerySet["ProcessTreeSchedule"]):
    """Queries of schedules."""

    def overdue(
        self, now: dt.datetime, after: dt.timedelta = OVERDUE_AFTER
    ) -> "ProcessTreeScheduleQuerySet":
        """Those for which ``is_overdue(now)`` is true.

        Parameters
        ----------
        now:
            Aware.
        after:
            How long after its due time a schedule is overdue.
        """
        # What a run or a pause has held back until now is made at the next tick.
        freed = now - OVERDUE_AFTER
        is_held = models.Q(last_run_status=RunStatus.STARTED) | models.Q(last_ended__gt=freed)
        waits_for_run = models.Q(is_held, allow_overlap=False)
        limit = now - after
        waits = models.Q(claim__isnull=True, next_run__lt=limit)
        is_claimed = models.Q(claim__isnull=False, claimed_at__lt=limit)
        on = self.filter(enabled=True, stopped_in_dagster=False).exclude(waits_for_run)
        late = on.filter(waits | is_claimed)
        return late.exclude(self.is_paused(now, freed))

    @staticmethod
    def is_paused(now: dt.datetime, since: dt.datetime | None = None) -> models.Exists:
        """Return the condition that a pause holds a schedule now, or has done so since a moment."""
        pauses: Any = apps.get_model("proctree_dagster", "Pause").objects
        found = pauses.active_since(since or now, now).of(models.OuterRef("pk"), TREE)
        return models.Exists(found.order_by())

    def with_pauses(self, now: dt.datetime) -> "ProcessTreeScheduleQuerySet":
        """Those, each with ``has_pauses``: whether pauses concern what is due, or may be."""
        pauses: Any = apps.get_model("proctree_dagster", "Pause").objects
        since = Coalesce(models.OuterRef("next_run"), models.Value(now))
        found = pauses.since_due(since, now).of(models.OuterRef("pk"), TREE).order_by()
        return self.annotate(has_pauses=models.Exists(found))

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
