"""What trees were: the content of each revision, recorded in the transaction that saves it.

A revision is the hash of a tree's content and of its default context, and a run's tag names the one
that it executed. Whatever a model saves is recorded by receivers of its signals; ``together`` makes
one revision of several saves. What SQL or ``bulk_create`` has written is recorded when a run or a
sync sees it (``see``).
"""

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.db import DatabaseError, router
from django.db.models import QuerySet
from django.db.models.signals import post_delete, post_save, pre_delete
from django.utils import timezone

from ..domain import tree_descriptions as descriptions
from ..domain import tree_spec
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..exceptions import InvalidTree, RevisionNotFound
from ..models import (
    Origin,
    ProcessTree,
    ProcessTreeSchedule,
    TreeChange,
    TreeLink,
    TreeRevision,
    Trigger,
    TriggerSubscription,
)
from ..support.connections import fresh_connections, writing
from ..support.row_reading import UNREADABLE

logger = logging.getLogger(__name__)

SHORTEST = 4
"""How many characters of a revision name it at least."""

_author: ContextVar[tuple[Origin, str]] = ContextVar(
    "proctree_dagster.revisions.author", default=(Origin.SCRIPT, "")
)
_pending: ContextVar[set[tuple[str, Any]] | None] = ContextVar(
    "proctree_dagster.revisions.pending", default=None
)


@contextmanager
def saved_by(origin: Origin, who: str = "") -> Iterator[None]:
    """Record of each revision in the block what has saved it, and who."""
    token = _author.set((origin, who))
    try:
        yield
    finally:
        _author.reset(token)


@contextmanager
def together() -> Iterator[None]:
    """Record one revision of each tree that is saved in the block, at its end.

    Open it in the transaction of the saves.
    """
    if _pending.get() is not None:  # the outer block records
        yield
        return
    token = _pending.set(set())
    try:
        yield
        record_pending()
    finally:
        _pending.reset(token)


def record_pending() -> None:
    """Record the trees that were saved so far in the block of ``together``."""
    pending = _pending.get()
    while pending:
        alias, pk = pending.pop()
        _record(alias, pk)


def note(tree: Any, alias: str | None = None) -> None:
    """Record a tree's revision: at the end of the block of ``together``, or now.

    Parameters
    ----------
    tree:
        Its primary key.
    alias:
        Its database.
    """
    alias, pending = alias or router.db_for_write(ProcessTree), _pending.get()
    if pending is None:
        _record(alias, tree)
    else:
        pending.add((alias, tree))


def _record(alias: str, pk: Any) -> None:
    """Record a tree's revision as the database has it now, if it is another than the last one."""
    try:
        row = ProcessTree.objects.using(alias).filter(pk=pk).first()
        if row is not None:
            _add(alias, row, *_author.get())
    except UNREADABLE as error:  # SQL has written it
        logger.warning("The revision of a process tree can't be recorded: %s", error)


def see(job_name: str, revision: str | None = None) -> None:
    """Record the present revision of a tree, if nothing has: SQL may have written it.

    It raises nothing: a run does not fail for it.

    Parameters
    ----------
    job_name:
        The tree's.
    revision:
        The one that is wanted; another one is not recorded, as the tree has changed meanwhile.
    """
    try:
        with fresh_connections():
            if (
                revision is not None
                and _latest(router.db_for_write(TreeChange), job_name) == revision
            ):
                return
            with writing(TreeChange) as alias:
                row = ProcessTree.objects.using(alias).filter(job_name=job_name).first()
                if row is not None and revision in (None, row.revision):
                    _add(alias, row, Origin.SEEN, "")
    except (DatabaseError, *UNREADABLE):
        logger.warning("The revision of %r could not be recorded.", job_name, exc_info=True)


def _latest(alias: str, job_name: str) -> str | None:
    changes = TreeChange.objects.using(alias).filter(job_name=job_name).order_by("-pk")
    latest: str | None = changes.values_list("revision", flat=True).first()
    return latest


