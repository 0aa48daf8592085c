"""Pauses of schedules, and how other pages show them."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..models import Pause, ProcessTree
from ..services import pauses
from . import meanwhile
from .deeds import ButtonsOnPage, Deeds
from .forms import Form, SplitDateTime, TreeSelect
from .html import badge, labelled, moment
from .meanwhile import TellsWhatStays
from .permissions import NeedsRunPermission


def what(pause: Pause) -> str:
    """Return what a pause holds."""
    return gettext("everything") if pause.process_tree_id is None else pause.what


def in_words(pause: Pause) -> SafeString:
    """Return until when a pause lasts, why, and what happens to due times."""
    until = moment(pause.until, seconds=False) or gettext("somebody ends it")
    due = gettext("due times are dropped") if pause.drop else gettext("due times become one run")
    return format_html(
        gettext("paused until {until}: {reason} ({due})"), until=until, reason=pause.reason, due=due
    )


def lines(found: Iterable[Pause]) -> SafeString | str:
    """Return several pauses, one a line."""
    return format_html_join("", "<div>{}</div>", ((in_words(each),) for each in found))


class PauseForm(Form):
    """A pause of what the user may run."""

    def clean(self) -> dict[str, Any] | None:
        """Refuse to hold what the user may not run; everything needs the permission for all."""
        cleaned = super().clean() or {}
        schedule = cleaned.get("schedule")
        tree: ProcessTree | None = cleaned.get("process_tree")
        if schedule is not None:
            tree = schedule.process_tree
        if self.may_run is not None and not self.may_run(tree):  # type: ignore[arg-type]
            raise ValidationError(gettext("You may not run what this pause would hold."))
        return cleaned


class OverFilter(admin.SimpleListFilter):
    """Pauses that hold something, are going to, or are over."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, Any]]:
        """Return the choices."""
        return [("open", _("active or to come")), ("over", _("over"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the chosen ones."""
        now = timezone.now()
        if self.value() == "open":
            return queryset.filter(pk__in=Pause.objects.not_over(now).values("pk"))
        return queryset.filter(until__lte=now) if self.value() == "over" else queryset


@admin.register(Pause)
class PauseAdmin(ButtonsOnPage, NeedsRunPermission, TellsWhatStays, admin.ModelAdmin):  # type: ignore[type-arg]
    """Pauses: made, changed and ended here as by ``proctree pause`` and ``resume``."""

    form = PauseForm
    list_display = ["held", "state", "since", "until", "reason", "drop", "made_by"]
    list_filter = [OverFilter, "drop"]
    list_select_related = ["process_tree", "schedule__process_tree"]
    search_fields = ["process_tree__name", "schedule__name", "reason"]
    fields = ["process_tree", "schedule", "since", "until", "reason", "drop", "made_by"]
    readonly_fields = ["made_by"]
    actions = ["resume"]
    buttons = {"resume": _("Resume")}

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    @admin.display(description=_("holds"), ordering="process_tree__name")
    def held(self, pause: Pause) -> str:
        """Return what it holds."""
        return what(pause)

    @admin.display(description=_("state"))
    def state(self, pause: Pause) -> SafeString | str:
        """Return whether it holds something now."""
        now = timezone.now()
        if pause.is_active(now):
            shown: SafeString | str = badge(gettext("active"), "canceling")
        else:
            shown = gettext("to come") if pause.since > now else gettext("over")
        return labelled(gettext("state"), shown)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Let a tree and a schedule be chosen by a part of their names."""
        kwargs["widget"] = TreeSelect(db_field, self.admin_site)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Name both boxes of a moment."""
        if db_field.name in ("since", "until"):
            kwargs["widget"] = SplitDateTime(db_field.verbose_name)
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields of a pause."""
        may_write = obj is not None and self.has_change_permission(request, obj)
        shown = [meanwhile.SHOWN] if may_write else []
        return [*super().get_fields(request, obj), *shown]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete it, and run what it holds, as that starts runs."""
        return super().has_delete_permission(request, obj) and self.has_run_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Pause, form: Any, change: bool) -> None:
        """Save a pause, with who has made it."""
        if not change:
            obj.made_by = request.user.get_username()[:150]
        super().save_model(request, obj, form, change)

    def offers(self, action: str, row: Pause) -> bool:
        """Return whether it can be ended."""
        return row.until is None or row.until > timezone.now()

    @admin.action(description=_("Resume what the selected pauses hold"), permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Pause]) -> None:
        """End pauses; what was kept runs within a minute."""
        deeds = Deeds(self, request)
        for pause in queryset.select_related("process_tree", "schedule__process_tree"):
            if not self.has_change_permission(request, pause):
                deeds.not_done(what(pause), gettext("You may not run what it holds."))
            elif self.offers("resume", pause) and pauses.end([pause]):
                deeds.done(pause, what(pause), gettext("Resumed."))
            else:
                deeds.not_done(what(pause), gettext("It is over already."))
        deeds.report(gettext("Resumed: {names}."), gettext("Not resumed: {names}. {why}"))
