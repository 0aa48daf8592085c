"""Run now: the form for a run of a tree, and an action that runs several. Nothing runs in here."""

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..domain import run_tags
from ..domain.texts import shorten
from ..exceptions import (
    ContextError,
    HistoryLoading,
    HistoryUnavailable,
    InvalidTree,
    RunNotFound,
)
from ..models import ProcessTree, default_schedules
from ..models.validation.tree_validation import validate_tree
from .context_form import MORE, ContextForm
from .deeds import ActionForm, token_of
from .html import page_address, run_link
from .permissions import may_view_runs
from .row_fields import KeyChoices, RowFields, model_of
from .run_asking import request_run, request_runs, shown, source_of

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite


class RunNow:
    """A page of trees: a form with which one is run now, and an action that runs several.

    Mix it into the page of ``ProcessTree``.
    """

    admin_site: Any
    opts: Any
    media: Any

    actions: Any = ("run_now",)
    action_form: Any = ActionForm

    def get_urls(self: Any) -> list[Any]:
        """Add the addresses of the form, and of the rows that it offers."""
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        form, rows = (
            self.admin_site.admin_view(each) for each in (self.run_view, self.run_choices_view)
        )
        return [
            path("<path:object_id>/run/", form, name=f"{name}_run"),
            path("<path:object_id>/run/choices/", rows, name=f"{name}_run_choices"),
            *super().get_urls(),  # type: ignore[misc]
        ]

    @admin.action(description=_("Run the selected trees now"), permissions=["run"])
    def run_now(self: Any, request: HttpRequest, queryset: QuerySet[ProcessTree]) -> Any:
        """Request a run of each tree; of one alone, show it."""
        found = request_runs(self, request, queryset.prefetch_related(default_schedules()))
        return found.page_of_only_run(self.admin_site, request)

    def _tree_to_run(self: Any, request: HttpRequest, object_id: str) -> ProcessTree | None:
        """Return the tree, if the user may see and run it.

        Raises
        ------
        PermissionDenied
            The user may not.
        """
        tree: ProcessTree | None = self.get_object(request, unquote(object_id))
        may_view = self.has_view_or_change_permission(request, tree)
        if not may_view or not self.has_run_permission(request, tree):
            raise PermissionDenied
        return tree

    def run_choices_view(self: Any, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return the rows that may be chosen for a key, as JSON."""
        tree = self._tree_to_run(request, object_id)
        key = None if tree is None else tree.context_schema.keys.get(request.GET.get("key", ""))
        model = None if key is None else model_of(key)
        if model is None:
            raise Http404
        view = KeyChoices.as_view(admin_site=self.admin_site, model=model)
        answer: HttpResponse = view(request)  # type: ignore[assignment]
        return answer

    def run_view(self: Any, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show the form; request the run that it describes, and show that."""
        tree = self._tree_to_run(request, object_id)
        if tree is None:
            told = gettext("This tree does not exist. Perhaps it was deleted?")
            self.message_user(request, told, messages.WARNING)
            address = page_address(self.admin_site.name, ProcessTree, "changelist")
            return HttpResponseRedirect(address)
        form = RunForm(self, request, tree)
        if request.method == "POST":
            run_id = form.requested()
            if run_id is not None:
                return shown(self, request, tree, run_id)
        return form.page()


class RunForm:
    """The page with the form for one run.

    Parameters
    ----------
    page:
        The page of trees.
    request:
        The request.
    tree:
        The tree, which the user may run.
    """

    def __init__(self, page: Any, request: HttpRequest, tree: ProcessTree) -> None:
        self._page, self._request, self._tree = page, request, tree
        self._site: AdminSite = page.admin_site
        self._source_id = request.GET.get("run", "")
        self._problem, self._is_loading = "", False
        self._tags: Mapping[str, str] = {}
        self._tree_problems = _problems(tree)
        base = self._base()
        url = page_address(self._site.name, ProcessTree, "run_choices", tree.pk)
        self._form = ContextForm(
            request.POST if request.method == "POST" else None,
            schema=tree.schema_on(tree.base_context(self._tags)),
            base=base,
            default=tree.base_context(self._tags),
            row_field=RowFields(self._site, request, url),
        )
        if tree.cache_enabled and any(_caches(each) for each in tree.processes):
            self._form.fields["use_cache"] = forms.BooleanField(
                label=_("use cached results"), required=False, initial=True
            )

    def _base(self) -> dict[str, Any]:
        """Return the context that the form is prefilled with: a run's, or the schedule's."""
        if not self._source_id:
            return self._tree.default_context
        if not may_view_runs(self._site, self._request):
            raise PermissionDenied
        try:
            source = source_of(self._source_id, wait=0.3)
        except HistoryLoading as error:
            self._problem, self._is_loading = str(error), True
        except (HistoryUnavailable, RunNotFound) as error:
            self._problem = str(error)
        else:
            if source.tree == self._tree:
                self._tags = source.tags
                return {**self._tree.base_context(source.tags), **source.context}
            self._problem = gettext("That run is one of another tree.")
        return self._tree.default_context

    def requested(self) -> str | None:
        """Request the run that was described; return its id, or ``None`` if it has a problem."""
        form = self._form
        if self._problem:
            told = gettext("The run's context can't be read: %(why)s Send the form again.")
            form.add_error(None, told % {"why": self._problem})
        if not form.is_valid() or self._tree_problems:
            return None
        is_cached = form.cleaned_data.get("use_cache", True)
        tags = {**self._tags, **({} if is_cached else {run_tags.NO_CACHE: "true"})}
        token = token_of(self._request)
        try:
            return request_run(
                self._page, self._request, self._tree, form.context, tags=tags, token=token
            )
        except InvalidTree as error:
            self._tree_problems = error.problems
        except ContextError as error:
            form.add_error(MORE if MORE in form.fields else None, str(error))
        return None

    def page(self) -> HttpResponse:
        """Show the form."""
        page, form, tree = self._page, self._form, self._tree
        fields = [(None, {"fields": list(form.fields)})]
        any_form: Any = form  # Django's helpers take all of them
        self._request.current_app = self._site.name
        context = {
            **self._site.each_context(self._request),
            "opts": page.opts,
            "title": gettext("Run %(tree)s") % {"tree": shorten(tree.name, 80)},
            "original": tree,
            "tree": tree,
            "adminform": helpers.AdminForm(any_form, fields, {}, model_admin=page),
            "errors": helpers.AdminErrorList(any_form, []),
            "media": page.media + form.media,
            "token": token_of(self._request) or uuid.uuid4(),
            "source_id": self._source_id,
            "source": run_link(self._source_id, site=self._site.name),
            "has_schedule": tree.schedule_or_none is not None,
            "problem": self._problem,
            "is_loading": self._is_loading and not form.is_bound,
            "tree_problems": self._tree_problems,
        }
        template = "admin/proctree_dagster/processtree/run_now.html"
        return TemplateResponse(self._request, template, context)


def _problems(tree: ProcessTree) -> list[str]:
    """Return what is wrong with a tree, so that no run of it could succeed."""
    try:
        validate_tree(tree.to_dict())
    except InvalidTree as error:
        return error.problems
    return []


def _caches(process: Any) -> bool:
    """Return whether a process's results are cached."""
    return isinstance(process, dict) and bool(process.get("cache_key") or process.get("cache_ttl"))
