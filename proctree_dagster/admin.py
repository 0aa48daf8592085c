"""Trees and schedules in Django's admin."""

from django.contrib import admin

from .models import ProcessTree, ProcessTreeSchedule


class ScheduleInline(admin.StackedInline):  # type: ignore[type-arg]  # generic in its stubs only
    """A tree's schedule on the tree's page."""

    model = ProcessTreeSchedule
    readonly_fields = ["next_run", "last_run", "claim"]


@admin.register(ProcessTree)
class ProcessTreeAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Trees; what is saved here is validated like everywhere else."""

    list_display = ["name", "job_name", "description", "updated_at"]
    search_fields = ["name", "description"]
    readonly_fields = ["job_name", "created_at", "updated_at"]
    inlines = [ScheduleInline]


@admin.register(ProcessTreeSchedule)
class ProcessTreeScheduleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Schedules, all in one list."""

    list_display = ["process_tree", "enabled", "interval_minutes", "start_time", "next_run"]
    list_filter = ["enabled"]
    list_select_related = ["process_tree"]
    readonly_fields = ["next_run", "last_run", "claim"]
