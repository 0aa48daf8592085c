"""A form for the context of a run, made from the signatures of a tree's functions."""

import datetime as dt
import enum
import uuid
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from django import forms
from django.contrib.admin import widgets
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import context as contexts
from ..context import sensitive
from ..exceptions import ContextError
from ..models import typed_values
from ..models.context_schema import (
    STAND_INS,
    UNSAID,
    ContextKey,
    ContextSchema,
    accepts,
    chosen_type,
    members,
)
from .forms import JsonField, JsonWidget, SplitDateTime, stored_context

PREFIX = "key_"
"""What the names of the fields of keys begin with."""

MORE = "more"
"""The field for keys that have none of their own."""

LONG = 80
"""From how many characters on a text gets a box of several lines."""

RowField = Callable[[type[Model], ContextKey], forms.Field | None]
"""Returns the field by which a row of a model is chosen; ``None`` if its key is typed as JSON."""

_MISSING = object()
_CONTAINERS = (list, dict, tuple, set, frozenset)


class ContextForm(forms.Form):
    """The context of a run: a field for each key that the functions take, and others as JSON.

    Parameters
    ----------
    data:
        What was posted.
    schema:
        What the functions take.
    base:
        The context, as JSON, with which it is prefilled.
    default:
        The context of the tree's schedule, which a run has if the form leaves a key out.
    row_field:
        Makes the fields for rows of models.
    """

    use_required_attribute = False  # a key that is a secret may be required, and stay blank

    def __init__(
        self,
        data: Any = None,
        *,
        schema: ContextSchema,
        base: Mapping[str, Any],
        default: Mapping[str, Any],
        row_field: RowField,
    ) -> None:
        super().__init__(data)
        self.schema, self.base, self.default = schema, dict(base), default
        self.context: dict[str, Any] = {}
        """The context as JSON, once the form is valid."""
        self.keys = {
            f"{PREFIX}{key.name}": key for key in schema.keys.values() if key.name.isidentifier()
        }
        for name, key in self.keys.items():
            self.fields[name] = field_of(key, self.base.get(key.name, _MISSING), row_field)
            self.initial[name] = self.fields[name].initial
        own = {key.name for key in self.keys.values()}
        others = {name: value for name, value in self.base.items() if name not in own}
        self.kept = {name: value for name, value in others.items() if hides(name, value)}
        """The keys without a field of their own that hold secrets: they are not shown."""
        if schema.takes_anything or others:
            self.fields[MORE] = _more_field(self.kept)
            shown = {name: value for name, value in others.items() if name not in self.kept}
            self.initial[MORE] = shown or None

    def clean(self) -> dict[str, Any]:
        """Put the context together; each problem is shown at its field."""
        cleaned = super().clean() or {}
        self.context = dict(self.kept)
        for name, key in self.keys.items():
            if name in cleaned:
                self._add(name, self._value(key, self.fields[name], cleaned[name]))
        if MORE in cleaned:
            self._add_more(cleaned[MORE] or {})
        if not self.errors:
            for problem in self.schema.problems({**self.default, **self.context}):
                self.add_error(MORE if MORE in self.fields else None, problem)
        return cleaned

    def _value(self, key: ContextKey, field: forms.Field, value: Any) -> dict[str, Any]:
        """Return a key's part of the context: nothing, where its default is what is asked for."""
        if value not in (None, ""):
            if isinstance(field, TypedTextField):
                found = typed_values.parse(value, key.annotation)
            else:
                found = typed_values.text_or_secret(value) if isinstance(value, str) else value
            is_default = key.name not in self.base and _is_same(found, key.default)
            return {} if is_default else {key.name: found}
        if hides(key.name, self.base.get(key.name)):
            return {key.name: self.base[key.name]}
        is_given = key.name in self.base or key.required
        if _is_nullable(key):
            is_default = key.default is None or key.default is UNSAID
            return {} if is_default and not is_given else {key.name: None}
        if value == "" and accepts(key.annotation, "") and not isinstance(field, TypedTextField):
            is_default = key.default in ("", UNSAID)
            return {} if is_default and not is_given else {key.name: ""}
        if key.name in self.default:
            told = gettext("Blank does not count: the value of the schedule would be used.")
            self.add_error(f"{PREFIX}{key.name}", told)
        return {}

    def _add(self, field: str, part: Mapping[str, Any]) -> None:
        """Add a part to the context, or its problems to its field."""
        try:
            encoded = stored_context(part)
        except ContextError as error:
            self.add_error(field, str(error))
            return
        problems = self.schema.problems(encoded, partial=True)
        if problems:
            self.add_error(field, ValidationError(problems))
        self.context |= encoded

    def _add_more(self, more: Any) -> None:
        if not isinstance(more, Mapping):
            self.add_error(MORE, gettext('Give a JSON object, such as {"tenant_id": "123"}.'))
            return
        own = {key.name for key in self.keys.values()}
        for name in more:
            if name in own:
                told = gettext("%(key)r has a field of its own.") % {"key": name}
                self.add_error(MORE, told)
        if MORE not in self.errors:
            self._add(MORE, more)


