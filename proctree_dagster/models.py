"""What the database records: trees, schedules, triggers, and runs that wait to be made.

Models only record. Telling Dagster is ``execution``'s and ``webserver``'s business, claiming due
times is ``claims``', the life of a row of the outbox is ``outbox``'s, firing triggers ``firing``'s.
"""

import datetime as dt
import operator
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, router, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import conditions, families, intervals, questions, spec
from . import context as contexts
from .exceptions import ContextError, InvalidTree, ScheduleError
from .names import MAX_NAME_LENGTH, dagster_name
from .rules import MAX_INTERVAL, CronRule, IntervalRule, Rule
from .validation import validate_tree


class ProcessTreeQuerySet(models.QuerySet["ProcessTree"]):
    """The queries that the rest of the package asks."""

    def with_schedules(self) -> "ProcessTreeQuerySet":
        """Every tree with its schedule, in one query, in a stable order."""
        return self.select_related("schedule").order_by("job_name")

    def with_links(self) -> "ProcessTreeQuerySet":
        """Every tree with those that follow it, in one more query."""
        return self.prefetch_related("links_out")

    def unused_job_name(self, name: str) -> str:
        """Return the job name for a new tree called ``name``.

        It follows from the name alone, unless a renamed tree still holds that job name.
        """
        candidate, number = dagster_name(name), 1
        while self.filter(job_name=candidate).exists():
            number += 1
            candidate = dagster_name(f"{name} ({number})")
        return candidate


class ProcessTree(models.Model):
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
    processes = models.JSONField(
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
        validators=[MinValueValidator(1), MaxValueValidator(spec.MAX_CONCURRENT)],
        help_text=_("How many processes of a run may run at once. Blank: what the settings say."),
    )
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    known_links: "Sequence[TreeLink] | None" = None
    """The links to what follows it, if they were read with many trees (``TreeLink.read_for``)."""

    known_subscriptions: "Sequence[TriggerSubscription] | None" = None
    """Its subscriptions to triggers, if they were read like that."""

    objects = ProcessTreeQuerySet.as_manager()

    class Meta:
        verbose_name = _("process tree")
        verbose_name_plural = _("process trees")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row; a new one gets its job name."""
        if not self.job_name:
            self.job_name = ProcessTree.objects.unused_job_name(self.name)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a tree that is not valid, with all of its problems."""
        super().clean()
        found = Trigger.objects.unknown_problems(self.content)
        try:
            validate_tree(self.content)
        except InvalidTree as error:
            found = [*error.problems, *found]
        if found:
            raise ValidationError({"processes": [ValidationError(problem) for problem in found]})

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as JSON, as ``spec.parse`` takes it; with its triggers, if any."""
        subscribed = self.known_subscriptions
        if subscribed is None:
            subscribed = [] if self.pk is None else list(self.subscriptions.all())
        triggers = [subscription.to_dict() for subscription in subscribed]
        triggers.sort(key=operator.itemgetter("trigger"))
        return {**self.content, **({"triggers": triggers} if triggers else {})}

    @property
    def content(self) -> dict[str, Any]:
        """What the tree says by itself, as JSON: all but who fires it."""
        return {
            "name": self.name,
            "description": self.description,
            "cache_enabled": self.cache_enabled,
            "processes": self.processes,
            **spec.executor_options(self.executor, self.max_concurrent),
            **self.linked_trees(),
        }

    def linked_trees(self) -> dict[str, list[str]]:
        """Return the names of the trees that follow this one (see ``spec.linked_trees``)."""
        if self.pk is None:
            return {}
        links = self.links_out.all() if self.known_links is None else self.known_links
        return spec.linked_trees(
            [link.target.name for link in links if link.kind == LinkKind.DEPENDENT],
            [link.target.name for link in links if link.kind == LinkKind.SIBLING],
        )

    @property
    def default_context(self) -> dict[str, Any]:
        """The schedule's context as JSON; ``{}`` without a schedule."""
        schedule = self.schedule_or_none
        context = schedule.context if schedule is not None else {}
        return context if isinstance(context, dict) else {}  # SQL may have put anything there

    @property
    def schedule_or_none(self) -> "ProcessTreeSchedule | None":
        """The tree's schedule, if it has one."""
        try:
            return self.schedule
        except ProcessTreeSchedule.DoesNotExist:
            return None

    @property
    def revision(self) -> str:
        """A hash of the tree's content and of its schedule's default context."""
        return spec.revision(self.to_dict(), self.default_context)


