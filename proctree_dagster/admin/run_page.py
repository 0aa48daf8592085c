"""A run's page: what has become of it and of each of its processes, live while it has not ended."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest
from django.urls import NoReverseMatch
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from .. import conf
from ..domain.runs import LogPage, RunDetail, RunSummary
from ..exceptions import HistoryLoading, HistoryUnavailable, RunNotFound
from ..models import OutboxRun, ProcessTree, Run
from . import run_deeds, tree_history
from .html import (
    dagster_link,
    duration,
    json_text,
    moment,
    page_address,
    row_link,
    run_link,
    started_by,
    status_badge,
)
from .permissions import has_run_permission
from .run_list import failures

if TYPE_CHECKING:
    from ..running.run_history import History

LEAST_SECONDS = 2
"""How many seconds lie at least between two fetches of a page."""

SHARE = 10
"""How many times as long as a page takes to be made lies between two fetches of it."""

LINES = 300
"""How many entries of a log are read at first, those that Dagster notes for itself included."""

MOST_LINES = 5000
"""How many lines of a log a page shows at most."""

MOST_FAMILY = 100
"""How many runs of a family are listed."""

MOST_DEEDS = 20
"""How many entries of Django's log are listed."""

DEBUG = "debug"
"""The level of what Dagster notes for itself."""

ALL = "all"
"""The value of ``log`` with which the log is shown in full."""


@dataclass(frozen=True)
class Relative:
    """Another run, as a run's page lists it."""

    what: str
    run: SafeString | str
    status: SafeString | str
    note: str = ""


@dataclass
class RunView:
    """What a run's page shows."""

    run_id: str
    site: str
    """The name of the admin site."""

    run: RunSummary | None = None
    """The run; ``None`` if nothing is known of it, as Dagster can't be asked."""

    tree: ProcessTree | None = None
    detail: RunDetail | None = None
    """What Dagster knows of it; ``None`` if it does not have it, or can't be asked."""

    row: OutboxRun | None = None
    """Its row in the outbox, if it was requested there."""

    log: LogPage | None = None
    is_full_log: bool = False
    problem: str = ""
    """Why Dagster could not be asked."""

    is_loading: bool = False
    """Whether Dagster can be asked in a moment."""

    relatives: list[Relative] = field(default_factory=list)

    hint: str = ""
    """What a run that has not started waits for."""

    is_stuck: bool = False
    """Whether nothing seems to be there that starts it."""

    seconds: int = LEAST_SECONDS
    """How many seconds after that the page is fetched again."""

    @property
    def is_live(self) -> bool:
        """Whether the page is to be fetched again in a moment."""
        if self.is_loading or self.run is None:
            return self.is_loading
        return not self.run.has_ended and self.run.status != "dropped"


def find(run_id: str, site: str, *, is_full_log: bool = False) -> RunView:
    """Return what is known of a run.

    Parameters
    ----------
    run_id:
        Its id.
    site:
        The name of the admin site.
    is_full_log:
        Whether its log is shown in full.

    Raises
    ------
    RunNotFound
        Neither Dagster nor the outbox has it.
    """
    from ..running import requested_runs, run_history  # they import all that runs trees

    begun = time.monotonic()
    view = RunView(run_id, site, is_full_log=is_full_log, row=requested_runs.find(run_id))
    try:
        with run_history.opened() as history:
            _read(view, history)
    except HistoryLoading as error:
        view.problem, view.is_loading = str(error), True
    except HistoryUnavailable as error:
        view.problem = str(error)
    except RunNotFound:
        if view.row is None:
            raise
    if view.run is None and view.row is not None:
        view.run, view.tree = requested_runs.summary(view.row), view.row.process_tree
        if view.run.status == requested_runs.REQUESTED and not view.row.after:
            view.hint = gettext("It is handed to Dagster in a moment.")
    view.seconds = max(LEAST_SECONDS, round(SHARE * (time.monotonic() - begun)))
    return view


