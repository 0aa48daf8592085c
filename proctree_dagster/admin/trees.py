"""Trees: their processes, schedule, links, and the permission to run them."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from ..models import ProcessTree, TreeLink
from .forms import FollowerForm, Form
from .permissions import NAME_FUNCTIONS, NeedsRunPermission, may_run
from .schedules import ScheduleInline


class FollowersInline(NeedsRunPermission, admin.TabularInline):  # type: ignore[type-arg]
    """The followers of a tree, on the tree's page."""

    model = TreeLink
    form = FollowerForm
    fk_name = "source"
    autocomplete_fields = ["target"]
    extra = 0
    verbose_name = _("tree that follows")
    verbose_name_plural = _("trees that follow")


@admin.register(ProcessTree)
class ProcessTreeAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Trees; what is saved here is validated like everywhere else."""

    list_display = ["name", "job_name", "description", "executor", "updated_at"]
    search_fields = ["name", "description"]
    form = Form
    readonly_fields = ["job_name", "created_at", "updated_at"]
    inlines = [ScheduleInline, FollowersInline]

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
        return [*super().get_readonly_fields(request, obj), *([] if may_name else names_code)]
