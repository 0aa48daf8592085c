"""What is said of a tree, in code, in a file or by its rows, and which of them wins: pure.

A description holds all that a deployment sets: the tree's own content, its schedules by name, its
subscriptions and the triggers that it declares. It is JSON, and every option is in it, those with
default values, too, so that two descriptions can be compared value by value.

``merge`` compares three of them: what the code said at the last sync, what it says now, and what
the rows say. docs/trees-in-code.md has the table of what wins.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from .tree_spec import TreeSpec, digest

Path = tuple[str, ...]
"""The place of a value: ``("description",)``, ``("schedules", "default", "context")``."""

SCHEDULES, SUBSCRIPTIONS, TRIGGERS = "schedules", "subscriptions", "triggers"
GROUPS = (SCHEDULES, SUBSCRIPTIONS, TRIGGERS)
"""The parts of a tree that have names."""

RULE = "rule"
"""The place of a schedule's rule, whose options only count together."""

RULE_OPTIONS = ("cron", "interval_minutes", "start_time", "timezone")

OPERATORS_OWN = ("enabled", "context")
"""What operators own of a declared tree, unless it says otherwise."""

OF_TREE: Mapping[str, Any] = {
    each.name: list(each.default) if isinstance(each.default, tuple) else each.default
    for each in fields(TreeSpec)
    if each.name != "name"
}
"""A tree's own options, and their default values."""

LINKS = ("dependent_trees", "sibling_trees")


class _Absent(Enum):
    ABSENT = "absent"

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent.ABSENT
"""The value at a place that a description does not have."""


