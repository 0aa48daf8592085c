"""Triggers, the trees that subscribe to them, and whom they started."""

import datetime as dt
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminTextareaWidget
from django.db import models
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..context import tagging
from ..domain import run_tags as tags
from ..models import OutboxRun, Trigger, TriggerState, TriggerSubscription, TriggerType
from . import meanwhile, run_summaries
from .deeds import ActionForm, ButtonsOnPage, Deeds, switch, token_of
from .forms import JSON_FIELDS, SubscriptionForm, TreeSelect, TriggerForm
from .html import badge, duration, json_text, labelled, moment, row_link, run_link, status_badge
from .meanwhile import TellsWhatStays
from .outbox import state_badge
from .permissions import FIRE, NAME_FUNCTIONS, HidesJson, NeedsRunPermission

if TYPE_CHECKING:
    from ..domain.runs import RunSummary

EXAMPLES: Mapping[str, tuple[tuple[Any, Any], ...]] = {
    TriggerType.EVENT: ((_("Fired by hand or by code; it takes nothing."), {}),),
    TriggerType.CONDITION: (
        (
            _("Fires when the number of a model's rows comes to fulfil it."),
            {
                "model": "ledger.Invoice",
                "filter": {"paid": False},
                "operator": "gte",
                "value": 10,
                "poll_seconds": 60,
            },
        ),
        (
            _("For a process that waits for it: a value of its context, or a result."),
            {"field": "fetch.total", "operator": "gt", "value": 0},
        ),
    ),
    TriggerType.SCHEDULE: (
        (
            _("Fires every so many minutes."),
            {"interval_minutes": 60, "start_time": "09:00", "timezone": "Europe/London"},
        ),
        (_("Fires by a cron."), {"cron": "0 9 * * 1-5"}),
    ),
    TriggerType.CUSTOM: (
        (
            _("Fires when a function comes to return something true."),
            {"function": "ledger.checks:is_month_closed", "poll_seconds": 300},
        ),
    ),
    TriggerType.OUTDATED_CHECK: (
        (
            _("Fires when the newest date of a model's rows comes to be older."),
            {"model": "ledger.Invoice", "date_field": "updated_at", "max_age_minutes": 1440},
        ),
    ),
}
"""What a configuration is like, by the type of the trigger: what it does, and its JSON."""

STATES: Mapping[str, str] = {
    TriggerState.PENDING: "not_started",
    TriggerState.FIRED: "success",
    TriggerState.RESET: "not_started",
}
"""The colours of a trigger's states."""

RUNS_SHOWN = 30
"""How many of the runs that it started last a trigger's page shows."""

FOLLOWERS_SHOWN = 100
"""How many of the runs that followed those."""

TOGETHER = dt.timedelta(seconds=1)
"""The runs of one fire are recorded within one transaction, so one soon after the other."""


