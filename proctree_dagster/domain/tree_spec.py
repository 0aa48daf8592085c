"""What a saved tree says: frozen, validated, pure (no Django, no Dagster).

``parse`` turns what the database holds into a ``TreeSpec`` or raises one error that lists every
problem. Whether the functions that it names exist is not its business: see ``models.validation``.

It is long because every option of a tree and of a process is here: its field, JSON and problems.
"""

import graphlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..exceptions import InvalidTree
from . import retention, tree_alerts
from .limits import limit_options, limit_problems
from .names import MAX_NAME_LENGTH, TAG_PART, dagster_name, short_hash
from .names import problems as name_problems
from .predicates import are_texts, is_number, is_text, is_whole

MAX_RETRIES = 1000
MAX_CONCURRENT = 1000
MAX_SECONDS = 366 * 24 * 3600
RESPONSE_TYPES = ("str", "int", "float", "bool", "list", "dict", "decimal", "date", "datetime")


@dataclass(frozen=True)
class ProcessSpec:
    """One process of a tree, as saved."""

    name: str
    """The process's name as written; its result is passed on under it."""

    func: str
    """Reference to its function: ``module:qualname`` or a registered key."""

    dependencies: tuple[str, ...] = ()
    """Names of the processes that must finish first."""

    cache_key: str | None = None
    """Key under which the result is cached; may hold ``{context}`` fields."""

    cache_ttl: int | None = None
    """Seconds that a cached result lives."""

    shared_cache_key: bool = False
    """Whether it shares its results with processes of the same ``cache_key`` that set this, too."""

    validation: tuple[str, ...] = ()
    """References to the callables that check the result."""

    required: bool = True
    """Whether the run fails when this process fails."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON shown with the op in Dagster."""

    response_vars: Mapping[str, Any] = field(default_factory=dict)
    """Response variables: name -> ``{"type", "default", "key"}``."""

    outdated_check: str | None = None
    """Reference to the callable that returns whether the process is out of date."""

    trigger: str | None = None
    """Name of the trigger that the process waits for."""

    retries: int = 0
    """How often a failed process is tried again."""

    retry_delay: float = 0
    """Seconds between two tries."""

    retry_backoff: str | None = None
    """How the delay grows from try to try: ``linear``, ``exponential``, or not at all."""

    retry_jitter: str | None = None
    """How the delay is spread: ``full`` (from 0 to the delay), ``plus_minus``, or not at all."""

    timeout: float | None = None
    """Seconds after which the process fails."""

    pool: str | None = None
    """Name of the Dagster concurrency pool that the process runs in."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON that is saved; options left at their default are left out."""
        options = {name: getattr(self, name) for name in _DEFAULTS}
        return {"name": self.name, "func": self.func, **without_defaults(options)}


_DEFAULTS: dict[str, Any] = {
    each.name: each.default_factory() if callable(each.default_factory) else each.default
    for each in fields(ProcessSpec)
    if each.name not in ("name", "func")
}


def required_in_effect(tree: "TreeSpec") -> frozenset[str]:
    """Return the names of the processes whose failure fails the run.

    They are the processes with ``required``, and every process that is upstream of one of them.
    """
    required: set[str] = set()
    for process in reversed(tree.in_order()):
        if process.required:
            required.add(process.name)
        if process.name in required:
            required.update(process.dependencies)
    return frozenset(required)


def with_dependents(tree: "TreeSpec", names: Iterable[str]) -> frozenset[str]:
    """Return ``names`` and every process downstream of them."""
    found = set(names)
    for process in tree.in_order():
        if found.intersection(process.dependencies):
            found.add(process.name)
    return frozenset(found)


