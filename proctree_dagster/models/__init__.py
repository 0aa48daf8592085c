"""What the database records: trees, schedules, triggers, and runs that wait to be made.

Models only record; what changes rows is in ``services``: ``due_time_claims`` claims due times,
``run_outbox`` is the life of a row of the outbox, ``trigger_firing`` fires triggers. ``services``
and whatever is above may import it; it imports ``process`` and what is below.
"""

from .fields import Clockwork, ContextField, validate_timezone
from .links import TreeLink, TreeLinkManager, TreeLinkQuerySet
from .outbox import OutboxRun, OutboxState
from .run_workers import RunWorker
from .schedules import ProcessTreeSchedule, RunStatus
from .step_workers import StepWorker
from .trees import LinkKind, ProcessTree, ProcessTreeQuerySet
from .triggers import (
    Trigger,
    TriggerPassage,
    TriggerQuerySet,
    TriggerState,
    TriggerSubscription,
    TriggerType,
)

__all__ = [
    "Clockwork",
    "ContextField",
    "LinkKind",
    "OutboxRun",
    "OutboxState",
    "ProcessTree",
    "ProcessTreeQuerySet",
    "ProcessTreeSchedule",
    "RunStatus",
    "RunWorker",
    "StepWorker",
    "TreeLink",
    "TreeLinkManager",
    "TreeLinkQuerySet",
    "Trigger",
    "TriggerPassage",
    "TriggerQuerySet",
    "TriggerState",
    "TriggerSubscription",
    "TriggerType",
    "validate_timezone",
]
