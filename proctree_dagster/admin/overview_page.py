"""What the overview shows: one part from Django's rows, one from Dagster's history of runs.

Each part costs the same number of queries for any number of trees and runs. Without Dagster the
first part is shown, and why the other one is missing.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.db.models import F, Model, Q
from django.http import HttpRequest
from django.urls import NoReverseMatch
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from .. import conf
from ..domain import day_strip
from ..domain.runs import RunQuery, RunSummary
from ..domain.texts import shorten
from ..exceptions import HistoryLoading, HistoryUnavailable, ScheduleError
from ..models import (
    OutboxRun,
    OutboxState,
    ProcessTree,
    ProcessTreeSchedule,
    RunStatus,
)
from ..models.schedule_queries import ProcessTreeScheduleQuerySet
from ..running import run_history
from ..services import alert_delivery, pauses, silence, webserver, webserver_probe
from ..support import project
from ..support.row_reading import readable
from . import html
from . import pauses as pauses_shown

LISTED = 10
"""How many rows of a kind are listed; their number counts them all."""

DRAWN = 300
"""How many runs of the last day are drawn."""

UNDER_WAY = ("queued", "starting", "started", "canceling")
"""The statuses of runs that are under way."""

MOST_NAMES = 900
"""How many names a query lists: SQLite takes a thousand."""


@dataclass(frozen=True)
class FromDagster:
    """What Dagster knows."""

    under_way: tuple[RunSummary, ...] = ()
    under_way_count: int = 0
    failed: tuple[RunSummary, ...] = ()
    failed_count: int = 0
    day: tuple[RunSummary, ...] = ()
    """The runs of the last day, the newest first."""

    day_is_cut: bool = False
    """Whether older ones of that day were left out."""

    stopped: frozenset[str] = frozenset()
    """The names in Dagster of the schedules that are switched off there."""

    daemon_seen_at: dt.datetime | None = None
    problem: str = ""
    """Why it was not asked; blank if it was."""

    is_loading: bool = False
    """Whether it is being imported, and can be asked in a moment."""


class Listed(NamedTuple):
    """Some schedules of a kind, and how many there are."""

    rows: list[ProcessTreeSchedule]
    total: int


class Number(NamedTuple):
    """A number at the top of the page, which leads to what it counts."""

    label: str
    total: int
    url: str
    kind: str
    """``good``, ``bad``, ``warning`` or ``neutral``."""


class Service(NamedTuple):
    """A part of Dagster, and whether it answers."""

    name: str
    state: str
    """``good``, ``bad``, ``warning`` or ``neutral``."""

    said: str
    """The state in a word."""

    text: SafeString | str


def ask_dagster(now: dt.datetime) -> FromDagster:
    """Return what Dagster knows, or why it can't be asked now."""
    yesterday = beginning_of_yesterday(now)
    last_day = RunQuery(since=now - dt.timedelta(hours=day_strip.HOURS))
    failed = RunQuery(statuses=("failure",), since=yesterday)
    try:
        with run_history.opened() as history:
            day = history.recent(last_day, most=DRAWN)
            return FromDagster(
                under_way=history.recent(RunQuery(statuses=UNDER_WAY), most=LISTED).runs,
                under_way_count=sum(history.counts(UNDER_WAY).values()),
                failed=history.recent(failed, most=LISTED).runs,
                failed_count=sum(history.counts(failed.statuses, since=yesterday).values()),
                day=day.runs,
                day_is_cut=bool(day.older),
                stopped=frozenset(history.schedules_stopped()),
                daemon_seen_at=history.daemon_seen_at(),
            )
    except HistoryUnavailable as error:
        return FromDagster(problem=str(error), is_loading=isinstance(error, HistoryLoading))


def beginning_of_yesterday(now: dt.datetime) -> dt.datetime:
    """Return the first moment of yesterday in the site's time zone."""
    day = timezone.localtime(now).date() - dt.timedelta(days=1)
    return timezone.make_aware(dt.datetime.combine(day, dt.time()))


