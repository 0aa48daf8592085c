"""Finding broken rows: saved rows that name what is missing or not allowed."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from django.db import models

from .. import context as contexts
from .. import functions
from ..context import tagging
from ..domain import tree_spec
from ..domain.texts import explain
from ..exceptions import ContextError, FunctionError, ScheduleError
from ..models import (
    ProcessTree,
    ProcessTreeSchedule,
    Trigger,
    TriggerSubscription,
    TriggerType,
    calendars,
)
from ..models.validation import (
    executor_names,
    for_each_validation,
    tree_validation,
    trigger_validation,
)
from ..support.row_reading import UNREADABLE, streamed


class Finding(NamedTuple):
    """A missing thing that rows name."""

    problem: str
    """What is wrong, in a sentence."""

    users: list[str]
    """What names it, such as ``process 'fetch' of tree 'sync'``."""

    fails: bool = True
    """Whether runs fail because of it. Otherwise only the process that saved the tree can run it,
    and nothing else tries to."""

    def __str__(self) -> str:
        """Return it as one line, with the first few of its users."""
        several = f" and {len(self.users) - 10} more" if len(self.users) > 10 else ""
        return f"{', '.join(self.users[:10])}{several}: {self.problem}"


def findings() -> list[Finding]:
    """Return all missing things that saved trees and triggers name.

    It imports the modules that they name, as a run does. It makes five queries for any number of
    rows, and three more if a tree has a function that can't be named.

    Raises
    ------
    DatabaseError
        The tables do not exist, or the database can't be reached.
    """
    users: dict[tuple[str, bool], list[str]] = {}
    with functions.failing_once():
        for problem, fails, user in (*_of_trees(), *_of_triggers(), *_of_contexts()):
            users.setdefault((problem, fails), []).append(user)
    return [Finding(problem, named, fails) for (problem, fails), named in users.items()]


def invalid_trees() -> list[Finding]:
    """Return the problems of trees and schedules, such as a cycle.

    They include a schedule's context that lacks a required key, or has one that no function takes.

    Raises
    ------
    DatabaseError
        The tables do not exist, or the database can't be reached.
    """
    found = []
    for row in ProcessTree.objects.streamed():
        problems = tree_spec.problems(row.to_dict())
        found += [Finding(problem, [f"tree {row.name!r}"]) for problem in problems]
        secrets = tree_validation.run_tag_problems({"run_tags": row.run_tags})
        found += [Finding(problem, [f"tree {row.name!r}"], fails=False) for problem in secrets]
        for schedule in row.all_schedules():
            known = set(_problems_of_functions(schedule))  # among the ``findings``
            problems = [each for each in _problems_of(schedule) if each not in known]
            found += [Finding(each, [_user(schedule)]) for each in problems]
    return [*found, *_of_no_use()]


def _problems_of(schedule: ProcessTreeSchedule) -> list[str]:
    """Return what is wrong with a schedule's rule, and with its context."""
    try:
        str(schedule.current_rule)
        return [*schedule.for_each_problems().values(), *schedule.context_problems()]
    except ScheduleError as error:
        return [str(error)]
    except UNREADABLE as error:
        return [explain(error)]


def _user(schedule: ProcessTreeSchedule) -> str:
    """Return what a finding calls a schedule."""
    named = "" if schedule.is_default else f" {schedule.name!r}"
    return f"schedule{named} of tree {schedule.process_tree.name!r}"


def _of_no_use() -> Iterator[Finding]:
    """Return the keys in subscriptions' contexts that their trees do not take."""
    rows = TriggerSubscription.objects.select_related("process_tree", "trigger").order_by("pk")
    for row in streamed(rows):  # a broken tree is among the ``findings``
        if not isinstance(row.context, Mapping):
            continue  # so is an invalid context
        schema = row.process_tree.context_schema
        for problem in schema.problems(row.context, partial=True):
            names = f"{row.process_tree.name!r} to {row.trigger.name!r}"
            yield Finding(problem, [f"subscription of tree {names}"], fails=False)


def _of_trees() -> Iterator[tuple[str, bool, str]]:
    problem_of, problem_of_executor = cache(_problem_of), cache(executor_names.problem_of_row)
    triggers = set(Trigger.objects.values_list("name", flat=True))
    unreadable = _Unreadable(ProcessTree, "tree")
    unnameable: list[tuple[str, str, str]] = []
    rows = ProcessTree.objects.order_by("name").only("name", "processes", "executor", "run_tags")
    for row in streamed(rows, unreadable.note):
        name = row.name
        problem = problem_of_executor(row.executor)
        if problem is not None:
            yield f"{problem}.", True, f"tree {name!r}"
        for problem in tree_spec.run_tag_problems(row.run_tags):
            yield problem, True, f"tree {name!r}"
        if not isinstance(row.processes, (list, tuple)):
            yield "Its processes can't be read, or are no list.", True, f"tree {name!r}"
        for process in tree_validation.processes_of({"processes": row.processes}):
            user = f"process {process.get('name')!r} of tree {name!r}"
            for reference in tree_validation.references_of(process):
                if functions.is_unnameable(reference):
                    unnameable.append((name, reference, user))
                elif problem := problem_of(reference):
                    yield problem, True, user
            trigger = process.get("trigger")
            if isinstance(trigger, str) and trigger not in triggers:
                yield f"There is no trigger {trigger!r}, which it waits for.", True, user
    yield from _unnameable(unnameable)
    yield from unreadable.found


