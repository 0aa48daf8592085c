"""Who may do what in the admin: Django's permissions, and those of deeds that change no row."""

from contextlib import suppress
from functools import partial
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.exceptions import NotRegistered
from django.core.exceptions import FieldDoesNotExist
from django.db.models import JSONField
from django.db.models.constants import LOOKUP_SEP
from django.http import HttpRequest

from ..models import ProcessTree, Run

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


def may_with_run(
    site: AdminSite, request: HttpRequest, permission: str, tree: ProcessTree | None = None
) -> bool:
    """Return whether the user has a permission, for all trees or for this one, and may run it.

    Parameters
    ----------
    site:
        The admin site.
    request:
        The request.
    permission:
        ``CANCEL`` or ``RETRY``.
    tree:
        The tree; ``None``: trees in general, or one that was deleted.
    """
    user = request.user
    has_it = user.has_perm(permission) or (tree is not None and user.has_perm(permission, tree))
    return has_it and has_run_permission(site, request, tree)


def may_view_runs(site: AdminSite, request: HttpRequest) -> bool:
    """Return whether the site has pages of runs, and the user may see them."""
    try:
        return bool(site.get_model_admin(Run).has_view_permission(request))
    except NotRegistered:
        return False


class HidesJson:
    """Rows with JSON that may hold secrets: nobody can filter by it in the address.

    ``?context__token__startswith=s`` answers letter by letter, of all rows, and a user may be shown
    some of them without secrets.
    """

    opts: Any

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        """Return whether a filter in the address may be used."""
        with suppress(FieldDoesNotExist):
            if isinstance(self.opts.get_field(lookup.split(LOOKUP_SEP)[0]), JSONField):
                return False
        allowed: bool = super().lookup_allowed(lookup, value, request)  # type: ignore[misc]
        return allowed


class NeedsRunPermission:
    """Rows that make a tree run: writing them requires the permission to run it, too.

    For a page of one row that is the permission for this row's tree; for a list, or a row that is
    to be added, the one for trees in general. Mix it into a page or an inline. Which tree a new
    row names is checked by its form (``forms.Form.may_run``).
    """

    admin_site: AdminSite

    def has_run_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may run the tree of a row; without one, trees in general."""
        return has_run_permission(self.admin_site, request, tree_of(obj))

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Return whether the user may add them, and run the tree (``args``: an inline's parent)."""
        added: bool = super().has_add_permission(request, *args)  # type: ignore[misc]
        return added and self.has_run_permission(request, *args)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may change them, and run the tree; others may view them."""
        changed: bool = super().has_change_permission(request, obj)  # type: ignore[misc]
        return changed and self.has_run_permission(request, obj)

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return a page's form, which refuses trees that the user may not run."""
        form: Any = super().get_form(request, *args, **kwargs)  # type: ignore[misc]
        form.may_run = staticmethod(partial(has_run_permission, self.admin_site, request))
        return form

    def get_formset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return an inline's formset, whose forms refuse trees that the user may not run."""
        formset: Any = super().get_formset(request, *args, **kwargs)  # type: ignore[misc]
        formset.form.may_run = staticmethod(partial(has_run_permission, self.admin_site, request))
        return formset


def tree_of(row: Any) -> ProcessTree | None:
    """Return the tree that a row is, or that it names; ``None`` for any other row, and for none."""
    if isinstance(row, ProcessTree):
        return row
    found = getattr(row, "process_tree", None)
    return found if isinstance(found, ProcessTree) else None
