"""Trees, schedules and triggers in Django's admin."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .context import tagging
from .models import (
    OutboxRun,
    ProcessTree,
    ProcessTreeSchedule,
    TreeLink,
    Trigger,
    TriggerSubscription,
    TriggerType,
)

CLOCK_FIELDS = ["next_run", "last_run", "last_run_status", "last_run_id", "claim", "held_back_by"]
"""Clock fields of a schedule, which are shown read-only."""


RUN = "proctree_dagster.run_processtree"
"""The permission to run trees, also by schedules, subscriptions and links."""

NAME_FUNCTIONS = "proctree_dagster.name_functions"
"""The permission to name functions: in trees and their processes, and in ``custom`` triggers."""

FIRE = "proctree_dagster.fire_trigger"
"""The permission to fire triggers, and to set when they fire by themselves."""


class NeedsRunPermission:
    """Rows that make trees run: writing them requires the permission to run trees, too."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Return whether the user may add them, and run trees."""
        added: bool = super().has_add_permission(request, *args)  # type: ignore[misc]
        return added and request.user.has_perm(RUN)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may change them, and run trees; others may view them."""
        changed: bool = super().has_change_permission(request, obj)  # type: ignore[misc]
        return changed and request.user.has_perm(RUN)


class Form(forms.ModelForm):  # type: ignore[type-arg]
    """Shows the errors of read-only fields, too."""

    def add_error(self, field: str | None, error: Any) -> None:
        """Add errors; for fields that the form lacks, to the form itself."""
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            known: dict[str, list[Any]] = {}
            for name, each in error.error_dict.items():
                known.setdefault(name if name in self.fields else NON_FIELD_ERRORS, []).extend(each)
            error = ValidationError(known)
        super().add_error(field, error)


class ScheduleForm(Form):
    """Refuses a context with which no run could succeed, or with a key that nothing takes."""

    def clean(self) -> dict[str, Any] | None:
        """Compare the context with what the tree's functions take, if either has changed.

        A schedule whose context became invalid with a change of the code can still be disabled.
        """
        cleaned = super().clean() or {}
        changed = {"process_tree", "context", "pass_scheduled_for"} & {*self.changed_data}
        tree, context = cleaned.get("process_tree"), cleaned.get("context")
        if isinstance(context, Mapping) and tree and (changed or self.instance._state.adding):
            passes = bool(cleaned.get("pass_scheduled_for"))
            schedule = ProcessTreeSchedule(
                process_tree=tree, context=context, pass_scheduled_for=passes
            )
            if problems := schedule.context_problems():
                self.add_error("context", ValidationError(problems))
        return cleaned


class AddedForm(ScheduleForm):
    """A form that was added to a page is saved as it is shown, even if unchanged."""

    def has_changed(self) -> bool:
        """Whether there is anything to save."""
        return super().has_changed() or self.instance._state.adding


class ScheduleInline(NeedsRunPermission, admin.StackedInline):  # type: ignore[type-arg]
    """A tree's schedule on the tree's page; a missing one is added with a click."""

    model = ProcessTreeSchedule
    form = AddedForm
    readonly_fields = CLOCK_FIELDS
    extra = 0


class FollowersInline(NeedsRunPermission, admin.TabularInline):  # type: ignore[type-arg]
    """The followers of a tree, on the tree's page."""

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
    form = Form
    readonly_fields = ["job_name", "created_at", "updated_at"]
    inlines = [ScheduleInline, FollowersInline]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may add trees and name functions, of which a tree consists."""
        return super().has_add_permission(request) and request.user.has_perm(NAME_FUNCTIONS)

    def get_readonly_fields(
        self, request: HttpRequest, obj: ProcessTree | None = None
    ) -> list[str] | tuple[Any, ...]:
        """Return the read-only fields; for users who may not name functions, those that name code.

        A tree's name is one of them, as commands and ``execute_tree()`` run the tree of a name.
        """
        names_code = ["name", "processes", "executor"]
        may_name = request.user.has_perm(NAME_FUNCTIONS)
        return [*super().get_readonly_fields(request, obj), *([] if may_name else names_code)]


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


@admin.register(OutboxRun)
class OutboxRunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The outbox: read-only, but a row can be deleted to withdraw its run."""

    list_display = ["process_tree", "run_id", "state", "reason", "attempts", "created_at"]
    list_filter = ["state"]
    list_select_related = ["process_tree"]
    search_fields = ["process_tree__name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: the code that requests a run writes the row."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: OutboxRun | None = None) -> bool:
        """Return False, for the same reason."""
        return False


