"""What tests declare in code, as an app's ``trees`` module does."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from proctree_dagster.models import ProcessTree
from proctree_dagster.tree_builder import ProcessTreeInstance, declarations, process_tree
from tests.app import processes

Fill = Callable[[ProcessTreeInstance], Any]


class Code:
    """The code of a project, which a test changes from deployment to deployment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(declarations, "_declared", {})

    def says(
        self,
        name: str,
        fill: Fill = lambda tree: None,
        *,
        function: str = "declare",
        module: str = "tests.app.trees",
        description: str = "",
        **options: Any,
    ) -> None:
        """Let the code declare a tree of one process, in place of what it said of it before."""

        def declared(tree: ProcessTreeInstance) -> None:
            tree.add_process("one", func=processes.one)
            fill(tree)

        declared.__module__, declared.__qualname__ = module, f"{function}_{name}"
        self.says_nothing_of(name)
        process_tree(name, description=description, **options)(declared)

    def also_says(self, name: str, **options: Any) -> None:
        """Let another place of the code declare a tree of this name, too."""
        kept = dict(declarations._declared)
        self.says(name, **options)
        declarations._declared.update(kept)

    def says_nothing_of(self, name: str) -> None:
        """Remove a tree from the code."""
        for key in [key for key in declarations._declared if key[1] == name]:
            del declarations._declared[key]


def said(*arguments: str) -> tuple[int, str]:
    """Return the exit code of an action, and what it printed, its warnings and errors included."""
    out, err = StringIO(), StringIO()
    try:
        call_command("proctree", *arguments, stdout=out, stderr=err, no_color=True)
    except CommandError as error:
        return error.returncode, f"{out.getvalue()}{err.getvalue()}{error}"
    return 0, out.getvalue() + err.getvalue()


def tree(name: str = "close") -> ProcessTree:
    """Return a saved tree."""
    return ProcessTree.objects.get(name=name)
