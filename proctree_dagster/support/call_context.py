"""The surroundings of a call: each call starts with a copy of its caller's, and changes only that.

They are language, time zone, context variables, ``decimal``'s context and asgiref's ``Local``; not
state of the whole process (``os.environ``, the working directory, ``locale``, warning filters,
``random``, signal handlers) or of a thread (``threading.local``).
"""

import contextvars
import decimal
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import asgiref.sync

P = ParamSpec("P")
R = TypeVar("R")


def isolated(func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``func`` in a copy of the caller's surroundings, and return its result."""

    def call() -> R:
        _own_decimal_context()
        return func(*args, **kwargs)

    return contextvars.copy_context().run(call)


def carried(func: Callable[P, R]) -> Callable[P, R]:
    """Return ``func`` wrapped for another thread, with the surroundings of this one."""
    context = contextvars.copy_context()

    def arrive(*args: P.args, **kwargs: P.kwargs) -> R:
        _take_over_locals(context)
        _own_decimal_context()
        return func(*args, **kwargs)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.run(arrive, *args, **kwargs)

    return call


def _own_decimal_context() -> None:
    """Copy the mutable objects that a copied context still shares with its original."""
    decimal.setcontext(decimal.getcontext().copy())


def _take_over_locals(context: contextvars.Context) -> None:
    """Give this thread the values of ``Local`` objects from another thread's context.

    asgiref 3.13 stores them by thread, and copies them itself where it changes threads.
    """
    restore = getattr(asgiref.sync, "_restore_context", None)
    if restore is not None:
        restore(context)
