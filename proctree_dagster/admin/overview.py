"""The overview: what runs, what failed, what is late, and whether Dagster answers."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.text import capfirst

from ..models import Overview
from ..services import broken_rows
from . import overview_page

TEMPLATES = "admin/proctree_dagster/overview"

LIVE_SECONDS = 10
"""How often the live part is refreshed."""

LOADING_SECONDS = 2
"""How often, while Dagster is being loaded."""

BROKEN_SECONDS = 60
"""How often broken rows are looked for: every tree is read for that."""


@admin.register(Overview)
class OverviewAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """One page, which has no rows. Two parts of it are refreshed by a script."""

    def get_urls(self) -> list[Any]:
        """Return the address of the one page: there are no rows to add or to open."""
        view = self.admin_site.admin_view(self.changelist_view)
        return [path("", view, name="proctree_dagster_overview_changelist")]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the page; with ``?part=live`` or ``?part=broken`` that part of it only."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        part = request.GET.get("part")
        if part == "live":
            return TemplateResponse(request, f"{TEMPLATES}/live.html", self._live(request))
        if part == "broken":
            return TemplateResponse(request, f"{TEMPLATES}/broken.html", _broken())
        context = {
            **self.admin_site.each_context(request),
            **self._live(request),
            **_broken(),
            "title": capfirst(str(self.opts.verbose_name)),
            "opts": self.opts,
            **(extra_context or {}),
        }
        return TemplateResponse(request, f"{TEMPLATES}/change_list.html", context)

    def _live(self, request: HttpRequest) -> dict[str, Any]:
        page = overview_page.context(self.admin_site, request)
        is_loading = page["dagster"].is_loading
        return {"page": page, "live_seconds": LOADING_SECONDS if is_loading else LIVE_SECONDS}

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may view trees, schedules or runs."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may view trees."""
        may = ("view_processtree", "change_processtree")
        return any(request.user.has_perm(f"proctree_dagster.{name}") for name in may)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: there is nothing to add."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: there is nothing to change."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: there is nothing to delete."""
        return False


def _broken() -> dict[str, Any]:
    found = broken_rows.findings()
    return {"broken": found, "broken_seconds": BROKEN_SECONDS}
