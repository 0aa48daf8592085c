"""How the rows of a declared tree differ from what the code said at the last sync."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ..context import sensitive
from ..domain import tree_descriptions as descriptions
from ..domain.texts import shorten
from ..domain.tree_descriptions import ABSENT, LINKS, Path, TreeDescription
from ..models import ProcessTree, TreeLink, TreeSource
from . import tree_descriptions

SHOWN = 120
"""How many characters of a value are shown."""


@dataclass(frozen=True)
class Difference:
    """A value that differs."""

    path: Path
    what: str
    """What it is called."""

    code: str
    """What the code said, for people to read; without secrets."""

    row: str


@dataclass(frozen=True)
class Drift:
    """How a declared tree differs from what the code said."""

    said: TreeDescription
    present: TreeDescription
    edited: tuple[Path, ...]
    """The places that the next sync takes back."""

    kept: tuple[Path, ...]
    """The places that differ, and that somebody has kept."""

    @property
    def edited_in_words(self) -> list[str]:
        """What was edited, place by place."""
        return [each.what for each in self.differences(self.edited)]

    @property
    def kept_in_words(self) -> list[str]:
        """What is kept, place by place."""
        return [each.what for each in self.differences(self.kept)]

    def differences(self, paths: Iterable[Path]) -> list[Difference]:
        """Return what differs at some places."""
        said, present = self.said.values, self.present.values
        return [
            Difference(path, what, shown(code), shown(row))
            for path in paths
            for what, code, row in _differences(path, said, present)
        ]


def _differences(
    path: Path, said: dict[Path, Any], present: dict[Path, Any]
) -> list[tuple[str, Any, Any]]:
    if len(path) == 2:  # the part as a whole is missing
        return [(descriptions.part_in_words(path), descriptions.options_at(said, path), ABSENT)]
    return descriptions.differences(path, said.get(path, ABSENT), present.get(path, ABSENT))


def drift_of(row: ProcessTree, source: TreeSource) -> Drift:
    """Return how a tree differs from what the code said."""
    said, kept = source.description, source.kept_paths
    present = tree_descriptions.describe(row, said.triggers)
    owned = source.owned
    all_kept = descriptions.edited(said, present, owned=(), kept=())
    return Drift(
        said,
        present,
        edited=tuple(descriptions.edited(said, present, owned=owned, kept=kept)),
        kept=tuple(path for path in all_kept if path in kept),
    )


@dataclass(frozen=True)
class CodeStatus:
    """Where a tree comes from, and how it differs from what the code said."""

    origin: str
    """``code``: a function declares it; ``script``: ``save()`` has saved it; ``admin``: neither."""

    function: str = ""
    """The function that declares it."""

    rows: tuple[str, ...] = ()
    """The rows that were edited: ``tree``, ``schedule``, ``schedule 'harbour-lane'``, …"""

    edited: tuple[str, ...] = ()
    """What was edited since the last sync, place by place; of a script's tree, unknown."""

    kept: tuple[str, ...] = ()
    """What differs, and somebody has kept."""

    removed: tuple[str, ...] = ()
    """What is not in the code any more, and is still on: ``the tree``, ``its schedule …``."""


def status_of(
    row: ProcessTree, source: TreeSource | None, linked: Collection[int] | None = None
) -> CodeStatus:
    """Return where a tree comes from, and how it differs from what the code said.

    Parameters
    ----------
    row, source:
        The tree, and its source, if a function declares it.
    linked:
        The keys of all trees that have followers, if many trees are asked about.
    """
    if source is None:
        origin = "script" if row.saved_by_code else "admin"
        return CodeStatus(origin, rows=tuple(row.edited))
    drift = None
    if linked is None or may_have_drifted(row, source, linked):
        drift = drift_of(row, source)
    return CodeStatus(
        "code",
        source.function,
        () if drift is None else tuple(dict.fromkeys(_row_at(each) for each in drift.edited)),
        () if drift is None else tuple(drift.edited_in_words),
        () if drift is None else tuple(drift.kept_in_words),
        tuple(_removed(row, source)),
    )


def _row_at(path: Path) -> str:
    if len(path) == 1:
        return "tree"
    return descriptions.part_in_words(path[:2]).removeprefix("its ").removeprefix("the ")


def _removed(row: ProcessTree, source: TreeSource) -> Iterable[str]:
    if source.removed_at is not None:
        if row.what_runs_it():
            yield "the tree"
        return
    parts = source.removed_parts if isinstance(source.removed_parts, list) else []
    yield from (descriptions.part_in_words(tuple(map(str, part))) for part in parts)


def sources() -> dict[int, TreeSource]:
    """Return every source by the key of its tree."""
    return {each.process_tree_id: each for each in TreeSource.objects.all()}


def may_have_drifted(row: ProcessTree, source: TreeSource, linked: Collection[int]) -> bool:
    """Return False if a tree has not drifted, by what costs no query.

    Parameters
    ----------
    row, source:
        The tree with its schedules, and its source.
    linked:
        The keys of the trees that have followers.
    """
    said = source.description
    has_others = said.subscriptions or said.triggers or any(said.content[key] for key in LINKS)
    return bool(has_others or source.kept_notes or row.pk in linked or row.edited)


def trees_with_followers() -> set[int]:
    """Return the keys of the trees that have followers."""
    return set(TreeLink.plain.values_list("source_id", flat=True))


def shown(value: Any) -> str:
    """Return a value for people to read, short and without secrets."""
    if value is ABSENT:
        return "nothing"
    text = json.dumps(sensitive.masked(value), ensure_ascii=False, default=repr)
    return shorten(text, SHOWN)
