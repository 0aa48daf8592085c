"""Trees as YAML files, for those who review them in Git: ``proctree export`` and ``apply``.

A file says of each tree all that a declaration says; what it leaves out has its default value. It
is read with YAML's safe loader; functions and models must be allowed as everywhere.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path as File
from typing import Any

import yaml
from django.db import DatabaseError

from ..domain import tree_descriptions as descriptions
from ..domain.predicates import are_texts
from ..domain.texts import explain
from ..domain.tree_descriptions import (
    LINKS,
    OF_TREE,
    SCHEDULES,
    SUBSCRIPTIONS,
    TRIGGERS,
    TreeDescription,
)
from ..exceptions import DescriptionError, InvalidTree, ProctreeError, SyncError
from ..models import (
    ProcessTree,
    ProcessTreeSchedule,
    TreeSource,
    Trigger,
    TriggerSubscription,
)
from ..models.validation import tree_validation
from ..running import tree_runs
from ..services import revisions, tree_descriptions
from ..support.connections import writing
from .sync import TreeSync, write

VERSION = 1
"""The version of the format."""

HEADER = "# Process trees: 'manage.py proctree apply' makes the rows follow this file.\n"


# --- Writing --------------------------------------------------------------------------------------


def export(names: Iterable[str], *, is_unicode: bool = True) -> str:
    """Return trees as YAML.

    Parameters
    ----------
    names:
        The trees' names; none: all trees.
    is_unicode:
        Whether characters beyond ASCII stay as they are, or are escaped.

    Raises
    ------
    TreeNotFound
        There is no such tree.
    """
    wanted = list(dict.fromkeys(names))
    rows = [tree_runs.get_row(name) for name in wanted] or ProcessTree.objects.order_by("name")
    found = [tree_descriptions.describe(row, _triggers_of(row)) for row in rows]
    triggers = {name: options for each in found for name, options in each.triggers.items()}
    document: dict[str, Any] = {"version": VERSION}
    if triggers:
        document[TRIGGERS] = {
            name: _brief(options, Trigger, "trigger_type")
            for name, options in sorted(triggers.items())
        }
    document["trees"] = [_tree_as_json(each) for each in found]
    return HEADER + dump(document, is_unicode=is_unicode)


def _triggers_of(row: ProcessTree) -> set[str]:
    """Return the names of the triggers that a tree subscribes to, or waits for."""
    subscribed = row.subscriptions.values_list("trigger__name", flat=True)
    processes = tree_validation.processes_of({"processes": row.processes})
    waited_for = [each.get("trigger") for each in processes]
    return {*subscribed, *(name for name in waited_for if isinstance(name, str))}


def _tree_as_json(tree: TreeDescription) -> dict[str, Any]:
    content = {
        name: value
        for name, value in tree.content.items()
        if not descriptions.same(value, OF_TREE[name])
    }
    schedules = {name: _brief(each, ProcessTreeSchedule) for name, each in tree.schedules.items()}
    for options in schedules.values():
        if options.get("cron") and options.get("interval_minutes", 0) is None:
            del options["interval_minutes"]  # a cron says its own times
    subscriptions = {
        name: _brief(each, TriggerSubscription) for name, each in tree.subscriptions.items()
    }
    groups = {SCHEDULES: schedules, SUBSCRIPTIONS: subscriptions}
    return {"name": tree.name, **content, **{name: each for name, each in groups.items() if each}}


def _brief(options: Mapping[str, Any], model: type[Any], *needed: str) -> dict[str, Any]:
    """Return the options without those that have a model's default values."""
    default = tree_descriptions.default_options(model, options)
    return {
        name: value
        for name, value in options.items()
        if name in needed or not descriptions.same(value, default[name])
    }


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: a text for people has each value where it belongs."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: nothing is an alias."""
        return True


