"""Models without tables: pages of the admin that show what is not in Django's database.

Django makes their permissions, and lists them in the admin's index.
"""

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _


class NoRows(models.Manager[Any]):
    """Finds nothing and asks no database: what queries every model (``dumpdata``) passes by."""

    def get_queryset(self) -> models.QuerySet[Any]:
        """Return no rows."""
        return super().get_queryset().none()


class Run(models.Model):
    """A run of a tree, recorded by Dagster (see ``orchestration.runs.history``)."""

    run_id = models.CharField(_("run"), max_length=36, primary_key=True)

    objects = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ("view",)
        permissions = [
            ("cancel_run", _("Can cancel runs")),
            ("retry_run", _("Can repeat runs")),
        ]
        verbose_name = _("run")
        verbose_name_plural = _("runs")

    def __str__(self) -> str:
        return self.run_id


class Overview(models.Model):
    """The page that operators open first."""

    objects = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ()
        # Translators: Django's admin sorts pages by these names; choose one that comes first.
        verbose_name = _("overview")
        verbose_name_plural = _("overview")

    def __str__(self) -> str:
        return str(self._meta.verbose_name)