def without_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a process's options without those left at their default, tuples as lists."""
    plain = {name: _plain(value) for name, value in options.items()}
    # By repr, not by ==: False equals the default 0, but is an error to report.
    return {
        name: value
        for name, value in plain.items()
        if name not in _DEFAULTS or repr(value) != repr(_plain(_DEFAULTS[name]))
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class TreeSpec:
    """A process tree, as saved."""

    name: str
    description: str = ""
    cache_enabled: bool = True
    processes: tuple[ProcessSpec, ...] = ()

    executor: str = ""
    """Its executor, by name or dotted path; blank for the deployment's."""

    max_concurrent: int | None = None
    """How many processes of a run may run at once; ``None`` for the deployment's default."""

    dependent_trees: tuple[str, ...] = ()
    """Names of the trees that run after this one has succeeded."""

    sibling_trees: tuple[str, ...] = ()
    """Names of the trees that run when this one does."""

    run_tags: tuple[str, ...] = ()
    """Keys of the context whose values are tags of its runs."""

    one_at_a_time_per: str = ""
    """A template over the context, such as ``{organisation.pk}``: of the runs for which it gives
    the same text, ``limit_per_key`` go on at the same time; blank: all."""

    limit_per_key: int = 1
    """How many of these runs go on at the same time."""

    keep_runs: str = ""
    """How long its runs are kept, such as ``90 days`` or ``last 500``; blank: as set for all."""

    reuse_worker: bool = False
    """Whether the process of a run may execute further runs, of this tree or of others like it."""

    alert_on: tuple[str, ...] = ()
    """The kinds of its alerts (see ``tree_alerts``); empty: as set for all."""

    alert_to: tuple[str, ...] = ()
    """Who gets them; empty: as set for all."""

    expected_minutes: int | None = None
    """How long a run takes at most."""

    success_within_minutes: int | None = None
    """How long it takes at most from one success to the next one."""

    @property
    def alerts(self) -> tree_alerts.TreeAlerts:
        """Who gets which alerts of it."""
        lists = self.alert_on, self.alert_to
        return tree_alerts.TreeAlerts(*lists, self.expected_minutes, self.success_within_minutes)

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as JSON; ``parse`` takes it back."""
        return {
            "name": self.name,
            "description": self.description,
            "cache_enabled": self.cache_enabled,
            "processes": [process.to_dict() for process in self.processes],
            **executor_options(self.executor, self.max_concurrent),
            **run_tag_option(self.run_tags),
            **limit_options(self.one_at_a_time_per, self.limit_per_key),
            **retention.tree_option(self.keep_runs),
            **reuse_option(self.reuse_worker),
            **self.alerts.options(),
            **linked_trees(self.dependent_trees, self.sibling_trees),
        }

    def in_order(self) -> list[ProcessSpec]:
        """Return the processes, each after those that it depends on."""
        by_name = {process.name: process for process in self.processes}
        graph = {process.name: process.dependencies for process in self.processes}
        return [by_name[name] for name in graphlib.TopologicalSorter(graph).static_order()]


def reuse_option(reuse_worker: Any) -> dict[str, Any]:
    """Return the JSON of ``reuse_worker``; empty where it is False."""
    return {} if reuse_worker is False else {"reuse_worker": reuse_worker}


def linked_trees(dependents: Iterable[str], siblings: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the trees that follow, as JSON without empty lists."""
    both = {"dependent_trees": sorted(dependents), "sibling_trees": sorted(siblings)}
    return {key: names for key, names in both.items() if names}


def executor_options(executor: Any, max_concurrent: Any) -> dict[str, Any]:
    """Return the JSON of a tree's executor options; empty where the tree sets none."""
    options = {"executor": executor, "max_concurrent": max_concurrent}
    return {name: value for name, value in options.items() if value not in ("", None)}


def run_tag_option(keys: Any) -> dict[str, Any]:
    """Return the JSON of a tree's run tags; empty where the tree has none."""
    return {"run_tags": _plain(keys)} if keys not in ((), [], None) else {}


def revision(tree: Mapping[str, Any], default_context: Mapping[str, Any]) -> str:
    """Return a short hash of a tree's content and of its schedule's default context.

    Parameters
    ----------
    tree, default_context:
        JSON, as saved: ``TreeSpec.to_dict()`` and ``ProcessTreeSchedule.context``.
    """
    content = json.dumps([tree, default_context], sort_keys=True, default=repr)
    return short_hash(content, 12)


def digest(content: Mapping[str, Any]) -> str:
    """Return a short hash of JSON, the same before and after a round trip through any database.

    PostgreSQL gives back 1e16 as a whole number.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return short_hash(json.dumps(plain(content), sort_keys=True, default=repr), 12)


def parse(data: Mapping[str, Any]) -> TreeSpec:
    """Turn a tree's JSON into a ``TreeSpec``.

    Parameters
    ----------
    data:
        What ``TreeSpec.to_dict`` returns, from whatever source.

    Raises
    ------
    InvalidTree
        With every problem of the tree.
    """
    found = problems(data)
    if found:
        raise InvalidTree(str(data.get("name", "")), found)
    return read(data)


def read(data: Mapping[str, Any]) -> TreeSpec:
    """Return the ``TreeSpec`` of a tree's JSON in which ``problems`` has found none."""
    return TreeSpec(
        name=data["name"],
        description=data.get("description", ""),
        cache_enabled=data.get("cache_enabled", True),
        processes=tuple(_process(each) for each in data["processes"]),
        executor=data.get("executor", ""),
        max_concurrent=data.get("max_concurrent"),
        dependent_trees=tuple(data.get("dependent_trees", ())),
        sibling_trees=tuple(data.get("sibling_trees", ())),
        run_tags=tuple(data.get("run_tags", ())),
        one_at_a_time_per=data.get("one_at_a_time_per", ""),
        limit_per_key=data.get("limit_per_key", 1),
        keep_runs=data.get("keep_runs", ""),
        reuse_worker=data.get("reuse_worker", False),
        **asdict(tree_alerts.of(data)),
    )


def _process(data: Mapping[str, Any]) -> ProcessSpec:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
    }
    return ProcessSpec(**values)