def _text(dumper: _Dumper, text: str) -> Any:
    """Write a text; escaped, if a reader of YAML would fold what is in it."""
    style = '"' if _FOLDED.intersection(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_FOLDED = frozenset("\r\x85\u2028\u2029")
_Dumper.add_representer(str, _text)


def dump(value: Any, *, is_unicode: bool = True) -> str:
    """Return JSON as YAML, with characters beyond ASCII as they are, or escaped."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=is_unicode, width=100)


# --- Reading --------------------------------------------------------------------------------------


_MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key \"<<\", which merges another mapping."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which YAML would take the last one silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return a mapping."""
        keys = [
            self.construct_object(key, deep=True) for key, _value in node.value if key.tag != _MERGE
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """Return YAML as JSON.

    Raises
    ------
    DescriptionError
        It is no YAML, or names types of Python.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise DescriptionError(f"It is not YAML that can be read: {explain(error)}") from error


def parse(text: str) -> list[TreeDescription]:
    """Return the trees of a file, with all of their options.

    The triggers that the file describes are those of its first tree.

    Raises
    ------
    DescriptionError
        With everything that is wrong with the file.
    """
    document = load(text)
    if not isinstance(document, Mapping) or not isinstance(document.get("trees"), list):
        raise DescriptionError("It has no list 'trees'; 'manage.py proctree export' writes one.")
    problems = [f"Unknown key {key!r}." for key in document if key not in _KEYS]
    if document.get("version", VERSION) != VERSION:
        problems.append(f"Its version is {document['version']!r}; this release reads {VERSION}.")
    triggers = _checked(document.get(TRIGGERS), "triggers", _trigger, problems)
    found = []
    for number, tree in enumerate(document["trees"], 1):
        if not isinstance(tree, Mapping) or not isinstance(tree.get("name"), str):
            problems.append(f"Tree {number} has no name.")
        else:
            found.append(_tree(tree, triggers, problems))
    names = [each.name for each in found]
    problems += [f"The tree {name!r} is there twice." for name in {*names} if names.count(name) > 1]
    if triggers and not document["trees"]:
        problems.append("It has triggers, and no tree to save them with.")
    if problems:
        raise DescriptionError("\n  - ".join(["It is not valid:", *problems]))
    if found:
        found[0] = TreeDescription(**{**vars(found[0]), "triggers": triggers})
    return found


_KEYS = ("version", TRIGGERS, "trees")


def _checked(
    given: Any,
    what: str,
    read: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    problems: list[str],
) -> dict[str, dict[str, Any]]:
    """Return the options of named parts, and record their problems."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(f"{what} must be a mapping of names to options.")
        return {}
    found = {}
    for name, options in given.items():
        try:
            if not isinstance(name, str) or not isinstance(options or {}, Mapping):
                raise DescriptionError("It must be a name with options.")
            found[name] = read(name, options or {})
        except ProctreeError as error:
            problems.append(f"{what}: {name!r}: {error}")
    return found


def _trigger(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    trigger = Trigger(name=name)
    tree_descriptions.fill_trigger(trigger, options)
    return tree_descriptions.trigger_options(trigger)


def _tree(
    data: Mapping[str, Any], triggers: Mapping[str, Any], problems: list[str]
) -> TreeDescription:
    name = data["name"]
    known = ("name", *OF_TREE, SCHEDULES, SUBSCRIPTIONS)
    problems += [f"{name}: unknown key {key!r}." for key in data if key not in known]
    content = {key: value for key, value in data.items() if key in OF_TREE}
    followers = {key: content[key] for key in LINKS if are_texts(content.get(key))}
    content |= {key: sorted(set(names)) for key, names in followers.items()}  # as rows have them
    row = ProcessTree(name=name)
    try:
        tree_validation.validate_tree({**content, "name": name, **_processes(content)})
        row.processes = content["processes"]
    except InvalidTree as error:
        problems += [f"{name}: {problem}" for problem in error.problems]
    if content.get("limit_per_key", 1) != 1 and not content.get("one_at_a_time_per"):
        problems.append(f"{name}: limit_per_key needs one_at_a_time_per, which is not given.")
    subscribed = data.get(SUBSCRIPTIONS)
    subscribed = subscribed if isinstance(subscribed, Mapping) else ()
    unknown = Trigger.objects.unknown_problems(content, subscribed, triggers)
    problems += [f"{name}: {problem}" for problem in unknown]

    def schedule(called: str, options: Mapping[str, Any]) -> dict[str, Any]:
        made = ProcessTreeSchedule(process_tree=row, name=called)
        implied = {"interval_minutes": None} if options.get("cron") else {}
        tree_descriptions.fill_schedule(made, {**implied, **options})
        return tree_descriptions.schedule_options(made)

    return TreeDescription(
        name,
        tree_descriptions.complete(content),
        schedules=_checked(data.get(SCHEDULES), f"{name}: schedules", schedule, problems),
        subscriptions=_checked(
            data.get(SUBSCRIPTIONS), f"{name}: subscriptions", _subscription, problems
        ),
    )


def _processes(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"processes": content.get("processes", [])}


def _subscription(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    made = TriggerSubscription()
    tree_descriptions.fill_subscription(made, name, options)
    return tree_descriptions.subscription_options(made)


# --- Applying -------------------------------------------------------------------------------------


def compare(trees: Iterable[TreeDescription], file: str) -> list[TreeSync]:
    """Return what ``apply`` would change; see there. It writes nothing."""
    return [_compared(tree, file)[1] for tree in trees]


def apply(trees: Iterable[TreeDescription], file: str) -> list[TreeSync]:
    """Make the rows of trees follow a file, all or none, and return what was changed.

    What the rows have and the file lacks, such as another schedule, stays.

    Parameters
    ----------
    trees:
        What the file says (see ``parse``).
    file:
        Its name, for messages.

    Raises
    ------
    SyncError
        Nothing was changed; it says why.
    """
    found, errors = [], []
    with writing(ProcessTree), revisions.together():
        saved = []
        for tree in trees:
            try:
                row, report = _compared(tree, file)
                chosen = {each.path: each.chosen for each in report.decisions}
                is_declared = row is not None and TreeSource.objects.filter(process_tree=row)
                row = write(
                    row or ProcessTree(name=tree.name), tree, chosen, by_code=not is_declared
                )
                saved.append((row, tree))
                found.append(report)
            except (ProctreeError, DatabaseError) as error:
                errors.append(f"{tree.name}: {error}")
                break  # the transaction may be broken
        for row, tree in [] if errors else saved:
            tree_descriptions.drop_links(row, tree.content)  # one may be turned round
        for row, tree in [] if errors else saved:
            try:
                tree_descriptions.save_links(row, tree.content)
            except ProctreeError as error:
                errors.append(f"{tree.name}: {error}")
        if errors:
            raise SyncError("\n".join(["Nothing was changed:", *errors]))
    return found


def _compared(tree: TreeDescription, file: str) -> tuple[ProcessTree | None, TreeSync]:
    row = ProcessTree.objects.filter(name=tree.name).first()
    present = (
        tree_descriptions.describe_triggers(tree.name, tree.triggers)
        if row is None
        else tree_descriptions.describe(row, tree.triggers)
    )
    report = TreeSync(tree.name, file, is_new=row is None)
    report.decisions = descriptions.merge(None, tree, present, owned=())
    report.remarks = [
        f"{descriptions.part_in_words(part)}: not in the file; it stays"
        for part in present.parts
        if part not in tree.parts
    ]
    return row, report


def read(file: str | File) -> list[TreeDescription]:
    """Return the trees of a file; see ``parse`` for errors.

    Raises
    ------
    DescriptionError
        It can't be read.
    """
    try:
        return parse(File(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DescriptionError(f"{file} can't be read: {error}") from error
    except DescriptionError as error:
        raise DescriptionError(f"{file}: {error}") from error
