"""The schedules of a tree: the default one, as ``tree.schedule``, and the others."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self, overload

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db import models

from ..domain import run_tags
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..domain.texts import explain
from .primary import PrimaryModel

if TYPE_CHECKING:
    from .schedules import ProcessTreeSchedule
    from .trees import ProcessTree


def default_schedules(of: str = "") -> "models.Prefetch[str, Any, str]":
    """Return what prefetches the default schedules of trees.

    Parameters
    ----------
    of:
        What leads from the rows of the query to their trees, such as ``process_tree__``.
    """
    schedules: Any = apps.get_model("proctree_dagster", "ProcessTreeSchedule").objects
    return models.Prefetch(f"{of}schedules", schedules.default(), to_attr="known_defaults")


def with_their_schedules(
    rows: Iterable["ProcessTree"], schedules: Iterable["ProcessTreeSchedule"]
) -> Iterator["ProcessTree"]:
    """Yield trees with their schedules, both in the order of the trees' keys.

    A tree is broken, too, if its default schedule can't be read, as its runs need the context. Each
    schedule is kept: Dagster forgets the state of one that vanishes.
    """
    groups = groupby(schedules, key=operator.attrgetter("process_tree_id"))
    group = next(groups, None)
    for row in rows:
        while group is not None and group[0] < row.pk:  # of a tree that was deleted meanwhile
            group = next(groups, None)
        found: list[ProcessTreeSchedule] = []
        if group is not None and group[0] == row.pk:
            found, group = list(group[1]), next(groups, None)
        row.hold_schedules(found)
        for each in found:
            if each.is_default and each.unreadable is not None:
                row.note_unreadable(each.unreadable)
        yield row


class DefaultSchedule:
    """``tree.schedule``: the tree's default schedule, read once, as a one-to-one relation is.

    Without one it raises an error that is both Django's ``DoesNotExist`` and an
    ``AttributeError``, so that ``hasattr(tree, "schedule")`` answers.
    """

    @overload
    def __get__(self, tree: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, tree: "HasSchedules", owner: Any = None) -> "ProcessTreeSchedule": ...
    def __get__(self, tree: "HasSchedules | None", owner: Any = None) -> Any:
        """Return the schedule; on the class, the descriptor itself."""
        if tree is None:
            return self
        known = tree._state.fields_cache
        if CACHED not in known:
            known[CACHED] = tree.find_default_schedule()
        if known[CACHED] is None:
            raise _does_not_exist()(f"The process tree {tree.name!r} has no default schedule.")
        return known[CACHED]

    def __set__(self, tree: "ProcessTree", schedule: "ProcessTreeSchedule") -> None:
        """Make a schedule, unsaved, that of a tree."""
        schedule.process_tree = tree
        tree.remember_schedule(schedule)


CACHED = "schedule"
"""Where a tree's default schedule is cached, among the rows that its relations have loaded."""


@cache
def _does_not_exist() -> type[Exception]:
    schedules: Any = apps.get_model("proctree_dagster", "ProcessTreeSchedule")
    kinds = (schedules.DoesNotExist, AttributeError)
    return type("ScheduleDoesNotExist", kinds, {"__module__": __name__})


class HasSchedules(PrimaryModel):
    """A tree, as far as its schedules are concerned."""

    if TYPE_CHECKING:
        name: models.CharField[str, str]
        processes: Any
        schedules: Any

    class Meta:
        abstract = True

    # Not set on the class: Django would take that for prefetched.
    known_defaults: "Sequence[ProcessTreeSchedule]"
    """Its default schedule, if it was prefetched alone (``default_schedules``); else unset."""

    schedule = DefaultSchedule()

    @property
    def default_context(self) -> dict[str, Any]:
        """The default schedule's context as JSON; ``{}`` without one."""
        schedule = self.schedule_or_none
        context = schedule.context if schedule is not None else {}
        return context if isinstance(context, dict) else {}  # SQL may have put anything there

    def base_context(self, tags: Mapping[str, str]) -> dict[str, Any]:
        """Return the context, as JSON, that a run's own updates.

        That of the schedule that the run's tags name, alone; without one the default schedule's.
        """
        name = run_tags.schedule_of(tags)
        if name == DEFAULT_SCHEDULE:
            return self.default_context
        named = self.schedules.filter(name=name).values_list("context", flat=True).first()
        return named if isinstance(named, dict) else {}

    @property
    def schedule_or_none(self) -> "ProcessTreeSchedule | None":
        """The tree's default schedule, if it has one."""
        try:
            return self.schedule
        except ObjectDoesNotExist:
            return None

    def all_schedules(self) -> "list[ProcessTreeSchedule]":
        """Return the tree's schedules: the default one first, the others by their names."""
        found: Iterable[ProcessTreeSchedule] = [] if self.pk is None else self.schedules.all()
        return sorted(found, key=lambda each: (not each.is_default, each.name))

    def find_default_schedule(self) -> "ProcessTreeSchedule | None":
        """Return the default schedule, from what was prefetched, or else from the database."""
        if self.pk is None:
            return None
        if "is_joined" in self.__dict__:  # by ``with_default_schedule``
            return self.__dict__.get("joined_schedule")
        alone = self.__dict__.get("known_defaults")
        known = getattr(self, "_prefetched_objects_cache", {}).get("schedules", alone)
        if known is not None:
            return next((each for each in known if each.is_default), None)
        found: ProcessTreeSchedule | None = self.schedules.default().first()
        return found

    def remember_schedule(self, schedule: "ProcessTreeSchedule") -> None:
        """Note that a schedule of the tree was saved: ``tree.schedule`` is the default one."""
        known = self._state.fields_cache
        default = schedule if schedule.is_default else known.get(CACHED)
        self.forget_schedules()
        if default is not None and default.is_default:
            known[CACHED] = default

    def forget_schedules(self) -> None:
        """Let the schedules be read again when they are next asked for."""
        self._state.fields_cache.pop(CACHED, None)
        getattr(self, "_prefetched_objects_cache", {}).pop("schedules", None)
        for known in ("known_defaults", "is_joined", "joined_schedule"):
            self.__dict__.pop(known, None)

    def hold_schedules(self, found: "Sequence[ProcessTreeSchedule]") -> None:
        """Let the tree have these schedules, as if they had been prefetched."""
        for schedule in found:
            schedule.process_tree = self  # type: ignore[assignment]  # there is one kind of tree
        held: Any = self.schedules.all()
        held._result_cache, held._prefetch_done = list(found), True
        self._prefetched_objects_cache = {"schedules": held}
        self._state.fields_cache.pop(CACHED, None)

    def note_unreadable(self, error: Exception) -> None:
        """Let the tree be broken, as a part of it can't be read."""
        self.processes = f"It can't be read: {explain(error)}"

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: "models.QuerySet[Any] | None" = None,
    ) -> None:
        """Load the row again, or some fields of it; with all of them, its schedules, too."""
        super().refresh_from_db(using, fields, from_queryset)
        if fields is None:
            self.forget_schedules()
