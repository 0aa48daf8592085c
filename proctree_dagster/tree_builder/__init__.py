"""Writing trees: build one in Python, save it, schedule it, run it.

``management``, ``admin`` and ``testing`` may import it; it imports ``running`` and what is below.
"""

from .builder import ProcessTreeBuilder
from .declarations import process_tree
from .instance import ProcessTreeInstance
from .manager import ProcessTreeManager
from .scheduling import change_schedule

__all__ = [
    "ProcessTreeBuilder",
    "ProcessTreeInstance",
    "ProcessTreeManager",
    "change_schedule",
    "process_tree",
]
