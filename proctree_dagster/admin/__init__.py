"""Django's admin: trees, runs, schedules, triggers, and the overview that operators open first.

One module for each model's pages, ``permissions`` for who may do what on all of them, ``forms`` for
what they share. It imports ``running``, ``services`` and what is below; nothing imports it but
Django, which finds it by its name, and a project that subclasses a page.

Importing it must not import Dagster: every Django command loads the admin.
"""

from .outbox import OutboxRunAdmin
from .overview import OverviewAdmin
from .permissions import FIRE, NAME_FUNCTIONS, RUN
from .runs import RunAdmin
from .schedules import ProcessTreeScheduleAdmin
from .trees import ProcessTreeAdmin
from .triggers import TriggerAdmin

__all__ = [
    "FIRE",
    "NAME_FUNCTIONS",
    "RUN",
    "OutboxRunAdmin",
    "OverviewAdmin",
    "ProcessTreeAdmin",
    "ProcessTreeScheduleAdmin",
    "RunAdmin",
    "TriggerAdmin",
]
