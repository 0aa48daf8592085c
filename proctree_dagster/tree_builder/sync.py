"""Making the rows of declared trees follow the code, and comparing the two.

The functions are called first, which writes nothing (see ``declarations.collect``). Then one
transaction compares and writes, which other syncs wait for; a tree that can't be saved is rolled
back alone.
"""

import datetime as dt
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import DatabaseError, connections, router, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from .. import conf
from ..domain import tree_descriptions as descriptions
from ..domain.texts import explain
from ..domain.tree_descriptions import (
    LINKS,
    SCHEDULES,
    SUBSCRIPTIONS,
    TRIGGERS,
    Decision,
    Path,
    TreeDescription,
)
from ..exceptions import ProctreeError, SyncError
from ..models import (
    CodeSync,
    Origin,
    ProcessTree,
    ProcessTreeSchedule,
    TreeSource,
    TriggerSubscription,
)
from ..models.tree_sources import place_of
from ..services import revisions, tree_descriptions
from ..support.connections import writing
from ..support.row_reading import UNREADABLE
from . import declarations
from .declarations import Collected, DeclaredTree

logger = logging.getLogger(__name__)


@dataclass
class TreeSync:
    """What a sync finds, and changes, of one tree."""

    name: str
    function: str
    decisions: list[Decision] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """Sentences on what it was called before, and where it was declared."""

    removed: list[Path] = field(default_factory=list)
    """The parts that are not in the code any more, and are still on."""

    pruned: list[Path] = field(default_factory=list)
    """Those of them that were switched off."""

    kept_by: Mapping[str, Any] = field(default_factory=dict)
    is_new: bool = False
    is_removed: bool = False
    """Whether the tree as a whole is not in the code any more."""

    runs_by: list[str] = field(default_factory=list)
    """What still runs a removed tree automatically."""

    error: str = ""

    @property
    def changes(self) -> list[Decision]:
        """The values that the rows are given."""
        return [each for each in self.decisions if each.changes_row]

    @property
    def has_drift(self) -> bool:
        """Whether the rows differ from the code where they should not."""
        return bool(self.changes or self.remarks or self.removed or self.runs_by)


@dataclass
class Report:
    """What a sync has found and changed."""

    trees: list[TreeSync] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """What prevents trees from being synced; each says which."""

    newer_release: int | None = None
    """The release that has synced before this older one, which therefore changed nothing."""

    @property
    def has_drift(self) -> bool:
        """Whether the rows of any tree differ from the code where they should not."""
        return any(each.has_drift for each in self.trees)


@dataclass
class _Plan:
    """What is to be done with a declared tree."""

    declared: DeclaredTree
    report: TreeSync
    row: ProcessTree | None
    source: TreeSource | None

    @property
    def chosen(self) -> dict[Path, Any]:
        """The values that the rows are to have."""
        return {each.path: each.chosen for each in self.report.decisions}


def compare(labels: Collection[str] | None = None) -> Report:
    """Return what ``sync`` would change. It writes nothing.

    Parameters
    ----------
    labels:
        The labels of the apps whose trees are compared; ``None``: all.

    Raises
    ------
    SyncError
        The database lacks migrations.
    """
    require_migrated(labels)
    collected = declarations.collect(labels)
    report = Report(errors=list(collected.errors))
    known = CodeSync.objects.filter(pk=1).first()
    report.newer_release = _newer(None if known is None else known.release)
    for declared in collected.trees:
        with _alone(report, declared.name):
            report.trees.append(_plan(declared).report)
    for name, pk in _removed(collected, labels):
        with _alone(report, name):
            _source, removal = _removal(pk)
            report.trees += [removal] if removal.has_drift else []
    return report


def sync(
    labels: Collection[str] | None = None, *, prune: bool = False, older_release: bool = False
) -> Report:
    """Make the rows of declared trees follow the code, and return what was changed.

    Parameters
    ----------
    labels:
        The labels of the apps whose trees are synced; ``None``: all.
    prune:
        Whether what is not in the code any more is switched off. Nothing is ever deleted.
    older_release:
        Whether an older release than the last one that synced (``PROCTREE["RELEASE"]``) may.

    Raises
    ------
    SyncError
        The database lacks migrations.
    """
    require_migrated(labels)
    collected = declarations.collect(labels)
    report = Report(errors=list(collected.errors))
    now = timezone.now()
    with writing(CodeSync) as alias, revisions.saved_by(Origin.CODE), revisions.together():
        lock = _locked(alias)
        report.newer_release = _newer(lock.release)
        if report.newer_release is not None and not older_release:
            return report
        plans: list[_Plan] = []
        for declared in collected.trees:
            with _alone(report, declared.name):
                plans.append(_carry_out(_plan(declared), now, prune=prune))
        _set_links(report, plans)
        report.trees = [plan.report for plan in plans]
        for name, pk in _removed(collected, labels):
            with _alone(report, name):
                source, removal = _removal(pk)
                if removal.has_drift:
                    _note_removal(source, removal, now, prune=prune)
                    report.trees.append(removal)
        release = conf.current().RELEASE
        lock.release, lock.synced_at = lock.release if release is None else release, now
        lock.save()
    return report


