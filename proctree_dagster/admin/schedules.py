"""Schedules: all in one list, and those of a tree on the tree's page."""

from collections.abc import Mapping
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.autocomplete import AutocompleteJsonView
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ObjectDoesNotExist
from django.db import IntegrityError
from django.db.models import QuerySet
from django.forms import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..exceptions import ScheduleError
from ..models import ProcessTree, ProcessTreeSchedule, default_schedules
from ..models.context_schema import ContextKey
from . import meanwhile
from . import pauses as pauses_shown
from .deeds import ActionForm, ButtonsOnPage, Deeds, switch
from .forms import JSON_FIELDS, AddedForm, ScheduleForm, TreeSelect
from .html import (
    badge,
    duration,
    json_text,
    labelled,
    moment,
    next_run,
    page_address,
    row_link,
    run_link,
    status_badge,
)
from .meanwhile import TellsWhatStays
from .permissions import NAME_FUNCTIONS, HidesJson, NeedsRunPermission
from .run_asking import request_runs
from .schedule_list import HeldBackFilter, OverdueFilter, RuleFilter, ScheduleList, add_seconds

DUE_TIMES = 5
"""How many of the next due times are shown."""

RULE = (
    *("rule_kind", ("interval_minutes", "start_time"), "cron", "timezone"),
    *(("business_days", "calendar"), ("start_date", "end_date")),
)
"""The fields that set when a schedule is due."""


FOR_EACH = ("for_each", ("for_each_as", "order_by", "spread_minutes"))
"""The fields of a run for each row."""


