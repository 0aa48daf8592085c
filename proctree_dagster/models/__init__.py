"""The models: trees, schedules, triggers, links, workers, and the outbox of runs.

The code that changes rows is in ``services``: ``due_time_claims`` claims due times, ``run_outbox``
has the states of an outbox row, ``trigger_firing`` fires triggers. ``services`` and whatever is
above may import it; it imports ``process`` and what is below.
"""

from .alerts import Alert, AlertDelivery, AlertState, Event, EventCursor
from .backfills import Backfill, BackfillState
from .dagster_actions import DagsterAction
from .fields import ClockFieldsModel, ContextField, validate_timezone
from .links import TreeLink, TreeLinkManager, TreeLinkQuerySet
from .outbox import OutboxRun, OutboxState
from .pages import Overview, Run
from .pauses import Pause
from .revisions import Origin, TreeChange, TreeRevision
from .run_workers import RunWorker
from .schedule_queries import RunStatus
from .schedules import ProcessTreeSchedule
from .step_workers import StepWorker
from .tree_schedules import default_schedules
from .tree_sources import CodeSync, TreeSource
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
    "Alert",
    "AlertDelivery",
    "AlertState",
    "Backfill",
    "BackfillState",
    "ClockFieldsModel",
    "CodeSync",
    "ContextField",
    "DagsterAction",
    "Event",
    "EventCursor",
    "LinkKind",
    "Origin",
    "OutboxRun",
    "OutboxState",
    "Overview",
    "Pause",
    "ProcessTree",
    "ProcessTreeQuerySet",
    "ProcessTreeSchedule",
    "Run",
    "RunStatus",
    "RunWorker",
    "StepWorker",
    "TreeChange",
    "TreeLink",
    "TreeLinkManager",
    "TreeLinkQuerySet",
    "TreeRevision",
    "TreeSource",
    "Trigger",
    "TriggerPassage",
    "TriggerQuerySet",
    "TriggerState",
    "TriggerSubscription",
    "TriggerType",
    "default_schedules",
    "validate_timezone",
]
