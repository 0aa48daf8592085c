"""Requests for runs by the users of pages: of one tree, of several, of a run's tree again."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext

from ..context import tagging
from ..domain import run_tags
from ..exceptions import ContextError, InvalidTree, ProctreeError, RunNotFound
from ..models import OutboxRun, ProcessTree, ProcessTreeSchedule, Run
from ..models.validation.tree_validation import validate_tree
from .deeds import Deeds, token_of
from .html import page_address, run_link
from .permissions import has_run_permission, may_view_runs
from .run_deeds import trees_of

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite

AGAIN = "again"
"""The deed by which a run's tree is run again with the same context."""


def request_run(
    page: Any,
    request: HttpRequest,
    tree: ProcessTree,
    context: dict[str, Any],
    *,
    tags: dict[str, str] | None = None,
    token: uuid.UUID | None = None,
) -> str:
    """Request a run by the user of a page, and return its id; it is in Django's log.

    Parameters
    ----------
    page:
        The page on which it is requested.
    request:
        The request.
    tree:
        The tree, which the user may run.
    context:
        The context as JSON; it updates that of the tree's schedule.
    tags:
        More tags of the run.
    token:
        The form's: the same one with the same context requests no second run.

    Raises
    ------
    InvalidTree
        The tree is broken.
    ContextError
        The context can't be stored.
    """
    run_id = _run_id(token, request, tree, context, tags or {})
    if run_id is not None and _is_requested(run_id):
        told = gettext("This run was requested already, with the same form.")
        page.message_user(request, told, messages.WARNING)
        return run_id
    found = _request(request, tree, context, tags, run_id)
    page.log_change(request, tree, _log_text(found))
    return found


def _request(
    request: HttpRequest,
    tree: ProcessTree,
    context: dict[str, Any],
    tags: dict[str, str] | None = None,
    run_id: str | None = None,
) -> str:
    from ..running import run_requests  # it imports all that runs trees, and every command us

    return run_requests.request_row(
        tree,
        context,
        triggered_by="admin",
        run_tags={**tagging.by_user(request.user.get_username()), **(tags or {})},
        run_id=run_id,
    )


def _log_text(run_id: str) -> str:
    return gettext("Run %(run)s was requested.") % {"run": run_id}


def _run_id(
    token: uuid.UUID | None,
    request: HttpRequest,
    tree: ProcessTree,
    context: dict[str, Any],
    tags: dict[str, str],
) -> str | None:
    """Return the id of the run that a form asks for; another one, if it was filled in otherwise.

    ``None`` if the form has no token: each time it is sent is a run.
    """
    if token is None:
        return None
    what = [request.user.pk, tree.pk, context, tags]
    return str(uuid.uuid5(token, json.dumps(what, sort_keys=True, default=str)))


def _is_requested(run_id: str) -> bool:
    """Return whether a form was sent before: the outbox has the run that it asks for."""
    return OutboxRun.objects.filter(run_id=run_id).exists()


@dataclass
class Requested:
    """The outcome of a request for runs of several trees."""

    runs: list[tuple[ProcessTree, str]] = field(default_factory=list)
    """The trees whose runs were requested, with the ids of the runs."""

    refused: list[tuple[ProcessTree, str]] = field(default_factory=list)
    """The other trees, with the reason."""

    def page_of_only_run(self, site: "AdminSite", request: HttpRequest) -> HttpResponse | None:
        """Return a redirect to the page of the run, if it is one alone, and the user may see it."""
        if len(self.runs) != 1 or self.refused or not may_view_runs(site, request):
            return None
        return HttpResponseRedirect(page_address(site.name, Run, "change", self.runs[0][1]))


def request_runs(
    page: Any,
    request: HttpRequest,
    rows: Iterable[ProcessTree | ProcessTreeSchedule],
) -> Requested:
    """Request a run of each tree with the context of its schedule, and show what was requested.

    A tree that the user may not run, that is broken, or whose functions need what the schedule's
    context lacks, is not run, and named with the reason. For actions of lists.

    Parameters
    ----------
    page:
        The page with the list.
    request:
        The request.
    rows:
        Schedules, whose trees run, or trees, with their default schedules; fetch them together.
    """
    result, deeds, token = Requested(), Deeds(page, request), token_of(request)
    for row in rows:
        tree, name, tags = _named(row)
        chosen = _run_id(token, request, tree, {}, tags)
        if chosen is not None and _is_requested(chosen):
            deeds.not_done(name, gettext("It was requested already, by the same click."))
            result.runs.append((tree, chosen))
            continue
        try:
            refusal = _refusal(page.admin_site, request, tree, tags)
            run_id = "" if refusal else _request(request, tree, {}, tags, chosen)
        except ProctreeError as error:
            refusal, run_id = str(error), ""
        if refusal:
            result.refused.append((tree, refusal))
            deeds.not_done(name, refusal)
        else:
            result.runs.append((tree, run_id))
            link = run_link(run_id, f"{name} ({run_id[:8]})", page.admin_site.name)
            deeds.done(tree, link, _log_text(run_id))
    deeds.report(
        gettext("Requested: {names}."),
        gettext("Not run: {names}. {why}"),
    )
    return result