def context(site: AdminSite, request: HttpRequest) -> dict[str, Any]:
    """Return what the template of the page's live part needs."""
    now = timezone.now()
    silence.deliver_in_background(now)
    dagster = ask_dagster(now)
    schedules = ProcessTreeSchedule.objects.select_related("process_tree").only(*COLUMNS)
    stopped = is_stopped(dagster)
    is_paused = schedules.is_paused(now)
    on = schedules.filter(enabled=True).exclude(stopped).exclude(is_paused)
    active = pauses.Active(now)
    kinds = {
        "overdue": listed(schedules.overdue(now).exclude(stopped)),
        "held_back": listed(schedules.filter(stopped, enabled=True)),
        "paused": listed(schedules.filter(Q(enabled=False) | Q(is_paused))),
        **known_runs(schedules, dagster, now),
    }
    pages = Pages(site, [*dagster.under_way, *dagster.failed])
    waiting = OutboxRun.objects.filter(state=OutboxState.WAITING).count()
    return {
        "at": html.moment(now),
        "dagster": dagster,
        "services": services(dagster, now),
        "numbers": numbers(pages, dagster, kinds, waiting),
        "under_way": [pages.row(each) for each in dagster.under_way],
        "failed": [pages.row(each) for each in dagster.failed],
        "schedules": {
            name: {
                "rows": list(map(pages.schedule, each.rows)),
                "more": each.total - len(each.rows),
            }
            for name, each in kinds.items()
        },
        "due": [
            (html.moment(at, seconds=False), pages.scheduled(schedule))
            for at, schedule in next_due(on, now)
        ],
        "pauses": [
            (pauses_shown.what(each), pauses_shown.in_words(each)) for each in active.pauses
        ],
        "strip": None if dagster.problem else strip(pages, dagster, now),
    }


COLUMNS = (
    *("name", "process_tree__name", "enabled", "stopped_in_dagster"),
    *("interval_minutes", "cron", "start_time", "timezone", "allow_overlap", "process_tree"),
    *("business_days", "calendar", "start_date", "end_date"),
    *("for_each", "spread_minutes"),
    *("next_run", "anchor", "next_run_rule", "claim", "claimed_at"),
    *("last_run", "last_run_id", "last_run_status", "last_ended"),
)
"""The columns of schedules that the page shows."""


def is_stopped(dagster: FromDagster) -> Q:
    """Return the condition for schedules that Dagster holds back, as it says itself if asked."""
    as_noted = Q(stopped_in_dagster=True)
    if dagster.problem:
        return as_noted
    named = Q(dagster_name__in=sorted(dagster.stopped)[:MOST_NAMES])
    return named if len(dagster.stopped) <= MOST_NAMES else named | as_noted


def listed(schedules: ProcessTreeScheduleQuerySet) -> Listed:
    """Return the first schedules, and how many there are."""
    return Listed(readable(schedules.order_by("next_run", "pk"), most=LISTED), schedules.count())


def known_runs(
    schedules: ProcessTreeScheduleQuerySet, dagster: FromDagster, now: dt.datetime
) -> dict[str, Listed]:
    """Return the schedules whose last run runs or has failed; none if Dagster was asked."""
    if not dagster.problem:
        return {}
    yesterday = beginning_of_yesterday(now)
    return {
        "started": listed(schedules.filter(last_run_status=RunStatus.STARTED)),
        "failure": listed(
            schedules.filter(last_run_status=RunStatus.FAILURE, last_run__gte=yesterday)
        ),
    }


def next_due(
    schedules: ProcessTreeScheduleQuerySet, now: dt.datetime
) -> list[tuple[dt.datetime, ProcessTreeSchedule]]:
    """Return the next due times of all schedules, with the schedules.

    The first ten are among those of the ten schedules that are due first.
    """
    first = readable(schedules.order_by(F("next_run").asc(nulls_first=True), "pk"), most=LISTED)
    found: list[tuple[dt.datetime, int, ProcessTreeSchedule]] = []
    for schedule in first:
        with suppress(ScheduleError):  # its rule is invalid: the page of its tree says so
            due_times = schedule.next_due_times(LISTED, now)
            found += [(at, schedule.pk, schedule) for at in due_times]
    found.sort(key=itemgetter(0, 1))
    return [(at, schedule) for at, _pk, schedule in found[:LISTED]]


