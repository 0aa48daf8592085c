"""What trees and processes wait for."""

import datetime as dt
from collections.abc import Container, Iterable, Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models, router
from django.utils.translation import gettext_lazy as _

from .. import context as contexts
from ..domain import names, trigger_configurations
from ..domain.names import MAX_NAME_LENGTH
from ..domain.rule_clocks import RuleClock
from ..domain.schedule_rules import Rule
from ..exceptions import ContextError, ScheduleError, TriggerError
from ..support.connections import writing
from ..support.row_reading import readable
from .fields import ClockFieldsModel, ContextField, TagsField
from .primary import PrimaryManager, PrimaryModel, PrimaryQuerySet
from .trees import ProcessTree
from .validation import trigger_validation


class TriggerType(models.TextChoices):
    """The types of triggers: what makes one fire."""

    CONDITION = trigger_configurations.CONDITION, _("condition")
    SCHEDULE = trigger_configurations.SCHEDULE, _("schedule")
    EVENT = trigger_configurations.EVENT, _("event")
    CUSTOM = trigger_configurations.CUSTOM, _("custom")
    OUTDATED_CHECK = trigger_configurations.OUTDATED_CHECK, _("outdated check")


class TriggerState(models.TextChoices):
    """Whether a trigger has fired."""

    PENDING = "pending", _("pending")
    FIRED = "fired", _("fired")
    RESET = "reset", _("reset")


class TriggerQuerySet(PrimaryQuerySet["Trigger"]):
    """Queries of triggers and subscriptions."""

    def subscribed(self) -> "TriggerQuerySet":
        """Every trigger that a tree subscribes to, with the trees' names, in two queries."""
        subscriptions = TriggerSubscription.objects.with_names_of_trees()
        return (
            self.filter(subscriptions__isnull=False)
            .distinct()
            .prefetch_related(models.Prefetch("subscriptions", subscriptions.defer("context")))
        )

    def unknown_problems(
        self, tree: Mapping[str, Any], subscribed: Iterable[str] = (), made: Container[str] = ()
    ) -> list[str]:
        """Return a sentence for each reference of a tree to a trigger that does not exist.

        Parameters
        ----------
        tree:
            The tree as JSON; an invalid one is not reported here.
        subscribed:
            Names of the triggers that it will subscribe to.
        made:
            Names of triggers that are going to be there.
        """
        processes = tree.get("processes")
        waiting = [
            (process.get("name"), process["trigger"])
            for process in (processes if isinstance(processes, (list, tuple)) else ())
            if isinstance(process, Mapping) and isinstance(process.get("trigger"), str)
        ]
        named = [(trigger, f"Process {name!r} waits for") for name, trigger in waiting]
        named += [(trigger, "The tree subscribes to") for trigger in subscribed]
        wanted = {trigger for trigger, _ in named}
        rows = self.filter(name__in=wanted)
        known = set(rows.values_list("name", flat=True)) if wanted else set()
        return [
            f"{what} the trigger {trigger!r}, which does not exist; make it first, with "
            "create_trigger()."
            for trigger, what in named
            if trigger not in known and trigger not in made
        ]


