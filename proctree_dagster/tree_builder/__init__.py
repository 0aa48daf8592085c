"""Writing trees: build one in Python, save it, schedule it, run it.

``management``, ``admin`` and ``testing`` may import it; it imports ``running`` and what is below.
"""

from .instance import ProcessTreeBuilder, ProcessTreeInstance, ProcessTreeManager, change_schedule

__all__ = ["ProcessTreeBuilder", "ProcessTreeInstance", "ProcessTreeManager", "change_schedule"]