def _of_triggers() -> Iterator[tuple[str, bool, str]]:
    unreadable = _Unreadable(Trigger, "trigger")
    rows = Trigger.objects.order_by("name").only("name", "trigger_type", "configuration")
    for row in streamed(rows, unreadable.note):
        name, trigger_type, configuration = row.name, row.trigger_type, row.configuration
        if trigger_type == TriggerType.CUSTOM:
            given = configuration if isinstance(configuration, Mapping) else {}
            problem = _problem_of(given.get("function"))
            found = [] if problem is None else [problem]
        else:
            found = trigger_validation.problems(trigger_type, configuration)
        for problem in found:
            yield problem, True, f"trigger {name!r}"
    yield from unreadable.found


def _of_contexts() -> Iterator[tuple[str, bool, str]]:
    """Return the contexts with forbidden values, such as a row of a model with secrets.

    And the invalid tags: runs are created without them. And the functions that schedules name.
    """
    named = ("process_tree__name", "context", "tags", "process_tree")
    schedules = ProcessTreeSchedule.objects.select_related("process_tree").only(
        *("name", "for_each", "order_by", "business_days", "calendar"), *named
    )
    unreadable = _Unreadable(ProcessTreeSchedule, "schedule of tree")
    of_schedules = ((_user(each), each) for each in streamed(schedules, unreadable.note))
    subscriptions = TriggerSubscription.objects.select_related("process_tree", "trigger").only(
        *named, "trigger", "trigger__name"
    )
    of_subscription = _Unreadable(TriggerSubscription, "subscription of tree")
    of_subscriptions = (
        (f"subscription of tree {each.process_tree.name!r} to {each.trigger.name!r}", each)
        for each in streamed(subscriptions, of_subscription.note)
    )
    found: Iterator[tuple[str, ProcessTreeSchedule | TriggerSubscription]]
    found = chain(of_schedules, of_subscriptions)
    for user, row in found:
        for problem in tagging.problems(row.tags):
            yield problem, False, user
        try:
            contexts.encode(row.context)
        except ContextError as error:
            yield str(error), True, user
        if isinstance(row, ProcessTreeSchedule):
            yield from ((problem, True, user) for problem in _problems_of_functions(row))
    yield from (*unreadable.found, *of_subscription.found)


def _problems_of_functions(schedule: ProcessTreeSchedule) -> Iterator[str]:
    """Yield what is wrong with a schedule's rows, and with its calendar."""
    yield from for_each_validation.problems(schedule.for_each, schedule.order_by)
    if schedule.business_days:
        try:
            calendars.business_days(schedule.calendar)
        except ScheduleError as error:
            yield str(error)


class _Unreadable:
    """The rows of a model that can't be read."""

    def __init__(self, model: type[models.Model], what: str) -> None:
        self._model, self._what = model, what
        self.found: list[tuple[str, bool, str]] = []

    def note(self, pk: Any, error: Exception) -> None:
        """Record one."""
        of_tree = hasattr(self._model, "process_tree")
        column = "process_tree__name" if of_tree else "name"
        name = self._model._default_manager.filter(pk=pk).values_list(column, flat=True).first()
        self.found.append((f"It can't be read: {explain(error)}", True, f"{self._what} {name!r}"))


def _problem_of(reference: Any) -> str | None:
    if not isinstance(reference, str):
        return f"{reference!r} is no function."
    try:
        functions.resolve(reference)
    except FunctionError as error:
        return str(error)
    return None


def _unnameable(found: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, bool, str]]:
    """Yield the findings on functions that can't be named, and whether runs fail because of them.

    Parameters
    ----------
    found:
        Each tree's name, the reference, and what names it.
    """
    names = {tree for tree, _reference, _user in found}
    runs = ProcessTree.objects.filter(name__in=names).what_runs() if names else {}
    for tree, reference, user in found:
        runs_it = runs.get(tree, [])
        why = f" And {', '.join(runs_it)}." if runs_it else ""
        yield f"{_problem_of(reference)}{why}", bool(runs_it), user