def _locked(alias: str) -> CodeSync:
    """Return the row on which syncs wait for each other, locked until the transaction's end."""
    CodeSync.objects.using(alias).get_or_create(pk=1)
    return CodeSync.objects.using(alias).select_for_update().get(pk=1)


def _newer(synced: int | None) -> int | None:
    """Return the release that has synced last, if this one is older."""
    mine = conf.current().RELEASE
    return synced if mine is not None and synced is not None and mine < synced else None


@contextmanager
def _alone(report: Report, name: str) -> Iterator[None]:
    """Do something to one tree in the block; if it fails, undo it alone and record why."""
    try:
        with transaction.atomic(using=router.db_for_write(ProcessTree)):
            yield
    except (ProctreeError, DatabaseError, *UNREADABLE) as error:
        if not isinstance(error, ProctreeError):
            logger.exception("The process tree %r could not be synced.", name)
        why = str(error) if isinstance(error, ProctreeError) else explain(error)
        report.errors.append(f"{name}: {why}")


# --- Comparing ------------------------------------------------------------------------------------


def require_migrated(labels: Collection[str] | None = None) -> None:
    """Refuse a database that lacks migrations of this app, or of those that declare trees.

    Raises
    ------
    SyncError
        It names them.
    """
    alias = router.db_for_write(ProcessTree)
    executor = MigrationExecutor(connections[alias])
    asked = {"proctree_dagster", *declaring_apps(labels)}
    missing = [
        f"{migration.app_label}.{migration.name}"
        for migration, backwards in executor.migration_plan(executor.loader.graph.leaf_nodes())
        if migration.app_label in asked and router.allow_migrate(alias, migration.app_label)
    ]
    if missing:
        others = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise SyncError(
            f"The database is behind the code: {len(missing)} migration"
            f"{'s are' if len(missing) > 1 else ' is'} not applied ({', '.join(missing[:5])}"
            f"{others}). Nothing was compared. Run 'manage.py migrate' first."
        )


def declaring_apps(labels: Collection[str] | None = None) -> set[str]:
    """Return the labels of the apps that have a ``trees`` module."""
    found = {app.label for app in apps.get_app_configs() if declarations.has_module(app)}
    return found if labels is None else found & set(labels)


def _plan(declared: DeclaredTree) -> _Plan:
    """Compare a declared tree with its rows."""
    rows = ProcessTree.objects
    report = TreeSync(declared.name, declared.function)
    row = rows.filter(name=declared.name).first()
    before = declared.renamed_from
    if before is not None and row is None:
        row = rows.filter(name=before).first()
        if row is not None:
            report.remarks.append(f"renamed from {before!r}; its history stays with it")
    source = None if row is None else TreeSource.objects.filter(process_tree=row).first()
    base = None if source is None else source.description
    if source is not None:
        report.kept_by = source.kept_notes
        if source.function != declared.function:
            report.remarks.append(f"declared by {source.function} before")
        if source.removed_at is not None:
            report.remarks.append("in the code again")
    code = declared.description
    triggers = {*code.triggers, *(() if base is None else base.triggers)}
    present = None if row is None else tree_descriptions.describe(row, triggers)
    if present is None and triggers:  # the tree is new, and its triggers may be there
        present = tree_descriptions.describe_triggers(declared.name, triggers)
    report.is_new = row is None
    report.decisions = descriptions.merge(
        base,
        code,
        present,
        owned=declared.operators_own,
        kept=() if source is None else source.kept_paths,
    )
    report.removed = [part for part in descriptions.removed(base, code) if _is_on(present, part)]
    return _Plan(declared, report, row, source)


def _is_on(present: TreeDescription | None, part: Path) -> bool:
    """Return whether a part is there and on, which a trigger without subscribers never is."""
    group, name = part
    options = {} if present is None else getattr(present, group).get(name, {})
    return group != TRIGGERS and options.get("enabled") is True


def _removed(collected: Collected, labels: Collection[str] | None) -> list[tuple[str, int]]:
    """Return the trees that are not in the code any more: their names, and their sources' keys."""
    names = {each.name for each in collected.trees}
    # One of a former name is renamed, unless there is a row of the new name already.
    new = names - set(ProcessTree.objects.filter(name__in=names).values_list("name", flat=True))
    known = names | collected.unknown_trees
    known |= {
        each.renamed_from for each in collected.trees if each.renamed_from and each.name in new
    }
    sources = TreeSource.objects.order_by("process_tree__name")
    if labels is not None:
        sources = sources.filter(app_label__in=labels)
    return [
        (name, pk)
        for name, pk, label in sources.values_list("process_tree__name", "pk", "app_label")
        if label not in collected.unknown_apps and name not in known
    ]