def _named(row: ProcessTree | ProcessTreeSchedule) -> tuple[ProcessTree, str, dict[str, str]]:
    """Return the tree to run, what it is called in a message, and the tag of its schedule."""
    if isinstance(row, ProcessTree):
        return row, row.name, {}
    return row.process_tree, row.title, run_tags.of_schedule(row.name)


def _refusal(
    site: "AdminSite", request: HttpRequest, tree: ProcessTree, tags: Mapping[str, str]
) -> str:
    """Return why a tree can't be run with its schedule's context; blank if it can."""
    if not has_run_permission(site, request, tree):
        return gettext("You may not run it.")
    try:
        validate_tree(tree.to_dict())
    except InvalidTree as error:
        return " ".join(error.problems)
    base = tree.base_context(tags)
    return " ".join(tree.schema_on(base).problems(base))


@dataclass(frozen=True)
class Source:
    """A run whose context another run gets."""

    run_id: str
    tree: ProcessTree | None
    """Its tree, unless that was deleted."""

    context: dict[str, Any]
    """Its context as JSON, with its secrets."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """The tag that names its schedule, if that is not the default one."""

    @property
    def base(self) -> dict[str, Any]:
        """The context that a run with the same tags updates."""
        return {} if self.tree is None else self.tree.base_context(self.tags)


def source_of(run_id: str, *, wait: float) -> Source:
    """Return a run with its context.

    Parameters
    ----------
    run_id:
        Its id.
    wait:
        Seconds to wait for Dagster's import, if Dagster is to be asked.

    Raises
    ------
    HistoryUnavailable
        Dagster can't be asked.
    RunNotFound
        There is no such run.
    """
    from ..running import requested_runs, run_history

    row = requested_runs.find(run_id)
    if row is not None:
        given = row.context if isinstance(row.context, dict) else {}
        tags = _schedule_tag(row.tags if isinstance(row.tags, dict) else {})
        base = row.process_tree.base_context(tags)
        return Source(run_id, row.process_tree, {**base, **given}, tags)
    with run_history.opened(wait=wait) as history:
        run = history.summaries([run_id]).get(run_id)
        if run is None:
            raise RunNotFound(gettext("There is no run %(run)s.") % {"run": run_id})
        tree = trees_of([run]).get(run.job_name)
        tags = run_tags.of_schedule(run.schedule)
        return Source(run_id, tree, history.context_of(run_id), tags)


def _schedule_tag(tags: Mapping[str, str]) -> dict[str, str]:
    return run_tags.of_schedule(run_tags.schedule_of(tags))


def run_again(page: Any, request: HttpRequest, source: Source) -> HttpResponse:
    """Request a run with the context of another one, and show it.

    Raises
    ------
    PermissionDenied
        The user may not run the tree.
    """
    site, tree = page.admin_site, source.tree
    if not has_run_permission(site, request, tree):
        raise PermissionDenied
    back = HttpResponseRedirect(page_address(site.name, Run, "change", source.run_id))
    if tree is None:
        page.message_user(request, gettext("Its tree was deleted."), messages.WARNING)
        return back
    problems = tree.schema_on(source.base).problems({**source.base, **source.context})
    try:
        if problems:
            raise ContextError(" ".join(problems))
        run_id = request_run(
            page, request, tree, source.context, tags=dict(source.tags), token=token_of(request)
        )
    except ProctreeError as error:
        told = gettext("Not run: %(why)s") % {"why": error}
        page.message_user(request, told, messages.WARNING)
        return back
    added = ", ".join(sorted(source.base.keys() - source.context.keys()))
    if added:
        told = gettext("The schedule’s context has added what that run did not have: %(keys)s.")
        page.message_user(request, told % {"keys": added}, messages.INFO)
    return shown(page, request, tree, run_id)


def shown(page: Any, request: HttpRequest, tree: ProcessTree, run_id: str) -> HttpResponse:
    """Lead to the page of a run that was requested; to its tree's, if the user may see no runs."""
    site = page.admin_site
    if may_view_runs(site, request):
        return HttpResponseRedirect(page_address(site.name, Run, "change", run_id))
    page.message_user(request, _log_text(run_id), messages.SUCCESS)
    return HttpResponseRedirect(page_address(site.name, ProcessTree, "change", tree.pk))