class LinkKind(models.TextChoices):
    """How the target of a link follows its source."""

    DEPENDENT = "dependent", _("runs after it has succeeded")
    SIBLING = "sibling", _("runs at the same time")


class TreeLinkQuerySet(models.QuerySet["TreeLink"]):
    """Links; none of its ways to write them makes a circle."""

    def reachable_from(self, trees: Iterable[int]) -> list[families.Link]:
        """Return the links that lead on from some trees, and from where they lead, and so on.

        One query for each step away from them.

        Parameters
        ----------
        trees:
            Primary keys.
        """
        found: list[families.Link] = []
        seen: set[int] = set()
        ahead = set(trees)
        while ahead:
            seen |= ahead
            rows = self.filter(source_id__in=ahead).order_by("pk")
            links = [
                families.Link(source, target, "sibling" if kind == "sibling" else "dependent")
                for source, target, kind in rows.values_list("source_id", "target_id", "kind")
            ]
            found += links
            ahead = {link.target for link in links} - seen
        return found

    def circle_made_by(self, links: Iterable["TreeLink"]) -> str | None:
        """Say which circle of trees there would be with some links, saved or not; or ``None``."""
        given = list(links)
        others = self.exclude(pk__in=[link.pk for link in given if link.pk is not None])
        new = [families.Link(link.source_id, link.target_id, "dependent") for link in given]
        found = families.circle(new + others.reachable_from({link.target for link in new}))
        if found is None:
            return None
        trees = ProcessTree.objects.using(self.db).filter(pk__in=found)
        names = dict(trees.values_list("pk", "name"))
        path = " → ".join(repr(names.get(pk, pk)) for pk in found)
        return f"The trees would follow one another in a circle: {path}."

    def refuse_circles(self, links: Iterable["TreeLink"]) -> None:
        """Refuse links that would make a circle. To be called in the transaction that writes them.

        Whoever asks first keeps the others waiting until the end of that transaction, so two halves
        of a circle can't be written at the same time, each unseen by the other.

        Raises
        ------
        InvalidTree
            It names the circle.
        """
        given = list(links)
        # One row stands for all; an update locks it on every database, SQLite included.
        trees = ProcessTree.objects.using(self.db)
        lowest = trees.order_by("pk").values("pk")[:1]
        trees.filter(pk__in=lowest).update(cache_enabled=F("cache_enabled"))
        problem = self.circle_made_by(given)
        if problem is not None:
            raise InvalidTree(given[0].source.name, [problem])

    def bulk_create(self, objs: Iterable["TreeLink"], *args: Any, **kwargs: Any) -> Any:
        """Save several links; refuse those that make a circle."""
        links = list(objs)
        with transaction.atomic(using=self.db):
            self.refuse_circles(links)
            return super().bulk_create(links, *args, **kwargs)

    def update(self, **kwargs: Any) -> int:
        """Update rows, but not where a link leads.

        Raises
        ------
        TypeError
            It would change the ends of links.
        """
        if not {"source", "source_id", "target", "target_id"}.isdisjoint(kwargs):
            raise TypeError("The ends of a link can't be updated: delete it, and save another.")
        return super().update(**kwargs)


class TreeLinkManager(models.Manager.from_queryset(TreeLinkQuerySet)):  # type: ignore[misc]
    """Loads the target's name with each link: nearly everybody asks for it."""

    def get_queryset(self) -> TreeLinkQuerySet:
        """Return the links with their targets, without what those do."""
        links: TreeLinkQuerySet = super().get_queryset()
        return links.select_related("target").defer("target__processes", "target__description")


