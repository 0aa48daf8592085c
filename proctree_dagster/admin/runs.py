"""Runs, as Dagster's storage has them: a list, and a page of each."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from ..models import Run


@admin.register(Run)
class RunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Runs; nothing of them is a row of Django's."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: a run is requested on the page of its tree."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what happened is not edited."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: Dagster deletes runs, by its own retention."""
        return False
