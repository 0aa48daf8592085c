"""What people did in Dagster's UI."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from .primary import PrimaryManager, PrimaryModel


class DagsterAction(PrimaryModel):
    """Something that a user has changed, or tried to change, through Dagster's UI (see ``web``)."""

    # No foreign key: a row outlives its user, and a project may have no model of users.
    user_id = models.CharField(_("user id"), max_length=255, blank=True)
    username = models.CharField(_("user"), max_length=255)
    action = models.CharField(
        _("action"), max_length=100, help_text=_("The mutation of Dagster's GraphQL API.")
    )
    target = models.TextField(
        _("target"), blank=True, help_text=_("The job, run, schedule or sensor that it names.")
    )
    run_ids = models.JSONField(
        _("runs"), default=list, blank=True, help_text=_("Ids of the runs that it has launched.")
    )
    allowed = models.BooleanField(_("allowed"))
    address = models.CharField(_("address"), max_length=45, blank=True)
    created_at = models.DateTimeField(_("at"), auto_now_add=True, db_index=True)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ("view", "delete")
        permissions = [
            ("view_dagster", _("Can see Dagster's UI")),
            ("operate_dagster", _("Can launch and cancel runs in Dagster's UI, and set schedules")),
            ("administer_dagster", _("Can delete, reload and set limits in Dagster's UI")),
        ]
        ordering = ["-created_at", "-pk"]
        verbose_name = _("record of an action in Dagster")
        verbose_name_plural = _("record of actions in Dagster")

    def __str__(self) -> str:
        return f"{self.username}: {self.action} {self.target}".rstrip()