class Trigger(ClockFieldsModel):
    """A trigger, which trees and processes wait for; a sensor in Dagster if it can be polled."""

    clock_fields = frozenset(
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
        help_text=_("A disabled trigger does not fire, and processes that wait for it do not run."),
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
        help_text=_(
            "What makes it fire, as JSON. event: nothing; condition: field or model and filter, "
            "operator, value; schedule: interval_minutes and start_time, or cron; custom: "
            "function; outdated_check: model, date_field, max_age_minutes."
        ),
    )
    check_count = models.PositiveBigIntegerField(
        _("checks"), default=0, editable=False, help_text=_("How often it was checked.")
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
        permissions = [("fire_trigger", _("Can fire triggers, and say when they fire"))]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row; a changed rule recomputes the next due time.

        Clock fields (``state``, counters, times) are saved only where they were changed on this
        object.
        """
        if isinstance(self.configuration, dict):
            self.configuration = contexts.encode(self.configuration)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse an invalid name or configuration, with all of its problems."""
        super().clean()
        if self.configuration is None:  # a form's field that was left empty
            self.configuration = {}
        found = {
            "name": names.strict_problems("The trigger", self.name),
            "configuration": trigger_validation.problems(self.trigger_type, self.configuration),
        }
        errors = {field: list(map(ValidationError, each)) for field, each in found.items()}
        errors = {field: each for field, each in errors.items() if each}
        if errors:
            raise ValidationError(errors)

    def require_valid(self) -> None:
        """Refuse it if it is not valid.

        Raises
        ------
        TriggerError
            With every problem.
        """
        try:
            # The field would refuse values that ``clean()`` encodes: a date, a Decimal, …
            # ``clean()`` has better messages on names than the field.
            self.full_clean(exclude={"configuration", "name"}, validate_unique=False)
        except ValidationError as error:
            problems = [
                message if field in ("configuration", "name") else f"{field}: {message}"
                for field, messages in error.message_dict.items()
                for message in messages
            ]
            lines = "".join(f"\n  - {problem}" for problem in problems)
            message = f"The trigger {self.name!r} is not valid:{lines}"
            raise TriggerError(message, problems) from error

    @property
    def is_polled(self) -> bool:
        """Whether it can fire by itself."""
        return trigger_configurations.is_polled(self.trigger_type, self.configuration)

    @property
    def poll_seconds(self) -> int:
        """Seconds between two polls."""
        return trigger_configurations.poll_seconds(self.configuration)

    @property
    def rule(self) -> Rule:
        """The rule of a ``schedule`` trigger.

        Raises
        ------
        ScheduleError
            It is of another type, or its configuration is invalid.
        """
        if self.trigger_type != TriggerType.SCHEDULE:
            raise ScheduleError(f"The trigger {self.name!r} is no schedule.")
        return trigger_configurations.schedule_rule(self.configuration, settings.TIME_ZONE)

    def align(self, now: dt.datetime) -> list[str]:
        """Set ``anchor`` and ``next_due`` to the next due time if the rule has changed.

        So it does for a new schedule, and after a change of the rule or of ``enabled`` by any
        means, SQL included: there is no backlog and no surprise.

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
        except ScheduleError:  # no schedule, or an invalid one: its polls report that
            rule = None
        clock = None if rule is None else self._clock(rule)
        label = "" if clock is None else clock.label
        if self.next_due_rule == label:
            return []
        self.anchor = self.next_due = None if clock is None else clock.new_anchor(now)
        self.next_due_rule = label
        return ["anchor", "next_due", "next_due_rule"]

    def due_after(self, after: dt.datetime) -> dt.datetime:
        """Return a schedule's first due time after ``after`` (aware); see ``rule`` for errors."""
        return self._clock(self.rule).due_after(after)

    def _clock(self, rule: Rule) -> RuleClock:
        return RuleClock(rule, self.enabled, self.next_due_rule, self.anchor)


_OF_SUBSCRIPTION = ("trigger", "process_tree", "context", "tags", "enabled")


class TriggerSubscriptionQuerySet(PrimaryQuerySet["TriggerSubscription"]):
    """Queries of triggers and subscriptions."""

    def with_names_of_trees(self) -> "TriggerSubscriptionQuerySet":
        """Every subscription with its tree's name, in one query: thousands may subscribe."""
        rows = self.select_related("process_tree")
        return rows.only(*_OF_SUBSCRIPTION, "process_tree__name", "process_tree__job_name")

    def with_names_of_triggers(self) -> "TriggerSubscriptionQuerySet":
        """Every subscription with its trigger's name only, as a tree's JSON needs no more of it."""
        return self.select_related("trigger").only(*_OF_SUBSCRIPTION, "trigger__name")


class TriggerSubscription(PrimaryModel):
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
    tags = TagsField(_("tags"), help_text=_("Tags of its runs, as JSON: a text by each name."))
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
        using = kwargs.get("using") or router.db_for_write(TriggerSubscription, instance=self)
        with writing(TriggerSubscription, using):  # with what receivers record
            super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a context that can't be stored."""
        super().clean()
        self.tags = {} if self.tags is None else self.tags  # a form left it empty
        try:
            self.context = contexts.encode({} if self.context is None else self.context)
        except ContextError as error:
            raise ValidationError({"context": str(error)}) from error
        problem = self.enabling_problem()
        if problem is not None:
            raise ValidationError({"enabled": problem})

    def enabling_problem(self) -> str | None:
        """Return why an enabled subscription can't run its tree; ``None`` if it can."""
        if not self.enabled or self.process_tree_id is None:
            return None
        return self.process_tree.unattended_problem()

    @staticmethod
    def read_for(trees: Iterable[ProcessTree]) -> None:
        """Prefetch the subscriptions of most or all trees: one query that lists no keys."""
        by_tree: dict[int, list[TriggerSubscription]] = {}
        for subscription in readable(TriggerSubscription.objects.with_names_of_triggers()):
            by_tree.setdefault(subscription.process_tree_id, []).append(subscription)
        for tree in trees:
            tree.known_subscriptions = by_tree.get(tree.pk, [])

    def to_dict(self) -> dict[str, Any]:
        """Return the subscription as a part of its tree's JSON."""
        return {"trigger": self.trigger.name, **self.options()}

    def options(self) -> dict[str, Any]:
        """Return its context, tags and ``enabled`` as JSON; defaults are left out."""
        return {
            **({"context": self.context} if self.context else {}),
            **({"tags": self.tags} if self.tags else {}),
            **({} if self.enabled else {"enabled": False}),
        }


class TriggerPassage(PrimaryModel):
    """When a process that waits for a schedule last completed; see ``process_gate.Gate``."""

    trigger = models.ForeignKey(Trigger, on_delete=models.CASCADE, related_name="passages")
    job_name = models.CharField(max_length=MAX_NAME_LENGTH + 20)
    process = models.CharField(max_length=MAX_NAME_LENGTH)
    passed_at = models.DateTimeField()

    objects = PrimaryManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["trigger", "job_name", "process"], name="proctree_passage_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.job_name}, {self.process}: {self.passed_at}"
