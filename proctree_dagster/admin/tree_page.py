"""What a tree's page shows above its form: graph, processes, schedule, runs, family, triggers.

It is the same for people who may only view. Everything is read from rows that may be broken: a part
that can't be read says why, and the others are shown.
"""

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.admin.exceptions import NotRegistered
from django.db.models import F, Model, Q
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import functions
from ..context import sensitive
from ..domain.names import dagster_name
from ..domain.runs import ProcessRun, RunQuery, RunSummary
from ..domain.texts import explain, shorten
from ..exceptions import (
    FunctionError,
    HistoryLoading,
    HistoryUnavailable,
    RunNotFound,
    ScheduleError,
)
from ..functions import Function
from ..models import LinkKind, ProcessTree, ProcessTreeSchedule, TreeLink
from ..models.validation import tree_validation
from ..running import run_history
from ..services import function_listing, pauses
from ..support.row_reading import UNREADABLE, readable
from . import html, tree_graph
from . import pauses as pauses_shown

RUNS = 20
"""How many runs are shown."""

SCHEDULES = 20
"""How many schedules are shown."""

DUE_TIMES = 5
"""How many due times are shown of a schedule that is alone."""

DUE_TIMES_OF_MANY = 2
"""How many are shown of each where there are several."""

NOT_BEGUN = ("not_started", "queued")
"""Statuses of runs whose processes have no outcome yet."""

OUTCOMES = {
    "pending": _("pending"),
    "running": _("running"),
    "completed": _("completed"),
    "failed": _("failed"),
    "skipped": _("skipped"),
    "cached": _("cached"),
}
"""What the status of a process is called on a page."""


@dataclass(frozen=True)
class ProcessView:
    """A process as a row of the table."""

    name: str
    anchor: str
    """The id of the row, to which the graph and dependencies lead."""

    func: str
    summary: str
    """The first line of the function's docstring."""

    place: str
    """The file and line of the function."""

    dependencies: tuple[tuple[str, str], ...]
    """The names of what it depends on, each with the id of its row; blank for an unknown one."""

    options: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    outcome: ProcessRun | None
    """What the last run made of it."""

    @property
    def status(self) -> str:
        """Its outcome in words; blank if there is none."""
        return "" if self.outcome is None else outcome_in_words(self.outcome.status)

    @property
    def duration(self) -> str:
        """How long its function took in the last run; blank if unknown."""
        return "" if self.outcome is None else html.duration(self.outcome.seconds)


@dataclass(frozen=True)
class Runs:
    """The last runs of a tree, as Dagster has recorded them."""

    listed: tuple[RunSummary, ...] = ()
    outcomes: Mapping[str, ProcessRun] = field(default_factory=dict)
    """The processes of the last run that has begun, by their names."""

    last: RunSummary | None = None
    """That run."""

    problem: str = ""
    """Why Dagster could not be asked; blank if it was."""

    is_loading: bool = False
    """Whether Dagster is being imported, so that it can be asked in a moment."""

    @property
    def may_change(self) -> bool:
        """Whether a later request is going to show more."""
        return self.is_loading or any(not each.has_ended for each in self.listed)


@dataclass(frozen=True)
class LinkView:
    """Another row that a page names, with the address of its page."""

    name: str
    url: str
    note: str = ""


def outcome_in_words(status: str) -> str:
    """Return what a status of a process is called."""
    return str(OUTCOMES.get(status, status))


def page(site: AdminSite, request: HttpRequest, tree: ProcessTree) -> dict[str, Any]:
    """Return what the template of a tree's page needs."""
    runs = read_runs(tree.job_name)
    found = _problems(tree)
    processes = _processes(tree, found, runs.outcomes)
    of_processes = {problem for each in processes for problem in each.problems}
    return {
        "processes": processes,
        "problems": [each for each in found if each not in of_processes],
        "graph": _graph(processes),
        "runs": runs,
        "last_run": html.run_link(runs.last.run_id, site=site.name) if runs.last else "",
        "last_status": html.status_badge(runs.last.status) if runs.last else "",
        "rows_of_runs": [_row_of_run(run, processes, site) for run in runs.listed],
        "schedules": _schedules(site, request, tree),
        "families": _families(site, request, tree),
        "triggers": _triggers(site, request, tree),
    }


# --- Processes ------------------------------------------------------------------------------------


def _problems(tree: ProcessTree) -> list[str]:
    try:
        with functions.failing_once():
            return tree.problems()
    except UNREADABLE as error:
        return [gettext("It can't be read: %(error)s") % {"error": explain(error)}]


