"""Trees and schedules in Django's admin."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from .models import ProcessTree, ProcessTreeSchedule

CLOCKWORK = ["next_run", "last_run", "last_run_status", "last_run_id", "claim", "held_back_by"]
"""What is shown of a schedule and written by nobody but the clock."""


class ScheduleInline(admin.StackedInline):  # type: ignore[type-arg]  # generic in its stubs only
    """A tree's schedule on the tree's page."""

    model = ProcessTreeSchedule
    readonly_fields = CLOCKWORK


@admin.register(ProcessTree)
class ProcessTreeAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Trees; what is saved here is validated like everywhere else."""

    list_display = ["name", "job_name", "description", "executor", "updated_at"]
    search_fields = ["name", "description"]
    readonly_fields = ["job_name", "created_at", "updated_at"]
    inlines = [ScheduleInline]


@admin.register(ProcessTreeSchedule)
class ProcessTreeScheduleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Schedules, all in one list."""

    list_display = [
        *("process_tree", "rule", "enabled", "held_back_by"),
        *("next_run", "last_run", "last_run_status", "last_run_id"),
    ]
    list_filter = ["enabled", "stopped_in_dagster", "last_run_status"]
    list_select_related = ["process_tree"]
    readonly_fields = CLOCKWORK

    @admin.display(description=_("rule"))
    def rule(self, schedule: ProcessTreeSchedule) -> str:
        """When it asks for runs."""
        return schedule.rule_in_words
