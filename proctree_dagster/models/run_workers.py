"""The worker of each run (see ``proctree_dagster.services.run_workers``)."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from .primary import PrimaryManager, PrimaryModel


class RunWorker(PrimaryModel):
    """The process that has taken a run and executes it, with its last sign of life.

    Every time in it is the database's, so the clocks of several machines are never compared.
    """

    run_id = models.CharField(
        _("run id"),
        max_length=36,
        unique=True,
        help_text=_("One row for each run: the worker that inserts it has taken the run."),
    )
    host = models.CharField(_("host"), max_length=255, blank=True)
    boot_id = models.CharField(_("boot id"), max_length=255, blank=True)
    pid_namespace = models.CharField(_("PID namespace"), max_length=64, blank=True)
    pid = models.BigIntegerField(_("process id"), default=0)
    process_started = models.CharField(
        _("process started"), max_length=64, blank=True, help_text=_("In ticks since the boot.")
    )
    is_dedicated = models.BooleanField(
        _("dedicated"),
        default=True,
        help_text=_("Whether the process exists for this run only, so that it may be killed."),
    )
    taken_at = models.DateTimeField(_("taken at"))
    beat_at = models.DateTimeField(_("last heartbeat"))
    beats = models.BigIntegerField(
        _("heartbeats"), default=0, help_text=_("How many there were: each changes it.")
    )
    suspected_at = models.DateTimeField(
        _("suspected at"),
        null=True,
        blank=True,
        help_text=_("When heartbeats were found to be missing; the next one clears it."),
    )
    cancel_requested_at = models.DateTimeField(_("cancel requested at"), null=True, blank=True)
    ended_at = models.DateTimeField(
        _("ended at"),
        null=True,
        blank=True,
        db_index=True,
        help_text=_("When the process ended, or was given up as lost."),
    )

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("run worker")
        verbose_name_plural = _("run workers")

    def __str__(self) -> str:
        return f"{self.run_id}: process {self.pid} on {self.host!r}"