class TreeLink(models.Model):
    """One tree follows another."""

    source = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="links_out",
        verbose_name=_("process tree"),
    )
    target = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="links_in",
        verbose_name=_("tree that follows"),
    )
    kind = models.CharField(
        _("kind"), max_length=10, choices=LinkKind.choices, default=LinkKind.DEPENDENT
    )

    objects: TreeLinkManager = TreeLinkManager()

    class Meta:
        verbose_name = _("link between trees")
        verbose_name_plural = _("links between trees")
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["source", "target"],
                name="proctree_link_unique",
                violation_error_message=_("A tree follows another in one way only."),
            ),
            models.CheckConstraint(
                condition=~Q(source=F("target")),
                name="proctree_link_not_to_itself",
                violation_error_message=_("A tree can't follow itself."),
            ),
        ]

    def __str__(self) -> str:
        how = "after" if self.kind == LinkKind.DEPENDENT else "beside"
        return f"{self.target} {how} {self.source}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the link; refuse one that makes a circle (``InvalidTree``)."""
        using = kwargs.get("using") or router.db_for_write(TreeLink, instance=self)
        with transaction.atomic(using=using):
            TreeLink.objects.using(using).refuse_circles([self])
            super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a link that makes a circle, in a form."""
        super().clean()
        if self.source_id is None or self.target_id is None:
            return  # a field's problem, or a tree that is not saved yet: nothing leads to it
        problem = TreeLink.objects.circle_made_by([self])
        if problem is not None:
            raise ValidationError(problem)

    @staticmethod
    def read_for(trees: Iterable[ProcessTree]) -> None:
        """Let trees, most or all of them, know what follows them: one query without their keys."""
        by_source: dict[int, list[TreeLink]] = {}
        for link in TreeLink.objects.all():
            by_source.setdefault(link.source_id, []).append(link)
        for tree in trees:
            tree.known_links = by_source.get(tree.pk, [])


class ContextField(models.JSONField):
    """A context, stored as JSON; what JSON can't say is encoded (see ``context.encode``)."""

    def get_prep_value(self, value: Any) -> Any:
        """Encode model instances, dates, … on the way to the database."""
        return super().get_prep_value(contexts.encode(value) if isinstance(value, dict) else value)


def validate_timezone(value: str) -> None:
    """Refuse what is no IANA zone of this machine."""
    if value:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValidationError(
                _("%(zone)r is not an IANA time zone, such as 'Africa/Johannesburg'."),
                params={"zone": value},
            ) from error


class Clockwork(models.Model):
    """A row of which some fields are written behind an editor's back, from whatever process."""

    clockwork: ClassVar[frozenset[str]]
    """Those fields."""

    class Meta:
        abstract = True

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        """Load the row, and remember what the clock has written."""
        instance = super().from_db(*args, **kwargs)
        instance._remember_clockwork()
        return instance

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: models.QuerySet[Any] | None = None,
    ) -> None:
        """Load the row again, or some fields of it, and remember what the clock has written."""
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using, fields, from_queryset)
        self._remember_clockwork(fields)

    def fields_of_editor(self) -> set[str]:
        """Return what ``save()`` is to write: all but the clockwork not changed on this object.

        An edit that takes its time must not undo what was written meanwhile.
        """
        fields = {field.name for field in self._meta.concrete_fields if not field.primary_key}
        return fields - (self.clockwork - self._changed_clockwork()) - self.get_deferred_fields()

    def _remember_clockwork(self, fields: Iterable[str] | None = None) -> None:
        names = self.clockwork if fields is None else self.clockwork & set(fields)
        known = {name: self.__dict__[name] for name in names if name in self.__dict__}
        self._clockwork = {**getattr(self, "_clockwork", {}), **known}

    def _changed_clockwork(self) -> set[str]:
        before = getattr(self, "_clockwork", {})
        return {
            name
            for name in self.clockwork & self.__dict__.keys()
            if name not in before or before[name] != self.__dict__[name]
        }


WATCHED_AFTER = dt.timedelta(minutes=2)
"""How long a scheduled run may take before each minute's tick looks whether it still runs."""


class RunStatus(models.TextChoices):
    """What the last scheduled run has come to."""

    STARTED = "started", _("started")
    SUCCESS = "success", _("success")
    FAILURE = "failure", _("failure")
    CANCELED = "canceled", _("canceled")


