"""Backfills: begun, watched, stopped and resumed."""

from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..models import Backfill, BackfillState
from ..services import backfills
from .deeds import ButtonsOnPage, Deeds
from .forms import Form, SplitDateTime, TreeSelect
from .html import badge, labelled
from .permissions import HidesJson, NeedsRunPermission

BADGES = {
    BackfillState.RUNNING: "started",
    BackfillState.STOPPED: "canceled",
    BackfillState.DONE: "success",
}


class BackfillForm(Form):
    """A backfill of a tree that the user may run."""

    def clean(self) -> dict[str, Any] | None:
        """Refuse the schedule of a tree that the user may not run."""
        cleaned = super().clean() or {}
        schedule = cleaned.get("schedule")
        may_run = schedule is None or self.may_run is None or self.may_run(schedule.process_tree)
        if not may_run:
            raise ValidationError(gettext("You may not run this process tree."))
        return cleaned


@admin.register(Backfill)
class BackfillAdmin(ButtonsOnPage, NeedsRunPermission, HidesJson, admin.ModelAdmin):  # type: ignore[type-arg]
    """Backfills: as by ``proctree backfill``. What one runs is not changed once it has begun."""

    form = BackfillForm
    list_display = ["number", "schedule", "status", "first", "last", "progress", "made_by"]
    list_filter = ["state"]
    list_select_related = ["schedule__process_tree"]
    search_fields = ["schedule__process_tree__name", "schedule__name"]
    actions = ["stop", "resume"]
    buttons = {"stop": _("Stop"), "resume": _("Resume")}

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what is entered, and of one that has begun how far it is."""
        entered = ["schedule", "first", "last", "limit"]
        return entered if obj is None else [*entered, "status", "progress", "reached", "made_by"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return what can't be changed: what has begun runs what was entered."""
        return [] if obj is None else [*self.get_fields(request, obj)]

    @admin.display(description=_("number"), ordering="pk")
    def number(self, row: Backfill) -> str:
        """Return its number, which its runs have as a tag."""
        return str(row.pk)

    @admin.display(description=_("state"), ordering="state")
    def status(self, row: Backfill) -> SafeString:
        """Return whether it is running."""
        shown = badge(row.get_state_display(), BADGES[BackfillState(row.state)])
        return labelled(gettext("state"), shown)

    @admin.display(description=_("progress"))
    def progress(self, row: Backfill) -> str:
        """Return how many due times were requested, left out, and are left."""
        return gettext(
            "%(requested)s requested, %(unfinished)s of them unfinished; %(left_out)s left out, "
            "as they had a run; %(left)s to come"
        ) % {
            "requested": row.requested,
            "unfinished": backfills.unfinished(row),
            "left_out": row.left_out,
            "left": row.left_in_words(timezone.now()),
        }

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Let a schedule be chosen by a part of its name."""
        kwargs["widget"] = TreeSelect(db_field, self.admin_site)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Name both boxes of a moment."""
        if db_field.name in ("first", "last"):
            kwargs["widget"] = SplitDateTime(db_field.verbose_name)
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Backfill, form: Any, change: bool) -> None:
        """Save a new one, with who has begun it. The daemon's sensor requests its runs."""
        if not change:
            obj.made_by = request.user.get_username()[:150]
            super().save_model(request, obj, form, change)

    def offers(self, action: str, row: Backfill) -> bool:
        """Return whether it can be stopped, or resumed."""
        needed = BackfillState.RUNNING if action == "stop" else BackfillState.STOPPED
        return row.state == needed

    @admin.action(
        description=_("Stop the selected backfills; requested runs go on"), permissions=["change"]
    )
    def stop(self, request: HttpRequest, queryset: QuerySet[Backfill]) -> None:
        """Request no more runs of backfills."""
        deeds = self._each(request, queryset, backfills.stop, gettext("Stopped."))
        deeds.report(gettext("Stopped: {names}."), gettext("Not stopped: {names}. {why}"))

    @admin.action(description=_("Resume the selected backfills"), permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Backfill]) -> None:
        """Let stopped backfills continue."""
        deeds = self._each(request, queryset, backfills.resume, gettext("Resumed."))
        deeds.report(gettext("Resumed: {names}."), gettext("Not resumed: {names}. {why}"))

    def _each(
        self, request: HttpRequest, queryset: QuerySet[Backfill], do: Any, said: str
    ) -> Deeds:
        deeds = Deeds(self, request)
        for row in queryset.select_related("schedule__process_tree"):
            if not self.has_change_permission(request, row):
                deeds.not_done(str(row), gettext("You may not run this process tree."))
            elif do(row):
                deeds.done(row, str(row), said)
            else:
                state = row.get_state_display()
                deeds.not_done(str(row), gettext("It is %(state)s.") % {"state": state})
        return deeds
