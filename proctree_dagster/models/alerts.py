"""What has happened, and the alerts of it (see ``services.events`` and ``services.alerts``)."""

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from ..domain.names import MAX_NAME_LENGTH
from .fields import RowField
from .primary import PrimaryManager, PrimaryModel
from .trees import ProcessTree


class EventCursor(PrimaryModel):
    """How far Dagster's events have been read: one row."""

    since = models.DateTimeField(
        "since", default=timezone.now, help_text="Nothing that happened before is read."
    )
    storage = models.CharField(
        "storage", max_length=100, blank=True, default="", help_text="Dagster's, by its id."
    )
    marks = RowField(
        "marks", default=list, help_text="The last positions, and when they were reached."
    )
    working_since = models.DateTimeField(
        "working since",
        null=True,
        blank=True,
        help_text="Since when a daemon looks without longer gaps.",
    )
    looked_at = models.DateTimeField(
        "looked at", null=True, blank=True, help_text="When a daemon looked last."
    )

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        verbose_name = "cursor of events"
        verbose_name_plural = "cursors of events"

    def __str__(self) -> str:
        return str(self.looked_at)


class Event(PrimaryModel):
    """Something that has happened, once; receivers of the signal of its kind get it."""

    kind = models.CharField("kind", max_length=30)
    subject = models.CharField(
        "subject",
        max_length=300,
        help_text="The run, the process of a run, or the due time of a schedule.",
    )
    tree = models.CharField("process tree", max_length=MAX_NAME_LENGTH)
    at = models.DateTimeField("at")
    data = RowField("data", default=dict)
    is_open = models.BooleanField(
        "open",
        default=False,
        db_default=False,
        help_text="Of a schedule that is late: whether it still is.",
    )
    attempts = models.PositiveSmallIntegerField("attempts", default=0)
    leased_until = models.DateTimeField("leased until", null=True, blank=True)
    sent_at = models.DateTimeField("sent at", null=True, blank=True)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        verbose_name = "event"
        verbose_name_plural = "events"
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["subject", "kind"], name="proctree_event_once")
        ]
        indexes = [models.Index(fields=["sent_at"], name="proctree_event_sent")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.subject}"


class AlertState(PrimaryModel):
    """How the runs of a tree go, for one customer of those in its runs' tags."""

    process_tree = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="alert_states",
        verbose_name="process tree",
    )
    customer = models.CharField("customer", max_length=MAX_NAME_LENGTH, blank=True, default="")
    failures = models.PositiveIntegerField("failures in a row", default=0)
    failing_since = models.DateTimeField("failing since", null=True, blank=True)
    succeeded_at = models.DateTimeField("last success", null=True, blank=True)
    updated_at = models.DateTimeField("updated at", auto_now=True)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        verbose_name = "state of a process tree"
        verbose_name_plural = "states of process trees"
        constraints = [
            models.UniqueConstraint(
                fields=["process_tree", "customer"], name="proctree_alert_state_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.process_tree_id} {self.customer}".rstrip()


class AlertDelivery(models.TextChoices):
    """The state of the delivery of an alert."""

    WAITING = "waiting", _("waiting")
    DELIVERED = "delivered", _("delivered")
    GIVEN_UP = "given up", _("given up")


class Alert(PrimaryModel):
    """A message of something that went wrong, or is well again, to one recipient."""

    kind = models.CharField(_("kind"), max_length=30)
    process_tree = models.ForeignKey(
        ProcessTree,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="alerts",
        verbose_name=_("process tree"),
    )
    tree = models.CharField(_("name of the tree"), max_length=MAX_NAME_LENGTH, blank=True)
    cause = models.CharField(
        _("cause"),
        max_length=300,
        help_text=_("What several events of the same kind have in common, such as a process."),
    )
    recipient = models.CharField(_("recipient"), max_length=320)
    facts = RowField(_("facts"), default=dict, help_text=_("What the message says, by its parts."))
    count = models.PositiveIntegerField(
        _("count"), default=1, help_text=_("How many events it stands for.")
    )
    first_at = models.DateTimeField(_("first event"))
    last_at = models.DateTimeField(_("last event"))
    state = models.CharField(
        _("delivery"),
        max_length=10,
        choices=AlertDelivery.choices,
        default=AlertDelivery.WAITING,
    )
    planned_at = models.DateTimeField(
        _("planned at"), help_text=_("When it was to be delivered: a storm of events waits.")
    )
    not_before = models.DateTimeField(
        _("not before"), help_text=_("When its delivery is tried, or tried again.")
    )
    attempts = models.PositiveIntegerField(
        _("attempts"), default=0, help_text=_("How often its delivery was begun.")
    )
    reason = models.TextField(
        _("reason"), blank=True, default="", help_text=_("Why it could not be delivered.")
    )
    delivered_at = models.DateTimeField(_("delivered at"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ("view", "delete")
        verbose_name = _("alert")
        verbose_name_plural = _("alerts")
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["state", "not_before"], name="proctree_alert_state"),
            models.Index(fields=["tree", "kind", "last_at"], name="proctree_alert_tree"),
        ]

    def __str__(self) -> str:
        return f"{self.tree}: {self.kind}"
