"""The workers of steps that run outside the run's process (see ``services.step_workers``)."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from .primary import PrimaryManager, PrimaryModel


class StepWorker(PrimaryModel):
    """An operating system's process that executes a step of a run, outside of the run's own."""

    run_id = models.CharField(_("run id"), max_length=36)
    step_key = models.CharField(_("step key"), max_length=255)
    attempt = models.PositiveIntegerField(
        _("attempt"), default=0, help_text=_("0 for the first, 1 for the first retry.")
    )
    worker = models.TextField(_("worker"), help_text=_("The process, as JSON."))
    beats = models.BigIntegerField(
        _("heartbeats"), default=0, help_text=_("How many there were: each changes it.")
    )
    started_at = models.DateTimeField(_("started at"), auto_now_add=True, db_index=True)
    ended_at = models.DateTimeField(_("ended at"), null=True, blank=True)

    objects = PrimaryManager()

    class Meta:
        verbose_name = _("step worker")
        verbose_name_plural = _("step workers")
        constraints = [
            models.UniqueConstraint(
                fields=["run_id", "step_key", "attempt"], name="proctree_step_taken_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.run_id}: {self.step_key}"
