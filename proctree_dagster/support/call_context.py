"""The surroundings of a call: each begins with its caller's, and leaves none behind.

Language, time zone, context variables, ``decimal``'s context and asgiref's ``Local`` are a call's
own. What belongs to the whole process (``os.environ``, the working directory, ``locale``, warning
filters, ``random``, signal handlers) or to a thread (``threading.local``) is not.
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
    """Return ``func`` for another thread, where it will have the surroundings of this one."""
    context = contextvars.copy_context()

    def arrive(*args: P.args, **kwargs: P.kwargs) -> R:
        _take_over_locals(context)
        _own_decimal_context()
        return func(*args, **kwargs)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.run(arrive, *args, **kwargs)

    return call


def _own_decimal_context() -> None:
    """Copy what a copied context variable still shares: an object that is changed in place."""
    decimal.setcontext(decimal.getcontext().copy())


def _take_over_locals(context: contextvars.Context) -> None:
    """Let this thread see what the ``Local`` objects of another thread's context hold.

    asgiref 3.13 marks it with its thread, and does this itself where it changes threads.
    """
    restore = getattr(asgiref.sync, "_restore_context", None)
    if restore is not None:
        restore(context)
