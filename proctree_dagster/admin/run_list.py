"""The list of runs: what Dagster's storage has, and what is requested and has not reached it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..domain.names import dagster_name
from ..domain.runs import RunPage, RunSummary
from ..domain.texts import shorten
from ..exceptions import HistoryLoading, HistoryUnavailable
from ..models import ProcessTree
from . import run_deeds
from .html import duration, moment, row_link, run_link, started_by, status_badge
from .run_filters import IN_CONTEXTS, RunFilters

PAGE = 50
"""How many runs a page has."""

MOST_REQUESTED = 20
"""How many runs that Dagster does not have yet are listed before the others."""

MOST_TREES = 300
"""How many trees are offered where one types a name."""

TYPED = ("tree", "tag", "day")
"""The filters that one types; the others are links."""

LONGEST_REASON = 200
"""How many characters of why a process failed are listed."""


_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Row:
    """A run as the list shows it."""

    run: RunSummary
    status: SafeString | str
    link: SafeString | str
    tree: SafeString | str
    started_by: str
    started: SafeString | str
    duration: str
    failed: SafeString | str


@dataclass
class RunList:
    """What the list shows."""

    filters: RunFilters
    rows: list[Row] = field(default_factory=list)
    notes: list[SafeString | str] = field(default_factory=list)
    """What the list does not show, and what does not count: a sentence each."""

    problem: str = ""
    """Why Dagster could not be asked."""

    is_loading: bool = False
    """Whether it can be asked in a moment."""

    older: str = ""
    newer: str = ""
    newest: str = ""
    """The addresses of the pages beside it, and of the first one; blank if there are none."""

    deeds: list[run_deeds.Deed] = field(default_factory=list)
    tree_names: list[str] = field(default_factory=list)

    headings: Any = (
        *(_("Status"), _("Run"), _("Process tree"), _("Started by")),
        *(_("Started"), _("Took"), _("What failed")),
    )

    @property
    def fields(self) -> list[Any]:
        """The filters that one types."""
        return [self.filters[name] for name in TYPED]

    @property
    def filter_keeps(self) -> list[tuple[str, str]]:
        """The other filters, which the form of those keeps."""
        return self.filters.hidden(*TYPED)

    @property
    def search_keeps(self) -> list[tuple[str, str]]:
        """The filters that the search keeps."""
        return self.filters.hidden("q")


def build(page: Any, request: HttpRequest) -> RunList:
    """Return what the list shows for a request."""
    filters = RunFilters(request.GET)
    shown = RunList(filters, notes=[*filters.problems()])
    runs = _runs(shown)
    trees = run_deeds.trees_of(runs)
    shown.rows = list(rows(runs, trees, page.admin_site.name))
    shown.deeds = run_deeds.offered(page, request, [trees.get(run.job_name) for run in runs])
    names = ProcessTree.objects.order_by("name").values_list("name", flat=True)
    shown.tree_names = list(names[:MOST_TREES])
    return shown


def _runs(shown: RunList) -> list[RunSummary]:
    """Return the runs to show; those of an id's beginning, if that is searched and finds any."""
    filters = shown.filters
    if filters.prefix_of_id:
        found = _by_id(shown)
        if found:
            return found
        filters.search_contexts()
    requested = _requested(shown) if filters.lists_requested else []
    recorded = _ask(shown, _page) if filters.lists_recorded else None
    listed = () if recorded is None else recorded.runs
    there = {run.run_id for run in listed}
    return [*(run for run in requested if run.run_id not in there), *listed]


def _ask(shown: RunList, question: Callable[[RunList, Any], _Answer]) -> _Answer | None:
    """Return what Dagster's history answers; ``None``, with the reason, if it can't be asked."""
    from ..running import run_history  # it imports all that runs trees, as do those below

    try:
        with run_history.opened() as history:
            return question(shown, history)
    except HistoryLoading as error:
        shown.problem, shown.is_loading = str(error), True
    except HistoryUnavailable as error:
        shown.problem = str(error)
    return None