class SubscriptionInline(NeedsRunPermission, admin.StackedInline):  # type: ignore[type-arg]
    """The trees that run when a trigger fires."""

    model = TriggerSubscription
    form = SubscriptionForm
    formfield_overrides = JSON_FIELDS
    extra = 0
    readonly_fields = ["readable_context"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Let a tree be chosen by a part of its name."""
        if db_field.name == "process_tree":
            kwargs["widget"] = TreeSelect(db_field, self.admin_site)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return subscriptions with their trees, in one query."""
        return super().get_queryset(request).select_related("process_tree", "trigger")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields; to those who may only view them, without secrets."""
        may_write = self.has_change_permission(request, obj)
        context = ["context", meanwhile.SHOWN] if may_write else ["readable_context"]
        return [("process_tree", "enabled"), *context, "tags"]

    @admin.display(description=_("context"))
    def readable_context(self, subscription: TriggerSubscription) -> SafeString | str:
        """Return its context without secrets."""
        return json_text(subscription.context)


@dataclass
class Fire:
    """One fire of a trigger, and whom it started."""

    at: dt.datetime
    by: str
    """The user who fired it; blank: it was polled."""

    runs: list[OutboxRun] = field(default_factory=list)


def _run_ids(request: HttpRequest, trigger: Trigger) -> dict[int, uuid.UUID]:
    """Return the ids of the runs that a click starts, by the keys of the trees; blank without one.

    A second click on the same button starts no others.
    """
    token = token_of(request)
    if token is None:
        return {}
    trees = trigger.subscriptions.values_list("process_tree", flat=True)
    return {tree: uuid.uuid5(token, f"{trigger.pk} {tree}") for tree in trees}


def last_fires(trigger: Trigger) -> list[Fire]:
    """Return the last fires of a trigger that started runs, the oldest first.

    They are those of which the outbox has a record: for ``run_outbox.RETENTION``.
    """
    started = OutboxRun.objects.filter(**{f"tags__{tags.TRIGGER}": trigger.name})
    rows = started.select_related("process_tree").defer("context", "process_tree__processes")
    return _in_fires(reversed(rows.order_by("-pk")[:RUNS_SHOWN]))


def _in_fires(rows: Iterable[OutboxRun]) -> list[Fire]:
    """Return rows, the oldest first, by the fires that wrote them.

    A fire writes one row for each tree, all in one transaction.
    """
    fires: list[Fire] = []
    for row in rows:
        by = row.tags.get(tags.USER, "")
        last = fires[-1] if fires else None
        if (
            last is None
            or last.by != by
            or row.created_at - last.runs[-1].created_at > TOGETHER
            or row.process_tree_id in {each.process_tree_id for each in last.runs}
        ):
            last = Fire(row.created_at, by)
            fires.append(last)
        last.runs.append(row)
    return fires


def fires_table(fires: list[Fire], site: str) -> SafeString:
    """Return fires as a table: when, by whom, and each run with those that followed it."""
    runs = [run for each in fires for run in each.runs]
    followers: dict[str, list[OutboxRun]] = {}
    of_families = OutboxRun.objects.filter(family__in=[str(run.run_id) for run in runs])
    for row in of_families.select_related("process_tree").defer("context")[:FOLLOWERS_SHOWN]:
        followers.setdefault(row.family, []).append(row)
    everything = [*runs, *(row for rows in followers.values() for row in rows)]
    known = run_summaries.of_runs(str(run.run_id) for run in everything)

    def item(run: OutboxRun) -> SafeString:
        later = format_html_join(
            "", "<li>{}</li>", ((item(each),) for each in followers.get(str(run.run_id), ()))
        )
        return format_html(
            "{}{}",
            run_in_words(run, known.get(str(run.run_id)), site),
            format_html('<ul class="pt-runs">{}</ul>', later) if later else "",
        )

    rows = (
        (
            moment(each.at),
            each.by or gettext("a poll"),
            format_html_join("", "<li>{}</li>", ((item(run),) for run in each.runs)),
        )
        for each in reversed(fires)
    )
    return format_html(
        '<table class="pt-table"><thead><tr><th scope="col">{}</th><th scope="col">{}</th>'
        '<th scope="col">{}</th></tr></thead><tbody>{}</tbody></table>',
        gettext("fired"),
        gettext("by"),
        gettext("started"),
        format_html_join(
            "", '<tr><td>{}</td><td>{}</td><td><ul class="pt-runs">{}</ul></td></tr>', rows
        ),
    )


def run_in_words(run: OutboxRun, known: "RunSummary | None", site: str) -> SafeString:
    """Return a run of the outbox: its tree, its status, a link to it, how long it took."""
    parts = (
        row_link(run.process_tree, site=site),
        state_badge(run) if known is None else status_badge(known.status),
        run_link(str(run.run_id), site=site),
        duration(None if known is None else known.seconds),
        run.reason,
    )
    return format_html_join(" ", "{}", ((part,) for part in parts if part))


@admin.register(Trigger)
class TriggerAdmin(ButtonsOnPage, HidesJson, TellsWhatStays, admin.ModelAdmin):  # type: ignore[type-arg]
    """Triggers; what is saved here is validated like everywhere else."""

    list_display = ["name", "kind", "shown_state", "last_fire", "poll", "trees"]
    list_filter = ["trigger_type", "enabled", "state"]
    search_fields = ["name", "description"]
    form = TriggerForm
    formfield_overrides = {
        **JSON_FIELDS,
        models.TextField: {"widget": AdminTextareaWidget(attrs={"rows": 3})},
    }
    readonly_fields = [
        *("shown_state", "last_fire", "poll", "next_due", "check_count"),
        *("examples", "readable_configuration", "fires"),
    ]
    inlines = [SubscriptionInline]
    actions = ["fire", "reset", "enable", "disable"]
    action_form = ActionForm
    buttons = {
        **{"fire": _("Fire"), "reset": _("Arm again")},
        **{"enable": _("Enable"), "disable": _("Disable")},
    }

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return triggers, with how many trees subscribe to each."""
        is_on = Q(subscriptions__enabled=True)
        rows: Any = super().get_queryset(request)
        found: QuerySet[Any] = rows.annotate(trees=Count("subscriptions", filter=is_on))
        return found

    def get_fieldsets(self, request: HttpRequest, obj: Trigger | None = None) -> Any:
        """Return the fields in groups; to those who may only view them, without secrets."""
        may_write = obj is None or self.has_change_permission(request, obj)
        asks = ["configuration", "examples"] if may_write else ["readable_configuration"]
        shown = [meanwhile.SHOWN] if may_write and obj is not None else []
        groups: list[tuple[Any, dict[str, Any]]] = [
            (None, {"fields": ["name", "description", "enabled", *shown]}),
            (_("What makes it fire"), {"fields": ["trigger_type", *asks]}),
        ]
        if obj is not None:
            state = ["shown_state", "next_due", "last_fire", "poll", "check_count", "fires"]
            groups.append((_("What it did"), {"fields": state}))
        return groups

    # Who may do what

    def has_fire_permission(self, request: HttpRequest, obj: Trigger | None = None) -> bool:
        """Return whether the user may fire this trigger, which is no permission to change it.

        Without one, triggers in general. It suffices for the trees that subscribe, too: who lets
        a tree subscribe needs the permission to run it, and so agrees to every fire.
        """
        user = request.user
        return user.has_perm(FIRE) or (obj is not None and user.has_perm(FIRE, obj))

    def has_switch_permission(self, request: HttpRequest, obj: Trigger | None = None) -> bool:
        """Return whether the user may enable and disable: change it, and say when it fires."""
        may_change = self.has_change_permission(request, obj)
        return may_change and self.has_fire_permission(request, obj)

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
        if not self.has_fire_permission(request, obj):
            readonly += ["name", "trigger_type", "configuration", "enabled"]
        return list(dict.fromkeys(readonly))

    # What is shown

    @admin.display(description=_("type"), ordering="trigger_type")
    def kind(self, trigger: Trigger) -> SafeString | str:
        """Return its type."""
        return labelled(gettext("type"), trigger.get_trigger_type_display())

    @admin.display(description=_("state"), ordering="state")
    def shown_state(self, trigger: Trigger) -> SafeString | str:
        """Return its state, and that it is disabled."""
        state = badge(trigger.get_state_display(), STATES.get(trigger.state, "neutral"))
        off = "" if trigger.enabled else badge(gettext("disabled"), "canceling")
        return labelled(gettext("state"), format_html("{} {}", state, off))

    @admin.display(description=_("last fired"), ordering="last_triggered")
    def last_fire(self, trigger: Trigger) -> SafeString | str:
        """Return when it fired last, and how often it has fired."""
        if trigger.last_triggered is None:
            return labelled(gettext("last fired"), gettext("never"))
        count = gettext("%(count)d in all") % {"count": trigger.fire_count}
        at = moment(trigger.last_triggered, seconds=False)
        return labelled(gettext("last fired"), format_html("{} ({})", at, count))

    @admin.display(description=_("last polled"), ordering="last_checked")
    def poll(self, trigger: Trigger) -> SafeString | str:
        """Return when it was polled last."""
        told = moment(trigger.last_checked, seconds=False) or (
            gettext("never") if trigger.is_polled else gettext("it is not polled")
        )
        return labelled(gettext("last polled"), told)

    @admin.display(description=_("trees"), ordering="trees")
    def trees(self, trigger: Trigger) -> SafeString | str:
        """Return how many trees run when it fires."""
        return labelled(gettext("trees"), str(getattr(trigger, "trees", "")))

    @admin.display(description=_("configuration"))
    def readable_configuration(self, trigger: Trigger) -> SafeString | str:
        """Return its configuration without secrets."""
        return json_text(trigger.configuration)

    @admin.display(description=_("examples"))
    def examples(self, trigger: Trigger) -> SafeString:
        """Return what the configuration is like, for each type."""
        return format_html_join(
            "",
            '<div class="pt-example pt-example--{}"><strong>{}</strong>: {}<pre>{}</pre></div>',
            (
                (kind, TriggerType(kind).label, said, json.dumps(configuration))
                for kind, found in EXAMPLES.items()
                for said, configuration in found
            ),
        )

    @admin.display(description=_("last fires"))
    def fires(self, trigger: Trigger) -> SafeString | str:
        """Return its last fires, who fired it, and whom that started."""
        fires = last_fires(trigger)
        if not fires:
            return gettext("None that started a tree, of those that are remembered.")
        return fires_table(fires, self.admin_site.name)

    # What people do

    def offers(self, action: str, row: Trigger) -> bool:
        """Return whether an action is of use for a trigger in its state."""
        useful = {
            "fire": row.enabled,
            "reset": row.state == TriggerState.FIRED,
            "enable": not row.enabled,
            "disable": row.enabled,
        }
        return useful[action]

    @admin.action(description=_("Fire the selected triggers"), permissions=["fire"])
    def fire(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Fire triggers, and list the runs; a thread hands them to Dagster."""
        for trigger in queryset:
            if not self.has_fire_permission(request, trigger):
                self._tell(
                    request, messages.WARNING, gettext("Not fired: you may not fire {}."), trigger
                )
            elif not trigger.enabled:
                self._tell(
                    request, messages.WARNING, gettext("Not fired: {} is disabled."), trigger
                )
            else:
                self._fire(request, trigger)

    def _fire(self, request: HttpRequest, trigger: Trigger) -> None:
        from .. import triggers  # it imports all that runs trees, and every command loads the admin

        by, run_ids = tagging.by_user(request.user.get_username()), _run_ids(request, trigger)
        if OutboxRun.objects.filter(run_id__in=run_ids.values()).exists():
            told = gettext("Not fired: {} was fired already, by the same click.")
            self._tell(request, messages.WARNING, told, trigger)
            return
        runs = triggers.fire_row(trigger, {}, by, wait=False, run_ids=run_ids)
        if not runs and not Trigger.objects.filter(pk=trigger.pk, enabled=True).exists():
            told = gettext("Not fired: {} was disabled or deleted meanwhile.")
            self._tell(request, messages.WARNING, told, trigger)
            return
        listed = ", ".join(f"{run.tree} ({run.run_id})" for run in runs)
        self.log_change(
            request, trigger, gettext("Fired. Runs: %(runs)s") % {"runs": listed or "-"}
        )
        if runs:
            self._tell(request, messages.SUCCESS, gettext("Fired {}. Runs: {}"), trigger, listed)
        else:
            told = gettext("Fired {}. No tree subscribes to it.")
            self._tell(request, messages.WARNING, told, trigger)

    def _tell(self, request: HttpRequest, level: int, sentence: str, *values: Any) -> None:
        self.message_user(request, sentence.format(*values), level)

    @admin.action(description=_("Arm the selected triggers again"), permissions=["fire"])
    def reset(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Arm triggers again."""
        from .. import triggers

        for trigger in queryset:
            if not self.has_fire_permission(request, trigger):
                self._tell(
                    request, messages.WARNING, gettext("Not armed: you may not fire {}."), trigger
                )
                continue
            triggers.reset_trigger(trigger)
            self.log_change(request, trigger, gettext("Armed again."))
            self._tell(request, messages.SUCCESS, gettext("Armed {} again."), trigger)

    @admin.action(description=_("Enable the selected triggers"), permissions=["switch"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Switch triggers on; one that is true by then fires."""
        deeds = self._switch_all(request, queryset, on=True)
        deeds.report(gettext("Enabled: {names}."), gettext("Not enabled: {names}. {why}"))

    @admin.action(description=_("Disable the selected triggers"), permissions=["switch"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Trigger]) -> None:
        """Switch triggers off: they do not fire, and processes that wait for them are skipped."""
        deeds = self._switch_all(request, queryset, on=False)
        deeds.report(
            gettext("Disabled: {names}. Processes that wait for it are skipped."),
            gettext("Not disabled: {names}. {why}"),
        )

    def _switch_all(self, request: HttpRequest, queryset: QuerySet[Trigger], *, on: bool) -> Deeds:
        deeds = Deeds(self, request)
        for trigger in queryset:
            problem = self._switch_problem(request, trigger, on) or switch(
                trigger, on, "updated_at"
            )
            if problem is None:
                log = gettext("Enabled.") if on else gettext("Disabled.")
                deeds.done(trigger, trigger.name, log)
            else:
                deeds.not_done(trigger.name, problem)
        return deeds

    def _switch_problem(self, request: HttpRequest, trigger: Trigger, on: bool) -> str | None:
        """Return why a trigger is not to be switched; ``None`` if it is."""
        if trigger.enabled == on:
            return gettext("It is enabled already.") if on else gettext("It is disabled already.")
        if not self.has_switch_permission(request, trigger):
            return gettext("You may not change it, or not fire it.")
        return None