def hides(name: str, value: Any) -> bool:
    """Return whether a value of a context is, or holds, a secret that no page shows."""
    return bool(sensitive.masked({name: value}) != {name: value})


def _is_same(value: Any, default: Any) -> bool:
    """Return whether a value is what a function takes anyway."""
    if default is UNSAID:
        return False
    default = default.value if isinstance(default, enum.Enum) else default
    return type(value) is type(default) and bool(value == default)


def _is_nullable(key: ContextKey) -> bool:
    """Return whether blank stands for None: a type is named, and None is allowed beside it."""
    return NoneType in members(key.annotation) or None in members(key.annotation)


# --- Fields ---------------------------------------------------------------------------------------


class TypedTextField(forms.CharField):
    """A value on one line: JSON, or text; see ``typed_values``."""


def field_of(key: ContextKey, given: Any, row_field: RowField) -> forms.Field:
    """Return the field of a key, with what it is prefilled with.

    Parameters
    ----------
    key:
        The key.
    given:
        Its value in the context that the form is prefilled with, as JSON.
    row_field:
        Makes the fields for rows of models.
    """
    is_secret = sensitive.is_sensitive_name(key.name) and not contexts.is_reference(given)
    field = _field_of_type(key, given, row_field) or _untyped_field(key, is_secret)
    is_hidden = given is not _MISSING and hides(key.name, given)
    field.label = key.name
    field.help_text = _help(key, is_hidden)
    is_chosen = isinstance(field, (forms.BooleanField, forms.NullBooleanField))
    field.required = key.required and not is_chosen and not is_hidden and not _is_nullable(key)
    missing = ContextSchema({key.name: key}, takes_anything=True).problems({})
    field.error_messages["required"] = " ".join(missing) or field.error_messages["required"]
    if is_secret and isinstance(field, forms.CharField):
        field.widget = forms.PasswordInput(
            attrs={"class": "vTextField", "autocomplete": "new-password"}
        )
    if not is_hidden:
        field.initial = _initial(key, given, field)
    return field


def _untyped_field(key: ContextKey, is_secret: bool) -> forms.Field:
    """Return the field of a key of no type, or of several: a secret is text, also of digits."""
    is_text = is_secret and accepts(key.annotation, "")
    return forms.CharField(strip=False) if is_text else TypedTextField(strip=False)


def _field_of_type(key: ContextKey, given: Any, row_field: RowField) -> forms.Field | None:
    """Return the field for a key's type; ``None`` if there is none for it, or for its value."""
    kind = chosen_type(key.annotation)
    if kind is None or (given is not _MISSING and not accepts(key.annotation, given)):
        return None
    if contexts.is_reference(given):
        return None
    if isinstance(given, Mapping) and "using" in given:  # a row of another database
        return None
    has_stand_ins = any(each in STAND_INS and each is not kind for each in members(key.annotation))
    prefilled = key.default if given is _MISSING else given
    if has_stand_ins and isinstance(prefilled, STAND_INS):  # it stays what it is
        return None
    if isinstance(kind, type) and issubclass(kind, Model):
        return row_field(kind, key)
    if (get_origin(kind) or kind) in _CONTAINERS:
        return _JsonOrNothing(widget=JsonWidget(attrs={"rows": 3}))
    choices = _choices(kind)
    if choices:
        return _ChoiceOf(choices, is_optional=not key.required or _is_nullable(key))
    if kind is bool:
        return forms.NullBooleanField() if _is_nullable(key) else forms.BooleanField()
    return _PLAIN[kind](key, given) if kind in _PLAIN else None


def _text_field(key: ContextKey, given: Any) -> forms.Field:
    texts = [each for each in (given, key.default) if isinstance(each, str)]
    if any(len(each) > LONG or "\n" in each for each in texts):
        return forms.CharField(strip=False, widget=widgets.AdminTextareaWidget)
    return forms.CharField(strip=False, widget=widgets.AdminTextInputWidget)


