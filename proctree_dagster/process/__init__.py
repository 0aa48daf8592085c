"""Running one process: arguments, cache, time limit, checks, result. No Dagster, no models.

Public: ``progress``, ``log_table``, ``log_image``. ``models`` and whatever is above may import it;
it imports ``functions``, ``context`` and what is below.
"""

from .reporting import log_image, log_table, progress
from .run import NotStored as NotStored
from .run import Outcome as Outcome

__all__ = ["NotStored", "Outcome", "log_image", "log_table", "progress"]
