"""The list of schedules: its filters, and what is read for all rows of a page at once."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..models import ProcessTreeSchedule
from ..services import pauses
from . import run_summaries
from .forms import CRON, INTERVAL


class RuleFilter(admin.SimpleListFilter):
    """Schedules with an interval, or with a cron."""

    title = _("rule")
    parameter_name = "rule"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return the choices."""
        return [(INTERVAL, _("interval")), (CRON, _("cron"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the chosen ones."""
        if self.value() == INTERVAL:
            return queryset.filter(cron="")
        return queryset.exclude(cron="") if self.value() == CRON else queryset


class OverdueFilter(admin.SimpleListFilter):
    """Schedules whose due time has passed without a run."""

    title = _("overdue")
    parameter_name = "overdue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return the choices."""
        return [("yes", _("Yes")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the chosen ones."""
        if self.value() not in ("yes", "no"):
            return queryset
        overdue = ProcessTreeSchedule.objects.overdue(timezone.now()).values("pk")
        is_overdue = self.value() == "yes"
        return queryset.filter(pk__in=overdue) if is_overdue else queryset.exclude(pk__in=overdue)


class HeldBackFilter(admin.SimpleListFilter):
    """Schedules that Django or Dagster keeps from running."""

    title = _("held back by")
    parameter_name = "held_back"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return the choices."""
        return [("nothing", _("nothing")), ("django", "Django"), ("dagster", "Dagster")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the chosen ones."""
        found: dict[str, dict[str, bool]] = {
            "nothing": {"enabled": True, "stopped_in_dagster": False},
            "django": {"enabled": False},
            "dagster": {"stopped_in_dagster": True},
        }
        return queryset.filter(**found.get(self.value() or "", {}))


class ScheduleList(ChangeList):
    """A page of the list, with how long the last runs took."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the rows, and ask Dagster once for all of their last runs."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        pauses.Active().note(self.result_list)
        add_seconds(self.result_list)


def add_seconds(schedules: Iterable[ProcessTreeSchedule]) -> None:
    """Set ``last_seconds`` on schedules: how long the last run took, where Dagster can say so."""
    schedules = list(schedules)
    found = run_summaries.of_runs(each.last_run_id for each in schedules)
    for schedule in schedules:
        run = found.get(schedule.last_run_id)
        schedule.last_seconds = None if run is None else run.seconds  # type: ignore[attr-defined]