def _by_id(shown: RunList) -> list[RunSummary]:
    """Return the runs whose id begins with what is searched, with a link to other places."""
    from ..running import requested_runs

    prefix = shown.filters.prefix_of_id
    requested = requested_runs.summaries(requested_runs.ids_that_begin_with(prefix, PAGE))
    recorded = _ask(shown, _recorded_by_id) or {}
    found = {**{run.run_id: run for run in requested}, **recorded}
    if found:
        told = gettext("Runs whose id begins with “{text}”; other filters do not count. {link}")
        link = format_html(
            '<a href="{}">{}</a>',
            shown.filters.url(**{"in": IN_CONTEXTS}),
            gettext("Search contexts for it"),
        )
        shown.notes.append(format_html(told, text=prefix, link=link))
    return list(found.values())


def _recorded_by_id(shown: RunList, history: Any) -> dict[str, RunSummary]:
    ids = history.ids_that_begin_with(shown.filters.prefix_of_id, PAGE)
    found: dict[str, RunSummary] = history.summaries(ids)
    return found


def _requested(shown: RunList) -> list[RunSummary]:
    """Return the runs that Dagster does not have yet."""
    from ..running import requested_runs

    found = requested_runs.waiting(shown.filters.query(), MOST_REQUESTED + 1)
    if len(found) > MOST_REQUESTED:
        told = gettext("More than %(count)d runs wait for Dagster: the newest are listed.")
        shown.notes.append(told % {"count": MOST_REQUESTED})
    return found[:MOST_REQUESTED]


def _page(shown: RunList, history: Any) -> RunPage:
    """Return a page of the runs that Dagster has, and note the addresses of those beside it."""
    filters = shown.filters
    page: RunPage = history.recent(
        filters.query(), most=PAGE, before=filters.value("before"), after=filters.value("after")
    )
    if filters.is_paged:
        shown.newest = filters.url()
    if page.older:
        shown.older = filters.url(before=page.older)
    if page.newer:
        shown.newer = filters.url(after=page.newer)
    if page.searched_back_to is not None:
        told = gettext("Searched {count} runs, back to {moment}. {link}")
        link = format_html('<a href="{}">{}</a>', shown.older, gettext("Search older ones"))
        back_to = moment(page.searched_back_to)
        shown.notes.append(format_html(told, count=page.searched, moment=back_to, link=link))
    return page


# Rows


def rows(runs: Iterable[RunSummary], trees: Mapping[str, ProcessTree], site: str) -> Iterable[Row]:
    """Return runs as lists show them.

    Parameters
    ----------
    runs:
        The runs.
    trees:
        Their trees, by ``job_name``; a run whose tree was deleted is listed by its name.
    site:
        The name of the admin site.
    """
    for run in runs:
        tree = trees.get(run.job_name)
        yield Row(
            run=run,
            status=status_badge(run.status),
            link=run_link(run.run_id, site=site),
            tree=run.tree if tree is None else row_link(tree, run.tree, site),
            started_by=started_by(run),
            started=moment(run.started_at or run.created_at),
            duration=duration(run.seconds),
            failed=failures(run, tree),
        )


def failures(run: RunSummary, tree: ProcessTree | None = None) -> SafeString | str:
    """Return what failed in a run, and why: a line for each process."""
    names = names_of_steps(tree)
    lines = (
        ": ".join(part for part in (names.get(step, step), why) if part)
        for step, why in run.failures.items()
    )
    shortened = ((shorten(line, LONGEST_REASON),) for line in lines)
    return format_html_join("", '<div class="pt-failed">{}</div>', shortened)


def names_of_steps(tree: ProcessTree | None) -> dict[str, str]:
    """Return the names of a tree's processes by those of their steps; nothing of a broken row."""
    processes = tree.processes if tree is not None and isinstance(tree.processes, list) else []
    names = (each.get("name") for each in processes if isinstance(each, dict))
    return {dagster_name(name): name for name in names if isinstance(name, str)}
