"""Trees: their processes, schedule, links, and the permission to run them."""

from collections.abc import Callable, Mapping
from functools import wraps
from operator import attrgetter
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import DataError
from django.db.models import Max, Min, OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_safe

from ..models import ProcessTree, ProcessTreeSchedule, TreeLink
from ..services import function_listing, pauses
from ..support.row_reading import UNREADABLE
from . import html, meanwhile, tree_page
from .forms import FORMS_OF_SCHEDULES, JSON_FIELDS, FollowerForm, TreeSelect
from .meanwhile import TellsWhatStays
from .permissions import NAME_FUNCTIONS, HidesJson, NeedsRunPermission, may_run
from .process_forms import ProcessTreeForm
from .run_now import RunNow
from .schedules import ScheduleFormSet, ScheduleInline
from .tree_code import TreeCode, in_code
from .tree_history import TreeHistory


class ExecutorFilter(admin.AllValuesFieldListFilter):
    """By executor; the trees without one of their own have a name in it, too."""

    def choices(self, changelist: Any) -> Any:
        """Return the choices, each with a text."""
        for choice in super().choices(changelist):
            yield {**choice, "display": choice["display"] or gettext("the project's")}


class FollowersInline(NeedsRunPermission, admin.TabularInline):  # type: ignore[type-arg]
    """The followers of a tree, on the tree's page."""

    model = TreeLink
    form = FollowerForm
    fk_name = "source"
    extra = 0
    verbose_name = _("tree that follows")
    verbose_name_plural = _("trees that follow")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields of a link."""
        may_write = self.has_change_permission(request, obj)
        return ["target", "kind", *([meanwhile.SHOWN] if may_write else [])]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Let a tree be chosen by a part of its name."""
        if db_field.name == "target":
            kwargs["widget"] = TreeSelect(db_field, self.admin_site)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[TreeLink]:
        """Return the links with the names of both trees, which each row shows."""
        named = super().get_queryset(request).select_related("source", "target")
        return named.only("kind", "source", "target", "source__name", "target__name")


class TreeList(ChangeList):
    """A page of the list; a row that can't be read hides no other."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the rows; of one that can't be read, its name."""
        super().get_results(request)
        page = self.result_list
        try:
            self.result_list = list(page.prefetch_related("schedules"))
        except UNREADABLE:
            pks = list(page.values_list("pk", flat=True))
            found = ProcessTree.objects.filter(pk__in=pks).each()
            self.result_list = sorted(found, key=lambda row: pks.index(row.pk))
        schedules = [each for row in self.result_list for each in row.all_schedules()]
        pauses.Active().note(schedules)


def of_readable(cell: Callable[[Any, ProcessTree], str]) -> Callable[[Any, ProcessTree], str]:
    """Make a cell of the list say so if its row can't be read."""

    @wraps(cell)
    def shown(page: Any, tree: ProcessTree) -> str:
        try:
            return cell(page, tree)
        except UNREADABLE:
            return html.labelled("", gettext("can't be read"))

    return shown


MOST_DIGITS = 18
"""How many digits a key may have: each database has numbers as large as these."""

SCHEDULES = 3
"""How many schedules of a tree the list describes."""


def _in_words(schedule: ProcessTreeSchedule) -> SafeString:
    """Return a schedule's rule in words, and what holds it back."""
    name = "" if schedule.is_default else f"{schedule.name}: "
    held_back = html.badge(schedule.held_back_by, "canceling")
    return format_html("{}{} {}", name, schedule.rule_in_words, held_back)


