"""Helpers for the tests of a project's trees.

In a test nothing reaches the real Dagster, whatever the settings are: runs are executed in the
test's process and stored nowhere, and requested runs (``submit_tree``, a fired trigger, followers)
are recorded for assertions: ``submitted()``, ``fired()``, ``followed()``. No reload is requested
either. A test that needs Dagster uses ``with real_dagster():``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from django.test.utils import TestContextDecorator

from . import context as contexts
from .context import tagging
from .domain import run_tags as tags
from .models import OutboxRun
from .running import tree_runs
from .running.results import Results
from .running.run_options import RunOptions
from .services import run_outbox
from .support import isolation
from .tree_builder import ProcessTreeInstance


class RecordedRun(NamedTuple):
    """A run that a test has requested, and that was not delivered to Dagster."""

    tree: str
    """The tree's name."""

    context: dict[str, Any]
    """The keyword arguments that the run would get."""

    triggered_by: str
    """What requested it: ``python``, ``command``, ``admin``, ``trigger`` or ``tree``."""

    trigger: str | None
    """The name of the trigger that was fired, if one was."""

    run_id: str
    """The id that the run would have."""

    tags: Mapping[str, str] = MappingProxyType({})
    """The tags that it would get: from its context, and from the caller."""


def submitted() -> list[RecordedRun]:
    """Return the runs that this test has queued, in their order.

    They come from ``submit_tree``, a generated command with ``--submit``, or the admin. A rollback
    removes them, as it does with real runs.
    """
    others = ("trigger", "tree")
    return [run for run in _recorded() if run.triggered_by not in others]


def fired(trigger: str | None = None) -> list[RecordedRun]:
    """Return the runs for which this test has fired a trigger, in their order.

    Parameters
    ----------
    trigger:
        Only those of the trigger of this name; of any if left out.
    """
    runs = [run for run in _recorded() if run.triggered_by == "trigger"]
    return [run for run in runs if trigger in (None, run.trigger)]


def followed() -> list[RecordedRun]:
    """Return the runs that would follow this test's executed ones, in their order."""
    return [run for run in _recorded() if run.triggered_by == "tree"]


def _recorded() -> list[RecordedRun]:
    return [_recorded_run(row) for row in run_outbox.recorded()]


def _recorded_run(row: OutboxRun) -> RecordedRun:
    context = {**row.process_tree.base_context(row.tags), **row.context}
    return RecordedRun(
        row.process_tree.name,
        contexts.decode(context),
        row.tags[tags.TRIGGERED_BY],
        row.tags.get(tags.TRIGGER),
        str(row.run_id),
        {**_given(row.tags), **tagging.of_tree(row.process_tree.run_tags, context)},
    )


def _given(tags_of_row: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in tags_of_row.items() if tagging.is_given(name)}


class real_dagster(TestContextDecorator):  # noqa: N801  # as Django's override_settings
    """Let a test reach the Dagster instance and the webserver that the settings name.

    A context manager, and a decorator of test functions (also asynchronous ones) and of
    ``TestCase`` classes. It applies to the whole process, so also to other threads of the test,
    such as a live server. Give the test a Dagster home of its own::

        @pytest.fixture
        def dagster_home(tmp_path, settings):
            settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(tmp_path)}
            with real_dagster():
                yield tmp_path
    """

    def enable(self) -> None:
        """Begin."""
        isolation.begin_real_dagster()

    def disable(self) -> None:
        """End."""
        isolation.end_real_dagster()


def run_tree(
    tree: str | ProcessTreeInstance,
    context: Mapping[str, Any] | None = None,
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    stop_on_error: bool = True,
) -> Results:
    """Run a tree, in memory, and return its results.

    Its processes run one after the other in the calling thread, so they see a ``TestCase``'s
    transaction. Runs that a process submits or triggers that it fires are recorded, and not run,
    also outside a test.

    Parameters
    ----------
    tree:
        A saved tree's name, or a tree, saved or not.
    context:
        Keyword arguments of the run; they update the schedule's default context.
    functions:
        Stand-ins by process name, such as for a process that calls another system; or by a
        function's key or reference.
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
    StandInError
        The tree has no process or function that a stand-in is named for, or it can't be called.

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
    with isolation.forced():
        if isinstance(tree, str):
            return tree_runs.execute_row(
                tree_runs.get_row(tree), context, registry=functions, options=options
            )
        return tree.execute(context, functions=functions, options=options)
