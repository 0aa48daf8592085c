"""What the models share: fields, and the base of rows that an editor and the clock both write."""

import copy
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
from ..support.connections import open_transactions, writing
from .primary import PrimaryModel

logger = logging.getLogger(__name__)


MAX_DEPTH = 100
"""Deepest JSON that is read, in levels: what shows or checks it needs some frames for each."""


class RowField(models.JSONField):
    """A ``JSONField`` whose invalid values, written in SQL, don't make other rows unreadable.

    To Django and its migrations it is a ``JSONField``.
    """

    def from_db_value(self, value: Any, *args: Any) -> Any:
        """Return the parsed JSON, or the text itself where it can't be parsed or is too deep."""
        try:
            found = super().from_db_value(value, *args)
            if is_deeper(found, value):
                raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
            logger.warning("The JSON of a row (%s) can't be read: %s", self, error)
            return value
        else:
            return found

    def deconstruct(self) -> Any:
        """Return what migrations record: a plain ``JSONField``."""
        name, path, args, kwargs = super().deconstruct()
        written = "django.db.models.JSONField" if type(self) is RowField else path
        return name, written, args, kwargs


def is_deeper(value: Any, text: Any) -> bool:
    """Return whether JSON is nested deeper than ``MAX_DEPTH``.

    Python 3.14 parses it however deep; 3.11 does not.

    Parameters
    ----------
    value:
        What was parsed.
    text:
        What it was parsed from; with few brackets it is not walked through.
    """
    if not isinstance(text, str) or text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    level: list[Any] = [value]
    for _level in range(MAX_DEPTH + 1):
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return False
        level = [part for each in level for part in _parts(each)]
    return True


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


class ContextField(RowField):
    """A context as JSON; values that JSON lacks are encoded (see ``context.encode``)."""

    def get_prep_value(self, value: Any) -> Any:
        """Encode model instances, dates, … on the way to the database."""
        return super().get_prep_value(contexts.encode(value) if isinstance(value, dict) else value)


def saved_by_code_field() -> "models.CharField[str, str]":
    """Return the column with a hash of what the code saved last, by which drift is detected."""
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
    """Refuse invalid tags of a run (see ``tagging``)."""
    found = tagging.problems(value)
    if found:
        raise ValidationError([ValidationError(each) for each in found])


class TagsField(RowField):
    """Tags of runs, a text by each name; the database's default is none.

    So a release without the column can still write rows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        none = models.Value({}, models.JSONField())
        defaults = {"default": dict, "db_default": none, "blank": True}
        super().__init__(*args, **{**defaults, "validators": [validate_tags], **kwargs})

    def deconstruct(self) -> Any:
        """Return what migrations record: without the validators."""
        name, _, args, kwargs = super().deconstruct()
        kwargs.pop("validators", None)
        return name, "django.db.models.JSONField", args, kwargs


def validate_timezone(value: str) -> None:
    """Refuse a name that is no IANA zone on this machine."""
    if value:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValidationError(
                _("%(zone)r is not an IANA time zone, such as 'Africa/Johannesburg'."),
                params={"zone": value},
            ) from error


class ClockFieldsModel(PrimaryModel):
    """A row with *clock fields*: ``save()`` writes these only where they were set on this object.

    Ticks and polls of other processes write them with ``update()``, such as a claim or a counter.
    An editor that saves a row it loaded a while ago must not overwrite them.
    """

    clock_fields: ClassVar[frozenset[str]]
    """The names of the clock fields."""

    class Meta:
        abstract = True

    def save(
        self,
        *args: Any,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the editor's fields, and those clock fields that were changed on this object.

        A row that the database lacks (after a rollback, or in another database) is written with all
        of its fields. A copy (``pk = None``) starts with default clock fields.
        """
        if self.pk is None:
            self._reset_clock_fields()
        moved = self.align(timezone.now())
        alias = using or router.db_for_write(type(self), instance=self)
        with writing(type(self), alias):  # with what receivers record
            if update_fields is not None:
                update_fields = {*update_fields, *moved}
            elif not (kwargs.get("force_insert") or args) and self._is_there(using):
                update_fields = self.fields_of_editor() | set(moved)
            super().save(*args, using=using, update_fields=update_fields, **kwargs)
        self._remember_once_committed(update_fields, self._state.db or DEFAULT_DB_ALIAS)

    def _is_there(self, using: str | None = None) -> bool:
        """Return whether the row exists; checked by an update, which also locks it."""
        if self._state.adding or self.pk is None:
            return False
        alias = using or router.db_for_write(type(self), instance=self)
        rows = type(self)._base_manager.using(alias).filter(pk=self.pk)
        some = next(iter(self.clock_fields))
        return bool(rows.update(**{some: F(some)}))

    def _reset_clock_fields(self) -> None:
        """Set the clock fields of a copy to their defaults."""
        for field in self._meta.concrete_fields:
            if field.name in self.clock_fields - self._changed() - self.get_deferred_fields():
                setattr(self, field.name, field.get_default())

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        """Load the row, and remember its values."""
        instance = super().from_db(*args, **kwargs)
        instance._remember()
        return instance

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: models.QuerySet[Any] | None = None,
    ) -> None:
        """Load the row again, or some fields of it, and remember their values."""
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using, fields, from_queryset)
        self._remember(fields)

    def align(self, now: dt.datetime) -> list[str]:
        """Recompute the next due time if its rule has changed; return the fields that changed.

        Parameters
        ----------
        now:
            Aware.
        """
        raise NotImplementedError

    def has_changed(self, field: str) -> bool:
        """Return whether a field's value on this object differs from the stored one."""
        return field in self._changed()

    def fields_of_editor(self) -> set[str]:
        """Return the fields to save: all but clock fields that were not changed on this object."""
        fields = {field.name for field in self._meta.concrete_fields if not field.primary_key}
        return fields - (self.clock_fields - self._changed()) - self.get_deferred_fields()

    def _remember(self, fields: Iterable[str] | None = None) -> None:
        """Remember the stored values of these fields; of all loaded fields if left out."""
        self._stored = {**getattr(self, "_stored", {}), **self._copied(fields)}

    def _remember_once_committed(self, fields: Iterable[str] | None, alias: str) -> None:
        """Remember the written values once the transaction has committed."""
        written = self._copied(fields)

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

    def _copied(self, fields: Iterable[str] | None) -> dict[str, Any]:
        """Return values to compare with: what is JSON may be changed in its place."""
        return {
            name: copy.deepcopy(value) if isinstance(value, (dict, list)) else value
            for name, value in self._values(fields).items()
        }

    def _changed(self) -> set[str]:
        """Return the fields whose values on this object differ from the stored ones."""
        stored = getattr(self, "_stored", {})
        values = self._values(None)
        return {
            name for name, value in values.items() if name not in stored or stored[name] != value
        }


@cache
def _names(model: type[ClockFieldsModel]) -> frozenset[str]:
    """Return the names of a model's columns, without the key's."""
    fields = model._meta.concrete_fields
    return frozenset(field.attname for field in fields if not field.primary_key)
