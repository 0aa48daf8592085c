"""The outbox: runs that are to be created (see ``proctree_dagster.services.run_outbox``)."""

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..domain.names import MAX_NAME_LENGTH
from .backfills import Backfill
from .fields import ContextField, RowField
from .primary import PrimaryManager, PrimaryModel
from .schedules import ProcessTreeSchedule
from .trees import ProcessTree


class OutboxState(models.TextChoices):
    """The state of a run in the outbox."""

    WAITING = "waiting", _("waiting")
    DELIVERED = "delivered", _("delivered")
    STARTED = "started", _("started")
    DROPPED = "dropped", _("dropped")


class OutboxRun(PrimaryModel):
    """A run that is to be created, with its future id; see ``services.run_outbox``."""

    run_id = models.UUIDField(_("run id"), unique=True, default=uuid.uuid4)
    process_tree = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="outbox",
        verbose_name=_("process tree"),
    )
    schedule = models.ForeignKey(
        ProcessTreeSchedule,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        editable=False,
        related_name="outbox",
        verbose_name=_("schedule"),
        help_text=_("The schedule with a run for each row that has requested it."),
    )
    backfill = models.ForeignKey(
        Backfill,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="outbox",
        verbose_name=_("backfill"),
        help_text=_("The backfill that has requested it."),
    )
    context = ContextField(
        _("context"),
        default=dict,
        blank=True,
        help_text=_("Keyword arguments of the run; they update the schedule's default context."),
    )
    tags = RowField(_("tags"), default=dict, blank=True)
    family = models.CharField(
        _("family"),
        max_length=36,
        blank=True,
        default="",
        db_index=True,
        help_text=_("Id of the first run of those that it belongs to, as in its tags."),
    )
    after = RowField(
        _("after"),
        default=list,
        blank=True,
        help_text=_("Ids of the runs that must have succeeded first."),
    )
    run_after = models.DateTimeField(
        _("not before"),
        null=True,
        blank=True,
        help_text=_("The run is not made before this time. Blank: it is made at once."),
    )
    key = models.CharField(
        _("key"),
        max_length=MAX_NAME_LENGTH,
        blank=True,
        default="",
        db_default="",
        db_index=True,
        help_text=_("Of the runs with the same key at most one is unfinished at any time."),
    )
    key_held = models.CharField(
        _("key that it holds"),
        max_length=MAX_NAME_LENGTH,
        null=True,
        blank=True,
        unique=True,
        help_text=_("The key, from when its run is made until that and its retries have ended."),
    )
    replaces = models.BooleanField(
        _("replaces"),
        default=False,
        db_default=False,
        help_text=_("Whether it takes the place of the unfinished run with the same key."),
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

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("run to be made")
        verbose_name_plural = _("runs to be made")
        ordering = ["pk"]  # those of a family are written in the order in which they run
        indexes = [models.Index(fields=["state", "created_at"], name="proctree_outbox_state")]

    def __str__(self) -> str:
        return f"{self.process_tree}: {self.run_id}"
