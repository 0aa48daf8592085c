"""The rows of this app are read from the database that they are written to, never from a replica.

They decide what is written next: a claim, a state, a tree that is saved again. A replica that
Django's router reads from may lag, and nothing could be decided by it.
"""

from typing import ClassVar, TypeVar

from django.db import models, router

Row = TypeVar("Row", bound=models.Model, covariant=True)


class PrimaryQuerySet(models.QuerySet[Row]):
    """A query of the database that its rows are written to."""

    @property
    def db(self) -> str:
        """The alias: that of ``using()``, or where Django's router writes the rows."""
        alias: str | None = self._db  # type: ignore[attr-defined]  # the stubs lack both
        return alias or router.db_for_write(self.model, **self._hints)  # type: ignore[attr-defined]


PrimaryManager = models.Manager.from_queryset(PrimaryQuerySet)


class PrimaryModel(models.Model):
    """A model whose rows, and the relations that lead to them, are read by ``PrimaryQuerySet``.

    Each has an ``objects`` of its own, by which a type checker knows its relations.
    """

    objects: ClassVar = PrimaryManager()

    class Meta:
        abstract = True
        base_manager_name = "objects"
