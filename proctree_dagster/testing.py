"""Helpers for the tests of people's own trees.

They need no Dagster home and leave no trace in one, and the processes run in the calling thread and
see its transaction, as in a ``django.test.TestCase``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from . import execution
from .execution import Results, RunOptions
from .tree_builder import ProcessTreeInstance


def run_tree(
    tree: str | ProcessTreeInstance,
    context: Mapping[str, Any] | None = None,
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    stop_on_error: bool = True,
) -> Results:
    """Run a tree, in memory, and return its results.

    Parameters
    ----------
    tree:
        A saved tree's name, or a tree, saved or not.
    context:
        Keyword arguments of the run; they update the schedule's default context.
    functions:
        Stand-ins by process name, such as for a process that calls another system.
    stop_on_error:
        As for ``ProcessTreeManager.execute_tree``.

    Returns
    -------
    Results
        As from ``ProcessTreeManager.execute_tree``.

    Raises
    ------
    TreeNotFound
        There is no tree of that name.
    InvalidTree
        The tree is not valid.

    Examples
    --------
    ::

        class CloseTests(TestCase):
            def test_the_books_balance(self):
                organisation = Organisation.objects.create(name="Acme")
                results = run_tree(
                    "monthly_close",
                    {"organisation": organisation},
                    functions={"fetch_journals": lambda: {"lines": 0}},
                )
                self.assertEqual(results["status"]["publish_statements"], "completed")
    """
    options = RunOptions(stop_on_error=stop_on_error, ephemeral=True)
    if isinstance(tree, str):
        return execution.execute_row(
            execution.get_row(tree), context, registry=functions, options=options
        )
    return tree.execute(context, functions=functions, options=options)
