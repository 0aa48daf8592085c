"""What the models share: fields, and rows that are written behind an editor's back."""

import datetime as dt
import zoneinfo
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .. import context as contexts


class ContextField(models.JSONField):
    """A context, stored as JSON; what JSON can't say is encoded (see ``context.encode``)."""

    def get_prep_value(self, value: Any) -> Any:
        """Encode model instances, dates, … on the way to the database."""
        return super().get_prep_value(contexts.encode(value) if isinstance(value, dict) else value)


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

    def save(self, *args: Any, update_fields: Iterable[str] | None = None, **kwargs: Any) -> None:
        """Save what an editor writes, and of the clockwork what was changed on this object."""
        moved = self.align(timezone.now())
        if update_fields is not None:
            update_fields = {*update_fields, *moved}
        elif not self._state.adding and not (kwargs.get("force_insert") or args):
            update_fields = self.fields_of_editor() | set(moved)
        super().save(*args, update_fields=update_fields, **kwargs)
        self._remember_clockwork(update_fields)

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        """Load the row, and remember what the clock has written."""
        instance = super().from_db(*args, **kwargs)
        instance._remember_clockwork()
        return instance

    def refresh_from_db(
        self,
        using: str | None = None,
        fields: Iterable[str] | None = None,
        from_queryset: models.QuerySet[Any] | None = None,
    ) -> None:
        """Load the row again, or some fields of it, and remember what the clock has written."""
        fields = None if fields is None else list(fields)
        super().refresh_from_db(using, fields, from_queryset)
        self._remember_clockwork(fields)

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
        return fields - (self.clockwork - self._changed_clockwork()) - self.get_deferred_fields()

    def _remember_clockwork(self, fields: Iterable[str] | None = None) -> None:
        names = self.clockwork if fields is None else self.clockwork & set(fields)
        known = {name: self.__dict__[name] for name in names if name in self.__dict__}
        self._clockwork = {**getattr(self, "_clockwork", {}), **known}

    def _changed_clockwork(self) -> set[str]:
        before = getattr(self, "_clockwork", {})
        return {
            name
            for name in self.clockwork & self.__dict__.keys()
            if name not in before or before[name] != self.__dict__[name]
        }
