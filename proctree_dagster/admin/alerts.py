"""Alerts: what was sent to whom, and what could not be delivered."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..models import Alert, AlertDelivery
from ..services import alert_delivery
from .html import badge, labelled, moment, row_link, run_link
from .permissions import HidesJson

COLOURS: Mapping[str, str] = {
    AlertDelivery.WAITING: "queued",
    AlertDelivery.DELIVERED: "success",
    AlertDelivery.GIVEN_UP: "failure",
}
"""The colours of the states of a delivery."""


@admin.register(Alert)
class AlertAdmin(HidesJson, admin.ModelAdmin):  # type: ignore[type-arg]
    """Alerts: read-only; old ones can be deleted, and one that waits is withdrawn by that."""

    list_display = ["said", "about", "recipient", "count", "shown_state", "last_at", "reason"]
    list_display_links = ["said"]
    list_filter = ["state", "kind", "created_at"]
    list_select_related = ["process_tree"]
    search_fields = ["tree", "recipient", "cause", "reason"]
    fields: ClassVar[Any] = [
        *("said", "about", "run", "recipient", "kind", "cause", "count", "text"),
        *("first_at", "last_at", "shown_state", "reason", "attempts"),
        *("planned_at", "not_before", "delivered_at", "created_at"),
    ]
    readonly_fields: ClassVar[Any] = fields

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: what happens writes the rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what was said is not edited."""
        return False

    @admin.display(description=_("alert"))
    def said(self, alert: Alert) -> str:
        """Return its subject."""
        return alert_delivery.message_of(alert).subject

    @admin.display(description=_("message"))
    def text(self, alert: Alert) -> SafeString:
        """Return what it says."""
        return format_html("<pre>{}</pre>", alert_delivery.message_of(alert).text)

    @admin.display(description=_("process tree"), ordering="tree")
    def about(self, alert: Alert) -> SafeString | str:
        """Return its tree, with a link to the tree's page unless it was deleted."""
        tree = alert.process_tree
        return alert.tree if tree is None else row_link(tree, site=self.admin_site.name)

    @admin.display(description=_("run"))
    def run(self, alert: Alert) -> SafeString | str:
        """Return a link to the last run that it is about."""
        facts = alert.facts if isinstance(alert.facts, dict) else {}
        run_id = str(facts.get("run_id") or "")
        return run_link(run_id, site=self.admin_site.name) if run_id else ""

    @admin.display(description=_("delivery"), ordering="state")
    def shown_state(self, alert: Alert) -> SafeString | str:
        """Return the state of its delivery, with when it is tried again."""
        shown: SafeString | str = badge(
            alert.get_state_display(), COLOURS.get(alert.state, "neutral")
        )
        if alert.state == AlertDelivery.WAITING:
            shown = format_html("{} {}", shown, moment(alert.not_before))
        return labelled(gettext("delivery"), shown)
