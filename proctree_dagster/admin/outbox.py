"""The outbox of runs."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from ..domain import run_tags as tags
from ..models import OutboxRun, OutboxState
from ..services import run_keys
from .html import badge, json_text, labelled, moment, row_link, run_link
from .permissions import HidesJson

COLOURS: Mapping[str, str] = {
    OutboxState.WAITING: "queued",
    OutboxState.DELIVERED: "starting",
    OutboxState.STARTED: "neutral",
    OutboxState.DROPPED: "failure",
}
"""The colours of the states of a run in the outbox."""


def state_badge(row: OutboxRun) -> SafeString | str:
    """Return the state of a run in the outbox as a coloured badge."""
    return badge(row.get_state_display(), COLOURS.get(row.state, "neutral"))


@admin.register(OutboxRun)
class OutboxRunAdmin(HidesJson, admin.ModelAdmin):  # type: ignore[type-arg]
    """The outbox: read-only, but a row can be deleted to withdraw its run."""

    list_display = ["tree", "run", "shown_state", "asked_by", "since", "why"]
    list_display_links = ["shown_state"]
    list_filter = ["state", "created_at"]
    list_select_related = ["process_tree"]
    search_fields = ["process_tree__name", "run_id", "reason", "key"]
    ordering = ["-pk"]
    fields: ClassVar[Any] = [
        *("tree", "run", "shown_state", "why", "asked_by", "since", "delivered_at"),
        *("not_before", "key", "waits_for", "first_of_family"),
        *("readable_context", "readable_tags"),
        *("attempts", "launches", "leased_until"),
    ]
    readonly_fields: ClassVar[Any] = fields

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: the code that requests a run writes the row."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: OutboxRun | None = None) -> bool:
        """Return False, for the same reason."""
        return False

    @admin.display(description=_("process tree"), ordering="process_tree__name")
    def tree(self, row: OutboxRun) -> SafeString | str:
        """Return its tree, with a link to the tree's page."""
        return row_link(row.process_tree, site=self.admin_site.name)

    @admin.display(description=_("run"), ordering="run_id")
    def run(self, row: OutboxRun) -> SafeString | str:
        """Return a link to the run."""
        return labelled(gettext("run"), run_link(str(row.run_id), site=self.admin_site.name))

    @admin.display(description=_("state"), ordering="state")
    def shown_state(self, row: OutboxRun) -> SafeString | str:
        """Return its state."""
        return labelled(gettext("state"), state_badge(row))

    @admin.display(description=_("requested by"))
    def asked_by(self, row: OutboxRun) -> str:
        """Return who or what has requested it."""
        given = row.tags if isinstance(row.tags, Mapping) else {}  # SQL may have put anything there
        by = given.get(tags.USER) or given.get(tags.TRIGGER) or given.get(tags.TRIGGERED_BY) or ""
        return labelled(gettext("requested by"), str(by))

    @admin.display(description=_("since"), ordering="created_at")
    def since(self, row: OutboxRun) -> SafeString | str:
        """Return when it was requested; of one that is open, how long ago that is."""
        at = moment(row.created_at)
        if row.state in (OutboxState.WAITING, OutboxState.DELIVERED):
            ago = timesince(row.created_at, timezone.now(), depth=1)
            return labelled(gettext("since"), format_html("{} ({})", at, ago))
        return labelled(gettext("since"), at)

    @admin.display(description=_("reason"))
    def why(self, row: OutboxRun) -> SafeString | str:
        """Return why it waits, could not be delivered yet, or was dropped."""
        from ..running import requested_runs  # it imports all that runs trees

        return labelled(gettext("reason"), requested_runs.reason_of(row))

    @admin.display(description=_("not before"), ordering="run_after")
    def not_before(self, row: OutboxRun) -> SafeString | str:
        """Return the time before which it is not made."""
        return "" if row.run_after is None else moment(row.run_after)

    def get_queryset(self, request: HttpRequest) -> QuerySet[OutboxRun]:
        """Return the rows with the runs that they wait for, as these have their keys."""
        return run_keys.with_those_before(super().get_queryset(request))

    @admin.display(description=_("runs after"))
    def waits_for(self, row: OutboxRun) -> SafeString | str:
        """Return the runs that must have succeeded first."""
        after = row.after if isinstance(row.after, list) else []
        return format_html_join(
            ", ", "{}", ((run_link(str(each), site=self.admin_site.name),) for each in after)
        )

    @admin.display(description=_("family"))
    def first_of_family(self, row: OutboxRun) -> SafeString | str:
        """Return the first run of the family that it belongs to."""
        return run_link(row.family, site=self.admin_site.name)

    @admin.display(description=_("context"))
    def readable_context(self, row: OutboxRun) -> SafeString | str:
        """Return its context without secrets."""
        return json_text(row.context)

    @admin.display(description=_("tags"))
    def readable_tags(self, row: OutboxRun) -> SafeString | str:
        """Return its tags without secrets."""
        return json_text(row.tags)

    # Withdrawing one

    def delete_model(self, request: HttpRequest, obj: OutboxRun) -> None:
        """Delete a row, and show what became of its run."""
        self.delete_queryset(request, OutboxRun.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[OutboxRun]) -> None:
        """Delete rows, and show how many runs were withdrawn by that."""
        keys = list(queryset.values_list("pk", flat=True))
        chosen = OutboxRun.objects.filter(pk__in=keys)
        free = chosen.filter(state=OutboxState.WAITING, leased_until=None)
        withdrawn, _deleted = free.delete()
        late = chosen.filter(state__in=(OutboxState.WAITING, OutboxState.DELIVERED)).count()
        chosen.delete()
        if withdrawn:
            told = ngettext(
                "%(count)d run was withdrawn: Dagster does not get it.",
                "%(count)d runs were withdrawn: Dagster does not get them.",
                withdrawn,
            )
            self.message_user(request, told % {"count": withdrawn}, messages.SUCCESS)
        if late:
            told = ngettext(
                "%(count)d run was handed to Dagster before: cancel it on its own page.",
                "%(count)d runs were handed to Dagster before: cancel them on their own pages.",
                late,
            )
            self.message_user(request, told % {"count": late}, messages.WARNING)
