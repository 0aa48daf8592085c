"""Schedules: all in one list, and one on its tree's page."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from ..models import ProcessTreeSchedule
from .forms import AddedForm, ScheduleForm
from .permissions import NeedsRunPermission

CLOCK_FIELDS = ["next_run", "last_run", "last_run_status", "last_run_id", "claim", "held_back_by"]
"""Clock fields of a schedule, which are shown read-only."""


class ScheduleInline(NeedsRunPermission, admin.StackedInline):  # type: ignore[type-arg]
    """A tree's schedule on the tree's page; a missing one is added with a click."""

    model = ProcessTreeSchedule
    form = AddedForm
    readonly_fields = CLOCK_FIELDS
    extra = 0


@admin.register(ProcessTreeSchedule)
class ProcessTreeScheduleAdmin(NeedsRunPermission, admin.ModelAdmin):  # type: ignore[type-arg]
    """Schedules, all in one list."""

    list_display = [
        *("process_tree", "rule", "enabled", "held_back_by"),
        *("next_run", "last_run", "last_run_status", "last_run_id"),
    ]
    list_filter = ["enabled", "stopped_in_dagster", "last_run_status"]
    list_select_related = ["process_tree"]
    form = ScheduleForm
    readonly_fields = CLOCK_FIELDS

    @admin.display(description=_("rule"))
    def rule(self, schedule: ProcessTreeSchedule) -> str:
        """When it asks for runs."""
        return schedule.rule_in_words