def problems(data: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each problem of a tree's JSON."""
    found = [*name_problems("The tree", data.get("name"))]
    if not isinstance(data.get("description", ""), str):
        found.append("The tree's description must be a string.")
    if not isinstance(data.get("cache_enabled", True), bool):
        found.append("The tree's cache_enabled must be true or false.")
    executor = data.get("executor", "")
    if not isinstance(executor, str) or len(executor) > MAX_NAME_LENGTH:
        found.append(
            f"The tree's executor must be a name or a dotted path of at most {MAX_NAME_LENGTH} "
            f"characters, not {executor!r:.60}."
        )
    max_concurrent = data.get("max_concurrent")
    if max_concurrent is not None and not is_whole(max_concurrent, 1, MAX_CONCURRENT):
        found.append(
            f"The tree's max_concurrent must be a whole number from 1 to {MAX_CONCURRENT}, not "
            f"{max_concurrent!r}."
        )
    found += run_tag_problems(data.get("run_tags", ()))
    found += limit_problems(data.get("one_at_a_time_per", ""), data.get("limit_per_key", 1))
    found += retention.tree_problems(data.get("keep_runs", ""))
    if not isinstance(data.get("reuse_worker", False), bool):
        found.append("The tree's reuse_worker must be true or false.")
    found += tree_alerts.problems(data)
    found += _link_problems(data)
    processes = data.get("processes")
    if not isinstance(processes, (list, tuple)):
        return [*found, "The tree's processes must be a list."]
    if not processes:
        found.append("The tree has no processes; add at least one.")
    for position, process in enumerate(processes, 1):
        if isinstance(process, Mapping):
            found += _process_problems(position, process)
        else:
            found.append(f"Process {position} must be an object with a name and a func.")
    named = [
        each
        for each in processes
        if isinstance(each, Mapping) and isinstance(each.get("name"), str)
    ]
    return [*found, *_duplicates([each["name"] for each in named]), *_graph_problems(named)]


def run_tag_problems(keys: Any) -> list[str]:
    """Return a sentence for everything that is wrong with the tags of a tree's runs."""
    if not isinstance(keys, (list, tuple)):
        return [f"The tree's run_tags must be a list of keys of the context, not {keys!r:.100}."]
    found = [
        f"The tree's run_tags name {key!r:.100}, which can't be a tag in Dagster: letters, digits, "
        "'_', '-' and '.', at most 63."
        for key in keys
        if not isinstance(key, str) or not TAG_PART.fullmatch(key)
    ]
    several = [key for key, count in Counter(map(str, keys)).items() if count > 1]
    return [*found, *(f"The tree's run_tags name {key!r} more than once." for key in several)]


def _link_problems(data: Mapping[str, Any]) -> Iterable[str]:
    links = {key: data.get(key, []) for key in ("dependent_trees", "sibling_trees")}
    wrong = [key for key, names in links.items() if not are_texts(names)]
    for key in wrong:
        yield f"The tree's {key} must be a list of names of trees."
    if not wrong:
        for name in sorted(set(links["dependent_trees"]) & set(links["sibling_trees"])):
            yield (
                f"The tree {name!r} is to run after this one and at the same time; remove one of "
                "the two."
            )


def _process_problems(position: int, process: Mapping[str, Any]) -> Iterable[str]:
    name = process.get("name")
    yield from name_problems(f"Process {position}", name)
    what = f"Process {name!r}" if isinstance(name, str) else f"Process {position}"
    if not is_text(process.get("func")):
        yield f"{what} has no function."
    for option, value in process.items():
        if option in ("name", "func"):
            continue
        if option not in _OPTIONS:
            yield f"{what} has an unknown option {option!r}; known: {', '.join(_OPTIONS)}."
            continue
        good, expected = _OPTIONS[option]
        if not good(value):
            yield f"{what}: {option} must be {expected}, not {value!r}."
    if process.get("shared_cache_key") is True and process.get("cache_key") is None:
        yield f"{what}: shared_cache_key needs a cache_key, which it has not."


def _duplicates(names: list[str]) -> Iterable[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{count} processes have the name {name!r}; a name may be used once."
    by_op: dict[str, str] = {}
    for name in names:
        other = by_op.setdefault(dagster_name(name), name)
        if other != name:
            yield (
                f"Processes {other!r} and {name!r} would both be the op {dagster_name(name)!r}; "
                "rename one."
            )


def _graph_problems(processes: list[Mapping[str, Any]]) -> Iterable[str]:
    names = {process["name"] for process in processes}
    graph: dict[str, list[str]] = {}
    for process in processes:
        dependencies = process.get("dependencies", ())
        if not are_texts(dependencies):
            continue  # reported as an option
        for unknown in sorted(set(dependencies) - names):
            yield f"Process {process['name']!r} depends on {unknown!r}, which is not in the tree."
        graph.setdefault(process["name"], []).extend(each for each in dependencies if each in names)
    yield from _circles(graph)


def _circles(graph: dict[str, list[str]]) -> Iterable[str]:
    """Name each circle of dependencies; circles that share a process are named once."""
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            circle: list[str] = error.args[1]
            # graphlib lists a circle from a dependency to what depends on it.
            yield "The dependencies go round in a circle: " + " → ".join(map(repr, circle)) + "."
            graph = {
                name: [each for each in dependencies if each not in circle]
                for name, dependencies in graph.items()
                if name not in circle
            }
        else:
            return


def _json(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return all(isinstance(key, str) for key in value)


def _response_vars(value: Any) -> bool:
    return _json(value) and all(
        isinstance(each, Mapping)
        and set(each) <= {"type", "default", "key"}
        and each.get("type", "str") in RESPONSE_TYPES
        and (each.get("key") is None or is_text(each["key"]))
        for each in value.values()
    )


_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dependencies": (
        lambda value: are_texts(value) and len(set(value)) == len(value),
        "a list of process names, each once",
    ),
    "cache_key": (lambda value: value is None or is_text(value), "a non-empty string"),
    "cache_ttl": (
        lambda value: value is None or is_whole(value, 1, MAX_SECONDS),
        f"whole seconds from 1 to {MAX_SECONDS}",
    ),
    "shared_cache_key": (lambda value: isinstance(value, bool), "true or false"),
    "validation": (are_texts, "a list of functions"),
    "required": (lambda value: isinstance(value, bool), "true or false"),
    "metadata": (_json, "a dictionary of JSON values"),
    "response_vars": (
        _response_vars,
        'a dictionary of name -> {"type", "default", "key"}, a type being one of '
        + ", ".join(RESPONSE_TYPES),
    ),
    "outdated_check": (lambda value: value is None or is_text(value), "a function"),
    "trigger": (lambda value: value is None or is_text(value), "a trigger's name"),
    "retries": (lambda value: is_whole(value, 0, MAX_RETRIES), f"from 0 to {MAX_RETRIES}"),
    "retry_delay": (
        lambda value: is_number(value, 0, MAX_SECONDS),
        f"seconds from 0 to {MAX_SECONDS}",
    ),
    "retry_backoff": (
        lambda value: value in (None, "linear", "exponential"),
        "'linear', 'exponential' or None",
    ),
    "retry_jitter": (
        lambda value: value in (None, "full", "plus_minus"),
        "'full', 'plus_minus' or None",
    ),
    "timeout": (
        lambda value: value is None or (is_number(value, 0, MAX_SECONDS) and value > 0),
        f"seconds above 0, at most {MAX_SECONDS}",
    ),
    "pool": (lambda value: value is None or is_text(value), "a pool's name"),
}
