"""What others save while a page is open: it stays, unless the person there has edited it, too.

A browser sends all fields of a page, also those that nobody has touched. A hidden field says what
they showed: by that it is known which were edited here, and which have changed meanwhile.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import FieldDoesNotExist
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.translation import gettext

SHOWN = "shown"
"""The name of the field; list it with the others on the page of a saved row."""


_NO_VALUE = (forms.ValidationError, TypeError, ValueError, AttributeError, OverflowError)
"""The errors of what was typed wrongly, and of a text that no page of ours has sent."""


class ShownField(forms.CharField):
    """What the other fields showed, as JSON."""

    widget = forms.HiddenInput

    def __init__(self) -> None:
        super().__init__(label="", required=False)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Return False: nobody edits it."""
        return False


class MergingForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form that lets stay what others have saved meanwhile and the user has not touched."""

    shown = ShownField()

    one_thing: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Fields that make sense together only: who edits one of them has edited all."""

    merged_by_themselves: ClassVar[tuple[str, ...]] = ()
    """Fields that know by themselves what they showed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: list[str] = []
        """The labels of the fields that stay as others have saved them."""
        self._untouched: list[str] = []
        self._conflicts: list[str] = []
        if self.instance.pk is None or SHOWN not in self.fields:
            return
        now = {name: self._noted(name) for name in self.fields if self._is_noted(name)}
        self.initial[SHOWN] = json.dumps(now, cls=DjangoJSONEncoder)
        if self.is_bound:
            self._merge(json.loads(self.initial[SHOWN]), self._sent())

    def _is_noted(self, name: str) -> bool:
        return name not in (SHOWN, *self.merged_by_themselves) and not self.fields[name].disabled

    def _noted(self, name: str) -> Any:
        """Return what a field shows; of JSON, which may be long and hold secrets, a hash."""
        field = self.fields[name]
        value = self.get_initial_for_field(field, name)
        return _hash(value) if isinstance(field, forms.JSONField) else value

    def _sent(self) -> dict[str, Any]:
        """Return what the fields showed; nothing, if no page of ours has sent it."""
        try:
            found = json.loads(self[SHOWN].data or "{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _merge(self, now: Mapping[str, Any], then: dict[str, Any]) -> None:
        apart = [(name,) for name in now if not any(name in each for each in self.one_thing)]
        for thing in (*apart, *self.one_thing):
            names = [name for name in thing if name in now and name in then]
            if all(now[name] == then[name] for name in names):
                continue
            edited = [name for name in names if self._differs(name, then[name])]
            if not edited:
                self._untouched += names
                self.kept += [str(self[name].label) for name in names if now[name] != then[name]]
            elif any(self._differs(name, now[name]) for name in names):
                self._conflicts.append(edited[0])
                then.update({name: now[name] for name in names})  # next time it is replaced
        if self._conflicts:
            data: Any = self.data.copy()  # type: ignore[attr-defined]  # a page's can't be written
            data[self.add_prefix(SHOWN)] = json.dumps(then)
            self.data = data
        for name in self._untouched:
            self.fields[name].disabled = True  # so that what was sent does not count

    def _differs(self, name: str, noted: Any) -> bool:
        """Return whether something else was sent of a field than what it showed."""
        field, bound = self.fields[name], self[name]
        if field.widget.value_omitted_from_data(self.data, self.files, bound.html_name):
            return False
        try:
            if isinstance(field, forms.JSONField):
                return bool(_hash(field.to_python(bound.data)) != noted)
            return bool(field.has_changed(self._restored(name, noted), bound.data))
        except _NO_VALUE:
            return True

    def _restored(self, name: str, noted: Any) -> Any:
        """Return a value of the type that the field's are of."""
        try:
            column: Any = self.instance._meta.get_field(name)
        except FieldDoesNotExist:
            return noted
        return column.to_python(noted)

    @cached_property
    def changed_data(self) -> list[str]:
        """Return the names of the fields that the user has edited."""
        return [name for name in super().changed_data if name not in self._untouched]

    def full_clean(self) -> None:
        """Clean it. Fields in which others were meanwhile, and the user too, are errors."""
        super().full_clean()
        for name in self._untouched:
            self.fields[name].disabled = False
        for name in self._conflicts:
            told = gettext(
                "Somebody else has changed this since the page was opened. What you have entered "
                "is still here; save again to replace their change."
            )
            self.add_error(name, told)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, cls=DjangoJSONEncoder)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class TellsWhatStays:
    """A page of the admin that says what stays as others have saved it while it was open."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save the row."""
        super().save_model(request, obj, form, change)  # type: ignore[misc]
        _tell(request, [form])

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Save the rows of an inline."""
        super().save_formset(request, form, formset, change)  # type: ignore[misc]
        _tell(request, [each for each in formset.forms if each not in formset.deleted_forms])


def _tell(request: HttpRequest, saved: Iterable[Any]) -> None:
    for form in saved:
        if labels := getattr(form, "kept", []):  # a project's own form may lack it
            told = gettext(
                "%(row)s: somebody else has changed this since the page was opened, and it stays "
                "so: %(fields)s."
            )
            told %= {"row": form.instance, "fields": ", ".join(labels)}
            messages.warning(request, told)
