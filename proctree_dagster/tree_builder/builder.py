"""Building a tree in one expression; the options of a process are in ``draft``."""

from collections.abc import Sequence
from typing import Any

from ..models import ProcessTree
from .instance import Function, ProcessTreeInstance


class ProcessTreeBuilder:
    """Builds a tree in one expression: ``ProcessTreeBuilder("x").add("a", func).save()``.

    Parameters are those of ``ProcessTreeInstance``.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        cache_enabled: bool = True,
        overwrite: bool = False,
        run_tags: Sequence[str] | None = None,
        **limit: Any,
    ) -> None:
        self._tree = ProcessTreeInstance(
            name, description, cache_enabled, overwrite=overwrite, run_tags=run_tags, **limit
        )

    def add(
        self,
        process_name: str,
        func: Function | str,
        dependencies: Sequence[str] | None = None,
        **options: Any,
    ) -> "ProcessTreeBuilder":
        """Add a process (see ``ProcessTreeInstance.add_process``) and return the builder."""
        self._tree.add_process(process_name, func, dependencies, **options)
        return self

    def add_dependent_tree(self, name: str) -> "ProcessTreeBuilder":
        """Let a saved tree run after this one (see ``ProcessTreeInstance``)."""
        self._tree.add_dependent_tree(name)
        return self

    def add_sibling_tree(self, name: str) -> "ProcessTreeBuilder":
        """Let a saved tree run beside this one (see ``ProcessTreeInstance``)."""
        self._tree.add_sibling_tree(name)
        return self

    def build(self) -> ProcessTreeInstance:
        """Return the tree, not saved.

        Raises
        ------
        InvalidTree
            With every problem of the tree.
        """
        self._tree.check()
        return self._tree

    def save(self) -> ProcessTree:
        """Save the tree and return its row; see ``ProcessTreeInstance.save`` for errors."""
        return self._tree.save()
