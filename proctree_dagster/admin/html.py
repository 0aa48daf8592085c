"""Pieces of HTML that several pages show; each escapes what it is given."""

import datetime as dt
import json
from typing import Any

from django.contrib.admin.utils import quote
from django.db.models import Model
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..context import sensitive
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.runs import RunSummary
from ..models import ProcessTreeSchedule

STATUSES = {
    "requested": _("requested"),
    "queued": _("queued"),
    "not_started": _("not started"),
    "starting": _("starting"),
    "started": _("running"),
    "success": _("succeeded"),
    "failure": _("failed"),
    "canceling": _("canceling"),
    "canceled": _("canceled"),
    "skipped": _("skipped"),
    "lost?": _("lost?"),
    "dropped": _("dropped"),
    "pending": _("pending"),
    "running": _("running"),
    "completed": _("completed"),
    "failed": _("failed"),
    "cached": _("cached"),
}
"""What a status is called on a page: a run's by Dagster's name in small letters, a process's."""


def status_badge(status: str) -> SafeString | str:
    """Return a run's or a process's status as a coloured badge; nothing for a blank one."""
    if not status:
        return ""
    known = status if status in STATUSES else "unknown"
    return format_html(
        '<span class="pt-status pt-status--{}">{}</span>',
        known.rstrip("?"),
        STATUSES.get(status, status),
    )


def badge(text: str, kind: str = "neutral") -> SafeString | str:
    """Return a text as a coloured badge; nothing for a blank one.

    Parameters
    ----------
    text:
        The text.
    kind:
        Its colour: a status of ``STATUSES``, or ``neutral``.
    """
    if not text:
        return ""
    return format_html('<span class="pt-status pt-status--{}">{}</span>', kind, text)


def labelled(label: str, content: str) -> SafeString:
    """Return a cell of a list, whose column's title is repeated on a narrow screen."""
    return format_html(
        '<span class="pt-label">{}</span><span class="pt-value">{}</span>', label, content or "-"
    )


def json_text(value: Any) -> SafeString | str:
    """Return JSON to read, indented, without its secrets; nothing for none."""
    if value in (None, "", {}, []):
        return ""
    text = json.dumps(sensitive.masked(value), ensure_ascii=False, indent=2, default=str)
    return format_html('<pre class="pt-text">{}</pre>', text)


STARTERS = {
    "schedule": _("its schedule"),
    "command": _("a command"),
    "python": _("Python code"),
    "admin": _("the admin"),
    "trigger": _("a trigger"),
    "tree": _("another tree"),
    "backfill": _("a backfill"),
    "": _("Dagster's UI"),
}
"""What has started a run, by ``RunSummary.triggered_by``."""


def started_by(run: RunSummary) -> str:
    """Return what started a run, and who: ``the admin (jane)``, ``its schedule (harbour)``."""
    what = str(STARTERS.get(run.triggered_by, run.triggered_by))
    if run.triggered_by == "schedule" and run.schedule != DEFAULT_SCHEDULE:
        return f"{what} ({run.schedule})"
    says_it = run.triggered_by in ("schedule", "tree") or not run.launched_by
    return what if says_it else f"{what} ({run.launched_by})"


def run_link(run_id: str, text: str = "", site: str = "admin") -> SafeString | str:
    """Return a link to a run's page in the admin; its text alone, if the site has no such page.

    Parameters
    ----------
    run_id:
        The run's id; blank: nothing is returned.
    text:
        The link's text; left out, the first eight characters of the id.
    site:
        The name of the admin site.
    """
    text = text or run_id[:8]
    url = run_address(run_id, site)
    return format_html('<a href="{}">{}</a>', url, text) if url else text


def run_address(run_id: str, site: str = "admin") -> str:
    """Return the address of a run's page in the admin; blank for no run, or if there is none."""
    try:
        return reverse(f"{site}:proctree_dagster_run_change", args=[run_id]) if run_id else ""
    except NoReverseMatch:
        return ""


def page_address(site: str, model: Any, page: str, *args: Any) -> str:
    """Return the address of a page of a model on an admin site.

    Parameters
    ----------
    site:
        The site's name.
    model:
        The model, or a row of it.
    page:
        ``changelist``, ``change``, …
    args:
        The row's key, if the page is one row's.
    """
    name = f"{site}:{model._meta.app_label}_{model._meta.model_name}_{page}"
    return reverse(name, args=[quote(each) for each in args])


def row_link(row: Model, text: str = "", site: str = "admin") -> SafeString | str:
    """Return a link to a row's page; its text alone, if the site has no such page.

    Parameters
    ----------
    row:
        The row.
    text:
        The link's text; left out, the row's.
    site:
        The name of the admin site.
    """
    text = text or str(row)
    try:
        return format_html('<a href="{}">{}</a>', page_address(site, row, "change", row.pk), text)
    except NoReverseMatch:
        return text


def dagster_link(url: str | None, text: str = "") -> SafeString | str:
    """Return a link into Dagster's UI, in a tab of its own; nothing, if its address is unknown."""
    if not url:
        return ""
    return format_html(
        '<a href="{}" target="_blank" rel="noopener">{}</a>', url, text or gettext("Dagster")
    )


def duration(seconds: float | None) -> str:
    """Return a duration as a person reads it: ``0.4 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return gettext("%(seconds).1f s") % {"seconds": seconds}
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return gettext("%(minutes)d min %(seconds)d s") % {"minutes": minutes, "seconds": rest}
    hours, minutes = divmod(minutes, 60)
    return gettext("%(hours)d h %(minutes)d min") % {"hours": hours, "minutes": minutes}


def moment(at: dt.datetime | None, *, seconds: bool = True) -> SafeString | str:
    """Return a moment in the site's timezone, with its ISO form for machines.

    Parameters
    ----------
    at:
        The moment, aware; ``None``: nothing is returned.
    seconds:
        Whether its seconds are shown.
    """
    if at is None:
        return ""
    return format_html(
        '<time datetime="{}">{}</time>',
        at.isoformat(),
        f"{timezone.localtime(at):{'%Y-%m-%d %H:%M:%S' if seconds else '%Y-%m-%d %H:%M'}}",
    )


def next_run(schedule: ProcessTreeSchedule) -> SafeString | str:
    """Return when a schedule is due next, or that it has ended."""
    if schedule.has_ended:
        return gettext("ended (end date %(date)s)") % {"date": schedule.end_date}
    return moment(schedule.next_run, seconds=False) or gettext("now")