def _processes(
    tree: ProcessTree,
    found: Sequence[str],
    outcomes: Mapping[str, ProcessRun],
    prefix: str = "process",
) -> list[ProcessView]:
    saved = tree_validation.processes_of({"processes": tree.processes})
    names = [str(process.get("name", "")) for process in saved]
    anchors = {name: f"{prefix}-{number}" for number, name in reversed([*enumerate(names, 1)])}
    return [
        _process(f"{prefix}-{number}", number, process, anchors, found, outcomes.get(name))
        for number, (name, process) in enumerate(zip(names, saved, strict=True), 1)
    ]


def _process(
    anchor: str,
    number: int,
    process: Mapping[str, Any],
    anchors: Mapping[str, str],
    found: Iterable[str],
    outcome: ProcessRun | None,
) -> ProcessView:
    name, reference = str(process.get("name", "")), process.get("func")
    func = _function(reference)
    about = tuple(f"Process {what}{end}" for what in (repr(name), number) for end in " :'")
    return ProcessView(
        name=name,
        anchor=anchor,
        func="" if reference is None else str(reference),
        summary="" if func is None else function_listing.summary(func),
        place="" if func is None else function_listing.place(func),
        dependencies=tuple((each, anchors.get(each, "")) for each in _dependencies(process)),
        options=_options(process),
        problems=tuple(each for each in found if each.startswith(about)),
        outcome=outcome,
    )


def drawn(tree: ProcessTree, outcomes: Mapping[str, ProcessRun], prefix: str) -> dict[str, Any]:
    """Return the processes and the graph of a tree, saved or not, for ``processes_then.html``.

    Parameters
    ----------
    tree:
        The tree.
    outcomes:
        What has become of its processes, by their names.
    prefix:
        What the ids of its rows begin with.
    """
    processes = _processes(tree, (), outcomes, prefix)
    return {"processes": processes, "graph": _graph(processes)}


def _function(reference: Any) -> Function | None:
    """Return the function that a process names; ``None`` if there is none: a problem says why."""
    try:
        return functions.resolve(reference) if isinstance(reference, str) else None
    except FunctionError:
        return None


def _dependencies(process: Mapping[str, Any]) -> list[str]:
    names = process.get("dependencies")
    return [each for each in names if isinstance(each, str)] if isinstance(names, list) else []


