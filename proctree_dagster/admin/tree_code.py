"""A tree that is declared in code: how its rows differ from that, and which of them is to count."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext
from django.views.decorators.http import require_http_methods

from ..domain.texts import shorten
from ..domain.tree_descriptions import LINKS, SCHEDULES, SUBSCRIPTIONS, TRIGGERS, Path
from ..exceptions import ProctreeError
from ..models import Origin, ProcessTree, TreeSource
from ..models.tree_sources import place_of
from ..services import code_drift, revisions
from ..services.code_drift import Drift
from ..support.row_reading import UNREADABLE
from .html import moment, page_address
from .permissions import FIRE, NAME_FUNCTIONS

APP = "proctree_dagster"

NEEDED = {
    SCHEDULES: ("change_processtreeschedule", "add_processtreeschedule"),
    SUBSCRIPTIONS: ("change_triggersubscription", "add_triggersubscription"),
    TRIGGERS: ("change_trigger", "add_trigger"),
}
"""The permissions to write parts of a tree."""

OF_LINKS = ("add_treelink", "delete_treelink")


@dataclass(frozen=True)
class Place:
    """Something that differs, as the page shows it."""

    value: str
    """Its place, as the form sends it."""

    what: str
    code: str
    row: str
    kept: str
    """Who has kept it, and when; blank if nobody has."""

    is_kept: bool
    may_write: bool


@dataclass(frozen=True)
class InCode:
    """What a tree's page says of the code."""

    origin: str
    function: str
    synced_at: Any
    edited: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    url: str
    problem: str = ""


def in_code(site: str, tree: ProcessTree) -> InCode:
    """Return where a tree comes from, and how it differs from the code."""
    source = TreeSource.objects.filter(process_tree=tree).first()
    url = "" if source is None else page_address(site, ProcessTree, "code", tree.pk)
    try:
        found = code_drift.status_of(tree, source)
    except UNREADABLE as error:
        return InCode("", "", "", (), (), (), "", problem=str(error))
    edited = found.edited if source is not None else found.rows
    synced_at = "" if source is None else moment(source.synced_at)
    return InCode(found.origin, found.function, synced_at, edited, found.kept, found.removed, url)


class TreeCode:
    """The page on which an edit of a declared tree is taken back or kept; for the page of trees."""

    admin_site: Any
    opts: Any

    def get_urls(self) -> list[URLPattern]:
        """Add the address of the page."""
        view = self.admin_site.admin_view(
            require_http_methods(["GET", "HEAD", "POST"])(self.code_view)
        )
        name = f"{self.opts.app_label}_{self.opts.model_name}_code"
        return [path("<path:object_id>/code/", view, name=name), *super().get_urls()]  # type: ignore[misc]

    def code_view(self: Any, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what differs; take what the code said, or keep what the rows say."""
        tree: ProcessTree | None = self.get_object(request, unquote(object_id))
        if not self.has_view_or_change_permission(request, tree):
            raise PermissionDenied
        if tree is None:
            raise Http404
        source = TreeSource.objects.filter(process_tree=tree).first()
        if source is None:
            raise Http404
        drift = code_drift.drift_of(tree, source)
        if request.method == "POST":
            decided: HttpResponse = self._decide(request, tree, drift)
            return decided
        request.current_app = self.admin_site.name
        places = list(self._places(request, tree, source, drift))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("%(tree)s and the code") % {"tree": shorten(tree.name, 80)},
            "original": tree,
            "tree": tree,
            "media": self.media,
            "tree_url": page_address(self.admin_site.name, ProcessTree, "change", tree.pk),
            "source": source,
            "synced_at": moment(source.synced_at),
            "places": places,
            "may_write": any(each.may_write for each in places),
        }
        template = "admin/proctree_dagster/processtree/code.html"
        return TemplateResponse(request, template, context)

    def _places(
        self, request: HttpRequest, tree: ProcessTree, source: TreeSource, drift: Drift
    ) -> Iterable[Place]:
        for each in (*drift.edited, *drift.kept):
            found = drift.differences([each])
            note = source.kept_notes.get(place_of(each), {})
            by = note if isinstance(note, dict) else {}
            for number, difference in enumerate(found):
                yield Place(
                    value=place_of(each) if number == 0 else "",
                    what=difference.what,
                    code=difference.code,
                    row=difference.row,
                    kept=f"{by.get('by', '')} {by.get('at', '')[:16]}".strip(),
                    is_kept=each in drift.kept,
                    may_write=self.may_write_place(request, tree, each),
                )

    def may_write_place(self: Any, request: HttpRequest, tree: ProcessTree, place: Path) -> bool:
        """Return whether the user may write what is at a place of a tree, and decide on it."""
        if not self.has_change_permission(request, tree):
            return False
        user, [first, *others] = request.user, place
        if not others and first not in LINKS:
            names_code = first in ("processes", "executor")
            return not names_code or user.has_perm(NAME_FUNCTIONS)
        needed = OF_LINKS if not others else NEEDED[first]
        may = user.has_perms([f"{APP}.{each}" for each in needed])
        if first == TRIGGERS:
            return may and user.has_perms([FIRE, NAME_FUNCTIONS])
        return bool(may and self.has_run_permission(request, tree))

    def _decide(self: Any, request: HttpRequest, tree: ProcessTree, drift: Drift) -> HttpResponse:
        """Do what was chosen."""
        from ..tree_builder import code_choices  # it imports all that runs trees

        sent = set(request.POST.getlist("place"))
        paths = [each for each in (*drift.edited, *drift.kept) if place_of(each) in sent]
        action = request.POST.get("action")
        allowed = all(self.may_write_place(request, tree, each) for each in paths)
        if action not in ("take", "keep") or not allowed:
            raise PermissionDenied
        if not paths and not self.has_change_permission(request, tree):
            raise PermissionDenied
        here = page_address(self.admin_site.name, ProcessTree, "code", tree.pk)
        if not paths:
            told = gettext("Nothing was chosen that differs. Nothing was done.")
            self.message_user(request, told, messages.WARNING)
            return HttpResponseRedirect(here)
        names = ", ".join(each.what for each in drift.differences(paths))
        user = request.user.get_username()
        try:
            if action == "take":
                with revisions.saved_by(Origin.ADMIN, user):
                    code_choices.take(tree, paths)
                told = gettext("As the code said: %(what)s.")
            else:
                code_choices.keep(tree, paths, user)
                told = gettext("A sync leaves it as it is: %(what)s.")
        except ProctreeError as error:
            why = format_html(gettext("Nothing was changed: {why}"), why=str(error))
            self.message_user(request, why, messages.ERROR)
            return HttpResponseRedirect(here)
        self.log_change(request, tree, told % {"what": names})
        self.message_user(request, told % {"what": names}, messages.SUCCESS)
        return HttpResponseRedirect(
            page_address(self.admin_site.name, ProcessTree, "change", tree.pk)
        )