@admin.register(ProcessTree)
class ProcessTreeAdmin(RunNow, TreeHistory, TreeCode, HidesJson, TellsWhatStays, admin.ModelAdmin):  # type: ignore[type-arg]
    """Trees; what is saved here is validated like everywhere else."""

    list_display = ["name", "rule", "next_run", "last_run"]
    list_filter = [
        "schedule__enabled",
        "schedule__last_run_status",
        ("executor", ExecutorFilter),
    ]
    search_fields = ["name", "description", "job_name"]
    form = ProcessTreeForm
    formfield_overrides = JSON_FIELDS
    readonly_fields = ["job_name", "created_at", "updated_at"]
    fieldsets = [
        (None, {"fields": ["name", "description"]}),
        (_("Processes"), {"fields": ["processes"]}),
        (
            _("How it runs"),
            {
                "fields": [
                    *("cache_enabled", "executor", "max_concurrent", "run_tags"),
                    *("one_at_a_time_per", "limit_per_key", "keep_runs", "reuse_worker"),
                ]
            },
        ),
        (
            _("Alerts"),
            {
                "classes": ["collapse"],
                "fields": ["alert_on", "alert_to", "expected_minutes", "success_within_minutes"],
            },
        ),
        (_("Dates"), {"fields": ["job_name", "created_at", "updated_at"]}),
    ]
    inlines = [ScheduleInline, FollowersInline]

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProcessTree]:
        """Return the trees with the times of their schedules by which the list is sorted."""
        trees: QuerySet[ProcessTree] = super().get_queryset(request)
        schedules = ProcessTreeSchedule.objects.filter(process_tree=OuterRef("pk")).order_by()
        due = Min("next_run", filter=Q(enabled=True))
        times = schedules.values("process_tree").annotate(due=due, last=Max("last_run"))
        return trees.annotate(
            next_due=Subquery(times.values("due")), last_scheduled=Subquery(times.values("last"))
        )

    @admin.display(description=_("schedule"))
    @of_readable
    def rule(self, tree: ProcessTree) -> str:
        """Return its schedules' rules in words, and what holds each back."""
        schedules = tree.all_schedules()
        lines: list[tuple[str]] = [(_in_words(each),) for each in schedules[:SCHEDULES]]
        if len(schedules) > SCHEDULES:
            more = gettext("and %(count)d more") % {"count": len(schedules) - SCHEDULES}
            lines.append((more,))
        return html.labelled(gettext("schedule"), format_html_join(mark_safe("<br>"), "{}", lines))

    @admin.display(description=_("next run"), ordering="next_due")
    @of_readable
    def next_run(self, tree: ProcessTree) -> str:
        """Return when it is due next, if one of its schedules is on; or that all have ended."""
        due = [each for each in tree.all_schedules() if each.enabled and each.next_run]
        first = min(due, key=attrgetter("next_run"), default=None)
        return html.labelled(gettext("next run"), html.next_run(first) if first else "")

    @admin.display(description=_("last scheduled run"), ordering="last_scheduled")
    @of_readable
    def last_run(self, tree: ProcessTree) -> str:
        """Return its schedules' last run: its status, its time, and a link to it."""
        schedules = tree.all_schedules()
        run = [each for each in schedules if each.last_run is not None]
        schedule = max(run, key=attrgetter("last_run"), default=next(iter(schedules), None))
        if schedule is None:
            return html.labelled(gettext("last scheduled run"), "")
        parts = (
            html.status_badge(schedule.last_run_status),
            html.moment(schedule.last_run, seconds=False),
            html.run_link(schedule.last_run_id, site=self.admin_site.name),
        )
        shown = format_html_join(" ", "{}", ((part,) for part in parts if part))
        return html.labelled(gettext("last scheduled run"), shown)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may add trees and name functions, of which a tree consists."""
        return super().has_add_permission(request) and request.user.has_perm(NAME_FUNCTIONS)

    def has_run_permission(self, request: HttpRequest, obj: ProcessTree | None = None) -> bool:
        """Return whether the user may run this tree; without one, trees in general.

        Each button that runs, repeats or cancels asks here: override it to decide for each tree.
        """
        return may_run(request, obj)

    def get_readonly_fields(
        self, request: HttpRequest, obj: ProcessTree | None = None
    ) -> list[str] | tuple[Any, ...]:
        """Return the read-only fields; for users who may not name functions, those that name code.

        A tree's name is one of them, as commands and ``execute_tree()`` run the tree of a name.
        """
        names_code = ["name", "processes", "executor"]
        may_name = request.user.has_perm(NAME_FUNCTIONS)
        others = ["readable_processes"] if may_name else ["readable_processes", *names_code]
        return [*super().get_readonly_fields(request, obj), *others]

    def get_inlines(self, request: HttpRequest, obj: ProcessTree | None) -> list[Any]:
        """Return what is edited with the tree: its schedules, unless there are many."""
        inlines = list(super().get_inlines(request, obj))
        if obj is None:
            return inlines
        has_forms = (  # those of the page that was sent: a schedule may have been added since
            f"{ScheduleFormSet.get_default_prefix()}-TOTAL_FORMS" in request.POST
            if request.method == "POST"
            else obj.schedules.count() <= FORMS_OF_SCHEDULES
        )
        return [each for each in inlines if has_forms or not issubclass(each, ScheduleInline)]

    def get_fieldsets(self, request: HttpRequest, obj: ProcessTree | None = None) -> Any:
        """Return the fields in groups; to those who may not write processes, without secrets."""
        may_write = obj is None or self.has_change_permission(request, obj)
        may_name = may_write and request.user.has_perm(NAME_FUNCTIONS)
        shown = [meanwhile.SHOWN] if may_write and obj is not None else []
        processes = "processes" if may_name else "readable_processes"
        groups = []
        for title, group in super().get_fieldsets(request, obj):
            named = [processes if each == "processes" else each for each in group["fields"]]
            groups.append((title, {**group, "fields": [*named, *shown]}))
            shown = []
        return groups

    @admin.display(description=_("processes"))
    def readable_processes(self, tree: ProcessTree) -> SafeString | str:
        """Return its processes without secrets, for those who may not write them."""
        return html.json_text(tree.processes)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the list that shows unreadable rows, too."""
        return TreeList

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> ProcessTree | None:
        """Return a tree; ``None`` if there is none, or it can't be read."""
        try:
            return super().get_object(request, *args, **kwargs)
        except DataError:  # PostgreSQL's; of others Django makes None itself
            return None

    def _get_obj_does_not_exist_redirect(
        self, request: HttpRequest, opts: Any, object_id: str
    ) -> HttpResponse:
        """Lead to another page; of a row that is there and can't be read, say that."""
        name = self._name_of(object_id)
        if name is None:
            return super()._get_obj_does_not_exist_redirect(request, opts, object_id)  # type: ignore[misc, no-any-return]
        told = gettext(
            "The process tree “%(name)s” can't be read: a column holds what no form writes. Mend "
            "it in SQL; “python manage.py proctree check” says which one."
        )
        self.message_user(request, told % {"name": name}, messages.ERROR)
        address = html.page_address(self.admin_site.name, ProcessTree, "changelist")
        return HttpResponseRedirect(address)

    def _name_of(self, object_id: str) -> str | None:
        if not object_id.isdecimal() or len(object_id) > MOST_DIGITS:
            return None
        return ProcessTree.objects.filter(pk=object_id).values_list("name", flat=True).first()

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return the form, with the address from which it completes functions."""
        form: Any = super().get_form(request, *args, **kwargs)
        form.functions_url = reverse(f"{self.admin_site.name}:{FUNCTIONS}")
        return form

    def get_urls(self) -> list[URLPattern]:
        """Return the addresses of the pages; before them that of the functions to choose from."""
        view = self.admin_site.admin_view(require_safe(self.functions_view))
        return [path("functions/", view, name=FUNCTIONS), *super().get_urls()]

    def functions_view(self, request: HttpRequest) -> JsonResponse:
        """Return functions that a process may name, as JSON: those that hold what was typed."""
        may_edit = self.has_add_permission(request) or self.has_change_permission(request)
        if not (may_edit and request.user.has_perm(NAME_FUNCTIONS)):
            raise PermissionDenied
        found = function_listing.matching(request.GET.get("q", "")[:200])
        return JsonResponse(
            {"functions": [each._asdict() for each in found.functions], "more": found.more}
        )

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a tree; with ``?part=tree`` what is above its form, for a script to refresh."""
        if request.method == "GET" and request.GET.get("part") == "tree":
            return self._part(request, object_id)
        return super().change_view(request, object_id, form_url, extra_context)

    def _part(self, request: HttpRequest, object_id: str) -> HttpResponse:
        tree = self.get_object(request, object_id)
        if not self.has_view_or_change_permission(request, tree):
            raise PermissionDenied
        if tree is None:
            raise Http404
        page = self._page(request, tree)
        return TemplateResponse(
            request, "admin/proctree_dagster/processtree/tree.html", {"page": page}
        )

    def _page(self, request: HttpRequest, tree: ProcessTree) -> dict[str, Any]:
        page = tree_page.page(self.admin_site, request, tree)
        runs: tree_page.Runs = page["runs"]
        may_run = self.has_run_permission(request, tree)
        return {
            **page,
            "run_url": html.page_address(self.admin_site.name, tree, "run", tree.pk)
            if may_run
            else "",
            "in_code": in_code(self.admin_site.name, tree),
            "revisions_url": html.page_address(self.admin_site.name, tree, "revisions", tree.pk),
            "refresh_url": "?part=tree" if runs.may_change else "",
            "refresh_seconds": LOADING_SECONDS if runs.is_loading else "",
        }

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Show the tree above its form."""
        tree: ProcessTree | None = kwargs.get("obj")
        if tree is not None and request.method == "POST":  # the form has changed this one
            tree = self.get_object(request, str(tree.pk))
        page = None if tree is None else self._page(request, tree)
        return super().render_change_form(request, {**context, "tree_page": page}, *args, **kwargs)


LOADING_SECONDS = 2
"""After how many seconds a page asks again while Dagster is being loaded."""

FUNCTIONS = "proctree_dagster_processtree_functions"
"""The name of the address of the functions to choose from."""
