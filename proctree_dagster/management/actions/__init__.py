"""What ``manage.py proctree`` can do: one module for each thing that an operator looks after.

Each action is a subclass of ``Action`` and listed in ``ACTIONS``.
"""

from .base import Action
from .caches import ClearCache
from .serving import Dev, Doctor, Home
from .trees import ListTrees
from .triggers import Fire

ACTIONS: tuple[type[Action], ...] = (ListTrees, Dev, Doctor, Home, Fire, ClearCache)
"""In the order of the help."""

__all__ = ["ACTIONS", "Action"]
