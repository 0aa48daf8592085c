"""While a function of an app's ``trees`` module declares its tree, what it asks for is noted only.

``collecting()`` opens the block in which that holds. ``register_schedule()``, ``create_trigger()``
and the like ask ``current()``, and note what they were given instead of writing it. Whatever else
would write to a database in the block is refused: a sync compares first, and writes then.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from django.db import connections, transaction

from .. import context as contexts
from ..exceptions import DeclarationError
from ..models import ProcessTree, ProcessTreeSchedule, Trigger
from . import scheduling

WRITES = (
    *("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "TRUNCATE"),
    *("CREATE", "ALTER", "DROP", "COPY", "CALL"),
)
"""How statements begin that write."""


@dataclass
class Declared:
    """What one function has declared."""

    tree: str
    """The name of the tree that it is to declare."""

    function: str
    """The function, for messages."""

    schedules: dict[str, ProcessTreeSchedule] = field(default_factory=dict)
    """Its schedules by their names, not saved."""

    triggers: dict[str, Trigger] = field(default_factory=dict)
    """The triggers by their names, not saved."""

    def schedule(self, tree: str, name: str, **options: Any) -> ProcessTreeSchedule:
        """Note a schedule and return it, not saved.

        Parameters
        ----------
        tree:
            The name of its tree.
        name:
            Its own.
        options:
            As ``scheduling.prepare`` takes them, which see for errors, too.

        Raises
        ------
        DeclarationError
            It is that of another tree, or was noted before.
        """
        self.require_own(tree)
        if name in self.schedules:
            raise DeclarationError(
                f"{self.function} registers the schedule {name!r} of {tree!r} twice, and only one "
                "can count; give each a name of its own: register_schedule(name=…)."
            )
        schedule = ProcessTreeSchedule(process_tree=ProcessTree(name=tree), name=name)
        scheduling.prepare(schedule, **options)
        self.schedules[name] = schedule
        return schedule

    def trigger(
        self,
        name: str,
        trigger_type: str,
        configuration: Mapping[str, Any] | None,
        description: str | None,
        enabled: bool | None,
    ) -> Trigger:
        """Note a trigger and return it, not saved; see ``triggers.create_trigger``."""
        trigger = Trigger(name=name, trigger_type=trigger_type, description=description or "")
        trigger.configuration = {} if configuration is None else configuration
        trigger.enabled = enabled is not False
        trigger.require_valid()
        trigger.configuration = contexts.encode(trigger.configuration)
        self.triggers[name] = trigger
        return trigger

    def require_own(self, tree: str) -> None:
        """Refuse what concerns another tree.

        Raises
        ------
        DeclarationError
            It is another one.
        """
        if tree != self.tree:
            raise DeclarationError(
                f"{self.function} declares the process tree {self.tree!r} and can't change "
                f"{tree!r}; give that one a function of its own."
            )

    def refuse(self, what: str) -> None:
        """Refuse what is no declaration.

        Raises
        ------
        DeclarationError
            Always.
        """
        raise DeclarationError(
            f"{self.function} declares the process tree {self.tree!r}, so it can't {what}: it is "
            "called on each sync and check. Do that elsewhere, such as in a management command."
        )


_declared: ContextVar[Declared | None] = ContextVar("proctree_dagster.declaring", default=None)


def current() -> Declared | None:
    """Return what the function that is being called has declared; ``None`` outside of one."""
    return _declared.get()


def refuse(what: str) -> None:
    """Refuse in a declaration what is none; see ``Declared.refuse``."""
    declared = current()
    if declared is not None:
        declared.refuse(what)


@contextmanager
def collecting(tree: str, function: str) -> Iterator[Declared]:
    """Note in the block what is declared, and refuse every write.

    Parameters
    ----------
    tree:
        The name of the tree that is declared.
    function:
        What declares it, for messages.
    """
    declared = Declared(tree, function)
    token = _declared.set(declared)
    try:
        with ExitStack() as stack:
            for connection in connections.all():
                if connection.in_atomic_block:  # what fails in the block must not break it
                    stack.enter_context(transaction.atomic(using=connection.alias))
                stack.enter_context(connection.execute_wrapper(_reading(declared)))
            yield declared
    finally:
        _declared.reset(token)


def _reading(declared: Declared) -> Callable[..., Any]:
    """Return a wrapper of a connection's statements that refuses those that write."""

    def execute(
        run: Callable[..., Any], sql: Any, params: Any, many: bool, context: Mapping[str, Any]
    ) -> Any:
        words = str(sql).lstrip(" \t\r\n(").split(None, 1)
        if words and words[0].upper() in WRITES:
            declared.refuse(f"write to the database ({sql!s:.60})")
        return run(sql, params, many, context)

    return execute
