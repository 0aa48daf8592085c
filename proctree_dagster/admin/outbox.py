"""The outbox of runs."""

from django.contrib import admin
from django.http import HttpRequest

from ..models import OutboxRun


@admin.register(OutboxRun)
class OutboxRunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The outbox: read-only, but a row can be deleted to withdraw its run."""

    list_display = ["process_tree", "run_id", "state", "reason", "attempts", "created_at"]
    list_filter = ["state"]
    list_select_related = ["process_tree"]
    search_fields = ["process_tree__name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: the code that requests a run writes the row."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: OutboxRun | None = None) -> bool:
        """Return False, for the same reason."""
        return False
