"""What a sync finds and changes, in words."""

from collections.abc import Iterable, Mapping

from ..domain import tree_descriptions as descriptions
from ..domain.tree_descriptions import ABSENT, Decision, Path, Why
from ..models.tree_sources import place_of
from ..services.code_drift import shown
from .sync import TreeSync


def lines(tree: TreeSync) -> list[str]:
    """Return what was found of a tree, and is changed, in words."""
    return [*_of_removal(tree), *_of_changes(tree), *_of_rest(tree)]


def _of_removal(tree: TreeSync) -> Iterable[str]:
    if tree.is_removed and tree.runs_by:
        yield (
            f"not in the code any more, and it still runs ({', '.join(tree.runs_by)}), until "
            "'sync --prune' switches it off"
        )


def _of_changes(tree: TreeSync) -> Iterable[str]:
    if tree.is_new:
        yield "new"
    yield from tree.remarks
    new_parts = dict.fromkeys(
        each.path[:2] for each in tree.changes if each.why is Why.NEW and len(each.path) > 1
    )
    yield from (f"{descriptions.part_in_words(part)}: new" for part in new_parts)
    for each in tree.changes:
        if each.why is not Why.NEW:
            for what, row, code in descriptions.differences(each.path, each.row, each.code):
                why = "" if each.why is Why.FIRST else f" ({each.why.value})"
                yield f"{what}: {shown(row)} → {shown(code)}{why}"


def _of_rest(tree: TreeSync) -> Iterable[str]:
    for part in tree.removed:
        yield (
            f"{descriptions.part_in_words(part)}: not in the code any more, and still on, until "
            "'sync --prune' switches it off"
        )
    yield from (f"{descriptions.part_in_words(part)}: switched off" for part in tree.pruned)
    kept = [each for each in tree.decisions if each.why is Why.KEPT]
    for part in dict.fromkeys(each.path[:2] for each in kept if each.row is ABSENT):
        yield f"{descriptions.part_in_words(part)}: kept deleted{_by(tree, part)}"
    for each in tree.decisions:
        place = descriptions.place_in_words(each.path)
        if each.why is Why.KEPT and each.row is not ABSENT:
            yield f"{place}: kept{_by(tree, each.path)}; {_would_be(each)}"
        elif each.why is Why.OPERATORS:
            yield f"{place}: stays as the operators have set it; {_would_be(each)}"


def _by(tree: TreeSync, path: Path) -> str:
    """Return who has kept what is at a place; blank if that is unknown."""
    note = tree.kept_by.get(place_of(path))
    by = note.get("by") if isinstance(note, Mapping) else ""
    return f" by {by}" if by else ""


def _would_be(decision: Decision) -> str:
    [*several] = descriptions.differences(decision.path, decision.row, decision.code)
    return "the code says " + ", ".join(
        shown(after) if len(several) == 1 else f"{what}: {shown(after)}"
        for what, _before, after in several
    )
