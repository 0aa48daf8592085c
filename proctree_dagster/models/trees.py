"""Process trees."""

import operator
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, router
from django.utils.translation import gettext_lazy as _

from .. import conf
from ..domain import alert_settings, limits, retention, tree_alerts, tree_spec
from ..domain.names import MAX_NAME_LENGTH, dagster_name
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..exceptions import InvalidTree
from ..support.connections import writing
from ..support.row_reading import readable, streamed
from . import context_schema
from .context_schema import ContextSchema
from .fields import RowField, saved_by_code_field
from .primary import PrimaryQuerySet
from .tree_schedules import HasSchedules, with_their_schedules
from .validation.tree_validation import unnameable, validate_tree

if TYPE_CHECKING:
    from .links import TreeLink
    from .schedule_queries import ProcessTreeScheduleQuerySet
    from .triggers import TriggerSubscription


class LinkKind(models.TextChoices):
    """How the target of a link follows its source."""

    DEPENDENT = "dependent", _("runs after it has succeeded")
    SIBLING = "sibling", _("runs at the same time")


class ProcessTreeQuerySet(PrimaryQuerySet["ProcessTree"]):
    """Queries of trees."""

    def with_schedules(self) -> "ProcessTreeQuerySet":
        """Every tree with its schedules, in two queries, in a stable order."""
        return self.prefetch_related("schedules").order_by("job_name")

    def with_default_schedule(self) -> "ProcessTreeQuerySet":
        """Every tree with its default schedule alone, in one query."""
        is_default = models.Q(schedule__name=DEFAULT_SCHEDULE)
        joined = models.FilteredRelation("schedule", condition=is_default)
        found: Any = self.annotate(joined_schedule=joined, is_joined=models.Value(True))
        return found.select_related("joined_schedule")  # type: ignore[no-any-return]

    def each(self) -> list["ProcessTree"]:
        """Return every tree with its schedules, by the job names; two queries that list no keys.

        Of an unreadable row what can be read is returned (see ``what_can_be_read``).
        """
        rows = readable(self.order_by("pk"), self.what_can_be_read)
        schedules = self._their_schedules()
        found = with_their_schedules(rows, readable(schedules, schedules.what_can_be_read))
        return sorted(found, key=operator.attrgetter("job_name"))

    def streamed(self) -> Iterator["ProcessTree"]:
        """Yield the trees that ``each`` returns, by their keys, without all of them in memory."""
        rows = streamed(self.order_by("pk"), self.what_can_be_read)
        schedules = self._their_schedules()
        yield from with_their_schedules(rows, streamed(schedules, schedules.what_can_be_read))

    def _their_schedules(self) -> "ProcessTreeScheduleQuerySet":
        schedules: Any = apps.get_model("proctree_dagster", "ProcessTreeSchedule").objects
        found = schedules.order_by("process_tree_id")
        if self.query.where:
            found = found.filter(process_tree__in=self.order_by().values("pk"))
        return found  # type: ignore[no-any-return]

    def what_can_be_read(self, pk: Any, error: Exception) -> "ProcessTree | None":
        """Return a tree that can't be read, with its name, and why it can't."""
        row = self.only("pk", "name", "job_name").filter(pk=pk).first()
        if row is not None:  # else it was deleted meanwhile
            row.description, row.cache_enabled, row.executor = "", True, ""
            row.max_concurrent, row.run_tags = None, []
            row.one_at_a_time_per, row.limit_per_key, row.keep_runs = "", 1, ""
            row.reuse_worker = False
            row.set_alerts(tree_alerts.TreeAlerts())
            row.note_unreadable(error)
        return row

    def with_links(self) -> "ProcessTreeQuerySet":
        """Every tree with the trees that follow it, in one more query."""
        return self.prefetch_related("links_out")

    def what_runs(self) -> dict[str, list[str]]:
        """Return what runs trees automatically, by their names; three queries for any number."""
        scheduled = self.filter(schedule__enabled=True).values_list("name").distinct()
        fired = self.filter(subscriptions__enabled=True)
        followed = self.filter(links_in__isnull=False).order_by("links_in")
        found: dict[str, list[str]] = {}
        for (name,) in scheduled:
            found.setdefault(name, []).append("its schedule is on")
        for name, trigger in fired.order_by("subscriptions__trigger__name").values_list(
            "name", "subscriptions__trigger__name"
        ):
            found.setdefault(name, []).append(f"the trigger {trigger!r} fires it")
        for name, source in followed.values_list("name", "links_in__source__name"):
            found.setdefault(name, []).append(f"it follows the tree {source!r}")
        return found

    def bulk_create(self, objs: Iterable["ProcessTree"], *args: Any, **kwargs: Any) -> Any:
        """Save several trees, each with its job name."""
        trees, given = list(objs), set[str]()
        for tree in trees:
            if not tree.job_name:
                tree.job_name = self.unused_job_name(tree.name, given)
            given.add(tree.job_name)
        return super().bulk_create(trees, *args, **kwargs)

    def unused_job_name(self, name: str, taken: Container[str] = ()) -> str:
        """Return the job name for a new tree called ``name``.

        It depends on the name alone, unless a renamed tree still has that job name, or it is in
        ``taken``.
        """
        candidate, number = dagster_name(name), 1
        while candidate in taken or self.filter(job_name=candidate).exists():
            number += 1
            candidate = dagster_name(f"{name} ({number})")
        return candidate


