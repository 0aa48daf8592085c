"""``ProcessTreeInstance``: save, schedule and run one tree. Its writing is in ``draft``.

The module is long because of its docstrings, which are the reference.
"""

import datetime as dt
import logging
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import IntegrityError

from .. import context as contexts
from .. import functions, triggers
from ..context import tagging
from ..domain import tree_alerts, tree_spec
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..exceptions import (
    FunctionNotNameable,
    InvalidTree,
    TreeExists,
    TreeNotSaved,
    TriggerNotFound,
    UnnameableFunctionWarning,
)
from ..models import ProcessTree, ProcessTreeSchedule, Trigger, TriggerSubscription
from ..models.validation import tree_validation as validation
from ..running import tree_runs
from ..running.results import Results
from ..running.run_options import RunOptions
from ..services import declaring, revisions, scheduling, stand_ins, tree_descriptions, tree_links
from ..support.connections import after_commit, writing
from ..tasks import TreeTask
from . import command_files
from .draft import TreeDraft, name_of
from .export import DraftProcess, Export

logger = logging.getLogger(__name__)

Function = Callable[..., Any]


class _Load:
    """``load()``: on the class it returns a tree, on a tree it replaces that tree's content."""

    def __get__(
        self, tree: "ProcessTreeInstance | None", owner: "type[ProcessTreeInstance]"
    ) -> "Callable[..., ProcessTreeInstance]":
        def load(name: str | None = None) -> "ProcessTreeInstance":
            """Return the saved tree called ``name``, to be changed or run.

            Called on a tree, that tree becomes the saved one, its name included, and is returned:
            ``save()`` then changes the saved tree, whether or not ``overwrite`` was given. What was
            added to it before is dropped, which is logged; functions that were added stay known.

            Parameters
            ----------
            name:
                The saved tree's name; on a tree, its own if left out.

            Raises
            ------
            TreeNotFound
                There is none.
            InvalidTree
                It was saved without validation, and is invalid.
            """
            if tree is not None:
                return tree._fill(tree_runs.get_row(tree.name if name is None else name))
            if name is None:
                raise TypeError("ProcessTreeInstance.load() needs the name of a saved tree.")
            row = tree_runs.get_row(name)
            return owner(
                name=row.name,
                description=row.description,
                cache_enabled=row.cache_enabled,
                tree_instance=row,
            )

        return load


