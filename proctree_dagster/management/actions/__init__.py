"""The actions of ``manage.py proctree``: one module for each kind of thing that they manage.

Each action is a subclass of ``Action`` and listed in ``ACTIONS``. The command ``proctree`` imports
it.
"""

from .alerts import Alerts
from .backfills import Backfill, Backfills
from .base import Action
from .caches import ClearCache
from .code import Keep, Sync, Take
from .health import Health
from .measuring import Metrics
from .one_tree import Check, Run, Show
from .pauses import Pause, Pauses, Resume
from .pruning import Prune
from .revisions import Restore, Revisions
from .runs import Cancel, Logs, Retry, Runs
from .scheduling import Disable, Enable, Schedule
from .serving import Dev, Doctor, Home, Init, Reload, Web
from .tree_files import Apply, Export
from .tree_list import ListTrees
from .triggers import Fire

ACTIONS: tuple[type[Action], ...] = (
    *(Dev, ListTrees, Show, Run, Fire),
    *(Runs, Logs, Cancel, Retry),
    *(Schedule, Enable, Disable),
    *(Pause, Resume, Pauses),
    *(Backfill, Backfills),
    Alerts,
    *(Sync, Take, Keep, Export, Apply),
    *(Revisions, Restore),
    *(Check, Health, Metrics, Doctor, Reload, Web, Home, Init, ClearCache, Prune),
)
"""In the order of the help."""

__all__ = ["ACTIONS", "Action"]