class ProcessTree(HasSchedules):
    """A named DAG of processes; a job in Dagster."""

    name = models.CharField(_("name"), max_length=MAX_NAME_LENGTH, unique=True)
    job_name = models.CharField(
        _("job name"),
        max_length=MAX_NAME_LENGTH + 20,
        unique=True,
        editable=False,
        help_text=_("What Dagster calls it. Set once, so a renamed tree keeps its history."),
    )
    description = models.TextField(_("description"), blank=True)
    cache_enabled = models.BooleanField(_("cache enabled"), default=True)
    processes = RowField(
        _("processes"),
        default=list,
        help_text=_("The processes as JSON, each with a name, a func and dependencies."),
    )
    executor = models.CharField(
        _("executor"),
        max_length=MAX_NAME_LENGTH,
        blank=True,
        default="",
        help_text=_("threads, in_process, multiprocess, … Blank: what the settings say."),
    )
    max_concurrent = models.PositiveSmallIntegerField(
        _("max concurrent"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(tree_spec.MAX_CONCURRENT)],
        help_text=_("How many processes of a run may run at once. Blank: what the settings say."),
    )
    run_tags = RowField(
        _("tags of its runs"),
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text=_(
            "Keys of the context whose values are tags of its runs, as a JSON list: "
            '["organisation"].'
        ),
    )
    one_at_a_time_per = models.CharField(
        _("one at a time per"),
        max_length=MAX_NAME_LENGTH,
        blank=True,
        default="",
        db_default="",
        help_text=_(
            "A template over the context: of the runs for which it gives the same text, only so "
            "many go on at the same time: {organisation.pk}. Blank: there is no limit."
        ),
    )
    limit_per_key = models.PositiveSmallIntegerField(
        _("limit per key"),
        blank=True,
        default=1,
        db_default=1,
        validators=[MinValueValidator(1), MaxValueValidator(limits.MAX_LIMIT_PER_KEY)],
        help_text=_("How many runs with the same text go on at the same time."),
    )
    keep_runs = models.CharField(
        _("keep runs"),
        max_length=MAX_NAME_LENGTH,
        blank=True,
        default="",
        db_default="",
        help_text=_(
            "How long its runs stay in the history once they have ended: 90 days, 1 year, last "
            "500, or all. Blank: what the settings say."
        ),
    )
    reuse_worker = models.BooleanField(
        _("reuse worker"),
        default=False,
        db_default=False,
        help_text=_(
            "Whether the process of a run may execute further runs, which start sooner. What "
            "functions leave in it (variables of modules, open files) is there for the next run."
        ),
    )
    alert_on = RowField(
        _("alerts of"),
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text=_(
            'A JSON list of "failure", "third failure in a row", "recovered", "late", "too long", '
            '"no success"; or ["nothing"]. Blank: what the settings say.'
        ),
    )
    alert_to = RowField(
        _("alerts to"),
        default=list,
        db_default=models.Value([], models.JSONField()),
        blank=True,
        help_text=_(
            "A JSON list of mail addresses, and of names that the settings have. Blank: what the "
            "settings say."
        ),
    )
    expected_minutes = models.PositiveIntegerField(
        _("expected minutes"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(alert_settings.MOST_MINUTES)],
        help_text=_("How long a run takes at most: if one takes longer, there is an alert."),
    )
    success_within_minutes = models.PositiveIntegerField(
        _("success within minutes"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(alert_settings.MOST_MINUTES)],
        help_text=_("If no run succeeds for so long, there is an alert."),
    )
    saved_by_code = saved_by_code_field()
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    known_links: "Sequence[TreeLink] | None" = None
    """Its links to followers, if they were prefetched with many trees (``TreeLink.read_for``)."""

    known_subscriptions: "Sequence[TriggerSubscription] | None" = None
    """Its subscriptions to triggers, if they were prefetched in the same way."""

    objects = ProcessTreeQuerySet.as_manager()

    class Meta:
        verbose_name = _("process tree")
        verbose_name_plural = _("process trees")
        ordering = ["name"]
        permissions = [
            ("run_processtree", _("Can let process trees run, by hand or by themselves")),
            ("name_functions", _("Can name the functions that are called")),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, using: str | None = None, **kwargs: Any) -> None:
        """Save the row; a new one, and a copy (``pk = None``), gets its job name."""
        alias = using or router.db_for_write(ProcessTree, instance=self)
        trees = ProcessTree.objects.using(alias)
        is_copy = self.pk is None and trees.filter(job_name=self.job_name).exists()
        if not self.job_name or is_copy:
            self.job_name = trees.unused_job_name(self.name)
        if is_copy:
            self.saved_by_code = ""
        with writing(ProcessTree, alias):  # with what receivers record
            super().save(*args, using=using, **kwargs)

    def clean(self) -> None:
        """Refuse a tree that is not valid, with all of its problems."""
        super().clean()
        self.run_tags = [] if self.run_tags is None else self.run_tags  # a form left it empty
        self.limit_per_key = 1 if self.limit_per_key is None else self.limit_per_key
        self.alert_on, self.alert_to = self.alert_on or [], self.alert_to or []
        errors: dict[str, list[ValidationError]] = {}
        for problem in self.problems():
            errors.setdefault(_field_of(problem), []).append(ValidationError(problem))
        if errors:
            raise ValidationError(errors)

    def problems(self) -> list[str]:
        """Return a sentence for everything that is wrong with the tree.

        That includes functions, an executor and triggers that don't exist or are not allowed.
        """
        triggers: Any = apps.get_model("proctree_dagster", "Trigger")
        found: list[str] = triggers.objects.unknown_problems(self.content)
        known = alert_settings.names(conf.current().ALERTS)
        found += tree_alerts.unknown_recipients(self.alert_to, known)
        try:
            validate_tree(self.content)
        except InvalidTree as error:
            return [*error.problems, *found]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as JSON, as ``tree_spec.parse`` takes it; with its triggers, if any."""
        subscribed = self.known_subscriptions
        if subscribed is None:
            named = None if self.pk is None else self.subscriptions.with_names_of_triggers()
            subscribed = [] if named is None else readable(named)
        triggers = [subscription.to_dict() for subscription in subscribed]
        triggers.sort(key=operator.itemgetter("trigger"))
        return {**self.content, **({"triggers": triggers} if triggers else {})}

    @property
    def content(self) -> dict[str, Any]:
        """The tree as JSON, without the triggers that it subscribes to."""
        return {**self.own_content, **self.linked_trees()}

    @property
    def own_content(self) -> dict[str, Any]:
        """The tree's row as JSON, without its followers and triggers."""
        return {
            "name": self.name,
            "description": self.description,
            "cache_enabled": self.cache_enabled,
            "processes": self.processes,
            **tree_spec.executor_options(self.executor, self.max_concurrent),
            **tree_spec.run_tag_option(self.run_tags),
            **limits.limit_options(self.one_at_a_time_per, self.limit_per_key),
            **retention.tree_option(self.keep_runs),
            **tree_spec.reuse_option(self.reuse_worker),
            **self.alert_options,
        }

    @property
    def alert_options(self) -> dict[str, Any]:
        """Who gets which alerts of it, as JSON; what is empty is left out."""
        names = (*tree_alerts.LISTS, *tree_alerts.MINUTES)
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value not in ([], (), None)}

    def set_alerts(self, given: tree_alerts.TreeAlerts) -> None:
        """Set who gets which alerts of it, without saving it."""
        self.alert_on, self.alert_to = list(given.alert_on), list(given.alert_to)
        self.expected_minutes = given.expected_minutes
        self.success_within_minutes = given.success_within_minutes

    @property
    def digest(self) -> str:
        """A hash of ``own_content``."""
        return tree_spec.digest(self.own_content)

    @property
    def edited(self) -> list[str]:
        """What has drifted since the code saved it; empty if nothing has.

        ``tree``, ``schedule`` for the default one, ``schedule 'harbour-lane'`` for a named one.
        ``enabled`` of a schedule doesn't count, as it is an operator's switch. Drift of rows that
        the code has never saved is unknown.
        """
        rows: dict[str, Any] = {"tree": self}
        for schedule in self.all_schedules():
            rows["schedule" if schedule.is_default else f"schedule {schedule.name!r}"] = schedule
        return [what for what, row in rows.items() if row.saved_by_code not in ("", row.digest)]

    def linked_trees(self) -> dict[str, list[str]]:
        """Return the names of the trees that follow this one (see ``tree_spec.linked_trees``)."""
        if self.pk is None:
            return {}
        links = self.links_out.all() if self.known_links is None else self.known_links
        return tree_spec.linked_trees(
            [link.target.name for link in links if link.kind == LinkKind.DEPENDENT],
            [link.target.name for link in links if link.kind == LinkKind.SIBLING],
        )

    def what_runs_it(self) -> list[str]:
        """Return what runs the tree automatically, such as ``its schedule is on``."""
        return ProcessTree.objects.filter(pk=self.pk).what_runs().get(self.name, [])

    def unattended_problem(self) -> str | None:
        """Return why nothing can run the tree but the process that saved it, if that is so."""
        processes = unnameable({"processes": self.processes})
        if not processes:
            return None
        return (
            f"The process tree {self.name!r} can't run by itself: a function of "
            f"{', '.join(map(repr, processes))} can't be named, so no worker would find it. Move "
            "it to the top level of a module and save the tree again."
        )

    @property
    def context_schema(self) -> ContextSchema:
        """The schema of a run's context: what functions take, and the default schedule's keys."""
        return self.schema_on(self.default_context)

    def schema_on(self, base: Mapping[str, Any]) -> ContextSchema:
        """Return the schema of the context of a run that updates another one than the default."""
        return context_schema.of_tree(self.to_dict(), base)

    @property
    def revision(self) -> str:
        """A hash of the tree's content and of its schedule's default context."""
        return tree_spec.revision(self.to_dict(), self.default_context)


_PROBLEMS_OF = {
    "The tree must have a name": "name",
    "The tree's name": "name",
    "The tree's executor": "executor",
    "The tree's max_concurrent": "max_concurrent",
    "The tree's run_tags": "run_tags",
    "The tree's one_at_a_time_per": "one_at_a_time_per",
    "The tree's limit_per_key": "limit_per_key",
    "The tree's keep_runs": "keep_runs",
    "The tree's reuse_worker": "reuse_worker",
    **{f"The tree's {name}": name for name in (*tree_alerts.LISTS, *tree_alerts.MINUTES)},
}
"""The fields of problems that are not of the processes, by how the sentences begin."""


def _field_of(problem: str) -> str:
    """Return the field that a problem of a tree is about."""
    found = (field for begin, field in _PROBLEMS_OF.items() if problem.startswith(begin))
    return next(found, "processes")
