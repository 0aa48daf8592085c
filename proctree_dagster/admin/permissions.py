"""Who may do what in the admin: Django's permissions, and those of deeds that change no row."""

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.exceptions import NotRegistered
from django.http import HttpRequest

from ..models import ProcessTree

RUN = "proctree_dagster.run_processtree"
"""The permission to run trees, also by schedules, subscriptions and links."""

NAME_FUNCTIONS = "proctree_dagster.name_functions"
"""The permission to name functions: in trees and their processes, and in ``custom`` triggers."""

FIRE = "proctree_dagster.fire_trigger"
"""The permission to fire triggers, and to set when they fire by themselves."""

CANCEL = "proctree_dagster.cancel_run"
"""The permission to cancel runs; the tree must be one that the user may run, too."""

RETRY = "proctree_dagster.retry_run"
"""The permission to repeat runs; the tree must be one that the user may run, too."""


def may_run(request: HttpRequest, tree: ProcessTree | None = None) -> bool:
    """Return whether the user may run a tree; without one, whether trees may be run in general.

    A permission for all trees suffices, and so does one for this tree from an authentication
    backend that knows permissions of single objects.
    """
    user = request.user
    return user.has_perm(RUN) or (tree is not None and user.has_perm(RUN, tree))


def has_run_permission(
    site: AdminSite, request: HttpRequest, tree: ProcessTree | None = None
) -> bool:
    """Return whether the user may run a tree, as the site's page of trees answers it.

    Every page asks here, so a subclass of ``ProcessTreeAdmin`` that overrides
    ``has_run_permission`` answers for all of them.
    """
    try:
        page: Any = site.get_model_admin(ProcessTree)
    except NotRegistered:  # a site without a page of trees
        return may_run(request, tree)
    ask = getattr(page, "has_run_permission", None)  # a page of the project's own may lack it
    return may_run(request, tree) if ask is None else bool(ask(request, tree))


class NeedsRunPermission:
    """Rows that make trees run: writing them requires the permission to run trees, too."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Return whether the user may add them, and run trees."""
        added: bool = super().has_add_permission(request, *args)  # type: ignore[misc]
        return added and request.user.has_perm(RUN)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may change them, and run trees; others may view them."""
        changed: bool = super().has_change_permission(request, obj)  # type: ignore[misc]
        return changed and request.user.has_perm(RUN)