def _number(*args: Any) -> forms.Field:
    return forms.IntegerField(widget=widgets.AdminIntegerFieldWidget)


_PLAIN: Mapping[Any, Callable[[ContextKey, Any], forms.Field]] = {
    str: _text_field,
    int: _number,
    float: lambda key, given: forms.FloatField(),
    Decimal: lambda key, given: forms.DecimalField(),
    dt.date: lambda key, given: forms.DateField(widget=widgets.AdminDateWidget),
    dt.datetime: lambda key, given: forms.SplitDateTimeField(widget=SplitDateTime(key.name)),
    dt.time: lambda key, given: forms.TimeField(widget=widgets.AdminTimeWidget),
    uuid.UUID: lambda key, given: forms.UUIDField(widget=widgets.AdminUUIDInputWidget),
}
"""The fields of plain types."""


def _choices(kind: Any) -> list[Any]:
    """Return the values among which a type lets one choose; none of other types."""
    if get_origin(kind) is Literal:
        values = list(get_args(kind))
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        values = list(kind)
    else:
        return []
    return [each.value if isinstance(each, enum.Enum) else each for each in values]


class _ChoiceOf(forms.TypedChoiceField):
    """One of some values, of whatever type."""

    def __init__(self, values: list[Any], *, is_optional: bool) -> None:
        self.values = values
        blank = [("", "---------")] if is_optional else []
        options = [(str(place), str(value)) for place, value in enumerate(values)]
        super().__init__(choices=[*blank, *options], coerce=self._value, empty_value=None)

    def _value(self, place: str) -> Any:
        return self.values[int(place)]

    def place(self, value: Any) -> str | None:
        """Return the option of a value; ``None`` if it has none."""
        same = (place for place, each in enumerate(self.values) if each == value)
        return next(map(str, same), None)


def _initial(key: ContextKey, given: Any, field: forms.Field) -> Any:
    """Return what a field shows: the given value, or the function's default."""
    if given is _MISSING:
        if key.default is UNSAID or key.default is None:
            return None
        given = key.default.value if isinstance(key.default, enum.Enum) else key.default
        if isinstance(field, TypedTextField):
            return _typed_default(given, key.annotation)
    if isinstance(field, TypedTextField):
        return typed_values.written(given, key.annotation)
    if isinstance(field, _ChoiceOf):
        return field.place(given)
    if isinstance(field, JsonField):
        return list(given) if isinstance(given, (tuple, set, frozenset)) else given
    if isinstance(given, Mapping):
        return _decoded(given)
    return given


def _typed_default(default: Any, annotation: Any) -> str | None:
    """Return a function's default as typed text; ``None`` if it can't be stored: it is left out."""
    try:
        stored = contexts.encode({"default": default})["default"]
    except ContextError:
        return None
    return typed_values.written(stored, annotation)


def _decoded(value: Mapping[str, Any]) -> Any:
    """Return what JSON stands for: a date, a number; of a row, its key."""
    if "$model" in value:
        return _decoded(value["pk"]) if isinstance(value["pk"], Mapping) else value["pk"]
    try:
        return contexts.decode({"value": value})["value"]
    except ContextError:  # it is shown as invalid when the form is posted
        return None


def _help(key: ContextKey, is_hidden: bool) -> SafeString:
    """Return what a key is for, escaped: the admin shows it as HTML. Its type and default, too."""
    has_default = key.default is not None and bool(key.default_text)
    said = [
        key.description,
        key.type_text,
        gettext("default: %(value)s") % {"value": key.default_text} if has_default else "",
        gettext("A secret, which is not shown: blank leaves it as it is.") if is_hidden else "",
    ]
    return format_html_join(" · ", "{}", ((each,) for each in said if each))


class _JsonOrNothing(JsonField):
    """JSON that may be left blank, and is blank where there is nothing."""

    def prepare_value(self, value: Any) -> Any:
        """Return the text in the box."""
        return "" if value is None else super().prepare_value(value)


def _more_field(kept: Collection[str]) -> JsonField:
    told = [gettext("Other keys, as a JSON object.")]
    if kept:
        secret = gettext("Secrets are not shown, and stay as they are: %(names)s.")
        told.append(secret % {"names": ", ".join(kept)})
    return _JsonOrNothing(
        label=_("more"),
        required=False,
        widget=JsonWidget(attrs={"rows": 5}),
        help_text=format_html_join(" ", "{}", ((each,) for each in told)),
    )
