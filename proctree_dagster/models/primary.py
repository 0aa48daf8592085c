"""The rows of this app are read from the database that they are written to, never from a replica.

They decide what is written next: a claim, a state, a tree that is saved again. A replica that
Django's router reads from may lag, and nothing could be decided by it.
"""

from typing import Any, TypeVar

from django.db import models, router
from django.db.models.signals import class_prepared
from django.dispatch import receiver

Row = TypeVar("Row", bound=models.Model, covariant=True)


class PrimaryQuerySet(models.QuerySet[Row]):
    """A query of the database that its rows are written to."""

    @property
    def db(self) -> str:
        """The alias: that of ``using()``, or where Django's router writes the rows."""
        alias: str | None = self._db  # type: ignore[attr-defined]  # the stubs lack both
        return alias or router.db_for_write(self.model, **self._hints)  # type: ignore[attr-defined]


class PrimaryManager(models.Manager[Row]):
    """The manager of a model that needs no queries of its own."""

    def get_queryset(self) -> PrimaryQuerySet[Row]:
        """Return the rows."""
        hints = self._hints  # type: ignore[attr-defined]  # the stubs lack it
        return PrimaryQuerySet(self.model, using=self._db, hints=hints)


class PrimaryModel(models.Model):
    """A model whose ``objects`` are of a ``PrimaryQuerySet``; relations to it are read so, too."""

    class Meta:
        abstract = True


@receiver(class_prepared, dispatch_uid="proctree_dagster.models.primary")
def _read_relations_so(sender: type[models.Model], **kwargs: Any) -> None:
    """Let the manager by which Django follows a relation to the model be ``objects``.

    The model's ``Meta`` could say so: one migration of all of them, and a line in each to forget.
    """
    if issubclass(sender, PrimaryModel) and sender._meta.base_manager_name is None:
        sender._meta.base_manager_name = "objects"
