"""The overview: what runs, what failed, what is late, and whether Dagster answers."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from ..models import Overview


@admin.register(Overview)
class OverviewAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """One page, which has no rows."""

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