def _read(view: RunView, history: "History") -> None:
    """Read what Dagster knows of a run, and of those around it."""
    from ..running import requested_runs

    detail = history.detail(view.run_id)
    names = {each.step: each.name for each in detail.processes}
    most = MOST_LINES if view.is_full_log else LINES
    view.log = history.log(view.run_id, most=most, names=names)
    view.detail, view.run = detail, detail.summary
    view.tree = run_deeds.trees_of([detail.summary]).get(detail.summary.job_name)
    instead = requested_runs.next_attempt(view.run_id) if detail.summary.has_ended else None
    _add_attempts(view, detail, instead)
    _add_family(view, detail, history)
    if detail.summary.status in ("queued", "not_started"):
        _add_hint(view, history)


def _add_hint(view: RunView, history: "History") -> None:
    """Say what a queued run waits for, and whether that is there."""
    seen = history.daemon_seen_at()
    view.is_stuck = seen is None or timezone.now() - seen > conf.DAEMON_SILENT_AFTER
    if not view.is_stuck:
        view.hint = gettext("It waits in Dagster's queue, and Dagster's daemon starts it.")
    elif seen is None:
        view.hint = gettext(
            "It waits in Dagster's queue, and Dagster's daemon, which would start it, "
            "has never run here."
        )
    else:
        told = gettext(
            "It waits in Dagster's queue, and Dagster's daemon, which would start it, "
            "was last seen at {moment}."
        )
        view.hint = format_html(told, moment=moment(seen))


def _add_attempts(view: RunView, detail: RunDetail, instead: OutboxRun | None) -> None:
    """List the runs that a run repeats, and those that repeat it."""
    parent = detail.summary.parent_run_id
    if parent:
        _add(view, gettext("repeats"), parent)
    if detail.root_run_id not in (view.run_id, parent):
        _add(view, gettext("first attempt"), detail.root_run_id)
    for each in detail.repetitions:
        _add(view, gettext("repeated by"), each.run_id, status=each.status)
    if detail.instead_of:
        note = gettext("It failed before it started.")
        _add(view, gettext("instead of"), detail.instead_of, note=note)
    if instead is not None:
        note = gettext("This one failed before it started.")
        _add(view, gettext("replaced by"), str(instead.run_id), note=note)


def _add_family(view: RunView, detail: RunDetail, history: "History") -> None:
    """List the other runs of a run's family: those that follow each other."""
    from ..services import run_outbox

    if not detail.family:
        return
    rows = {str(row.run_id): row for row in run_outbox.family(detail.family)[:MOST_FAMILY]}
    recorded = history.summaries({detail.family, *rows})
    for run_id in dict.fromkeys([detail.family, *rows]):
        found, row = recorded.get(run_id), rows.get(run_id)
        if run_id == view.run_id:
            continue
        if found is not None:
            _add(view, _kin(run_id, detail), run_id, found.tree, found.status)
        elif row is not None:
            status = "requested" if row.state in run_outbox.OPEN else "dropped"
            _add(view, _kin(run_id, detail), run_id, row.process_tree.name, status, row.reason)


def _kin(run_id: str, detail: RunDetail) -> str:
    if run_id in detail.follows:
        return gettext("comes before it")
    if run_id in detail.followed_by:
        return gettext("follows it")
    return gettext("first of its family") if run_id == detail.family else gettext("of its family")


def _add(
    view: RunView, what: str, run_id: str, tree: str = "", status: str = "", note: str = ""
) -> None:
    text = f"{tree} ({run_id[:8]})" if tree else ""
    link = run_link(run_id, text, view.site)
    view.relatives.append(Relative(what, link, status_badge(status), note))


# What the templates show


def context(page: Any, request: HttpRequest, view: RunView) -> dict[str, Any]:
    """Return what the page of a run shows."""
    run = view.run
    if run is None:
        return {"view": view}
    return {
        "view": view,
        "buttons": buttons(page, request, view),
        "may_run_again": may_run_again(page, request, view),
        "changed_url": _changed_url(view),
        "token": uuid.uuid4(),
        "status": status_badge(run.status),
        "facts": list(_facts(view, run)),
        "failures": failures(run, view.tree) if view.detail is None else "",
        "processes": list(_processes(view)),
        "then": _then(view),
        "lines": list(_lines(view)),
        "run_context": _context(view),
        "tags": list(_tags(run)),
        "log_entries": log_entries(view.run_id),
    }


