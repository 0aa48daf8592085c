"""Django's admin: trees, runs, schedules, triggers, and the overview that operators open first.

One module for each model's pages, ``permissions`` for who may do what on all of them, ``forms`` for
what they share. It imports ``running``, ``services`` and what is below; nothing imports it but
Django, which finds it by its name, and a project that subclasses a page.

Importing it must not import Dagster: every Django command loads the admin.
"""

from django.contrib.admin import AdminSite

from ..models import (
    Alert,
    Backfill,
    DagsterAction,
    OutboxRun,
    Overview,
    Pause,
    ProcessTree,
    ProcessTreeSchedule,
    Run,
    Trigger,
)
from .alerts import AlertAdmin
from .backfills import BackfillAdmin
from .dagster_actions import DagsterActionAdmin
from .outbox import OutboxRunAdmin
from .overview import OverviewAdmin
from .pauses import PauseAdmin
from .permissions import FIRE, NAME_FUNCTIONS, RUN
from .runs import RunAdmin
from .schedules import ProcessTreeScheduleAdmin
from .trees import ProcessTreeAdmin
from .triggers import TriggerAdmin

PAGES = {
    Overview: OverviewAdmin,
    ProcessTree: ProcessTreeAdmin,
    Run: RunAdmin,
    ProcessTreeSchedule: ProcessTreeScheduleAdmin,
    Trigger: TriggerAdmin,
    Pause: PauseAdmin,
    Backfill: BackfillAdmin,
    OutboxRun: OutboxRunAdmin,
    Alert: AlertAdmin,
    DagsterAction: DagsterActionAdmin,
}
"""The pages of each model."""


def register(site: AdminSite) -> None:
    """Register all pages on an admin site of the project's own.

    A model that the site has already, with a page of the project's, is left as it is. Django's
    default site has them without this call.

    Parameters
    ----------
    site:
        The site.
    """
    for model, page in PAGES.items():
        if not site.is_registered(model):
            site.register(model, page)


__all__ = [
    "FIRE",
    "NAME_FUNCTIONS",
    "PAGES",
    "RUN",
    "AlertAdmin",
    "BackfillAdmin",
    "DagsterActionAdmin",
    "OutboxRunAdmin",
    "OverviewAdmin",
    "PauseAdmin",
    "ProcessTreeAdmin",
    "ProcessTreeScheduleAdmin",
    "RunAdmin",
    "TriggerAdmin",
    "register",
]