def _options(process: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the options that a process sets, for people to read, without secrets."""
    shown = sensitive.masked(dict(process))
    return tuple(
        (str(name), shorten(_as_text(value), 300))
        for name, value in shown.items()
        if name not in ("name", "func", "dependencies")
    )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _graph(processes: Iterable[ProcessView]) -> tree_graph.Graph | None:
    drawn: dict[str, tree_graph.Drawn] = {}
    for each in processes:
        names = tuple(name for name, _anchor in each.dependencies)
        status = "" if each.outcome is None else each.outcome.status
        drawn.setdefault(each.name, tree_graph.Drawn(each.anchor, names, status, each.status))
    return tree_graph.graph(drawn)


# --- Runs -----------------------------------------------------------------------------------------


def read_runs(job_name: str) -> Runs:
    """Return the last runs of a tree, or why they can't be read now."""
    try:
        with run_history.opened() as history:
            listed = history.recent(RunQuery(job_name=job_name), most=RUNS).runs
            last = next((run for run in listed if run.status not in NOT_BEGUN), None)
            try:
                processes = () if last is None else history.detail(last.run_id).processes
            except RunNotFound:  # it was deleted meanwhile
                processes = ()
    except HistoryUnavailable as error:
        return Runs(problem=str(error), is_loading=isinstance(error, HistoryLoading))
    return Runs(listed, {each.name: each for each in processes}, last)


def _row_of_run(
    run: RunSummary, processes: Iterable[ProcessView], site: AdminSite
) -> dict[str, Any]:
    names = {dagster_name(each.name): each.name for each in processes}
    return {
        "link": html.run_link(run.run_id, site=site.name),
        "status": html.status_badge(run.status),
        "started_by": html.started_by(run),
        "at": html.moment(run.started_at or run.created_at),
        "duration": html.duration(run.seconds),
        "failures": [(names.get(step, step), why) for step, why in run.failures.items()],
        "dagster": html.dagster_link(run.url),
    }


# --- What runs it ---------------------------------------------------------------------------------


def _schedules(site: AdminSite, request: HttpRequest, tree: ProcessTree) -> dict[str, Any]:
    """Return the tree's schedules for people to read, those that are due first before the others.

    Of many the first are listed, with the address of the list of all.
    """
    query = tree.schedules.order_by(F("next_run").asc(nulls_first=True), "name")
    rows = readable(query, ProcessTreeSchedule.objects.what_can_be_read, most=SCHEDULES + 1)
    listed = rows[:SCHEDULES]
    pauses.Active().note(listed)
    most = DUE_TIMES if len(listed) == 1 else DUE_TIMES_OF_MANY
    more = tree.schedules.count() - len(listed) if len(rows) > SCHEDULES else 0
    return {
        "listed": [_schedule(site, request, each, most) for each in listed],
        "more": more,
        "url": _list_of_schedules(site, tree) if more else "",
    }


def _list_of_schedules(site: AdminSite, tree: ProcessTree) -> str:
    try:
        address = html.page_address(site.name, ProcessTreeSchedule, "changelist")
    except NoReverseMatch:
        return ""
    return f"{address}?process_tree__id__exact={tree.pk}"


def _schedule(
    site: AdminSite, request: HttpRequest, schedule: ProcessTreeSchedule, most: int
) -> dict[str, Any]:
    """Return a schedule for people to read."""
    name = "" if schedule.is_default else schedule.name
    try:
        return {"name": name, **_schedule_in_words(site, request, schedule, most)}
    except UNREADABLE as error:
        told = gettext("It can't be read: %(error)s") % {"error": explain(error)}
        return {"name": name, "problem": told}


def _schedule_in_words(
    site: AdminSite, request: HttpRequest, schedule: ProcessTreeSchedule, most: int
) -> dict[str, Any]:
    now = timezone.now()
    due_times, problem = _due_times(schedule, now, most)
    status = "requested" if schedule.claim else schedule.last_run_status
    return {
        "rule": schedule.rule_in_words,
        "enabled": schedule.enabled,
        "stopped_in_dagster": schedule.stopped_in_dagster,
        "is_overdue": schedule.is_overdue(now),
        "pauses": pauses_shown.lines(schedule.active_pauses()),
        "dropped": schedule.dropped_why,
        "ended": html.next_run(schedule) if schedule.has_ended else "",
        "due_times": [html.moment(each, seconds=False) for each in due_times],
        "last_run": html.moment(schedule.last_run),
        "last_status": html.status_badge(status),
        "url": address(site, request, schedule),
        "problem": problem,
    }


def _due_times(
    schedule: ProcessTreeSchedule, now: dt.datetime, most: int
) -> tuple[list[dt.datetime], str]:
    """Return the next due times of a schedule that is on, or what is wrong with its rule."""
    try:
        return (schedule.next_due_times(most, now) if schedule.enabled else []), ""
    except ScheduleError as error:
        return [], str(error)


def _families(
    site: AdminSite, request: HttpRequest, tree: ProcessTree
) -> list[tuple[str, list[LinkView]]]:
    """Return the trees that follow this one, and those that it follows, in groups."""
    links = TreeLink.plain.only("kind", "source", "target", "source__name", "target__name")
    links = links.select_related("source", "target").order_by("source__name", "target__name")
    groups: dict[str, list[LinkView]] = {}
    for link in links.filter(Q(source=tree) | Q(target=tree)):
        is_source = link.source_id == tree.pk
        other = link.target if is_source else link.source
        heading = _FAMILY.get((link.kind, is_source), link.kind)
        groups.setdefault(str(heading), []).append(
            LinkView(other.name, address(site, request, other))
        )
    return list(groups.items())


_FAMILY = {
    (LinkKind.DEPENDENT.value, True): _("These run after it has succeeded"),
    (LinkKind.SIBLING.value, True): _("These run when it does"),
    (LinkKind.DEPENDENT.value, False): _("It runs after these have succeeded"),
    (LinkKind.SIBLING.value, False): _("It runs when these do"),
}
"""Headings of families, by the link's kind and whether the tree is followed."""


def _triggers(site: AdminSite, request: HttpRequest, tree: ProcessTree) -> list[dict[str, Any]]:
    """Return the triggers to which the tree subscribes."""
    subscriptions = tree.subscriptions.select_related("trigger").defer("context", "tags")
    return [
        {
            "name": each.trigger.name,
            "url": address(site, request, each.trigger),
            "type": each.trigger.get_trigger_type_display(),
            "enabled": each.enabled and each.trigger.enabled,
            "last": html.moment(each.trigger.last_triggered),
        }
        for each in readable(subscriptions)
    ]


def address(site: AdminSite, request: HttpRequest, row: Model) -> str:
    """Return the address of a row's page; blank if the user may not view it, or there is none."""
    try:
        if not site.get_model_admin(type(row)).has_view_permission(request, row):
            return ""
        name = f"{site.name}:{row._meta.app_label}_{row._meta.model_name}_change"
        return reverse(name, args=[row.pk])
    except (NotRegistered, NoReverseMatch):
        return ""