def _facts(view: RunView, run: RunSummary) -> Iterable[tuple[str, SafeString | str]]:
    """Yield what is known of a run as a whole, each with its label."""
    tree = view.tree
    yield gettext("Process tree"), run.tree if tree is None else row_link(tree, run.tree, view.site)
    yield gettext("Started by"), started_by(run)
    if run.due is not None:
        yield gettext("Due"), moment(run.due)
    yield gettext("Requested"), moment(run.created_at)
    if run.started_at is not None:
        yield gettext("Started"), moment(run.started_at)
    if run.ended_at is not None:
        yield gettext("Ended"), moment(run.ended_at)
    if run.seconds is not None:
        yield gettext("Took"), duration(run.seconds)
    yield gettext("Run"), format_html("<code>{}</code>", run.run_id)
    if run.url:
        yield gettext("In Dagster"), dagster_link(run.url, gettext("Open it there"))


@dataclass(frozen=True)
class Process:
    """A process as a run's page shows it."""

    name: str
    step: str
    status: SafeString | str
    duration: str
    said: str
    """Why it failed or was skipped."""

    trace: str
    result: str
    variables: dict[str, str]
    dependencies: str
    attempts: int


def _processes(view: RunView) -> Iterable[Process]:
    for each in view.detail.processes if view.detail is not None else ():
        yield Process(
            name=each.name,
            step=each.step,
            status=status_badge(each.status),
            duration=duration(each.seconds),
            said=each.error or each.note,
            trace=each.trace,
            result=each.result,
            variables=each.response_variables,
            dependencies=", ".join(each.dependencies),
            attempts=each.attempts,
        )


def _then(view: RunView) -> tree_history.Then | None:
    """Return the tree as it was when it ran; ``None`` if that is not recorded."""
    if view.detail is None or view.run is None:
        return None
    outcomes = {each.name: each for each in view.detail.processes}
    return tree_history.of_run(
        view.run.job_name, view.detail.revision, view.tree, outcomes, view.site
    )


@dataclass(frozen=True)
class Line:
    """A line of a log as a run's page shows it."""

    at: SafeString | str
    level: str
    process: str
    message: str
    trace: str


def _lines(view: RunView) -> Iterable[Line]:
    for each in view.log.lines if view.log is not None else ():
        if view.is_full_log or each.level != DEBUG:
            yield Line(moment(each.at), each.level, each.process, each.message, each.trace)


def _context(view: RunView) -> SafeString | str:
    if view.detail is not None:
        return json_text(view.detail.context)
    return json_text(view.row.context) if view.row is not None else ""


def _tags(run: RunSummary) -> Iterable[tuple[str, str]]:
    """Yield the tags of a run, each with the address of the runs that have it, too."""
    for name, text in sorted(run.tags.items()):
        tag = f"{name}={text}"
        yield tag, f"?{urlencode({'tag': tag})}"


def log_entries(run_id: str) -> list[LogEntry]:
    """Return what people did to a run, by Django's log, the newest first."""
    kind = ContentType.objects.get_for_model(Run)
    entries = LogEntry.objects.filter(content_type=kind, object_id=run_id)
    return list(entries.select_related("user")[:MOST_DEEDS])


def buttons(page: Any, request: HttpRequest, view: RunView) -> list[run_deeds.Deed]:
    """Return what the user may do to a run in its present state."""
    if view.run is None:
        return []
    offered = run_deeds.offered(page, request, [view.tree])
    return [deed for deed in offered if not deed.refusal(view.run)]


def _changed_url(view: RunView) -> str:
    """Return the address of the form that is prefilled with a run's context; blank if none is."""
    if view.tree is None:
        return ""
    try:
        address = page_address(view.site, ProcessTree, "run", view.tree.pk)
    except NoReverseMatch:  # the site's page of trees is the project's own, or there is none
        return ""
    return f"{address}?{urlencode({'run': view.run_id})}"


def may_run_again(page: Any, request: HttpRequest, view: RunView) -> bool:
    """Return whether the user may run the tree of a run again, with its context."""
    return view.tree is not None and has_run_permission(page.admin_site, request, view.tree)