def _add(alias: str, row: ProcessTree, origin: Origin, who: str) -> None:
    tree, context = row.to_dict(), row.default_context
    revision = tree_spec.revision(tree, context)
    if _latest(alias, row.job_name) == revision:
        return
    content = TreeRevision(job_name=row.job_name, revision=revision, tree=tree, context=context)
    TreeRevision.objects.using(alias).bulk_create([content], ignore_conflicts=True)
    TreeChange.objects.using(alias).create(
        job_name=row.job_name, revision=revision, at=timezone.now(), origin=origin, who=who[:255]
    )


# --- Reading --------------------------------------------------------------------------------------


def history(job_name: str) -> "QuerySet[TreeChange]":
    """Return the changes of a tree, the newest first."""
    found: QuerySet[TreeChange] = TreeChange.objects.filter(job_name=job_name).order_by("-pk")
    return found


def find(job_name: str, revision: str) -> TreeRevision | None:
    """Return what a tree was in a revision; ``None`` if it is not recorded."""
    found: TreeRevision | None = TreeRevision.objects.filter(
        job_name=job_name, revision=revision
    ).first()
    return found


def get(row: ProcessTree, named: str, at: dt.datetime | None = None) -> TreeRevision:
    """Return a revision of a tree that a person names.

    Parameters
    ----------
    row:
        The tree.
    named:
        The first characters of the revision, for messages what was typed.
    at:
        Instead: a moment (aware); that of the latest change until then.

    Raises
    ------
    RevisionNotFound
        There is none, or several begin like this.
    """
    if at is not None:
        change = history(row.job_name).filter(at__lte=at).first()
        found = None if change is None else find(row.job_name, change.revision)
        if found is None:
            raise RevisionNotFound(f"No revision of {row.name!r} is recorded until {named}.")
        return found
    if len(named) < SHORTEST:
        raise RevisionNotFound(f"Give at least {SHORTEST} characters of a revision, not {named!r}.")
    several = list(
        TreeRevision.objects.filter(job_name=row.job_name, revision__startswith=named)[:2]
    )
    if len(several) == 1:
        only: TreeRevision = several[0]
        return only
    why = "several begin like it" if several else "'manage.py proctree revisions' lists them"
    raise RevisionNotFound(
        f"{'More than one' if several else 'No'} revision of {row.name!r} is {named!r}: {why}."
    )


def content(revision: TreeRevision) -> dict[str, Any]:
    """Return all that a revision holds: the tree, its subscriptions, its default context."""
    tree = revision.tree if isinstance(revision.tree, dict) else {}
    return _content(tree, revision.context)


def present(row: ProcessTree) -> dict[str, Any]:
    """Return what a tree is now, as ``content`` returns what it was."""
    return _content(row.to_dict(), row.default_context)


