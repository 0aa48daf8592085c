"""Trees, schedules and triggers in Django's admin."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .models import (
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    Trigger,
    TriggerSubscription,
)

CLOCKWORK = ["next_run", "last_run", "last_run_status", "last_run_id", "claim", "held_back_by"]
"""What is shown of a schedule and written by nobody but the clock."""


class ScheduleInline(admin.StackedInline):  # type: ignore[type-arg]  # generic in its stubs only
    """A tree's schedule on the tree's page."""

    model = ProcessTreeSchedule
    readonly_fields = CLOCKWORK


class FollowersInline(admin.TabularInline):  # type: ignore[type-arg]
    """The trees that run because this one does, on the tree's page."""

    model = TreeLink
    fk_name = "source"
    autocomplete_fields = ["target"]
    extra = 0
    verbose_name = _("tree that follows")
    verbose_name_plural = _("trees that follow")


@admin.register(ProcessTree)
class ProcessTreeAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Trees; what is saved here is validated like everywhere else."""

    list_display = ["name", "job_name", "description", "executor", "updated_at"]
    search_fields = ["name", "description"]
    readonly_fields = ["job_name", "created_at", "updated_at"]
    inlines = [ScheduleInline, FollowersInline]


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


@admin.register(OutboxRun)
class OutboxRunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The outbox: to be looked at, and a row may be deleted whose run is not wanted any more."""

    list_display = ["process_tree", "run_id", "state", "reason", "attempts", "created_at"]
    list_filter = ["state"]
    list_select_related = ["process_tree"]
    search_fields = ["process_tree__name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: it is written by what asks for a run."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: OutboxRun | None = None) -> bool:
        """Nobody, for the same reason."""
        return False


class SubscriptionInline(admin.TabularInline):  # type: ignore[type-arg]
    """The trees that run when a trigger fires."""

    model = TriggerSubscription
    extra = 0
    autocomplete_fields = ["process_tree"]


class TriggerForm(forms.ModelForm):  # type: ignore[type-arg]
    """Says of a field that can't be read only that, not what is wrong with the value before."""

    def add_error(self, field: str | None, error: Any) -> None:
        """Add errors, but none to a field that has one already."""
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            new = {name: each for name, each in error.error_dict.items() if name not in self.errors}
            error = ValidationError(new)
        super().add_error(field, error)


@admin.register(Trigger)
class TriggerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Triggers; what is saved here is validated like everywhere else."""

    list_display = [
        *("name", "trigger_type", "enabled", "state"),
        *("last_triggered", "fire_count", "last_checked"),
    ]
    list_filter = ["trigger_type", "enabled", "state"]
    search_fields = ["name", "description"]
    form = TriggerForm
    readonly_fields = [
        *("state", "fire_count", "check_count"),
        *("last_triggered", "last_checked", "next_due"),
    ]
    inlines = [SubscriptionInline]
    actions = ["fire", "reset"]

    @admin.action(description=_("Fire the selected triggers"), permissions=["change"])
    def fire(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Let triggers fire, and name the runs."""
        from . import triggers  # with all that runs trees; the admin is loaded by every command

        for trigger in queryset:
            if not trigger.enabled:
                told = _("Not fired: %(name)s is disabled.") % {"name": trigger}
                self.message_user(request, told, messages.WARNING)
                continue
            runs = triggers.fire_trigger(trigger)
            if not runs:
                told = _("Fired %(name)s. No tree subscribes to it.") % {"name": trigger}
                self.message_user(request, told, messages.WARNING)
                continue
            listed = ", ".join(f"{run.tree} ({run.run_id})" for run in runs)
            told = _("Fired %(name)s. Runs: %(runs)s") % {"name": trigger, "runs": listed}
            self.message_user(request, told, messages.SUCCESS)

    @admin.action(description=_("Arm the selected triggers again"), permissions=["change"])
    def reset(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Arm triggers again."""
        from . import triggers

        for trigger in queryset:
            triggers.reset_trigger(trigger)
            told = _("Armed %(name)s again.") % {"name": trigger}
            self.message_user(request, told, messages.SUCCESS)
