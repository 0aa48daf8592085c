"""What the models share: fields, and rows that are written behind an editor's back."""

import datetime as dt
import logging
import zoneinfo
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, Self

from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS, models, router, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .. import context as contexts
from ..context import tagging
from ..support.connections import open_transactions

logger = logging.getLogger(__name__)


class RowField(models.JSONField):
    """JSON that somebody may have written in SQL: a row that can't be read keeps no other from it.

    To Django and its migrations it is a ``JSONField``.
    """

    def from_db_value(self, value: Any, *args: Any) -> Any:
        """Return the text itself where Python can't read it: no valid value, and its own only."""
        try:
            return super().from_db_value(value, *args)
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
            logger.warning("The JSON of a row (%s) can't be read: %s", self, error)
            return value

    def deconstruct(self) -> Any:
        """Return what migrations write down."""
        name, path, args, kwargs = super().deconstruct()
        written = "django.db.models.JSONField" if type(self) is RowField else path
        return name, written, args, kwargs


class ContextField(RowField):
    """A context, stored as JSON; what JSON can't say is encoded (see ``context.encode``)."""

    def get_prep_value(self, value: Any) -> Any:
        """Encode model instances, dates, … on the way to the database."""
        return super().get_prep_value(contexts.encode(value) if isinstance(value, dict) else value)


def saved_by_code_field() -> "models.CharField[str, str]":
    """Return the column that notes what the code saved last, so that a later edit is seen."""
    return models.CharField(
        _("as the code saved it"),
        max_length=32,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text=_("A hash of what the code saved last. Blank: nothing by this release."),
    )


def validate_tags(value: Any) -> None:
    """Refuse what is no tags of a run (see ``tagging``)."""
    found = tagging.problems(value)
    if found:
        raise ValidationError([ValidationError(each) for each in found])


class TagsField(RowField):
    """Tags of runs, a text by each name. None by default, also to SQL that knows no such column.

    So a release that does not know the column yet can write rows, too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        none = models.Value({}, models.JSONField())
        defaults = {"default": dict, "db_default": none, "blank": True}
        super().__init__(*args, **{**defaults, "validators": [validate_tags], **kwargs})

    def deconstruct(self) -> Any:
        """Return what migrations write down: the checks are not the database's."""
        name, _, args, kwargs = super().deconstruct()
        kwargs.pop("validators", None)
        return name, "django.db.models.JSONField", args, kwargs


def validate_timezone(value: str) -> None:
    """Refuse what is no IANA zone of this machine."""
    if value:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValidationError(
                _("%(zone)r is not an IANA time zone, such as 'Africa/Johannesburg'."),
                params={"zone": value},
            ) from error


class Clockwork(models.Model):
    """A row of which some fields are written behind an editor's back, from whatever process."""

    clockwork: ClassVar[frozenset[str]]
    """Those fields."""

    class Meta:
        abstract = True

    def save(
        self,
        *args: Any,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save what an editor writes, and of the clockwork what was changed on this object.

        A row that is not there (it was rolled back, or is to be written to another database) is
        written as a whole. A copy (``pk = None``) begins with a clockwork of its own.
        """
        if self.pk is None:
            self._begin_clockwork()
        moved = self.align(timezone.now())
        if update_fields is not None:
            update_fields = {*update_fields, *moved}
        elif not (kwargs.get("force_insert") or args) and self._is_there(using):
            update_fields = self.fields_of_editor() | set(moved)
        super().save(*args, using=using, update_fields=update_fields, **kwargs)
        self._remember_once_committed(update_fields, self._state.db or DEFAULT_DB_ALIAS)

    def _is_there(self, using: str | None = None) -> bool:
        """Return whether there is a row to update; asked by a write, which locks it, too."""
        if self._state.adding or self.pk is None:
            return False
        alias = using or router.db_for_write(type(self), instance=self)
        rows = type(self)._base_manager.using(alias).filter(pk=self.pk)
        some = next(iter(self.clockwork))
        return bool(rows.update(**{some: F(some)}))

    def _begin_clockwork(self) -> None:
        """Forget what the clock has written for the row that this object was a copy of."""
        for field in self._meta.concrete_fields:
            if field.name in self.clockwork - self._changed() - self.get_deferred_fields():
                setattr(self, field.name, field.get_default())

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        """Load the row, and remember it."""
        instance = super().from_db(*args, **kwargs)
        instance._remember()
        return instance

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: models.QuerySet[Any] | None = None,
    ) -> None:
        """Load the row again, or some fields of it, and remember it."""
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using, fields, from_queryset)
        self._remember(fields)

    def align(self, now: dt.datetime) -> list[str]:
        """Set the next due time anew if its rule has changed; return the fields that changed.

        Parameters
        ----------
        now:
            Aware.
        """
        raise NotImplementedError

    def fields_of_editor(self) -> set[str]:
        """Return what ``save()`` is to write: all but the clockwork not changed on this object.

        An edit that takes its time must not undo what was written meanwhile.
        """
        fields = {field.name for field in self._meta.concrete_fields if not field.primary_key}
        return fields - (self.clockwork - self._changed()) - self.get_deferred_fields()

    def _remember(self, fields: Iterable[str] | None = None) -> None:
        """Remember what the database says of these fields; of all that are loaded if left out."""
        self._stored = {**getattr(self, "_stored", {}), **self._values(fields)}

    def _remember_once_committed(self, fields: Iterable[str] | None, alias: str) -> None:
        """Remember what was written, unless it is rolled back."""
        written = self._values(fields)

        def remember() -> None:
            self._stored = {**getattr(self, "_stored", {}), **written}

        if alias in open_transactions():
            transaction.on_commit(remember, using=alias)
        else:
            remember()

    def _values(self, fields: Iterable[str] | None) -> dict[str, Any]:
        names = _names(type(self))
        if fields is not None:
            names = names & set(fields)
        loaded = self.__dict__
        return {name: loaded[name] for name in names if name in loaded}

    def _changed(self) -> set[str]:
        """Return the fields that were set on this object to something else than is stored."""
        stored = getattr(self, "_stored", {})
        values = self._values(None)
        return {
            name for name, value in values.items() if name not in stored or stored[name] != value
        }


@cache
def _names(model: type[Clockwork]) -> frozenset[str]:
    """Return the names of a model's columns, without the key's."""
    fields = model._meta.concrete_fields
    return frozenset(field.attname for field in fields if not field.primary_key)