def _content(tree: Mapping[str, Any], context: Any) -> dict[str, Any]:
    subscribed = {each["trigger"]: each for each in tree.get("triggers", ())}
    known = descriptions.OF_TREE
    options = {name: tree.get(name, default) for name, default in known.items()}
    return {
        "name": tree.get("name", ""),
        **options,
        "subscriptions": subscribed,
        "default context": context,
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what differs between two revisions, each with its name and both values.

    Parameters
    ----------
    before, after:
        As ``content`` and ``present`` return them.
    """
    return [
        each
        for name in after
        if not descriptions.same(before[name], after[name])
        for each in descriptions.differences((name,), before[name], after[name])
    ]


def as_row(revision: TreeRevision) -> ProcessTree:
    """Return what a tree was as a row, which is not saved."""
    tree: Mapping[str, Any] = revision.tree if isinstance(revision.tree, dict) else {}
    row = ProcessTree(name=str(tree.get("name", "")), job_name=revision.job_name)
    for name in OWN:
        setattr(row, name, tree.get(name, descriptions.OF_TREE[name]))
    return row


OWN = tuple(name for name in descriptions.OF_TREE if name not in descriptions.LINKS)
"""What ``restore`` restores: the tree's own options."""


def restore(row: ProcessTree, revision: TreeRevision) -> bool:
    """Save the processes and options that a tree had; return whether that changed it.

    Its name, its schedules, followers and triggers stay as they are.

    Raises
    ------
    InvalidTree
        Functions or triggers that it named are gone, or not allowed any more; it names them.
    """
    old = as_row(revision)
    before = row.own_content
    for name in OWN:
        setattr(row, name, getattr(old, name))
    if row.own_content == before:
        return False
    problems = row.problems()
    if row.what_runs_it() and (why := row.unattended_problem()) is not None:
        problems.append(why)
    if problems:
        raise InvalidTree(row.name, problems)
    with writing(ProcessTree):
        row.save()
    return True


# --- Receivers ------------------------------------------------------------------------------------


def connect_receivers() -> None:
    """Record a revision whenever a row that is a part of one is saved or deleted."""
    uid = "proctree_dagster.revisions"
    post_save.connect(_tree_saved, sender=ProcessTree, dispatch_uid=uid)
    pre_delete.connect(_tree_deleted, sender=ProcessTree, dispatch_uid=uid)
    post_save.connect(_trigger_saved, sender=Trigger, dispatch_uid=uid)
    for model in (ProcessTreeSchedule, TriggerSubscription, TreeLink):
        post_save.connect(_part_saved, sender=model, dispatch_uid=uid)
        post_delete.connect(_part_deleted, sender=model, dispatch_uid=uid)


def _tree_saved(instance: ProcessTree, raw: bool, using: str, created: bool, **kwargs: Any) -> None:
    if raw:  # a fixture: its other rows are not there yet
        return
    _deleted.set(_deleted.get() - {(using, instance.pk)})  # it was not, after an error
    note(instance.pk, using)
    if not created:  # renamed, perhaps: it is named by those that it follows
        _note_all(TreeLink.plain.using(using).filter(target=instance), "source_id", using)


def _tree_deleted(instance: ProcessTree, using: str, **kwargs: Any) -> None:
    """Record a revision that only runs have, before the tree is gone; of its parts, no more."""
    _record(using, instance.pk)
    _deleted.set(_deleted.get() | {(using, instance.pk)})  # signals of its parts follow


def _trigger_saved(instance: Trigger, raw: bool, using: str, created: bool, **kwargs: Any) -> None:
    if not (raw or created) and instance.has_changed("name"):
        rows = TriggerSubscription.objects.using(using).filter(trigger=instance)
        _note_all(rows, "process_tree_id", using)


def _note_all(rows: "QuerySet[Any]", field: str, alias: str) -> None:
    keys: Iterable[Any] = list(rows.values_list(field, flat=True))
    for pk in keys:
        note(pk, alias)


def _part_saved(
    instance: Any,
    raw: bool,
    using: str,
    created: bool,
    update_fields: Iterable[str] | None,
    **kwargs: Any,
) -> None:
    if not raw and _is_in_revision(instance, created, update_fields):
        note(_tree_of(instance), using)


def _part_deleted(instance: Any, using: str, **kwargs: Any) -> None:
    tree = _tree_of(instance)
    if (using, tree) not in _deleted.get() and _is_in_revision(instance, True, None):
        note(tree, using)


_deleted: ContextVar[frozenset[tuple[str, Any]]] = ContextVar(
    "proctree_dagster.revisions.deleted", default=frozenset()
)
"""The trees that are being deleted, or were: their parts go before them."""


def _is_in_revision(instance: Any, created: bool, update_fields: Iterable[str] | None) -> bool:
    """Return whether a saved row may have made another revision: of schedules, few do."""
    if not isinstance(instance, ProcessTreeSchedule):
        return True
    if instance.name != DEFAULT_SCHEDULE:
        return instance.has_changed("name")  # it may have been the default one
    if update_fields is not None and "context" not in update_fields:
        return False
    return created or instance.has_changed("context") or instance.has_changed("name")


def _tree_of(instance: Any) -> Any:
    return instance.source_id if isinstance(instance, TreeLink) else instance.process_tree_id
