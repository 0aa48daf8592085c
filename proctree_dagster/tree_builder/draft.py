"""A tree before it is saved: ``add_process``, options and links as its author gave them.

A new option of a process goes here, into ``domain.tree_spec`` (a field and its check) and, if
Dagster needs it, into ``orchestration.translator``.
"""

import copy
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Self

from .. import functions
from ..domain import limits, retention, tree_alerts, tree_spec
from ..exceptions import InvalidTree, ProctreeError
from ..models import Trigger
from ..models.validation import tree_validation as validation
from .export import DraftProcess, Export, export

Function = Callable[..., Any]


class TreeDraft:
    """A tree that is being written; ``ProcessTreeInstance`` adds the saved row.

    Parameters
    ----------
    name, description, cache_enabled:
        As for ``ProcessTreeInstance``.
    """

    def __init__(self, name: str, description: str, cache_enabled: bool) -> None:
        self.name = name
        self.description = description
        self.cache_enabled = cache_enabled
        self.executor = ""
        self.max_concurrent: int | None = None
        self.run_tags: Sequence[str] = ()
        self.one_at_a_time_per = ""
        self.limit_per_key = 1
        self.keep_runs = ""
        self.reuse_worker = False
        self.alerts = tree_alerts.TreeAlerts()
        self.func_registry: dict[str, Function] = {}
        self._processes: list[DraftProcess] = []
        self._dependents: list[str] = []
        self._siblings: list[str] = []
        self._subscriptions: dict[str, dict[str, Any] | None] = {}

    def __repr__(self) -> str:
        return f"<ProcessTreeInstance {self.name!r}: {len(self._processes)} processes>"

    def add_process(
        self,
        process_name: str,
        func: Function | str,
        dependencies: Sequence[str] | None = None,
        cache_key: str | None = None,
        cache_ttl: int | None = None,
        validation: Function | str | Sequence[Function | str] | None = None,
        required: bool = True,
        metadata: Mapping[str, Any] | None = None,
        response_vars: Mapping[str, Any] | None = None,
        outdated_check: Function | str | None = None,
        trigger: str | None = None,
        retries: int = 0,
        retry_delay: float = 0,
        timeout: float | None = None,
        pool: str | None = None,
        retry_backoff: str | None = None,
        retry_jitter: str | None = None,
        shared_cache_key: bool = False,
    ) -> Self:
        """Add a process and return the tree. Problems are reported by ``save()``, all at once.

        Parameters
        ----------
        process_name:
            Unique in the tree; the processes downstream get its result under this name.
        func:
            The function, or the key or ``module:qualname`` of one.
        dependencies:
            Names of the processes that must finish first.
        cache_key, cache_ttl:
            Key (may hold ``{context}`` fields) and seconds under which the result is cached, for
            this process alone.
        validation:
            One or several callables on the result, or their keys or references; they return a bool
            or ``(bool, message)``.
        required:
            Whether the run fails when the process fails.
        metadata:
            JSON shown with the op in Dagster.
        response_vars:
            Response variables: name -> ``{"type", "default", "key"}``.
        outdated_check:
            A callable, or its key or reference; called with the process's arguments, and False
            skips the process.
        trigger:
            Name of the trigger that the process waits for.
        retries, retry_delay:
            How often a failed process is retried, and seconds between two tries.
        timeout:
            Seconds after which it fails.
        pool:
            Dagster's concurrency pool in which it runs.
        retry_backoff, retry_jitter:
            How the delay grows (``linear``, ``exponential``) and is spread (``full``,
            ``plus_minus``).
        shared_cache_key:
            Whether it shares its cached results with processes of any tree that set this and have
            the same ``cache_key``.
        """
        one = callable(validation) or isinstance(validation, str)
        several = [validation] if one else list(validation or [])  # type: ignore[arg-type]
        options = {
            "dependencies": _copied([] if dependencies is None else dependencies),
            "cache_key": cache_key,
            "cache_ttl": cache_ttl,
            "validation": several,
            "required": required,
            "metadata": dict(metadata or {}),
            "response_vars": {
                name: _copied(rule) for name, rule in dict(response_vars or {}).items()
            },
            "outdated_check": outdated_check,
            "trigger": trigger,
            "retries": retries,
            "retry_delay": retry_delay,
            "timeout": timeout,
            "pool": pool,
            "retry_backoff": retry_backoff,
            "retry_jitter": retry_jitter,
            "shared_cache_key": shared_cache_key,
        }
        self._processes.append(DraftProcess(process_name, func, options))
        return self

    def add_validation(self, process_name: str, validation: Function) -> Self:
        """Add a callable that checks the result of a process, and return the tree."""
        process = self._get(process_name)
        process.options["validation"] = [*process.options.get("validation", []), validation]
        return self

    def add_function(self, key: str, func: Function) -> Self:
        """Register ``func`` under ``key`` for the tree and for this process; return the tree.

        In this tree the key means ``func``, whatever it means in others. A worker finds ``func``
        if it imports the module that calls this, such as an app's ``processes`` module.

        Raises
        ------
        FunctionError
            The key is unusable.
        FunctionAmbiguous
            It belongs to another function, by ``@process_function``.
        """
        functions.offer(key, func)
        self.func_registry[key] = func
        return self

    def get_process(self, process_name: str) -> tree_spec.ProcessSpec:
        """Return a process as it would be saved.

        Raises
        ------
        ProctreeError
            The tree has no such process.
        """
        self._get(process_name)
        return next(each for each in self._spec().processes if each.name == process_name)

    def has_process(self, process_name: str) -> bool:
        """Return whether the tree has a process of this name."""
        return any(process.name == process_name for process in self._processes)

    def remove_process(self, process_name: str) -> Self:
        """Remove a process and return the tree; see ``get_process`` for errors."""
        self._processes.remove(self._get(process_name))
        return self

    def add_dependent_tree(self, name: str) -> Self:
        """Let a saved tree run whenever this one has succeeded, and return this tree.

        It takes effect when this tree is saved; ``save()`` reports a tree that does not exist, and
        a circle. The dependent tree gets the context of this one's run.
        """
        self._dependents += [name] if name not in self._dependents else []
        return self

    def add_sibling_tree(self, name: str) -> Self:
        """Let a saved tree run whenever this one does, at the same time, and return this tree.

        See ``add_dependent_tree``. It does not work the other way round: this tree does not run
        because the sibling does.
        """
        self._siblings += [name] if name not in self._siblings else []
        return self

    def remove_dependent_tree(self, name: str) -> Self:
        """Stop running a tree after this one, and return this tree.

        Raises
        ------
        ProctreeError
            It is not linked.
        """
        self._remove_link(self._dependents, name, "dependent")
        return self

    def remove_sibling_tree(self, name: str) -> Self:
        """Stop running a tree beside this one, and return this tree.

        Raises
        ------
        ProctreeError
            It is not linked.
        """
        self._remove_link(self._siblings, name, "sibling")
        return self

    def _remove_link(self, names: list[str], name: str, kind: str) -> None:
        if name not in names:
            raise ProctreeError(
                f"The process tree {self.name!r} has no {kind} tree {name!r}; it has "
                f"{', '.join(map(repr, names)) or 'none'}."
            )
        names.remove(name)

    def add_trigger_to_process(self, process_name: str, trigger: Trigger | str) -> Self:
        """Let a trigger decide whether a process runs, and return the tree.

        Parameters
        ----------
        process_name:
            The process; see ``get_process`` for errors.
        trigger:
            The trigger, or its name. ``save()`` checks that it exists.
        """
        self._get(process_name).options["trigger"] = name_of(trigger)
        return self

    def set_description(self, description: str) -> Self:
        """Set the description and return the tree."""
        self.description = description
        return self

    def set_cache_enabled(self, cache_enabled: bool) -> Self:
        """Set whether results may be cached, and return the tree."""
        self.cache_enabled = cache_enabled
        return self

    def set_executor(self, name: str, max_concurrent: int | None = None) -> Self:
        """Set what executes the tree's runs, and return the tree.

        Parameters
        ----------
        name:
            An executor's name (``threads``, ``in_process``, ``multiprocess``, …) or dotted path;
            blank for that of ``PROCTREE["EXECUTOR"]``.
        max_concurrent:
            How many processes of a run may run at once, where the executor can do so; ``None`` for
            ``PROCTREE["MAX_CONCURRENT"]``.
        """
        self.executor = name
        self.max_concurrent = max_concurrent
        return self

    def set_run_tags(self, keys: Sequence[str]) -> Self:
        """Set which values of the context are tags of the tree's runs, and return the tree.

        With ``("organisation",)`` a run is tagged ``context/organisation``, such as
        ``ledger.Organisation:1``, however it is started, and can be found by it in Dagster's list
        of runs. A run whose context lacks a key lacks the tag. See docs/processes.md.

        Parameters
        ----------
        keys:
            Keys of the context: letters, digits, ``_``, ``-`` and ``.``, at most 63 characters.
            ``save()`` checks them, and refuses names of secrets.
        """
        # A value that is no list of keys stays as it is: save() reports it.
        is_several = isinstance(keys, Iterable) and not isinstance(keys, str)
        self.run_tags = tuple(keys) if is_several else keys
        return self

    def set_limit(self, one_at_a_time_per: str, limit_per_key: int = 1) -> Self:
        """Set how many of the tree's runs go on at the same time, and return the tree.

        It holds for runs that Dagster launches, however they are requested: in Python, by a
        schedule or a trigger, in Dagster's UI. Others wait in its queue. See docs/requests.md.

        Parameters
        ----------
        one_at_a_time_per:
            A template over the context, such as ``{organisation.pk}``; runs for which it gives the
            same text are limited together. A text without a field limits all of the tree's runs;
            a blank one sets no limit. Of a row it reads the key only.
        limit_per_key:
            How many runs with the same text go on at the same time, 1 to 20.
        """
        self.one_at_a_time_per, self.limit_per_key = one_at_a_time_per, limit_per_key
        return self

    def set_keep_runs(self, keep_runs: str) -> Self:
        """Set how long the tree's runs are kept, and return the tree. See docs/retention.md.

        Parameters
        ----------
        keep_runs:
            Such as ``90 days``, ``1 year``, ``last 500`` or ``all``; blank: what
            ``PROCTREE["KEEP"]`` says.
        """
        self.keep_runs = keep_runs
        return self

    def set_reuse_worker(self, reuse_worker: bool = True) -> Self:
        """Set whether the process of a run may execute further runs, and return the tree.

        They start sooner, and cost less. What the functions leave in their process (variables of
        modules, open files) is there for the next run. See docs/howto/many-runs.md.

        Parameters
        ----------
        reuse_worker:
            False: each run has a fresh process, as without it.
        """
        self.reuse_worker = reuse_worker
        return self

    def set_alerts(
        self,
        alert_on: str | Sequence[str] = (),
        alert_to: str | Sequence[str] = (),
        *,
        expected_minutes: int | None = None,
        success_within_minutes: int | None = None,
    ) -> Self:
        """Set who gets which alerts of the tree, and return the tree. See docs/howto/alerts.md.

        What is left out is as ``PROCTREE["ALERTS"]`` says.

        Parameters
        ----------
        alert_on:
            Kinds of alerts: ``failure``, ``third failure in a row``, ``recovered``, ``late``,
            ``too long``, ``no success``; or ``nothing``.
        alert_to:
            Recipients: mail addresses, and names in ``PROCTREE["ALERTS"]``.
        expected_minutes:
            How long a run takes at most: an alert ``too long`` if one takes longer.
        success_within_minutes:
            An alert ``no success`` if no run succeeds for so long.
        """
        kinds = (alert_on,) if isinstance(alert_on, str) else tuple(alert_on)
        recipients = (alert_to,) if isinstance(alert_to, str) else tuple(alert_to)
        self.alerts = tree_alerts.TreeAlerts(
            kinds, recipients, expected_minutes, success_within_minutes
        )
        return self

    def _get(self, process_name: str) -> DraftProcess:
        for process in self._processes:
            if process.name == process_name:
                return process
        raise ProctreeError(
            f"The process tree {self.name!r} has no process {process_name!r}; it has "
            f"{', '.join(repr(process.name) for process in self._processes) or 'none'}."
        )

    def check(self) -> None:
        """Raise ``InvalidTree`` with every problem of the tree, if it has any."""
        self._check(self._export())

    def _spec(self) -> tree_spec.TreeSpec:
        """Return the tree as a spec, or raise ``InvalidTree``."""
        draft = self._export()
        self._check(draft)
        return tree_spec.parse(draft.data)

    def _check(
        self, draft: Export, others: Sequence[str] = (), triggers: Container[str] = ()
    ) -> None:
        subscribed = [name for name, given in self._subscriptions.items() if given is not None]
        found = [
            *tree_spec.problems(draft.data),
            *validation.executor_problems(draft.data),
            *validation.run_tag_problems(draft.data),
            *draft.problems,
            *others,
            *Trigger.objects.unknown_problems(draft.data, subscribed, triggers),
        ]
        if found:
            raise InvalidTree(self.name, found)

    def _export(self) -> Export:
        draft = export(
            self.name,
            self.description,
            self.cache_enabled,
            self._processes,
            self.func_registry,
            self.executor,
            self.max_concurrent,
            self.run_tags,
        )
        draft.data |= limits.limit_options(self.one_at_a_time_per, self.limit_per_key)
        draft.data |= retention.tree_option(self.keep_runs)
        draft.data |= tree_spec.reuse_option(self.reuse_worker)
        draft.data |= self.alerts.options()
        draft.data |= tree_spec.linked_trees(self._dependents, self._siblings)
        return draft


def _copied(value: Any) -> Any:
    """Return a copy of the caller's list or dictionary, which the caller may change later."""
    return copy.copy(value) if isinstance(value, (list, dict)) else value


def name_of(trigger: Trigger | str) -> str:
    """Return the name of a trigger that is given as a row or by name."""
    return trigger.name if isinstance(trigger, Trigger) else trigger
