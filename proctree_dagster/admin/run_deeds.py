"""What people do with runs: repeat and cancel them, one or many; each deed is in Django's log."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..domain.runs import RunSummary
from ..exceptions import ProctreeError
from ..models import ProcessTree, Run
from ..support.row_reading import readable
from .deeds import Deeds
from .html import run_link
from .permissions import CANCEL, RETRY, may_with_run

if TYPE_CHECKING:
    from ..running.run_history import History

BUDGET = 5.0
"""Seconds after which a request begins no further deed: the rest is asked for again."""


@dataclass(frozen=True)
class Deed:
    """Something that is done to a run."""

    name: str
    """Its name in addresses and forms."""

    label: str | Promise
    """Its button's label."""

    question: str | Promise
    """What is asked before it is done to several runs."""

    permission: str
    """The permission that it needs, besides the one to run the tree."""

    done: str | Promise
    """A sentence about ``{names}``, the runs to which it was done."""

    not_done: str | Promise
    """A sentence about ``{names}``, to which it was not done, and ``{why}``."""

    def refusal(self, run: RunSummary) -> str:
        """Return why it can't be done to a run, by its status; blank if it can."""
        raise NotImplementedError

    def carry_out(self, history: "History | None", run: RunSummary, user: str) -> tuple[str, str]:
        """Do it; return the id of the run to show then, and what Django's log of it says.

        Parameters
        ----------
        history:
            Dagster's; ``None`` if all runs are only requested.
        run:
            The run.
        user:
            The user's name.
        """
        raise NotImplementedError


class Retry(Deed):
    """Repeats a run from where it failed."""

    def refusal(self, run: RunSummary) -> str:
        """Return why it can't be repeated from where it failed."""
        if run.status in ("failure", "canceled"):
            return ""
        return gettext("It has not failed.")

    def carry_out(self, history: "History | None", run: RunSummary, user: str) -> tuple[str, str]:
        """Queue it again."""
        assert history is not None
        new = history.repeat(run.run_id, user)
        return new, gettext("Repeated from where it failed, by run %(run)s.") % {"run": new}


class RetryAll(Deed):
    """Repeats a run in full."""

    def refusal(self, run: RunSummary) -> str:
        """Return why it can't be repeated."""
        return "" if run.has_ended else gettext("It has not ended.")

    def carry_out(self, history: "History | None", run: RunSummary, user: str) -> tuple[str, str]:
        """Queue it again."""
        assert history is not None
        new = history.repeat(run.run_id, user, everything=True)
        return new, gettext("Repeated in full, by run %(run)s.") % {"run": new}


class Cancel(Deed):
    """Takes a run from the outbox or the queue, or ends it."""

    def refusal(self, run: RunSummary) -> str:
        """Return why it can't be canceled."""
        return gettext("It has ended.") if run.has_ended or run.status == "dropped" else ""

    def carry_out(self, history: "History | None", run: RunSummary, user: str) -> tuple[str, str]:
        """Cancel it."""
        from ..running import requested_runs

        if run.status == requested_runs.REQUESTED:
            row = requested_runs.find(run.run_id)
            if row is None or not requested_runs.withdraw(row, user):
                raise ProctreeError(gettext("Dagster is getting it just now: try again."))
            return run.run_id, gettext("Withdrawn before Dagster got it.")
        assert history is not None
        if not history.cancel(run.run_id, user):
            return run.run_id, gettext("Marked as canceled: it has no worker any more.")
        return run.run_id, gettext("Canceled.")


DEEDS: Mapping[str, Deed] = {
    each.name: each
    for each in (
        Retry(
            "retry",
            _("Retry from failure"),
            _("Repeat these runs from where they failed?"),
            RETRY,
            _("Queued again, from where it failed: {names}."),
            _("Not repeated: {names}. {why}"),
        ),
        RetryAll(
            "retry_all",
            _("Retry all"),
            _("Repeat these runs in full, with what has succeeded, too?"),
            RETRY,
            _("Queued again, in full: {names}."),
            _("Not repeated: {names}. {why}"),
        ),
        Cancel(
            "cancel",
            _("Cancel"),
            _("Cancel these runs?"),
            CANCEL,
            _("Canceled: {names}."),
            _("Not canceled: {names}. {why}"),
        ),
    )
}
"""The deeds by name."""