def _removal(pk: int) -> tuple[TreeSource, TreeSync]:
    source = TreeSource.objects.select_related("process_tree").get(pk=pk)
    row = source.process_tree
    told = ["not in the code any more; its row and its history stay"]
    return source, TreeSync(
        *(row.name, source.function),
        remarks=[] if source.removed_at is not None else told,
        is_removed=True,
        runs_by=row.what_runs_it(),
    )


# --- Writing --------------------------------------------------------------------------------------


def _carry_out(plan: _Plan, now: dt.datetime, *, prune: bool) -> _Plan:
    """Save a declared tree, without its followers."""
    row = plan.row or ProcessTree(name=plan.declared.name)
    if row.name != plan.declared.name:
        row.name = plan.declared.name
        row.save(update_fields=["name"])
    if row.pk is not None:
        revisions.see(row.job_name)  # what SQL has written, before it is changed
    plan.row = row = write(row, plan.declared.description, plan.chosen)
    if prune:
        plan.report.pruned, plan.report.removed = plan.report.removed, []
        for part in plan.report.pruned:
            _switch_off(row, part)
    _save_source(plan, now)
    return plan


def write(
    row: ProcessTree, said: TreeDescription, chosen: Mapping[Path, Any], *, by_code: bool = True
) -> ProcessTree:
    """Save a tree, without its followers, and its parts.

    Parameters
    ----------
    row:
        The tree, maybe a new one.
    said:
        The parts that are saved.
    chosen:
        The values by their places; a part of which one is ``ABSENT`` is left out.
    by_code:
        Whether code says it, which is recorded to detect drift.
    """

    def parts(group: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in getattr(said, group):
            options = descriptions.options_at(chosen, (group, name))
            if descriptions.ABSENT not in options.values():
                yield name, options

    for name, options in parts(TRIGGERS):
        tree_descriptions.save_trigger(name, options)
    content = {path[0]: value for path, value in chosen.items() if len(path) == 1}
    row = tree_descriptions.save_tree(row, content, by_code=by_code)
    for name, options in parts(SCHEDULES):
        tree_descriptions.save_schedule(row, name, options, by_code=by_code)
    for name, options in parts(SUBSCRIPTIONS):
        tree_descriptions.save_subscription(row, name, options)
    return row


def _save_source(plan: _Plan, now: dt.datetime) -> None:
    declared, source = plan.declared, plan.source or TreeSource(process_tree=plan.row)
    said = declared.description
    base = None if plan.source is None else plan.source.description
    for part in descriptions.removed(base, said):
        assert base is not None
        options = dict(getattr(base, part[0])[part[1]])
        if part in plan.report.pruned:  # declared again, it is switched on again
            options["enabled"] = False
        said = said.with_part(part, options)
    places = {place_of(path) for path in declared.description.values}
    source.said = said.to_dict()
    source.app_label, source.function = declared.app_label, declared.function
    source.operators_own = list(declared.operators_own)
    source.kept = {place: note for place, note in source.kept_notes.items() if place in places}
    source.removed_parts = [list(part) for part in plan.report.removed]
    source.synced_at, source.removed_at, source.pruned_at = now, None, None
    source.save()


def _set_links(report: Report, plans: list[_Plan]) -> None:
    """Set the followers once all trees are there; first remove those that are no more."""
    changed = [plan for plan in plans if any(each.path[0] in LINKS for each in plan.report.changes)]
    for plan in changed:
        assert plan.row is not None
        tree_descriptions.drop_links(plan.row, {key: plan.chosen[(key,)] for key in LINKS})
    for plan in changed:
        assert plan.row is not None
        with _alone(report, plan.row.name):
            content = {key: plan.chosen[(key,)] for key in LINKS}
            tree_descriptions.save_links(plan.row, content)


def _note_removal(source: TreeSource, removal: TreeSync, now: dt.datetime, *, prune: bool) -> None:
    """Record that a tree is not in the code any more; switch it off, if that was asked for."""
    row, said = source.process_tree, source.description
    source.removed_at = source.removed_at or now
    if prune and removal.runs_by:
        present = tree_descriptions.describe(row)
        for part in [part for part in present.parts if _is_on(present, part)]:
            _switch_off(row, part)
            removal.pruned.append(part)
            if part in said.parts:
                options = {**getattr(said, part[0])[part[1]], "enabled": False}
                said = said.with_part(part, options)
        row.links_in.all().delete()
        removal.runs_by, source.pruned_at = [], now
        source.said = said.to_dict()
    source.save()


def _switch_off(row: ProcessTree, part: Path) -> None:
    """Disable a schedule or a subscription."""
    group, name = part
    if group == SUBSCRIPTIONS:
        TriggerSubscription.objects.filter(process_tree=row, trigger__name=name).update(
            enabled=False
        )
        return
    for schedule in ProcessTreeSchedule.objects.filter(process_tree=row, name=name):
        schedule.enabled = False
        schedule.save(update_fields=["enabled"])
