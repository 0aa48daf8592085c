"""Triggers, and the trees that subscribe to them."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from ..context import tagging
from ..models import Trigger, TriggerSubscription, TriggerType
from .forms import TriggerForm
from .permissions import FIRE, NAME_FUNCTIONS, NeedsRunPermission


class SubscriptionInline(NeedsRunPermission, admin.TabularInline):  # type: ignore[type-arg]
    """The trees that run when a trigger fires."""

    model = TriggerSubscription
    extra = 0
    autocomplete_fields = ["process_tree"]


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
        from .. import triggers  # it imports all that runs trees, and every command loads the admin

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
        from .. import triggers

        for trigger in queryset:
            triggers.reset_trigger(trigger)
            told = _("Armed %(name)s again.") % {"name": trigger}
            self.message_user(request, told, messages.SUCCESS)