@dataclass(frozen=True)
class Chosen:
    """A run to which something is to be done."""

    run: RunSummary
    tree: ProcessTree | None
    """Its tree, unless that was deleted."""

    refusal: str
    """Why it can't be done; blank if it can."""


def offered(
    page: Any, request: HttpRequest, trees: Iterable[ProcessTree | None] = (None,)
) -> list[Deed]:
    """Return the deeds that the user may do to runs of one of these trees, or of trees in general.

    Parameters
    ----------
    page:
        The page of runs.
    request:
        The request.
    trees:
        The trees; ``None`` stands for one that was deleted.
    """
    several = list(trees)
    return [
        deed
        for deed in DEEDS.values()
        if any(may_with_run(page.admin_site, request, deed.permission, tree) for tree in several)
    ]


def choose(page: Any, request: HttpRequest, deed: Deed, runs: Iterable[RunSummary]) -> list[Chosen]:
    """Return runs with why a deed can't be done to them: by their status, or by this user."""
    all_of_them = list(runs)
    trees = trees_of(all_of_them)
    return [
        Chosen(run, trees.get(run.job_name), _refusal(page, request, deed, run, trees))
        for run in all_of_them
    ]


def _refusal(
    page: Any,
    request: HttpRequest,
    deed: Deed,
    run: RunSummary,
    trees: Mapping[str, ProcessTree],
) -> str:
    if not may_with_run(page.admin_site, request, deed.permission, trees.get(run.job_name)):
        return gettext("You may not do that to runs of %(tree)s.") % {"tree": run.tree}
    return deed.refusal(run)


def trees_of(runs: Iterable[RunSummary]) -> dict[str, ProcessTree]:
    """Return the trees of runs that there are, by their ``job_name``, in one query."""
    names = {run.job_name for run in runs}
    return {row.job_name: row for row in readable(ProcessTree.objects.filter(job_name__in=names))}


def carry_out(
    page: Any,
    request: HttpRequest,
    deed: Deed,
    chosen: Iterable[Chosen],
    history: "History | None",
) -> tuple[dict[str, str], list[str]]:
    """Do something to runs, one after another, and show what was done.

    Returns
    -------
    tuple[dict[str, str], list[str]]
        The runs to show instead of those to which it was done, by their ids; and the ids of those
        that are left, as the time was over.
    """
    deeds, ends = Deeds(page, request), time.monotonic() + BUDGET
    done: dict[str, str] = {}
    left: list[str] = []
    for each in chosen:
        name = named(each.run, page.admin_site.name)
        if each.refusal:
            deeds.not_done(name, each.refusal)
            continue
        if time.monotonic() > ends:
            left.append(each.run.run_id)
            continue
        try:
            shown, log = deed.carry_out(history, each.run, request.user.get_username())
        except ProctreeError as error:
            deeds.not_done(name, str(error))
        else:
            done[each.run.run_id] = shown
            deeds.done(Run(run_id=each.run.run_id), named_run(each.run, shown, page), log)
    deeds.report(str(deed.done), str(deed.not_done))
    return done, left


def named(run: RunSummary, site: str) -> str:
    """Return a run's tree and id, with a link to its page."""
    return run_link(run.run_id, f"{run.tree} ({run.run_id[:8]})", site)


def named_run(run: RunSummary, shown: str, page: Any) -> str:
    """Return a run's tree, and the id of the run to show, with a link to that one's page."""
    return run_link(shown, f"{run.tree} ({shown[:8]})", page.admin_site.name)
