"""The content of each revision that a tree has had."""

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..domain.names import MAX_NAME_LENGTH
from .fields import RowField
from .primary import PrimaryModel, PrimaryQuerySet


class Origin(models.TextChoices):
    """What has saved a revision."""

    CODE = "code", _("a sync with the code")
    ADMIN = "admin", _("the admin")
    SCRIPT = "script", _("a script or a command")
    SEEN = "seen", _("unknown: first seen when it ran, or by a sync")


class Unchanging(PrimaryQuerySet[Any]):
    """Queries of rows that never change."""

    def update(self, **kwargs: Any) -> int:
        """Refuse to change any.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError("A revision can't be changed: it is what a tree was.")


class TreeRevision(PrimaryModel):
    """What a tree was, by the hash that the tags of its runs name."""

    # No foreign key: old runs need it after their tree was deleted, too.
    job_name = models.CharField(
        _("job name"), max_length=MAX_NAME_LENGTH + 20, help_text=_("The job of the tree.")
    )
    revision = models.CharField(
        _("revision"), max_length=64, help_text=_("The hash of its content.")
    )
    tree = RowField(_("tree"), help_text=_("The tree as JSON, with its triggers."))
    context = RowField(
        _("context"), default=dict, help_text=_("The default context that it had, as JSON.")
    )

    objects = Unchanging.as_manager()

    class Meta:
        default_permissions = ()
        verbose_name = _("revision")
        verbose_name_plural = _("revisions")
        constraints = [
            models.UniqueConstraint(fields=["job_name", "revision"], name="proctree_revision_once")
        ]

    def __str__(self) -> str:
        return f"{self.job_name}: {self.revision}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save a new one; see ``Unchanging.update``."""
        if not self._state.adding:
            raise TypeError("A revision can't be changed: it is what a tree was.")
        super().save(*args, **kwargs)


class TreeChange(PrimaryModel):
    """From when on a tree has had a revision, and who saved it. The latest one is the present."""

    job_name = models.CharField(_("job name"), max_length=MAX_NAME_LENGTH + 20)
    revision = models.CharField(_("revision"), max_length=64)
    at = models.DateTimeField(_("at"))
    origin = models.CharField(_("saved by"), max_length=10, choices=Origin.choices)
    who = models.CharField(_("user"), max_length=255, blank=True)

    objects = Unchanging.as_manager()

    class Meta:
        default_permissions = ()
        verbose_name = _("change of a process tree")
        verbose_name_plural = _("changes of process trees")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["job_name", "-id"], name="proctree_change_latest")]

    def __str__(self) -> str:
        return f"{self.job_name}: {self.revision}, {self.at}"