class ShowsSchedules(NeedsRunPermission):
    """What a schedule's own page, and its part of the tree's page, show of it."""

    admin_site: Any

    formfield_overrides: Any = JSON_FIELDS
    readonly_fields: Any = (
        *("rule", "due_times", "last", "held_back"),
        *("taken_keys", "readable_context", "for_each_text"),
    )

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return a page's form, with whether the user may name functions in it."""
        form: Any = super().get_form(request, *args, **kwargs)
        form.may_name_functions = request.user.has_perm(NAME_FUNCTIONS)
        return form

    def groups(self, may_write: bool, is_new: bool) -> list[tuple[Any, dict[str, Any]]]:
        """Return the fields in groups; to those who may only view them, without secrets."""
        rule: tuple[Any, ...] = RULE if may_write else ("rule",)
        context = ("taken_keys", "context") if may_write else ("readable_context",)
        done = () if is_new else ("due_times", "last", "held_back")
        shown = (meanwhile.SHOWN,) if may_write and not is_new else ()
        return [
            (None, {"fields": ("name", "enabled", *shown)}),
            (_("When it is due"), {"fields": (*rule, *done)}),
            (
                _("Its runs"),
                {
                    "fields": (
                        *(*context, "tags", "pass_scheduled_for", "allow_overlap"),
                        "not_after_minutes",
                    )
                },
            ),
            (
                _("A run for each row"),
                {
                    "fields": FOR_EACH if may_write else ("for_each_text",),
                    "classes": ("collapse",),
                },
            ),
        ]

    @admin.display(description=_("rule"), ordering="interval_minutes")
    def rule(self, schedule: ProcessTreeSchedule) -> str:
        """Return when it is due, in words."""
        return labelled(gettext("rule"), schedule.rule_in_words)

    @admin.display(description=_("next due times"))
    def due_times(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return its next due times in the site's zone, and in its own if that is another one."""
        if schedule.pk is None:
            return ""
        try:
            found = schedule.next_due_times(DUE_TIMES, timezone.now())
        except ScheduleError as error:
            return str(error)
        if schedule.has_ended:
            return next_run(schedule)
        zone = schedule.rule.zone
        is_local = str(zone) == timezone.get_current_timezone_name()
        items = (
            (
                moment(at, seconds=False),
                "" if is_local else f" ({at.astimezone(zone):%H:%M} {zone})",
            )
            for at in found
        )
        listed = format_html(
            '<ol class="pt-times">{}</ol>', format_html_join("", "<li>{}{}</li>", items)
        )
        if not schedule.enabled:
            return format_html("{}{}", gettext("Not enabled: these are skipped."), listed)
        return listed

    @admin.display(description=_("last run"), ordering="last_run")
    def last(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return the last scheduled run: its status, its time, its duration, and a link to it."""
        if schedule.claim is not None:
            found: SafeString | str = format_html(
                "{} {}", status_badge("requested"), moment(schedule.claim, seconds=False)
            )
            return labelled(gettext("last run"), found)
        seconds = getattr(schedule, "last_seconds", None)
        parts = (
            status_badge(schedule.last_run_status),
            moment(schedule.last_run, seconds=False),
            duration(seconds),
            run_link(schedule.last_run_id, site=self.admin_site.name),
        )
        shown = format_html_join(" ", "{}", ((part,) for part in parts if part))
        return labelled(gettext("last run"), shown)

    @admin.display(description=_("held back by"), ordering="enabled")
    def held_back(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return what keeps it from running, and what was dropped last."""
        holders = badge(schedule.held_back_by, "canceling")
        found = schedule.active_pauses() if schedule.pk is not None else []
        dropped = format_html("<div>{}</div>", schedule.dropped_why) if schedule.dropped_why else ""
        shown = format_html("{}{}{}", holders, pauses_shown.lines(found), dropped)
        return labelled(gettext("held back by"), shown)

    @admin.display(description=_("for each"))
    def for_each_text(self, schedule: ProcessTreeSchedule) -> str:
        """Return what it has a run for each of, in words."""
        return schedule.for_each_in_words

    @admin.display(description=_("context"))
    def readable_context(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return its context without secrets, for those who may not change it."""
        return json_text(schedule.context)

    @admin.display(description=_("its functions take"))
    def taken_keys(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return the keys that the tree's functions take from the context."""
        try:
            keys = schedule.process_tree.context_schema.keys.values()
        except ObjectDoesNotExist:  # no tree has been chosen yet
            return ""
        said = format_html_join("", "<div>{}</div>", ((key_in_words(key),) for key in keys))
        return said or gettext("nothing")


def key_in_words(key: ContextKey) -> SafeString:
    """Return a key of a context: its name, its type, its default, what it is for."""
    notes = [
        key.type_text,
        gettext("required") if key.required else "",
        gettext("default: %(value)s") % {"value": key.default_text} if key.default_text else "",
        key.description,
    ]
    said = "; ".join(note for note in notes if note)
    return format_html("<code>{}</code>{}", key.name, f": {said}" if said else "")


# A tree's page


class ScheduleFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """A tree's schedules, which say what does not count of what was typed."""

    request: HttpRequest

    @classmethod
    def get_default_prefix(cls) -> str:
        """Return what the names of the fields begin with."""
        return "schedule"

    def save(self, commit: bool = True) -> Any:
        """Save them."""
        saved = super().save(commit)
        for form in self.forms:
            tell_ignored(self.request, form)
        return saved


def tell_ignored(request: HttpRequest, form: Any) -> None:
    """Show what does not count of what was typed into a schedule's form, and that it has ended."""
    if form.instance.has_ended and form.has_changed():
        told = gettext("%(schedule)s: nothing is due until its end date, %(date)s.")
        date = form.instance.end_date
        messages.warning(request, told % {"schedule": form.instance.title, "date": date})
    for sentence in getattr(form, "ignored", ()):
        messages.warning(request, sentence)


class ScheduleInline(ShowsSchedules, admin.StackedInline):  # type: ignore[type-arg]
    """A tree's schedules on the tree's page; another one is added with a click."""

    model = ProcessTreeSchedule
    form = AddedForm
    formset = ScheduleFormSet
    extra = 0

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """Return the formset, with the request, to which it adds messages."""
        formset: Any = super().get_formset(request, obj, **kwargs)
        formset.request = request
        formset.form.may_name_functions = request.user.has_perm(NAME_FUNCTIONS)
        return formset

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields in groups."""
        may_write = self.has_change_permission(request, obj)
        return self.groups(may_write, is_new=obj is None or not obj.schedules.exists())


# The list


class TreesToSchedule(AutocompleteJsonView):
    """The trees that may be given a schedule, for the box in which one is chosen."""

    may_add = False

    def has_perm(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may add schedules."""
        return self.may_add

    def get_queryset(self) -> QuerySet[Any]:
        """Return the trees; of another model there are none."""
        found: QuerySet[Any] = super().get_queryset()
        return found if found.model is ProcessTree else found.none()


class ChooseTree(TreeSelect):
    """The box in which the tree of a new schedule is chosen."""

    url_name = "%s:proctree_dagster_processtreeschedule_trees"


@admin.register(ProcessTreeSchedule)
class ProcessTreeScheduleAdmin(
    ButtonsOnPage,
    ShowsSchedules,
    HidesJson,
    TellsWhatStays,
    admin.ModelAdmin,  # type: ignore[type-arg]
):
    """Schedules, all in one list."""

    list_display = ["tree", "called", "rule", "next", "last", "held_back"]
    list_display_links = ["rule"]
    list_filter = ["enabled", RuleFilter, "last_run_status", OverdueFilter, HeldBackFilter]
    list_select_related = ["process_tree"]
    search_fields = ["process_tree__name", "name"]
    form = ScheduleForm
    actions = ["run_now", "enable", "disable"]
    action_form = ActionForm
    buttons = {"run_now": _("Run now"), "enable": _("Enable"), "disable": _("Disable")}

    @admin.display(description=_("process tree"), ordering="process_tree__name")
    def tree(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return its tree, with a link to the tree's page."""
        return row_link(schedule.process_tree, site=self.admin_site.name)

    @admin.display(description=_("name"), ordering="name")
    def called(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return its own name; nothing for a default one."""
        return labelled(gettext("name"), "" if schedule.is_default else schedule.name)

    @admin.display(description=_("next run"), ordering="next_run")
    def next(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return the next due time."""
        late = badge(gettext("overdue"), "failure") if schedule.is_overdue(timezone.now()) else ""
        return labelled(gettext("next run"), format_html("{} {}", next_run(schedule), late))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields in groups."""
        may_write = obj is None or self.has_change_permission(request, obj)
        (_title, first), *others = self.groups(may_write, is_new=obj is None)
        return [(None, {"fields": ("process_tree", *first["fields"])}), *others]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[Any, ...]:
        """Return the read-only fields: a schedule stays that of its tree."""
        readonly = tuple(super().get_readonly_fields(request, obj))
        return readonly if obj is None else ("process_tree", *readonly)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list that knows how long runs took."""
        return ScheduleList

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Show a schedule's page, with how long its last run took."""
        add_seconds([row for row in [kwargs.get("obj")] if row is not None])
        return super().render_change_form(request, context, *args, **kwargs)

    # Adding one

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Let a tree be chosen by a part of its name."""
        if db_field.name == "process_tree":
            kwargs["widget"] = ChooseTree(db_field, self.admin_site)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_urls(self) -> list[Any]:
        """Add the address of the trees that can be chosen."""
        view = self.admin_site.admin_view(self.trees_view)
        return [
            path("trees/", view, name="proctree_dagster_processtreeschedule_trees"),
            *super().get_urls(),
        ]

    def trees_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return the trees that may be given a schedule."""
        may_add = self.has_add_permission(request)
        view = TreesToSchedule.as_view(admin_site=self.admin_site, may_add=may_add)
        return view(request)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Add or change a schedule; the second of two people who give one name gets a message."""
        try:
            return super().changeform_view(request, *args, **kwargs)
        except IntegrityError:
            name = request.POST.get("name", "")
            if not ProcessTreeSchedule.objects.filter(name=name).exists():
                raise
            told = gettext(
                "Somebody else has given this process tree a schedule of this name. "
                "Change that one."
            )
            self.message_user(request, told, messages.ERROR)
            here = self.admin_site.name
            return HttpResponseRedirect(page_address(here, ProcessTreeSchedule, "changelist"))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save a schedule, and show what does not count of what was typed."""
        super().save_model(request, obj, form, change)
        tell_ignored(request, form)

    # What people do

    def offers(self, action: str, row: ProcessTreeSchedule) -> bool:
        """Return whether an action is of use for a schedule: no switch is set twice."""
        return action not in ("enable", "disable") or row.enabled == (action == "disable")

    @admin.action(description=_("Run the trees of the selected schedules now"), permissions=["run"])
    def run_now(
        self, request: HttpRequest, queryset: QuerySet[ProcessTreeSchedule]
    ) -> HttpResponse | None:
        """Request a run of each tree with its schedule's context; of one alone, show it."""
        rows = queryset.select_related("process_tree")
        named = rows.prefetch_related(default_schedules("process_tree__"))
        found = request_runs(self, request, named)
        return found.page_of_only_run(self.admin_site, request)

    @admin.action(description=_("Enable the selected schedules"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[ProcessTreeSchedule]) -> None:
        """Switch schedules on; they run at the next due time from now."""
        deeds = self._switch_all(request, queryset, on=True)
        deeds.report(gettext("Enabled: {names}."), gettext("Not enabled: {names}. {why}"))

    @admin.action(description=_("Disable the selected schedules"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[ProcessTreeSchedule]) -> None:
        """Switch schedules off; a run under way continues."""
        deeds = self._switch_all(request, queryset, on=False)
        deeds.report(
            gettext("Disabled: {names}. A run under way continues."),
            gettext("Not disabled: {names}. {why}"),
        )

    def _switch_all(
        self, request: HttpRequest, queryset: QuerySet[ProcessTreeSchedule], *, on: bool
    ) -> Deeds:
        deeds = Deeds(self, request)
        for schedule in queryset.select_related("process_tree"):
            name = schedule.title
            problem = self._switch_problem(request, schedule, on) or switch(schedule, on)
            if problem is None:
                deeds.done(schedule, name, gettext("Enabled.") if on else gettext("Disabled."))
            else:
                deeds.not_done(name, problem)
        return deeds

    def _switch_problem(
        self, request: HttpRequest, schedule: ProcessTreeSchedule, on: bool
    ) -> str | None:
        """Return why a schedule is not to be switched; ``None`` if it is."""
        if schedule.enabled == on:
            return gettext("It is enabled already.") if on else gettext("It is disabled already.")
        if not self.has_change_permission(request, schedule):
            return gettext("You may not change it, or not run its process tree.")
        return schedule.process_tree.unattended_problem() if on else None
