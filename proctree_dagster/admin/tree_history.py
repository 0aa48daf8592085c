"""What trees were: the pages of their revisions, and the part of a run's page on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path
from django.utils.translation import gettext
from django.views.decorators.http import require_http_methods, require_safe

from ..domain.runs import ProcessRun
from ..domain.texts import shorten
from ..exceptions import InvalidTree
from ..models import Origin, ProcessTree, TreeChange, TreeRevision
from ..services import code_drift, revisions
from . import tree_page
from .html import json_text, moment, page_address
from .permissions import NAME_FUNCTIONS

MOST = 200
"""How many revisions are listed."""

TEMPLATES = "admin/proctree_dagster/processtree"


@dataclass(frozen=True)
class Then:
    """A tree as it was, for a run's page."""

    revision: str
    sentence: str
    processes: list[tree_page.ProcessView]
    graph: Any
    url: str
    """The page of the revision; blank if there is no such tree any more."""


def of_run(
    job_name: str,
    revision: str,
    tree: ProcessTree | None,
    outcomes: Mapping[str, ProcessRun],
    site: str,
) -> Then | None:
    """Return a tree as it was when it ran; ``None`` if that is not recorded.

    Parameters
    ----------
    job_name, revision:
        The run's.
    tree:
        The tree as it is now; ``None`` if it was deleted.
    outcomes:
        What has become of the processes, by their names.
    site:
        The name of the admin site.
    """
    found = revisions.find(job_name, revision) if revision else None
    if found is None:
        return None
    shown = tree_page.drawn(revisions.as_row(found), outcomes, "then")
    url = "" if tree is None else _address(site, tree.pk, revision)
    return Then(revision, _sentence(found, tree), shown["processes"], shown["graph"], url)


def _sentence(found: TreeRevision, tree: ProcessTree | None) -> str:
    if tree is None:
        return gettext("The tree was deleted since. This is what it was.")
    if tree.revision == found.revision:
        return gettext("The tree is still as it was.")
    differing = revisions.differences(revisions.content(found), revisions.present(tree))
    names = [what for what, _before, _after in differing]
    told = gettext("The tree was changed since: %(what)s. This is what it was.")
    return told % {"what": shorten(", ".join(names), 200)}


def _address(site: str, tree: Any, revision: str) -> str:
    try:
        return page_address(site, ProcessTree, "revision", tree, revision)
    except NoReverseMatch:  # the project's own page of trees may lack it
        return ""