class Pages:
    """Links to the pages of what is shown, and rows of tables with them."""

    def __init__(self, site: AdminSite, runs: Iterable[RunSummary]) -> None:
        self.site = site.name
        jobs = {run.job_name for run in runs}
        named = ProcessTree.objects.filter(job_name__in=jobs)
        self._pks: dict[str, int] = dict(named.values_list("job_name", "pk"))

    def tree(self, tree: ProcessTree) -> SafeString | str:
        """Return a link to a tree."""
        return html.row_link(tree, tree.name, self.site)

    def scheduled(self, schedule: ProcessTreeSchedule) -> SafeString | str:
        """Return a link to a schedule's tree, with its name if it is a named one."""
        return html.row_link(schedule.process_tree, schedule.title, self.site)

    def row(self, run: RunSummary) -> dict[str, Any]:
        """Return a run as a row of a table."""
        pk = self._pks.get(run.job_name)
        return {
            "tree": run.tree if pk is None else self.tree(ProcessTree(pk=pk, name=run.tree)),
            "run": html.run_link(run.run_id, site=self.site),
            "status": html.status_badge(run.status),
            "at": html.moment(run.started_at or run.created_at),
            "duration": html.duration(run.seconds),
            "started_by": html.started_by(run),
            "failures": list(run.failures.items()),
            "dagster": html.dagster_link(run.url),
        }

    def schedule(self, schedule: ProcessTreeSchedule) -> dict[str, Any]:
        """Return a schedule as a line of a list."""
        return {
            "tree": self.scheduled(schedule),
            "rule": schedule.rule_in_words,
            "next_run": html.next_run(schedule),
            "last_run": html.moment(schedule.last_run),
            "run": html.run_link(schedule.last_run_id, site=self.site),
        }

    def listing(self, model: type[Model], **filters: Any) -> str:
        """Return the address of a list, filtered; blank if the site has none."""
        try:
            address = html.page_address(self.site, model, "changelist")
        except NoReverseMatch:
            return ""
        return f"{address}?{urlencode(filters)}" if filters else address


def numbers(
    pages: Pages, dagster: FromDagster, kinds: Mapping[str, Listed], waiting: int
) -> list[Number]:
    """Return the numbers at the top of the page."""
    started, failed = kinds.get("started"), kinds.get("failure")
    under_way = dagster.under_way_count if started is None else started.total
    failures = dagster.failed_count if failed is None else failed.total
    held_back = kinds["held_back"].total
    outbox = pages.listing(OutboxRun, state__exact=OutboxState.WAITING.value)
    return [
        Number(gettext("Running now"), under_way, "#pt-under-way", "good"),
        Number(gettext("Failed since yesterday"), failures, "#pt-failed", "bad"),
        Number(gettext("Overdue"), kinds["overdue"].total, "#pt-overdue", "bad"),
        Number(gettext("Held back by Dagster"), held_back, "#pt-held-back", "warning"),
        Number(gettext("Paused"), kinds["paused"].total, "#pt-paused", "warning"),
        Number(gettext("Runs to be made"), waiting, outbox, "neutral"),
    ]


# --- Whether Dagster answers ----------------------------------------------------------------------


def services(dagster: FromDagster, now: dt.datetime) -> list[Service]:
    """Return the parts of Dagster, and whether each answers."""
    answer = webserver_probe.answer(webserver.some_job())
    return [_daemon(dagster, now), _passes(now), _webserver(answer), _code_server(answer)]


UNKNOWN = ("neutral", _("unknown"))
ANSWERS = ("good", _("answers"))
SILENT = ("bad", _("does not answer"))


def _service(name: str, state: tuple[str, Any], text: SafeString | str = "") -> Service:
    return Service(name, state[0], str(state[1]), text)


def _daemon(dagster: FromDagster, now: dt.datetime) -> Service:
    name, seen = gettext("Daemon"), dagster.daemon_seen_at
    if dagster.problem:
        return _service(name, UNKNOWN, dagster.problem)
    start = gettext(
        "Nothing is scheduled, and no queue is emptied. Start it: “python manage.py proctree dev”, "
        "or “dagster-daemon run”."
    )
    if seen is None:
        never = gettext("It has never run here.")  # by itself: xgettext reads no f-strings
        return _service(name, SILENT, f"{never} {start}")
    if now - seen > conf.DAEMON_SILENT_AFTER:
        last = gettext("It was last seen at")
        return _service(name, SILENT, format_html("{} {}. {}", last, html.moment(seen), start))
    return _service(name, ANSWERS, html.moment(seen))


