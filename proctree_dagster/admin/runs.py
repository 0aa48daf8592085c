"""Runs, as Dagster's storage has them: a list, and a page of each."""

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..domain.runs import FailedRuns, RunSummary
from ..exceptions import HistoryLoading, HistoryUnavailable, RunNotFound
from ..models import Run
from . import run_asking, run_deeds, run_list, run_page
from .forms import SplitDateTime
from .html import page_address
from .run_deeds import DEEDS, Chosen, Deed

if TYPE_CHECKING:
    from ..running import run_history

TEMPLATES = "admin/proctree_dagster/run"

WAIT = 2.0
"""Seconds that a deed waits for Dagster's import."""

MOST_CHOSEN = 100
"""How many runs are chosen at most at once."""

SPANS = {
    _("the last hour"): dt.timedelta(hours=1),
    _("12 hours"): dt.timedelta(hours=12),
    _("24 hours"): dt.timedelta(hours=24),
    _("7 days"): dt.timedelta(days=7),
}
"""Since when failed runs are looked up, as links."""


class SinceForm(forms.Form):
    """Since when failed runs are looked up."""

    since = forms.SplitDateTimeField(
        label=_("Failed since"), widget=SplitDateTime(_("Failed since"))
    )


@admin.register(Run)
class RunAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Runs; nothing of them is a row of Django's.

    The deeds need the permissions ``retry_run`` and ``cancel_run``, and the one to run the tree.
    """

    # Permissions

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: a run is requested on the page of its tree."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what happened is not edited."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: Dagster deletes runs, by its own retention."""
        return False

    # Addresses

    def get_urls(self) -> list[Any]:
        """Add the addresses of a run's live part, of what is done to it, and of failed runs."""
        site, name = self.admin_site, f"{self.opts.app_label}_{self.opts.model_name}"
        own = [
            path("retry-failed/", site.admin_view(self.failed_view), name=f"{name}_failed"),
            path("<path:object_id>/live/", site.admin_view(self.live_view), name=f"{name}_live"),
            path(
                "<path:object_id>/action/",
                site.admin_view(self.action_view),
                name=f"{name}_action",
            ),
        ]
        return [*own, *super().get_urls()]

    def _address(self, page: str, *args: str) -> str:
        return page_address(self.admin_site.name, self.model, page, *args)

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _shown(
        self, request: HttpRequest, template: str, title: str, context: Mapping[str, Any]
    ) -> HttpResponse:
        """Return a page of this site."""
        request.current_app = self.admin_site.name
        whole = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "media": self.media,
            **context,
        }
        return TemplateResponse(request, f"{TEMPLATES}/{template}.html", whole)

    # The list

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, or do something to the chosen runs."""
        self._require_view(request)
        if request.method == "POST":
            return self._do_many(request)
        shown = run_list.build(self, request)
        context = {"list": shown, "checkbox": ACTION_CHECKBOX_NAME, **(extra_context or {})}
        return self._shown(request, "change_list", gettext("Runs"), context)

    def _do_many(self, request: HttpRequest) -> HttpResponse:
        """Ask whether something is to be done to the chosen runs; do it, if that was confirmed."""
        deed = DEEDS.get(request.POST.get("action", ""))
        ids = list(dict.fromkeys(request.POST.getlist(ACTION_CHECKBOX_NAME)))
        back = HttpResponseRedirect(request.get_full_path())
        if deed is None or not ids:
            what = gettext("No action selected.") if deed is None else gettext("No run selected.")
            self.message_user(request, what, messages.WARNING)
            return back
        if len(ids) > MOST_CHOSEN:
            told = gettext("At most %(count)d runs can be chosen at once. Nothing was done.")
            self.message_user(request, told % {"count": MOST_CHOSEN}, messages.WARNING)
            return back
        return self._with_runs(request, deed, ids, back)

    def _with_runs(
        self, request: HttpRequest, deed: Deed, ids: list[str], back: HttpResponse
    ) -> HttpResponse:
        try:
            with opened_if_needed(ids) as (runs, history):
                chosen = run_deeds.choose(self, request, deed, runs)
                self._require_some(request, deed, chosen)
                if "confirmed" not in request.POST:
                    return self._confirm(request, deed, chosen, missing=len(ids) - len(runs))
                _done, left = run_deeds.carry_out(self, request, deed, chosen, history)
        except HistoryUnavailable as error:
            self._require_some(request, deed, [])
            self._nothing_done(request, error)
            return back
        if not left:
            return back
        told = gettext("%(count)d runs are left: confirm again to go on.") % {"count": len(left)}
        self.message_user(request, told, messages.WARNING)
        return self._confirm(request, deed, [each for each in chosen if each.run.run_id in left])

    def _require_some(self, request: HttpRequest, deed: Deed, chosen: list[Chosen]) -> None:
        """Refuse a user who may do it to none of the runs.

        Raises
        ------
        PermissionDenied
            It is so.
        """
        trees = [each.tree for each in chosen] or [None]
        if deed not in run_deeds.offered(self, request, trees):
            raise PermissionDenied

    def _confirm(
        self, request: HttpRequest, deed: Deed, chosen: list[Chosen], missing: int = 0
    ) -> HttpResponse:
        site = self.admin_site.name
        runs = [each.run for each in chosen]
        trees = {each.run.job_name: each.tree for each in chosen if each.tree is not None}
        context = {
            "deed": deed,
            "chosen": list(zip(chosen, run_list.rows(runs, trees, site), strict=True)),
            "count": sum(not each.refusal for each in chosen),
            "missing": missing,
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        return self._shown(request, "confirm", str(deed.label), context)

    def _nothing_done(self, request: HttpRequest, error: HistoryUnavailable) -> None:
        told = gettext("Nothing was done: %(why)s Try again.") % {"why": error}
        self.message_user(request, told, messages.WARNING)

    # Everything that failed since …

    def failed_view(self, request: HttpRequest) -> HttpResponse:
        """Show which trees' last runs have failed since a moment, to repeat them."""
        self._require_view(request)
        deed = DEEDS["retry"]
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET"])
        now = timezone.now().replace(microsecond=0)
        initial = {"since": now - dt.timedelta(hours=24)}
        form = SinceForm(request.GET) if "since_0" in request.GET else SinceForm(initial=initial)
        since = form.cleaned_data.get("since") if form.is_valid() else None
        since = since if form.is_bound else initial["since"]
        context: dict[str, Any] = {
            "form": form,
            "media": self.media + form.media,
            "spans": [(label, _since_url(now - span)) for label, span in SPANS.items()],
            "deed": deed,
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        if since is not None:
            context |= self._failed_since(request, deed, since)
        return self._shown(request, "retry_failed", gettext("Retry what failed"), context)

    def _failed_since(self, request: HttpRequest, deed: Deed, since: dt.datetime) -> dict[str, Any]:
        from ..running import run_history

        try:
            with run_history.opened() as history:
                found: FailedRuns = history.last_failed(since, MOST_CHOSEN)
        except HistoryUnavailable as error:
            return {"problem": str(error), "is_loading": isinstance(error, HistoryLoading)}
        chosen = run_deeds.choose(self, request, deed, found.chosen)
        trees = {each.run.job_name: each.tree for each in chosen if each.tree is not None}
        rows = run_list.rows(found.chosen, trees, self.admin_site.name)
        return {
            "since": since,
            "chosen": list(zip(chosen, rows, strict=True)),
            "count": sum(not each.refusal for each in chosen),
            "others": found.others,
            "is_cut": found.is_cut,
        }

    # A run

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a run."""
        return self._run(request, unquote(object_id), "change_form")

    def history_view(
        self,
        request: HttpRequest,
        object_id: str,
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a run: its page has what people did to it."""
        return HttpResponseRedirect(self._address("change", unquote(object_id)))

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show the part of a run's page that changes while the run has not ended."""
        return self._run(request, unquote(object_id), "live")

    def _run(self, request: HttpRequest, run_id: str, template: str) -> HttpResponse:
        self._require_view(request)
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET"])
        is_full = request.GET.get("log") == run_page.ALL
        try:
            view = run_page.find(run_id, self.admin_site.name, is_full_log=is_full)
        except RunNotFound:
            return self._missing(request, run_id)
        title = gettext("Run %(run)s") % {"run": run_id[:8]}
        context = run_page.context(self, request, view)
        return self._shown(request, template, title, context)

    def action_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Do something to a run, and show it or the run that repeats it."""
        self._require_view(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        run_id, name = unquote(object_id), request.POST.get("action", "")
        if name == run_asking.AGAIN:
            return self._again(request, run_id)
        deed = DEEDS.get(name)
        if deed is None:
            raise PermissionDenied
        return self._do_one(request, run_id, deed)

    def _do_one(self, request: HttpRequest, run_id: str, deed: Deed) -> HttpResponse:
        try:
            with opened_if_needed([run_id]) as (runs, history):
                chosen = run_deeds.choose(self, request, deed, runs)
                self._require_some(request, deed, chosen)
                done, _left = run_deeds.carry_out(self, request, deed, chosen, history)
        except HistoryUnavailable as error:
            self._require_some(request, deed, [])
            self._nothing_done(request, error)
            return HttpResponseRedirect(self._address("change", run_id))
        if not runs:
            return self._missing(request, run_id)
        return HttpResponseRedirect(self._address("change", done.get(run_id, run_id)))

    def _missing(self, request: HttpRequest, run_id: str) -> HttpResponse:
        """Return to the list, as there is no such run."""
        told = gettext("There is no run %(run)s. Perhaps it was deleted?") % {"run": run_id}
        self.message_user(request, told, messages.WARNING)
        return HttpResponseRedirect(self._address("changelist"))

    def _again(self, request: HttpRequest, run_id: str) -> HttpResponse:
        """Request a run of the same tree with the same context."""
        try:
            source = run_asking.source_of(run_id, wait=WAIT)
        except HistoryUnavailable as error:
            self._nothing_done(request, error)
            return HttpResponseRedirect(self._address("change", run_id))
        except RunNotFound:
            return self._missing(request, run_id)
        return run_asking.run_again(self, request, source)


@contextmanager
def opened_if_needed(
    ids: list[str],
) -> Iterator[tuple[list[RunSummary], "run_history.History | None"]]:
    """Yield the runs of these ids that there are, and Dagster's history.

    Without the history, if all of them only wait in the outbox, and Dagster can't be asked.

    Raises
    ------
    HistoryUnavailable
        Dagster is needed, and can't be asked.
    """
    from ..running import requested_runs, run_history

    requested = {run.run_id: run for run in requested_runs.summaries(ids)}
    with ExitStack() as stack:
        history = None
        try:
            history = stack.enter_context(run_history.opened(wait=WAIT))
            found = {**requested, **history.summaries(ids)}
        except HistoryUnavailable:
            if len(requested) < len(ids):
                raise
            found = requested
        yield [found[each] for each in ids if each in found], history


def _since_url(since: dt.datetime) -> str:
    local = timezone.localtime(since)
    return f"?since_0={local:%Y-%m-%d}&since_1={local:%H:%M:%S}"
