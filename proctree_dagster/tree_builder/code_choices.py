"""What people decide on a declared tree that was edited: take what the code said, or keep the edit.

Both concern the last sync: neither calls the functions that declare trees.
"""

from collections.abc import Collection, Iterable, Sequence

from django.utils import timezone

from ..domain import tree_descriptions as descriptions
from ..domain.tree_descriptions import LINKS, Path
from ..exceptions import SyncError
from ..models import ProcessTree, TreeSource
from ..models.tree_sources import place_of
from ..services import code_drift, revisions, tree_descriptions
from ..services.code_drift import Drift
from ..support.connections import writing
from .sync import write


def source_of(row: ProcessTree) -> TreeSource:
    """Return where a tree is declared.

    Raises
    ------
    SyncError
        No function declares it.
    """
    source = TreeSource.objects.filter(process_tree=row).first()
    if source is None:
        raise SyncError(
            f"The process tree {row.name!r} is not declared in code: there is nothing to take or "
            "to keep."
        )
    return source


def choose(drift: Drift, names: Sequence[str]) -> list[Path]:
    """Return the places that people name; without names, all that were edited.

    Parameters
    ----------
    drift:
        How the tree differs.
    names:
        Places such as ``description`` or ``schedules/default/rule``, or their last parts.

    Raises
    ------
    SyncError
        Nothing at such a place differs.
    """
    differing = [*drift.edited, *drift.kept]
    found: list[Path] = []
    for name in names:
        matching = [path for path in differing if name in ("/".join(path), path[-1])]
        matching = matching or [path for path in differing if _is_of_rule(path, name)]
        if not matching:
            known = ", ".join("/".join(path) for path in differing) or "nothing"
            raise SyncError(f"Nothing called {name!r} was edited. What was: {known}.")
        found += matching
    return found if names else list(drift.edited)


def _is_of_rule(path: Path, name: str) -> bool:
    return path[-1] == descriptions.RULE and name in descriptions.RULE_OPTIONS


def take(row: ProcessTree, paths: Collection[Path]) -> None:
    """Make rows say what the code said at the last sync, at some places.

    Parameters
    ----------
    row:
        The tree.
    paths:
        The places (see ``choose``); they are not kept any more.

    Raises
    ------
    SyncError
        No function declares the tree.
    ProctreeError
        What the code said is not valid any more.
    """
    with writing(TreeSource), revisions.together():
        source = TreeSource.objects.select_for_update().get(pk=source_of(row).pk)
        drift = code_drift.drift_of(row, source)
        present, said = drift.present.values, drift.said.values
        chosen = {
            path: value
            if path in paths or path[:2] in paths
            else present.get(path, descriptions.ABSENT)
            for path, value in said.items()
        }
        saved = write(row, drift.said, chosen)
        tree_descriptions.save_links(saved, {key: chosen[(key,)] for key in LINKS})
        _set_kept(source, {}, paths)


def keep(row: ProcessTree, paths: Collection[Path], who: str = "") -> None:
    """Let syncs leave what rows say at some places, until somebody takes the code's.

    Parameters
    ----------
    row:
        The tree.
    paths:
        The places (see ``choose``).
    who:
        Who has decided so.

    Raises
    ------
    SyncError
        No function declares the tree.
    """
    with writing(TreeSource):
        source = TreeSource.objects.select_for_update().get(pk=source_of(row).pk)
        now = timezone.now().isoformat(timespec="seconds")
        _set_kept(source, {place_of(path): {"by": who, "at": now} for path in paths}, ())


def _set_kept(source: TreeSource, add: dict[str, dict[str, str]], drop: Iterable[Path]) -> None:
    gone = {place_of(path) for path in drop}
    notes = {place: note for place, note in source.kept_notes.items() if place not in gone}
    source.kept = {**notes, **add}
    source.save(update_fields=["kept"])