class TreeHistory:
    """The revisions of a tree: mix it into the page of trees."""

    admin_site: Any
    opts: Any

    def get_urls(self) -> list[URLPattern]:
        """Add the addresses of the pages."""
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        listed = self.admin_site.admin_view(require_safe(self.revisions_view))
        one = self.admin_site.admin_view(
            require_http_methods(["GET", "HEAD", "POST"])(self.revision_view)
        )
        return [
            path("<path:object_id>/revisions/", listed, name=f"{name}_revisions"),
            path("<path:object_id>/revisions/<slug:revision>/", one, name=f"{name}_revision"),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show or save a row; one revision is recorded of all that is saved with it."""
        with revisions.saved_by(Origin.ADMIN, request.user.get_username()), revisions.together():
            answer: HttpResponse = super().changeform_view(request, *args, **kwargs)  # type: ignore[misc]
        return answer

    def save_related(self, request: HttpRequest, *args: Any) -> None:
        """Save the rows beside it, and record the revision in the same transaction."""
        super().save_related(request, *args)  # type: ignore[misc]
        revisions.record_pending()

    def may_restore(self, request: HttpRequest, tree: ProcessTree) -> bool:
        """Return whether the user may save what a tree was."""
        page: Any = self
        may_change: bool = page.has_change_permission(request, tree)
        return may_change and request.user.has_perm(NAME_FUNCTIONS)

    def revisions_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """List what a tree was."""
        tree = self._tree(request, object_id)
        site, present = self.admin_site.name, tree.revision
        changes = list(revisions.history(tree.job_name)[:MOST])
        rows = [
            {
                "revision": each.revision,
                "url": _address(site, tree.pk, each.revision),
                "at": moment(each.at),
                "origin": each.get_origin_display(),
                "who": each.who,
                "is_present": number == 0 and each.revision == present,
            }
            for number, each in enumerate(changes)
        ]
        is_recorded = bool(rows) and bool(rows[0]["is_present"])
        context = {"rows": rows, "present": present, "is_recorded": is_recorded}
        title = gettext("Revisions of %(tree)s") % {"tree": shorten(tree.name, 80)}
        return self._shown(request, tree, "revisions", title, context)

    def revision_view(self, request: HttpRequest, object_id: str, revision: str) -> HttpResponse:
        """Show what a tree was, and what has changed since; save it again."""
        tree = self._tree(request, object_id)
        found = revisions.find(tree.job_name, revision)
        if found is None:
            raise Http404
        may_restore = self.may_restore(request, tree)
        if request.method == "POST":
            if not may_restore:
                raise PermissionDenied
            return self._restore(request, tree, found)
        old = revisions.as_row(found)
        shown = tree_page.drawn(old, {}, "then")
        changes = TreeChange.objects.filter(job_name=tree.job_name, revision=revision)
        first = changes.order_by("pk").first()
        context = {
            **shown,
            "revision": revision,
            "old": old,
            "first": first,
            "first_at": "" if first is None else moment(first.at),
            "default_context": json_text(found.context),
            "differences": _differences(found, tree),
            "restores": _restores(found, tree),
            "problems": old.problems(),
            "may_restore": may_restore,
        }
        title = gettext("%(tree)s, revision %(revision)s") % {
            "tree": shorten(tree.name, 80),
            "revision": revision,
        }
        return self._shown(request, tree, "revision", title, context)

    def _restore(
        self: Any, request: HttpRequest, tree: ProcessTree, found: TreeRevision
    ) -> HttpResponse:
        try:
            with revisions.saved_by(Origin.ADMIN, request.user.get_username()):
                changed = revisions.restore(tree, found)
        except InvalidTree as error:
            why = " ".join(error.problems)
            told = gettext("It was not restored: %(why)s") % {"why": why}
            self.message_user(request, told, messages.ERROR)
            return HttpResponseRedirect(_address(self.admin_site.name, tree.pk, found.revision))
        if changed:
            told = gettext("Restored the processes and options of revision %(revision)s.")
            self.log_change(request, tree, told % {"revision": found.revision})
        else:
            told = gettext("The processes and options are those of revision %(revision)s already.")
        self.message_user(request, told % {"revision": found.revision}, messages.SUCCESS)
        here = self.admin_site.name
        return HttpResponseRedirect(page_address(here, ProcessTree, "change", tree.pk))

    def _tree(self: Any, request: HttpRequest, object_id: str) -> ProcessTree:
        """Return the tree, if the user may see it.

        Raises
        ------
        PermissionDenied, Http404
            The user may not, or there is none.
        """
        tree: ProcessTree | None = self.get_object(request, unquote(object_id))
        if not self.has_view_or_change_permission(request, tree):
            raise PermissionDenied
        if tree is None:
            raise Http404
        return tree

    def _shown(
        self: Any,
        request: HttpRequest,
        tree: ProcessTree,
        template: str,
        title: str,
        context: Mapping[str, Any],
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        shown = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "original": tree,
            "tree": tree,
            "media": self.media,
            "tree_url": page_address(self.admin_site.name, ProcessTree, "change", tree.pk),
            "revisions_url": page_address(self.admin_site.name, ProcessTree, "revisions", tree.pk),
            **context,
        }
        return TemplateResponse(request, f"{TEMPLATES}/{template}.html", shown)


@dataclass(frozen=True)
class Difference:
    """Something that was changed, for a table."""

    what: str
    before: str
    after: str


def _differences(found: TreeRevision, tree: ProcessTree) -> list[Difference]:
    differing = revisions.differences(revisions.content(found), revisions.present(tree))
    return [
        Difference(what, code_drift.shown(before), code_drift.shown(after))
        for what, before, after in differing
    ]


def _restores(found: TreeRevision, tree: ProcessTree) -> bool:
    """Return whether restoring a revision would change anything."""
    old = revisions.as_row(found)
    old.name = tree.name
    return old.own_content != tree.own_content