@dataclass(frozen=True)
class TreeDescription:
    """What is said of one tree."""

    name: str
    content: Mapping[str, Any]
    """The tree's own options (see ``OF_TREE``), without its name."""

    schedules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    subscriptions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By the names of the triggers."""

    triggers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The triggers that it declares itself."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON; ``from_dict`` takes it back."""
        groups = {group: getattr(self, group) for group in GROUPS}
        return {"name": self.name, **self.content, **{k: v for k, v in groups.items() if v}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TreeDescription":
        """Return the description of JSON that ``to_dict`` returned, maybe in another release."""
        groups = {group: dict(_parts(data.get(group))) for group in GROUPS}
        content = {name: data.get(name, default) for name, default in OF_TREE.items()}
        return cls(name=str(data.get("name", "")), content=content, **groups)

    @property
    def values(self) -> dict[Path, Any]:
        """Every value by its place."""
        found: dict[Path, Any] = {(name,): value for name, value in self.content.items()}
        for group in GROUPS:
            for name, options in getattr(self, group).items():
                found |= {(group, name, *path): v for path, v in _with_rule(group, options)}
        return found

    @property
    def parts(self) -> list[Path]:
        """The places of its schedules, subscriptions and triggers."""
        return [(group, name) for group in GROUPS for name in getattr(self, group)]

    def with_part(self, part: Path, options: Mapping[str, Any] | None) -> "TreeDescription":
        """Return it with another part; without the part, if ``options`` is ``None``."""
        group, name = part
        others = {key: each for key, each in getattr(self, group).items() if key != name}
        changed: Any = {group: others if options is None else {**others, name: options}}
        return replace(self, **changed)


def _parts(stored: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parts of a group, without what only SQL can have put there."""
    for name, options in stored.items() if isinstance(stored, Mapping) else ():
        if isinstance(options, Mapping):
            yield name, options


def _with_rule(group: str, options: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yield the options of a part; those of a schedule's rule as one value."""
    rule = [name for name in RULE_OPTIONS if name in options] if group == SCHEDULES else []
    if rule:
        yield (RULE,), {name: options[name] for name in rule}
    for name, value in options.items():
        if name not in rule:
            yield (name,), value


def options_at(values: Mapping[Path, Any], part: Path) -> dict[str, Any]:
    """Return the options of a part among values by their places, as a description holds them."""
    found = {path[2]: value for path, value in values.items() if path[:2] == part}
    rule = found.pop(RULE, {})
    return {**(dict.fromkeys(RULE_OPTIONS, rule) if rule is ABSENT else rule), **found}


class Why(Enum):
    """Why a value wins."""

    SAME = "the row says what the code says"
    NEW = "there is no such row yet"
    FIRST = "the first sync of this tree"
    CODE = "changed in the code"
    EDITED = "edited since the last sync"
    BOTH = "changed in the code, and edited since the last sync"
    OPERATORS = "the operators' own"
    KEPT = "kept"


TAKES_CODE = (Why.NEW, Why.FIRST, Why.CODE, Why.EDITED, Why.BOTH)
"""The reasons for which the row is changed."""


@dataclass(frozen=True)
class Decision:
    """One value of a tree, and which of code and row wins."""

    path: Path
    base: Any
    """What the code said at the last sync; ``ABSENT``: it was silent."""

    code: Any
    row: Any
    why: Why

    @property
    def changes_row(self) -> bool:
        """Whether the row is to be changed."""
        return self.why in TAKES_CODE

    @property
    def chosen(self) -> Any:
        """The value that wins."""
        return self.code if self.why in (*TAKES_CODE, Why.SAME) else self.row


def merge(
    base: TreeDescription | None,
    code: TreeDescription,
    row: TreeDescription | None,
    *,
    owned: Collection[str] = OPERATORS_OWN,
    kept: Collection[Path] = (),
) -> list[Decision]:
    """Return which value wins at each place that the code speaks of.

    Parameters
    ----------
    base:
        What the code said at the last sync; ``None`` before the first one.
    code:
        What it says now.
    row:
        What the rows say; ``None`` if there is no such tree.
    owned:
        The options that operators own: their changes win, in every part.
    kept:
        The places that somebody has kept as the row says.
    """
    before = {} if base is None else base.values
    present = {} if row is None else row.values
    return [
        _decide(path, before.get(path, ABSENT), value, present.get(path, ABSENT), owned, kept)
        for path, value in code.values.items()
    ]


def _decide(
    path: Path, base: Any, code: Any, row: Any, owned: Collection[str], kept: Collection[Path]
) -> Decision:
    if not same(code, row) and (path in kept or path[:2] in kept):
        return Decision(path, base, code, row, Why.KEPT)
    if row is ABSENT:
        return Decision(path, base, code, row, Why.NEW)
    if same(code, row):
        return Decision(path, base, code, row, Why.SAME)
    was_edited, was_changed = not same(base, row), not same(base, code)
    if is_owned(path, owned) and was_edited:
        return Decision(path, base, code, row, Why.OPERATORS)
    if base is ABSENT:
        return Decision(path, base, code, row, Why.FIRST)
    if not was_edited:
        return Decision(path, base, code, row, Why.CODE)
    return Decision(path, base, code, row, Why.BOTH if was_changed else Why.EDITED)


def is_owned(path: Path, owned: Collection[str]) -> bool:
    """Return whether operators own the value at a place."""
    name = path[-1]
    return name in owned or (name == RULE and not set(RULE_OPTIONS).isdisjoint(owned))


def edited(
    said: TreeDescription,
    row: TreeDescription,
    *,
    owned: Collection[str] = OPERATORS_OWN,
    kept: Collection[Path] = (),
) -> list[Path]:
    """Return the places at which the rows differ from what the code said, and should not.

    A missing part is one place.
    """
    missing = [part for part in said.parts if part not in row.parts and part not in kept]
    return [
        *missing,
        *(
            each.path
            for each in merge(said, said, row, owned=owned, kept=kept)
            if each.why is Why.EDITED
        ),
    ]


def removed(base: TreeDescription | None, code: TreeDescription) -> list[Path]:
    """Return the parts that the code said at the last sync, and does not say any more."""
    return [] if base is None else [part for part in base.parts if part not in code.parts]


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON; ``ABSENT`` is the same as itself only."""
    if one is ABSENT or other is ABSENT:
        return one is other
    return digest({"": one}) == digest({"": other})


# --- In words -------------------------------------------------------------------------------------


def part_in_words(part: Path) -> str:
    """Return what a part is called, such as ``its schedule 'harbour-lane'``."""
    group, name = part
    if group == SCHEDULES:
        return "its schedule" if name == "default" else f"its schedule {name!r}"
    return f"its subscription to {name!r}" if group == SUBSCRIPTIONS else f"the trigger {name!r}"


def place_in_words(path: Path) -> str:
    """Return what a place is called, such as ``context of its schedule``."""
    if len(path) == 1:
        return path[0]
    return part_in_words(path) if len(path) == 2 else f"{path[2]} of {part_in_words(path[:2])}"


def places_in_words(paths: Iterable[Path]) -> str:
    """Return what several places are called, in one text."""
    return ", ".join(place_in_words(path) for path in paths)


def differences(path: Path, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """Return what differs at a place, each with its name and both values.

    Processes are compared by their names, and a schedule's rule option by option.
    """
    if path == ("processes",) and _are_processes(before) and _are_processes(after):
        return list(_of_processes(before, after))
    if path[-1] == RULE and isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            (place_in_words((*path[:-1], name)), old, new)
            for name, old, new in _of_options(before, after)
        ]
    return [(place_in_words(path), before, after)]


def _of_options(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        if not same(old, new):
            yield name, old, new


def _are_processes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, Mapping) and isinstance(each.get("name"), str) for each in value
    )


def _of_processes(
    before: list[Mapping[str, Any]], after: list[Mapping[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
    old, new = ({each["name"]: each for each in several} for several in (before, after))
    for name in dict.fromkeys([*old, *new]):
        what = f"process {name!r}"
        if name not in old or name not in new:
            yield what, old.get(name, ABSENT), new.get(name, ABSENT)
            continue
        for option, one, other in _of_options(old[name], new[name]):
            yield f"{option} of {what}", one, other
    if old.keys() == new.keys() and [*old] != [*new]:
        yield "order of the processes", [*old], [*new]
    if len(old) < len(before) or len(new) < len(after):  # several of one name: an invalid tree
        yield "processes", before, after