class ProcessTreeInstance(TreeDraft):
    """One process tree: to write, save, schedule and run it.

    Parameters
    ----------
    name:
        The tree's name, at most 200 characters, unique.
    description:
        What it is for; shown in Dagster.
    cache_enabled:
        Whether results may be cached.
    tree_instance:
        A saved tree to start from.
    overwrite:
        Whether a saved tree of this name is replaced; its row, its schedule and its history stay.
    run_tags:
        Keys of the context whose values are tags of the tree's runs (see ``set_run_tags``). Left
        out: none, or those of ``tree_instance``.
    one_at_a_time_per, limit_per_key:
        The limit of the tree's runs at the same time (see ``set_limit``). Left out: none, or that
        of ``tree_instance``.
    keep_runs:
        How long the tree's runs are kept (see ``set_keep_runs``). Left out: as the settings say, or
        as ``tree_instance`` does.
    reuse_worker:
        Whether the process of a run may execute further runs (see ``set_reuse_worker``). Left out:
        no, or as ``tree_instance`` does.
    alert_on, alert_to, expected_minutes, success_within_minutes:
        Who gets which alerts of the tree (see ``set_alerts``). Left out: as the settings say, or as
        ``tree_instance`` does.

    Raises
    ------
    TreeExists
        A tree of this name is saved, and ``overwrite`` is False.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        cache_enabled: bool = True,
        tree_instance: ProcessTree | None = None,
        overwrite: bool = False,
        run_tags: Sequence[str] | None = None,
        *,
        one_at_a_time_per: str | None = None,
        limit_per_key: int | None = None,
        keep_runs: str | None = None,
        reuse_worker: bool | None = None,
        alert_on: str | Sequence[str] | None = None,
        alert_to: str | Sequence[str] | None = None,
        expected_minutes: int | None = None,
        success_within_minutes: int | None = None,
    ) -> None:
        super().__init__(name, description, cache_enabled)
        self._overwrite = overwrite
        self._row = tree_instance
        self._seen: list[dict[str, Any]] = []
        if tree_instance is not None:
            self._take_over(tree_instance)
        elif not overwrite and declaring.current() is None and _is_saved(name):
            raise TreeExists(_exists(name))
        if run_tags is not None:
            self.set_run_tags(run_tags)
        if one_at_a_time_per is not None:
            self.one_at_a_time_per = one_at_a_time_per
        if limit_per_key is not None:
            self.limit_per_key = limit_per_key
        if keep_runs is not None:
            self.set_keep_runs(keep_runs)
        if reuse_worker is not None:
            self.set_reuse_worker(reuse_worker)
        minutes = (expected_minutes, success_within_minutes)
        if any(each is not None for each in (alert_on, alert_to, *minutes)):
            now = self.alerts
            self.set_alerts(
                now.alert_on if alert_on is None else alert_on,
                now.alert_to if alert_to is None else alert_to,
                expected_minutes=expected_minutes or now.expected_minutes,
                success_within_minutes=success_within_minutes or now.success_within_minutes,
            )

    load = _Load()

    def _fill(self, row: ProcessTree) -> "ProcessTreeInstance":
        """Take the content and the name of a saved tree, and return the tree."""
        if self._row is None and (self._processes or self._subscriptions):
            dropped = ", ".join(repr(process.name) for process in self._processes)
            logger.warning(
                "What was added to the process tree %r before load() is dropped: %s.",
                self.name,
                dropped or "its subscriptions",
            )
        self._take_over(row)
        self.name, self.description = row.name, row.description
        self.cache_enabled = row.cache_enabled
        self._subscriptions.clear()
        return self

    def _take_over(self, row: ProcessTree) -> None:
        """Take the content of the saved tree, but not its name, description and caching."""
        found = tree_spec.problems(row.to_dict())
        if found:
            raise InvalidTree(row.name, found)
        self._row, self._seen = row, [row.content]
        self.executor, self.max_concurrent = row.executor, row.max_concurrent
        self.run_tags = tuple(row.run_tags)
        self.set_limit(row.one_at_a_time_per, row.limit_per_key).set_keep_runs(row.keep_runs)
        self.set_reuse_worker(row.reuse_worker)
        self.alerts = tree_alerts.of(row.alert_options)
        self._processes = [
            DraftProcess(
                process["name"],
                process["func"],
                {key: value for key, value in process.items() if key not in ("name", "func")},
            )
            for process in row.processes
        ]
        linked = row.linked_trees()
        self._dependents = linked.get("dependent_trees", [])
        self._siblings = linked.get("sibling_trees", [])

    # Writing

    def create_trigger(
        self,
        name: str,
        trigger_type: str,
        configuration: Mapping[str, Any] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> Trigger:
        """Create a trigger, or update the one of this name, and return it.

        It is saved at once, for every tree. See ``triggers.create_trigger`` for parameters and
        errors.
        """
        return triggers.create_trigger(name, trigger_type, configuration, description, enabled)

    def subscribe_to_trigger(
        self,
        trigger: Trigger | str,
        context: Mapping[str, Any] | None = None,
        enabled: bool | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "ProcessTreeInstance":
        """Let the tree run when a trigger fires, and return the tree.

        It takes effect at once if the tree is saved, else with ``save()``.

        Parameters
        ----------
        trigger:
            The trigger, or its name.
        context:
            Keyword arguments of the runs; they update the schedule's default context.
        enabled:
            Whether it is on. Left out: on for a new subscription, unchanged for an existing one.
        tags:
            Tags of the runs (see ``ProcessTreeManager.submit_tree``). Left out: none for a new
            subscription, unchanged for an existing one.

        Raises
        ------
        TriggerNotFound
            There is no such trigger, and the tree is saved.
        ContextError, TagError
            The context can't be stored, or the tags are not valid.
        FunctionNotNameable
            The tree is saved, and only the process that saved it can run it.
        """
        if self._row is None or self._saved_row() is None:
            encoded = None if context is None else contexts.encode(context)
            checked = None if tags is None else tagging.checked(tags)
            given = {"context": encoded, "enabled": enabled, "tags": checked}
            self._subscriptions[name_of(trigger)] = given
        else:
            row = self._require_saved()
            triggers.subscribe_tree_to_trigger(row, trigger, context, enabled, tags)
        return self

    def unsubscribe_from_trigger(self, trigger: Trigger | str) -> "ProcessTreeInstance":
        """Remove the tree's subscription to a trigger, and return the tree.

        See ``subscribe_to_trigger``. A tree that does not subscribe to it stays as it is.
        """
        if self._row is None or self._saved_row() is None:
            self._subscriptions[name_of(trigger)] = None
        else:
            triggers.unsubscribe_tree_from_trigger(self._require_saved(), trigger)
        return self

    # Saving

    def save(self) -> ProcessTree:
        """Save the tree and return its row.

        Raises
        ------
        InvalidTree
            With every problem of the tree; nothing is saved.
        TreeExists
            A tree of this name was saved meanwhile.
        FunctionNotNameable
            A function can't be named, and something runs the tree by itself: its schedule or a
            trigger, or it follows another tree.

        Warns
        -----
        UnnameableFunctionWarning
            A function can't be named (a lambda, a nested function, …): the tree is saved, but only
            this process can run it.
        """
        draft = self._export()
        if (declared := declaring.current()) is not None:
            declared.require_own(self.name)
            return ProcessTree(name=self.name, processes=draft.data["processes"])
        row = self._saved_row()
        self._check(
            draft, tree_links.problems(self.name, row, [*self._dependents, *self._siblings])
        )
        self._require_attended(draft, row)
        self._warn_of_what_is_lost(draft, row)
        for reason in draft.unnameable:
            warnings.warn(
                f"{reason} Until then only this process can run the tree.",
                UnnameableFunctionWarning,
                stacklevel=2,
            )
        while True:
            try:
                with writing(ProcessTree), revisions.together():
                    saved = self._write(row, draft)
                    self._write_subscriptions(saved)
                break
            except IntegrityError as error:  # another process has saved it meanwhile
                before, row = row, self._saved_row()
                if row is None or row == before:
                    raise TreeExists(_exists(self.name)) from error
        self._warn_of_useless_tags(saved)
        self._row = saved
        self._seen = [*self._seen[-9:], draft.data]  # a rollback restores the one before
        after_commit(self._subscriptions.clear)  # after a rollback they are pending again
        # After a rollback the row names what it named before.
        functions.keep_local(saved.name, {**functions.local_functions(saved.name), **draft.local})
        after_commit(lambda: functions.keep_local(saved.name, draft.local))
        return saved

    def _warn_of_what_is_lost(self, draft: Export, row: ProcessTree | None) -> None:
        """Log that the tree was changed elsewhere since it was loaded or saved here."""
        if row is not None and self._seen and row.content not in (*self._seen, draft.data):
            logger.warning(
                "The process tree %r was changed by somebody else since it was loaded or saved "
                "here; that change is overwritten: it had %s.",
                *(row.name, ", ".join(map(repr, validation.process_names(row.content)))),
            )

    def _warn_of_useless_tags(self, row: ProcessTree) -> None:
        """Log which keys of ``run_tags`` the functions don't know: they may be misspelt."""
        if row.run_tags:
            for problem in row.context_schema.unknown(dict.fromkeys(row.run_tags)):
                logger.warning("The run_tags of the process tree %r: %s", row.name, problem)

    def _saved_row(self) -> ProcessTree | None:
        """Return the present row to replace; ``None`` if there is none.

        The row that was saved or loaded may no longer exist, after a deletion or a rollback, and
        another tree may have its key by now.
        """
        trees = ProcessTree.objects
        found = None
        if declaring.current() is not None:
            return None
        if self._row is not None:
            known = {name: getattr(self._row, name) for name in ("pk", "job_name", "created_at")}
            found = trees.filter(**known).first()
        if found is None and self._overwrite:
            found = trees.filter(name=self.name).first()
        return found

    def _write(self, row: ProcessTree | None, draft: Export) -> ProcessTree:
        """Write the tree and its links, if they have changed."""
        row = ProcessTree(name=self.name) if row is None else row
        if row.pk is None or row.content != draft.data:
            # Options with default values are left out.
            row.executor, row.max_concurrent, row.run_tags = "", None, []
            row.one_at_a_time_per, row.limit_per_key, row.keep_runs = "", 1, ""
            row.reuse_worker = False
            row.set_alerts(tree_alerts.TreeAlerts())
            for attribute in draft.data.keys() - {"dependent_trees", "sibling_trees"}:
                setattr(row, attribute, draft.data[attribute])
            row.saved_by_code = row.digest
            row.save()
            tree_links.set_links(row, self._dependents, self._siblings)
        elif row.saved_by_code != row.digest:
            row.saved_by_code = row.digest
            row.save(update_fields=["saved_by_code"])
        return row

    def _write_subscriptions(self, row: ProcessTree) -> None:
        for name, given in self._subscriptions.items():
            if given is None:
                with suppress(TriggerNotFound):  # deleted meanwhile, with its subscriptions
                    triggers.unsubscribe_tree_from_trigger(row, name)
            else:
                triggers.subscribe_tree_to_trigger(row, name, **given)

    def _require_attended(self, draft: Export, row: ProcessTree | None) -> None:
        """Refuse functions that can't be named while something runs the tree by itself."""
        if not draft.unnameable:
            return
        pending = [
            f"the trigger {name!r} fires it"
            for name, given in self._subscriptions.items()
            if given is not None and given["enabled"] is not False
        ]
        runs_it = [*([] if row is None else row.what_runs_it()), *pending]
        if runs_it:
            raise FunctionNotNameable(
                f"The process tree {self.name!r} can't be saved like this: {', '.join(runs_it)}, "
                f"and a worker would not find its functions. {' '.join(draft.unnameable)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as JSON, functions by reference; with its triggers, if any."""
        row = self._saved_row() or ProcessTree.objects.filter(name=self.name).first()
        saved = [] if row is None else row.to_dict().get("triggers", [])
        subscribed = {each["trigger"]: each for each in saved}
        for name, given in self._subscriptions.items():
            subscribed.pop(name, None)
            if given is not None:
                subscription = TriggerSubscription(
                    context=given["context"] or {}, tags=given["tags"] or {}
                )
                subscription.enabled = given["enabled"] is not False
                subscribed[name] = {"trigger": name, **subscription.options()}
        found = [subscribed[name] for name in sorted(subscribed)]
        return {**self._export().data, **({"triggers": found} if found else {})}

    # Declaring

    def _declared_content(self, triggers: Container[str]) -> dict[str, Any]:
        """Return what a sync saves of the tree, without its subscriptions.

        Parameters
        ----------
        triggers:
            The names of the triggers that are declared with it.

        Raises
        ------
        InvalidTree
            With every problem of the tree.
        """
        draft = self._export()
        self._check(draft, draft.unnameable, triggers)
        return tree_descriptions.complete(draft.data)

    def _declared_subscriptions(self) -> dict[str, dict[str, Any]]:
        """Return the subscriptions that a sync saves, by the names of the triggers."""
        given = {name: each for name, each in self._subscriptions.items() if each is not None}
        return {
            name: {
                "context": each["context"] or {},
                "tags": each["tags"] or {},
                "enabled": each["enabled"] is not False,
            }
            for name, each in given.items()
        }

    # Scheduling

    def register_schedule(
        self,
        interval_minutes: int | None = None,
        start_time: dt.time | None = None,
        enabled: bool | None = None,
        context: Mapping[str, Any] | None = None,
        timezone: str | None = None,
        *,
        cron: str | None = None,
        allow_overlap: bool | None = None,
        pass_scheduled_for: bool | None = None,
        tags: Mapping[str, str] | None = None,
        name: str = DEFAULT_SCHEDULE,
        for_each: Any = None,
        as_: str | None = None,
        spread_minutes: int | None = None,
        order_by: str | Sequence[str] | None = None,
        not_after_minutes: int | None = None,
        business_days: str | None = None,
        calendar: str | None = None,
        start_date: dt.date | str | None = None,
        end_date: dt.date | str | None = None,
    ) -> ProcessTreeSchedule:
        """Schedule the tree, or change a schedule of it.

        A tree may have several schedules, each with a name and a context of its own, such as one
        for every customer. An argument that is left out has its default in the first registration,
        and stays as it is in a later one: a redeployment with the same rule does not change the due
        times, and does not switch on what an operator has switched off.

        Parameters
        ----------
        interval_minutes:
            Minutes between two due times, from 1 to 525,600 (a year). Default: 60. It replaces a
            cron.
        start_time:
            Wall-clock time of the first due time; seconds are dropped. Default: none. Due times
            are then counted from midnight, and the next one is the first: every hour begins with
            the next hour.
        enabled:
            Whether it is on. Default: True.
        context:
            Default keyword arguments of a run (see ``context.encode``). Default: none.
        timezone:
            IANA zone of ``start_time`` or ``cron``; blank for Django's ``TIME_ZONE``, which is the
            default.
        cron:
            Instead of an interval and a start time: minute, hour, day of the month, month and
            weekday, such as ``"0 9 * * 1-5"``. Blank: by an interval again.
        allow_overlap:
            Whether a scheduled run may start while the last one is still running. Otherwise its
            due time waits until that ends, and several waiting due times become one run. Default:
            False.
        pass_scheduled_for:
            Whether a scheduled run gets its due time in its context, as ``scheduled_for`` (a
            ``datetime`` in the schedule's zone). Default: False.
        tags:
            Tags of its runs (see ``ProcessTreeManager.submit_tree``). Default: none.
        name:
            Which of the tree's schedules. Default: ``default``, which is ``row.schedule``, and
            whose context is the default one of every other run of the tree. Another context under
            the same name replaces the earlier one, which is logged.
        for_each:
            A run for each row, at each due time: a model (``"ledger.Organisation"``), a model with
            a filter as a trigger's (``{"model": "ledger.Organisation", "filter": {"active":
            True}}``), or a function that yields contexts. Blank: one run again. Default: one run.
            See docs/howto/tenants.md.
        as_:
            The argument that is given the row. Default: the model's name in lower case.
        spread_minutes:
            Minutes over which these runs begin, evenly, up to a week. Default: 0, all at once.
        order_by:
            Fields by which the rows are ordered: ``"-size, name"``. Default: by their keys.
        not_after_minutes:
            A due time that is later than this is dropped, and its schedule and its tick say so; 0:
            it is run, however late, which is the default.
        business_days:
            What becomes of a due time on a day that is no business day: ``"skip"``, ``"next"`` or
            ``"previous"`` (it moves to the same time of that business day); or ``"first"`` or
            ``"last"``: only the first or last business day of each month counts. Blank: it is run,
            which is the default.
        calendar:
            Which days those are: ``"weekdays"``, which is the default, ``"holidays:ZA"`` (by the
            library ``holidays``, an extra), or an allowed function that takes a date, as
            ``"app.module:function"``.
        start_date:
            Nothing is due before this date, in the schedule's zone. Blank or default: none.
        end_date:
            The last date on which anything is due, in the schedule's zone; one that has passed is
            logged. Another one, or a blank one, counts from now on: nothing that was not due
            before is run. Blank or default: it has no end.

        Raises
        ------
        TreeNotSaved
            The tree is not saved.
        FunctionNotNameable
            A worker could not find one of its functions.
        ScheduleError
            An argument is wrong.
        ContextError
            The context can't be stored; or it lacks a key that a function needs, has one that none
            takes, or a value of another type than a function's annotation says.
        TagError
            The tags are not valid.
        """
        options: dict[str, Any] = {
            "interval_minutes": interval_minutes,
            "start_time": start_time,
            "cron": cron,
            "enabled": enabled,
            "context": context,
            "timezone": timezone,
            "allow_overlap": allow_overlap,
            "pass_scheduled_for": pass_scheduled_for,
            "tags": tags,
            "for_each": for_each,
            "for_each_as": as_,
            "spread_minutes": spread_minutes,
            "order_by": order_by,
            "not_after_minutes": not_after_minutes,
            "business_days": business_days,
            "calendar": calendar,
            "start_date": start_date,
            "end_date": end_date,
        }
        if (declared := declaring.current()) is not None:
            return declared.schedule(self.name, name, **options)
        row = self._require_saved()
        self._require_nameable(row, "scheduled")
        return scheduling.register(row, **options, name=name, by_code=True)

    def get_schedule(self, name: str = DEFAULT_SCHEDULE) -> ProcessTreeSchedule:
        """Return a schedule of the tree by its name.

        Raises
        ------
        TreeNotSaved
            The tree is not saved.
        ScheduleNotFound
            It has no schedule of this name.
        """
        return scheduling.find(self._require_saved(), name)

    def remove_schedule(self, name: str = DEFAULT_SCHEDULE) -> bool:
        """Remove a schedule of the tree; return whether there was one of this name.

        A run under way continues; one that is still in the queue ends as canceled. To keep the
        schedule and its history, register it with ``enabled=False`` instead.

        Raises
        ------
        TreeNotSaved
            The tree is not saved.
        """
        return scheduling.remove(self._require_saved(), name)

    def _require_saved(self) -> ProcessTree:
        declaring.refuse("use what is saved of it")
        row = self._saved_row() or ProcessTree.objects.filter(name=self.name).first()
        if row is None:
            raise TreeNotSaved(f"The process tree {self.name!r} is not saved; call save() first.")
        return row

    def _require_nameable(self, row: ProcessTree, purpose: str) -> None:
        """Refuse a tree that no worker can run, as it is here and as it is saved."""
        draft = self._export()
        reasons = [*draft.unnameable, *draft.problems]
        saved = row.unattended_problem()
        if saved is not None and not reasons:
            reasons.append(saved)
        if reasons:
            raise FunctionNotNameable(
                f"The process tree {self.name!r} can't be {purpose}, because a worker would not "
                f"find its functions: {' '.join(reasons)}"
            )

    # Running

    def execute(
        self,
        context: Mapping[str, Any] | None = None,
        *,
        functions: Mapping[str, Function] | None = None,
        options: RunOptions | None = None,
    ) -> Results:
        """Run this tree, saved or not, in the calling process.

        Parameters
        ----------
        context:
            Keyword arguments of the run; they update the schedule's default context.
        functions:
            Stand-ins by process name, or by a function's key or reference.
        options:
            Which processes run, and what a failure stops.

        Returns
        -------
        Results
            As from ``ProcessTreeManager.execute_tree``.

        Raises
        ------
        InvalidTree
            The tree is not valid.
        StandInError
            The tree has no process or function that a stand-in is named for.
        """
        draft = self._export()
        self._check(draft)
        functions = self._by_reference(functions or {}, draft)
        stand_ins.check(draft.data, functions)
        row = ProcessTree.objects.filter(name=self.name).first()
        if row is not None and row.content == draft.data and not draft.local:
            return tree_runs.execute_row(row, context, registry=functions, options=options)
        registry = {**draft.local, **functions}
        return tree_runs.execute_spec(tree_spec.parse(draft.data), registry, context, row, options)

    def _by_reference(self, given: Mapping[str, Function], draft: Export) -> dict[str, Function]:
        """Return stand-ins with this tree's keys, which no row has, as references."""
        return {
            name if self.has_process(name) else draft.keys.get(name, name): func
            for name, func in given.items()
        }

    def _callable(self, func: Function | str) -> Function:
        if isinstance(func, str):
            return self.func_registry.get(func) or functions.resolve(func)
        return func

    def create_command(
        self, command_name: str | None = None, output_path: str | Path | None = None
    ) -> Path:
        """Write a management command that runs the tree, and return its path.

        Parameters
        ----------
        command_name:
            The command's name, a Python module name; the tree's name if left out.
        output_path:
            A file that ends in ``.py``, or a folder. Left out: the ``management/commands`` of the
            app that owns the tree's first function, or of ``PROCTREE["COMMANDS_APP"]``.

        Raises
        ------
        TreeNotSaved, FunctionNotNameable
            As for ``register_schedule``.
        CommandError
            The name or the path is unsuitable; only a generated file is overwritten.
        """
        self._require_nameable(self._require_saved(), "run by a command")
        first = self._callable(self._processes[0].func) if self._processes else None
        return command_files.write_command(self.name, first, command_name, output_path)

    def create_task_function(self, schedule: str = DEFAULT_SCHEDULE) -> TreeTask:
        """Return a callable without arguments that runs the tree, for APScheduler and the like.

        With a schedule it runs the tree if it is due, and claims the due time first; without one
        it always runs. It raises ``TreeFailed`` when the tree fails.

        Parameters
        ----------
        schedule:
            The name of the schedule, if it is not the default one.

        Raises
        ------
        TreeNotSaved
            The tree is not saved.
        ScheduleNotFound
            It has no schedule of this name.
        """
        row = self._require_saved()
        if schedule != DEFAULT_SCHEDULE:
            scheduling.find(row, schedule)
        return TreeTask(self.name, schedule)


def _is_saved(name: str) -> bool:
    return ProcessTree.objects.filter(name=name).exists()


def _exists(name: str) -> str:
    return f"A process tree called {name!r} exists already; pass overwrite=True to replace it."
