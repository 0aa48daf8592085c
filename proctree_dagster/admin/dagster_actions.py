"""What people did in Dagster's UI."""

from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from ..models import DagsterAction
from .html import run_link
from .permissions import HidesJson


@admin.register(DagsterAction)
class DagsterActionAdmin(HidesJson, admin.ModelAdmin):  # type: ignore[type-arg]
    """The record of changes made in Dagster's UI: read-only; old rows can be deleted."""

    list_display = ["created_at", "username", "action", "target", "runs", "allowed", "address"]
    list_filter = ["allowed", "action", "created_at"]
    search_fields = ["username", "action", "target"]
    readonly_fields = ["created_at", "runs"]
    exclude = ["run_ids"]
    date_hierarchy = "created_at"

    class Media:
        css: Mapping[str, Any] = {"all": ["proctree_dagster/admin.css"]}

    @admin.display(description=_("runs"))
    def runs(self, action: DagsterAction) -> SafeString:
        """Return links to the runs that it has launched."""
        links = [(run_link(str(each), site=self.admin_site.name),) for each in action.run_ids]
        return format_html_join(", ", "{}", links)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: the gate writes the rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what happened is not edited."""
        return False