class ProcessTreeSchedule(Clockwork):
    """When a tree runs by itself; a schedule in Dagster."""

    clockwork = frozenset(
        [
            *("last_run", "next_run", "anchor", "next_run_rule", "claim", "claimed_at"),
            *("last_due", "last_run_id", "last_run_status", "last_run_worker"),
            "stopped_in_dagster",
        ]
    )

    process_tree = models.OneToOneField(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="schedule",
        verbose_name=_("process tree"),
    )
    enabled = models.BooleanField(
        _("enabled"),
        default=True,
        help_text=_("A schedule that is not enabled skips its due times, and says so in Dagster."),
    )
    interval_minutes = models.PositiveIntegerField(
        _("interval in minutes"),
        default=60,
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_INTERVAL)],
        help_text=_("Minutes between two due times, from one to a year. Blank if there is a cron."),
    )
    cron = models.CharField(
        _("cron"),
        max_length=200,
        blank=True,
        default="",
        help_text=_("Instead of an interval: minute, hour, day, month, weekday: 0 9 * * 1-5."),
    )
    start_time = models.TimeField(
        _("start time"),
        default=dt.time(0, 0),
        help_text=_("Wall-clock time of a due time; seconds are dropped."),
    )
    timezone = models.CharField(
        _("time zone"),
        max_length=64,
        blank=True,
        default="",
        validators=[validate_timezone],
        help_text=_("IANA zone of the start time or the cron. Blank: Django's TIME_ZONE."),
    )
    allow_overlap = models.BooleanField(
        _("allow overlap"),
        default=False,
        help_text=_("Whether a scheduled run may start while the last one is still running."),
    )
    pass_scheduled_for = models.BooleanField(
        _("pass the due time"),
        default=False,
        help_text=_("Whether a scheduled run finds its due time in its context: scheduled_for."),
    )
    context = ContextField(
        _("context"),
        default=dict,
        blank=True,
        help_text=_("Default keyword arguments of a run, as JSON."),
    )
    last_run = models.DateTimeField(_("last run"), null=True, blank=True, editable=False)
    next_run = models.DateTimeField(
        _("next run"),
        null=True,
        blank=True,
        editable=False,  # a form that was opened before a due time would ask for it again
        help_text=_("The next due time. Blank: due now."),
    )
    anchor = models.DateTimeField(
        _("anchor"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The due time from which the others are counted."),
    )
    next_run_rule = models.CharField(
        _("rule of next run"),
        max_length=300,
        blank=True,
        default="",
        editable=False,
        help_text=_("The rule that set the next run; another rule sets it anew."),
    )
    claim = models.DateTimeField(
        _("claim"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The due time that is claimed and has no run yet."),
    )
    claimed_at = models.DateTimeField(_("claimed at"), null=True, blank=True, editable=False)
    last_run_id = models.CharField(
        _("last run's id"),
        max_length=64,
        blank=True,
        default="",
        editable=False,
        help_text=_("Id of the run that took the latest claim."),
    )
    last_due = models.DateTimeField(
        _("last due time"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The due time that the last run stands for."),
    )
    last_run_status = models.CharField(
        _("last run's status"),
        max_length=10,
        choices=RunStatus.choices,
        blank=True,
        default="",
        editable=False,
    )
    last_run_worker = models.CharField(
        _("last run's worker"),
        max_length=300,
        blank=True,
        default="",
        editable=False,
        help_text=_("The process that runs it: host, id and start time."),
    )
    stopped_in_dagster = models.BooleanField(
        _("stopped in Dagster"),
        default=False,
        editable=False,
        help_text=_("Whether Dagster's own switch of the schedule is off, when last looked at."),
    )

    class Meta:
        verbose_name = _("process tree schedule")
        verbose_name_plural = _("process tree schedules")
        ordering = ["process_tree__name"]
        indexes = [
            models.Index(fields=["enabled", "next_run"], name="proctree_schedule_due"),
        ]
        constraints = [
            models.CheckConstraint(
                # Both sides ask for null: SQL lets pass what it can't tell.
                condition=models.Q(
                    cron="",
                    interval_minutes__isnull=False,
                    interval_minutes__range=(1, MAX_INTERVAL),
                )
                | (~models.Q(cron="") & models.Q(interval_minutes__isnull=True)),
                name="proctree_schedule_interval_or_cron",
                violation_error_message=_(
                    "Give an interval from 1 minute to 525,600 (a year), or a cron; not both."
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.process_tree}: {self.rule_in_words}"

    def save(
        self,
        *args: Any,
        update_fields: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the row; a rule that has changed sets ``anchor`` and ``next_run`` anew.

        What the clock writes (``last_run``, ``next_run``, claims, …) is saved only where it was
        changed on this object: an edit that takes its time must not undo a claim made meanwhile.
        """
        self.context = contexts.encode(self.context)
        for field in self._meta.concrete_fields:
            if field.name in ("interval_minutes", "start_time"):  # Django takes strings, too
                setattr(self, field.name, field.to_python(getattr(self, field.name)))
        moved = self.align(timezone.now())
        if update_fields is not None:
            update_fields = {*update_fields, *moved}
        elif not self._state.adding and not (kwargs.get("force_insert") or args):
            update_fields = self.fields_of_editor() | set(moved)
        super().save(*args, update_fields=update_fields, **kwargs)
        self._remember_clockwork(update_fields)

    def clean(self) -> None:
        """Refuse a context that can't be stored, and a rule that makes no sense."""
        super().clean()
        problems = {}
        try:
            self.context = contexts.encode({} if self.context is None else self.context)
        except ContextError as error:
            problems["context"] = str(error)
        if self.cron:
            try:
                CronRule(self.cron, "UTC")
            except ScheduleError as error:
                problems["cron"] = str(error)
        if problems:
            raise ValidationError(problems)

    @property
    def rule(self) -> Rule:
        """When the schedule asks for runs.

        Raises
        ------
        ScheduleError
            It makes no sense.
        """
        zone = self.timezone or settings.TIME_ZONE
        if self.cron:
            return CronRule(self.cron, zone)
        if self.interval_minutes is None:
            raise ScheduleError("It has neither an interval nor a cron.")
        return IntervalRule(self.interval_minutes, self.start_time, zone)

    @property
    def rule_in_words(self) -> str:
        """When it asks for runs, also of a schedule whose rule makes no sense."""
        start, zone = str(self.start_time)[:5], self.timezone or settings.TIME_ZONE
        rule = f"at {self.cron}" if self.cron else f"every {self.interval_minutes} min from {start}"
        return f"{rule} in {zone}"

    @property
    def current_rule(self) -> str:
        """What ``next_run_rule`` says while it is up to date."""
        return f"{self.rule}{'' if self.enabled else ' (disabled)'}"

    def align(self, now: dt.datetime) -> list[str]:
        """Set ``anchor`` and ``next_run`` to the next due time if they follow another rule.

        That is so for a new schedule, and for one whose rule or ``enabled`` has changed, by
        whatever means: there is no backlog and no surprise run.

        Parameters
        ----------
        now:
            Aware.

        Returns
        -------
        list[str]
            The fields that were changed on this object; nothing is saved.
        """
        if self.next_run_rule == self.current_rule:
            return []
        before = self.next_run_rule.removesuffix(" (disabled)")
        if not before:
            self.anchor = intervals.first_due(self.rule, now)
            due = self.next_run or self.anchor  # a new row may say when it is due first
        elif before == str(self.rule) and self.anchor is not None:
            self.anchor = due = intervals.due_after(self.rule, self.anchor, now)
        else:
            self.anchor = due = intervals.restarted_due(self.rule, now)
        self.next_run = due
        self.next_run_rule = self.current_rule
        changed = ["anchor", "next_run", "next_run_rule"]
        if not self.enabled:
            # A claim that no run has taken is withdrawn: nothing starts while it is disabled.
            self.claim = self.claimed_at = None
            changed += ["claim", "claimed_at"]
        return changed

    def due_after(self, after: dt.datetime) -> dt.datetime:
        """Return the first due time after ``after`` (aware)."""
        anchor = self.anchor or intervals.first_due(self.rule, after)
        return intervals.due_after(self.rule, anchor, after)

    def due_times(self, first: dt.datetime, last: dt.datetime) -> int:
        """Return how many due times there are from the due time ``first`` to ``last`` (aware)."""
        return sum(1 for _ in intervals.due_times(self.rule, self.anchor or first, first, last))

    def needs_look(self, at: dt.datetime) -> bool:
        """Say whether a look at ``at`` (aware) could come to anything but "not due".

        Cheap: it lets one query rule out most schedules.
        """
        return (
            self.claim is not None
            or self.last_run_status == RunStatus.STARTED
            or self.next_run is None
            or self.next_run <= at
            or self.next_run_rule != self.current_rule
        )

    @property
    def held_back_by(self) -> str:
        """Who keeps the schedule from running: Django's ``enabled``, Dagster's switch, or both.

        Blank if nobody does. Dagster's switch stops the daemon's ticks only, and is known as it
        was when last looked at (see ``execution.look_at_switches``).
        """
        holders = [("Django", not self.enabled), ("Dagster", self.stopped_in_dagster)]
        return " and ".join(name for name, holds in holders if holds)

    def should_run(self) -> bool:
        """Say whether the schedule is due now."""
        return self.is_due(timezone.now())

    def is_due(self, at: dt.datetime) -> bool:
        """Say whether the schedule is due at ``at`` (aware): never "is this tick on the grid?"."""
        up_to_date = self.next_run_rule == self.current_rule
        return self.enabled and up_to_date and (self.next_run is None or self.next_run <= at)

    def update_next_run_time(self) -> dt.datetime:
        """Compute ``next_run`` from now, save it and return it."""
        now = timezone.now()
        if not self.align(now):
            self.next_run = self.due_after(now)
        self.save(update_fields=["anchor", "next_run", "next_run_rule"])
        return self.next_run  # type: ignore[return-value]  # set by either branch

    def cover(self, now: dt.datetime) -> tuple[list[str], str]:
        """Return the crons that Dagster ticks by, and their zone.

        A schedule that is overdue, has an open claim or a run that takes long ticks every minute
        until it is settled; one whose clock is about to change, until it has.
        """
        grace = dt.timedelta(seconds=30)  # a tick at the due time itself needs a moment
        overdue = self.next_run is None or self.next_run < now - grace
        # A run that takes its time: it may have died without a word.
        watched = (
            self.last_run_status == RunStatus.STARTED
            and self.last_run is not None
            and self.last_run < now - WATCHED_AFTER
        )
        unsettled = self.claim is not None or self.next_run_rule != self.current_rule
        if overdue or watched or unsettled or intervals.clock_changes(self.rule, now):
            return [intervals.EVERY_MINUTE], "UTC"
        return intervals.cron_cover(self.rule, self.anchor or now)


class OutboxState(models.TextChoices):
    """How far a run of the outbox has come."""

    WAITING = "waiting", _("waiting")
    DELIVERED = "delivered", _("delivered")
    STARTED = "started", _("started")
    DROPPED = "dropped", _("dropped")


class OutboxRun(models.Model):
    """A run that is to be made, with the id that it will have; see ``outbox``."""

    run_id = models.UUIDField(_("run id"), unique=True, default=uuid.uuid4)
    process_tree = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="outbox",
        verbose_name=_("process tree"),
    )
    context = ContextField(
        _("context"),
        default=dict,
        blank=True,
        help_text=_("Keyword arguments of the run; they update the schedule's default context."),
    )
    tags = models.JSONField(_("tags"), default=dict, blank=True)
    after = models.JSONField(
        _("after"),
        default=list,
        blank=True,
        help_text=_("Ids of the runs that must have succeeded first."),
    )
    state = models.CharField(
        _("state"), max_length=10, choices=OutboxState.choices, default=OutboxState.WAITING
    )
    reason = models.TextField(
        _("reason"),
        blank=True,
        default="",
        help_text=_("Why it could not be delivered yet, or why it was dropped."),
    )
    attempts = models.PositiveIntegerField(
        _("attempts"), default=0, help_text=_("How often its delivery was begun.")
    )
    launches = models.PositiveIntegerField(
        _("launches"), default=1, help_text=_("How many runs it took: one may fail to start.")
    )
    leased_until = models.DateTimeField(
        _("leased until"),
        null=True,
        blank=True,
        help_text=_("Until when nobody else tries to deliver it."),
    )
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    delivered_at = models.DateTimeField(_("delivered at"), null=True, blank=True)

    class Meta:
        verbose_name = _("run to be made")
        verbose_name_plural = _("runs to be made")
        ordering = ["pk"]  # those of a family are written in the order in which they run
        indexes = [models.Index(fields=["state", "created_at"], name="proctree_outbox_state")]

    def __str__(self) -> str:
        return f"{self.process_tree}: {self.run_id}"


class TriggerType(models.TextChoices):
    """What makes a trigger fire by itself, if anything does."""

    CONDITION = conditions.CONDITION, _("condition")
    SCHEDULE = conditions.SCHEDULE, _("schedule")
    EVENT = conditions.EVENT, _("event")
    CUSTOM = conditions.CUSTOM, _("custom")
    OUTDATED_CHECK = conditions.OUTDATED_CHECK, _("outdated check")


class TriggerState(models.TextChoices):
    """Whether a trigger has fired."""

    PENDING = "pending", _("pending")
    FIRED = "fired", _("fired")
    RESET = "reset", _("reset")


class TriggerQuerySet(models.QuerySet["Trigger"]):
    """The queries that the rest of the package asks."""

    def subscribed(self) -> "TriggerQuerySet":
        """Every trigger that a tree subscribes to, with the trees' names, in two queries."""
        subscriptions = TriggerSubscription.objects.with_names_of_trees()
        return (
            self.filter(subscriptions__isnull=False)
            .distinct()
            .prefetch_related(models.Prefetch("subscriptions", subscriptions))
        )

    def unknown_problems(
        self, tree: Mapping[str, Any], subscribed: Iterable[str] = ()
    ) -> list[str]:
        """Return a sentence for everything of a tree that names a trigger that does not exist.

        Parameters
        ----------
        tree:
            The tree as JSON; what is no tree is not this method's business.
        subscribed:
            Names of the triggers that it is to subscribe to.
        """
        processes = tree.get("processes")
        waiting = [
            (process.get("name"), process["trigger"])
            for process in (processes if isinstance(processes, (list, tuple)) else ())
            if isinstance(process, Mapping) and isinstance(process.get("trigger"), str)
        ]
        named = [(trigger, f"Process {name!r} waits for") for name, trigger in waiting]
        named += [(trigger, "The tree subscribes to") for trigger in subscribed]
        names = {trigger for trigger, _ in named}
        known = set(self.filter(name__in=names).values_list("name", flat=True)) if names else set()
        return [
            f"{what} the trigger {trigger!r}, which does not exist; make it first, with "
            "create_trigger()."
            for trigger, what in named
            if trigger not in known
        ]


class Trigger(Clockwork):
    """What trees and processes wait for; a sensor in Dagster if it can be polled."""

    clockwork = frozenset(
        [
            *("state", "check_count", "fire_count", "last_checked", "last_triggered"),
            *("anchor", "next_due", "next_due_rule"),
        ]
    )

    name = models.CharField(_("name"), max_length=MAX_NAME_LENGTH, unique=True)
    trigger_type = models.CharField(_("type"), max_length=20, choices=TriggerType.choices)
    description = models.TextField(_("description"), blank=True)
    enabled = models.BooleanField(
        _("enabled"),
        default=True,
        help_text=_("One that is not enabled does not fire, and lets no process run."),
    )
    state = models.CharField(
        _("state"),
        max_length=10,
        choices=TriggerState.choices,
        default=TriggerState.PENDING,
        editable=False,
    )
    configuration = ContextField(
        _("configuration"),
        default=dict,
        blank=True,
        help_text=_("What it asks, as JSON; see docs/triggers.md for each type."),
    )
    check_count = models.PositiveBigIntegerField(
        _("checks"), default=0, editable=False, help_text=_("How often it was asked.")
    )
    fire_count = models.PositiveBigIntegerField(
        _("fires"), default=0, editable=False, help_text=_("How often it has fired.")
    )
    last_checked = models.DateTimeField(
        _("last checked"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When it was last polled."),
    )
    last_triggered = models.DateTimeField(
        _("last triggered"), null=True, blank=True, editable=False
    )
    anchor = models.DateTimeField(
        _("anchor"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The due time from which the others are counted."),
    )
    next_due = models.DateTimeField(
        _("next due time"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When a schedule fires next."),
    )
    next_due_rule = models.CharField(
        _("rule of the next due time"),
        max_length=300,
        blank=True,
        default="",
        editable=False,
        help_text=_("The rule that set the next due time; another rule sets it anew."),
    )
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    objects = TriggerQuerySet.as_manager()

    class Meta:
        verbose_name = _("trigger")
        verbose_name_plural = _("triggers")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **kwargs: Any) -> None:
        """Save the row; a schedule whose rule has changed is next due by the new one.

        What polling writes (``state``, counters, times) is saved only where it was changed on this
        object.
        """
        if isinstance(self.configuration, dict):
            self.configuration = contexts.encode(self.configuration)
        moved = self.align(timezone.now())
        if update_fields is not None:
            update_fields = {*update_fields, *moved}
        elif not self._state.adding and not (kwargs.get("force_insert") or args):
            update_fields = self.fields_of_editor() | set(moved)
        super().save(*args, update_fields=update_fields, **kwargs)
        self._remember_clockwork(update_fields)

    def clean(self) -> None:
        """Refuse a configuration that makes no sense, with all of its problems."""
        super().clean()
        found = questions.problems(self.trigger_type, self.configuration)
        if found:
            raise ValidationError(
                {"configuration": [ValidationError(problem) for problem in found]}
            )

    @property
    def is_polled(self) -> bool:
        """Whether it can fire by itself."""
        return conditions.is_polled(self.trigger_type, self.configuration)

    @property
    def poll_seconds(self) -> int:
        """Seconds between two polls."""
        return conditions.poll_seconds(self.configuration)

    @property
    def rule(self) -> Rule:
        """When a schedule fires.

        Raises
        ------
        ScheduleError
            It is none, or makes no sense.
        """
        if self.trigger_type != TriggerType.SCHEDULE:
            raise ScheduleError(f"The trigger {self.name!r} is no schedule.")
        return conditions.schedule_rule(self.configuration, settings.TIME_ZONE)

    def align(self, now: dt.datetime) -> list[str]:
        """Set ``anchor`` and ``next_due`` to the next due time if they follow another rule.

        That is so for a new schedule, and for one whose rule or ``enabled`` has changed, by
        whatever means: there is no backlog and no surprise.

        Parameters
        ----------
        now:
            Aware.

        Returns
        -------
        list[str]
            The fields that were changed on this object; nothing is saved.
        """
        try:
            rule: Rule | None = self.rule
        except ScheduleError:  # no schedule, or one that makes no sense: its polls say so
            rule = None
        current = "" if rule is None else f"{rule}{'' if self.enabled else ' (disabled)'}"
        if self.next_due_rule == current:
            return []
        before = self.next_due_rule.removesuffix(" (disabled)")
        if rule is None:
            self.anchor = None
        elif not before:
            self.anchor = intervals.first_due(rule, now)
        elif before == str(rule) and self.anchor is not None:
            self.anchor = intervals.due_after(rule, self.anchor, now)
        else:
            self.anchor = intervals.restarted_due(rule, now)
        self.next_due, self.next_due_rule = self.anchor, current
        return ["anchor", "next_due", "next_due_rule"]

    def due_after(self, after: dt.datetime) -> dt.datetime:
        """Return a schedule's first due time after ``after`` (aware); see ``rule`` for errors."""
        rule = self.rule
        anchor = self.anchor or intervals.first_due(rule, after)
        return intervals.due_after(rule, anchor, after)


class TriggerSubscriptionQuerySet(models.QuerySet["TriggerSubscription"]):
    """The queries that the rest of the package asks."""

    def with_names_of_trees(self) -> "TriggerSubscriptionQuerySet":
        """Every subscription with its tree, but for what may be long: thousands may subscribe."""
        rows = self.select_related("process_tree")
        return rows.defer("process_tree__processes", "process_tree__description")


class TriggerSubscription(models.Model):
    """A tree that runs when a trigger fires."""

    trigger = models.ForeignKey(
        Trigger,
        on_delete=models.CASCADE,
        related_name="subscriptions",
        verbose_name=_("trigger"),
    )
    process_tree = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="subscriptions",
        verbose_name=_("process tree"),
    )
    context = ContextField(
        _("context"),
        default=dict,
        blank=True,
        help_text=_("Keyword arguments of its runs; they update the schedule's default context."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)

    objects = TriggerSubscriptionQuerySet.as_manager()

    class Meta:
        verbose_name = _("trigger subscription")
        verbose_name_plural = _("trigger subscriptions")
        ordering = ["trigger__name", "process_tree__name"]
        constraints = [
            models.UniqueConstraint(
                fields=["trigger", "process_tree"], name="proctree_subscription_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.process_tree}: {self.trigger}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row, its context as JSON."""
        if isinstance(self.context, dict):
            self.context = contexts.encode(self.context)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a context that can't be stored."""
        super().clean()
        try:
            self.context = contexts.encode({} if self.context is None else self.context)
        except ContextError as error:
            raise ValidationError({"context": str(error)}) from error

    @staticmethod
    def read_for(trees: Iterable[ProcessTree]) -> None:
        """Let trees, most or all of them, know their triggers: one query without their keys."""
        by_tree: dict[int, list[TriggerSubscription]] = {}
        for subscription in TriggerSubscription.objects.select_related("trigger"):
            by_tree.setdefault(subscription.process_tree_id, []).append(subscription)
        for tree in trees:
            tree.known_subscriptions = by_tree.get(tree.pk, [])

    def to_dict(self) -> dict[str, Any]:
        """Return the subscription as a part of its tree's JSON."""
        return {"trigger": self.trigger.name, **self.options()}

    def options(self) -> dict[str, Any]:
        """Return its context and ``enabled`` as JSON; defaults are left out."""
        return {
            **({"context": self.context} if self.context else {}),
            **({} if self.enabled else {"enabled": False}),
        }


class TriggerPassage(models.Model):
    """When a process that waits for a schedule last ran to its end; see ``firing.Gate``."""

    trigger = models.ForeignKey(Trigger, on_delete=models.CASCADE, related_name="passages")
    job_name = models.CharField(max_length=MAX_NAME_LENGTH + 20)
    process = models.CharField(max_length=MAX_NAME_LENGTH)
    passed_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["trigger", "job_name", "process"], name="proctree_passage_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.job_name}, {self.process}: {self.passed_at}"