class SubscriptionInline(NeedsRunPermission, admin.TabularInline):  # type: ignore[type-arg]
    """The trees that run when a trigger fires."""

    model = TriggerSubscription
    extra = 0
    autocomplete_fields = ["process_tree"]


class TriggerForm(Form):
    """Shows one error for a field that can't be parsed, and none for its previous value."""

    def add_error(self, field: str | None, error: Any) -> None:
        """Add errors, but none to a field that has one already."""
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            new = {name: each for name, each in error.error_dict.items() if name not in self.errors}
            error = ValidationError(new)
        super().add_error(field, error)

    may_name_functions = False
    """Whether the user has the permission to name functions."""

    def clean(self) -> dict[str, Any] | None:
        """Refuse a function that is named without the permission to do so."""
        cleaned = super().clean()
        is_custom = (cleaned or {}).get("trigger_type") == TriggerType.CUSTOM
        if is_custom and not self.may_name_functions:
            raise ValidationError(
                {"trigger_type": _("To name a function needs the permission to name functions.")}
            )
        return cleaned


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

    def has_fire_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may fire triggers, which is not the permission to change them."""
        return request.user.has_perm(FIRE)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may add and fire triggers: processes wait for them by name."""
        return super().has_add_permission(request) and request.user.has_perm(FIRE)

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return the form, with whether the user may name functions in it."""
        form: Any = super().get_form(request, *args, **kwargs)
        form.may_name_functions = request.user.has_perm(NAME_FUNCTIONS)
        return form

    def get_readonly_fields(
        self, request: HttpRequest, obj: Trigger | None = None
    ) -> list[str] | tuple[Any, ...]:
        """Return the read-only fields; for users who may not fire it, those that make it fire."""
        readonly = list(super().get_readonly_fields(request, obj))
        if obj is None:
            return readonly
        is_custom = obj.trigger_type == TriggerType.CUSTOM
        if is_custom and not request.user.has_perm(NAME_FUNCTIONS):
            readonly += ["trigger_type", "configuration"]
        if not request.user.has_perm(FIRE):
            readonly += ["name", "trigger_type", "configuration", "enabled"]
        return list(dict.fromkeys(readonly))

    @admin.action(description=_("Fire the selected triggers"), permissions=["fire"])
    def fire(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Fire triggers, and list the runs."""
        from . import triggers  # it imports all that runs trees, and every command loads the admin

        by = tagging.by_user(request.user.get_username())
        for trigger in queryset:
            if not trigger.enabled:
                told = _("Not fired: %(name)s is disabled.") % {"name": trigger}
                self.message_user(request, told, messages.WARNING)
                continue
            runs = triggers.fire_trigger(trigger, tags=by)
            if not runs:
                told = _("Fired %(name)s. No tree subscribes to it.") % {"name": trigger}
                self.message_user(request, told, messages.WARNING)
                continue
            listed = ", ".join(f"{run.tree} ({run.run_id})" for run in runs)
            told = _("Fired %(name)s. Runs: %(runs)s") % {"name": trigger, "runs": listed}
            self.message_user(request, told, messages.SUCCESS)

    @admin.action(description=_("Arm the selected triggers again"), permissions=["fire"])
    def reset(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Arm triggers again."""
        from . import triggers

        for trigger in queryset:
            triggers.reset_trigger(trigger)
            told = _("Armed %(name)s again.") % {"name": trigger}
            self.message_user(request, told, messages.SUCCESS)