def _passes(now: dt.datetime) -> Service:
    """Return whether the daemon's sensors make their passes, as Django's database knows."""
    name, last = gettext("Sensors"), silence.last_pass(now)
    failed = alert_delivery.undelivered(now)
    if last.is_silent:
        hint = gettext("Is the daemon running, and the sensor “proctree_alerts” on?")
        return _service(name, SILENT, format_html("{} {}", html.moment(last.at), hint))
    if last.at is None:
        return _service(name, UNKNOWN, gettext("They have not run yet."))
    if failed:
        said = ngettext(
            "%(count)d alert could not be delivered.",
            "%(count)d alerts could not be delivered.",
            failed,
        )
        return _service(name, ("warning", ANSWERS[1]), said % {"count": failed})
    return _service(name, ANSWERS, html.moment(last.at))


def _webserver(answer: webserver_probe.Answer) -> Service:
    name = gettext("Webserver")
    if not answer.url:
        told = gettext('Its address is not known: set PROCTREE["DAGSTER_URL"].')
        return _service(name, UNKNOWN, told)
    if answer.is_pending:
        return _service(name, UNKNOWN, gettext("It is being asked."))
    if answer.problem:
        return _service(name, SILENT, answer.problem)
    public = project.public_url()  # not where Django asks, which may be a socket
    return _service(name, ANSWERS, html.dagster_link(public, public or ""))


def _code_server(answer: webserver_probe.Answer) -> Service:
    name = gettext("Code server")
    if not answer.url or answer.is_pending or answer.problem:
        return _service(name, UNKNOWN, gettext("The webserver would know."))
    problem = answer.code_server_problem
    return _service(name, SILENT if problem else ANSWERS, shorten(problem, 300))


# --- The last day ---------------------------------------------------------------------------------

STEP = 10
"""The width of a column of the strip, and the height of a mark, in pixels."""

HOURS_APART = 3
"""How many hours are between two labels below the strip."""


def strip(pages: Pages, dagster: FromDagster, now: dt.datetime) -> dict[str, Any]:
    """Return the strip of the last day: one mark a run."""
    runs = dagster.day
    failed = [run.status == "failure" for run in runs]
    marks, others = day_strip.arrange([run.created_at for run in runs], failed, now)
    levels = [*(each.level for each in marks), *(each.level for each in others)]
    bottom = (max(levels, default=0) + 1) * STEP
    return {
        "marks": [
            {
                "x": each.column * STEP,
                "y": bottom - (each.level + 1) * STEP,
                "kind": runs[each.index].status,
                "title": _title(runs[each.index]),
                "url": html.run_address(runs[each.index].run_id, pages.site),
            }
            for each in marks
        ],
        "others": [
            {
                "x": each.column * STEP,
                "y": bottom - each.level * STEP - 2,
                "title": ngettext("%(count)d more run", "%(count)d more runs", each.count)
                % {"count": each.count},
            }
            for each in others
        ],
        "hours": list(_hours(now)),
        "width": day_strip.COLUMNS * STEP,
        "bottom": bottom,
        "height": bottom + 20,
        "count": len(marks),
        "is_cut": dagster.day_is_cut,
        "drawn": DRAWN,
    }


def _title(run: RunSummary) -> str:
    status = html.STATUSES.get(run.status, run.status)
    return f"{run.tree}: {status}, {timezone.localtime(run.created_at):%H:%M}"


def _hours(now: dt.datetime) -> Iterator[tuple[int, str]]:
    """Yield where the full hours are on the strip, with their labels in the site's time zone."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    for back in range(day_strip.HOURS):
        at = hour - dt.timedelta(hours=back)
        local = timezone.localtime(at)
        x = (day_strip.COLUMNS - (now - at) / day_strip.COLUMN) * STEP
        if local.hour % HOURS_APART == 0 and x > 0:
            yield round(x), f"{local:%H:%M}"
