"""Forms that several pages share."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib.admin.widgets import (
    AdminRadioSelect,
    AdminSplitDateTime,
    AutocompleteSelect,
)
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models
from django.forms.fields import InvalidJSONInput
from django.utils.text import format_lazy
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import context as contexts
from ..domain.run_tags import DEFAULT_SCHEDULE
from ..exceptions import ContextError
from ..models import ProcessTree, ProcessTreeSchedule, TriggerType, calendars
from .meanwhile import MergingForm

FORMS_OF_SCHEDULES = 20
"""Up to how many schedules a tree's page has a form for each; their own list has more."""

MayRun = Callable[[ProcessTree], bool]
"""Returns whether the user of a form may run a tree."""


class JsonWidget(forms.Textarea):
    """A box for JSON, one line for each key."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        defaults = {"class": "vLargeTextField pt-json", "rows": 4, "spellcheck": "false"}
        super().__init__({**defaults, **(attrs or {})})


class JsonField(forms.JSONField):
    """JSON as a person types it: indented, and an error names its line and its column."""

    widget = JsonWidget

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Django sends the first value along where a default is a function, as that may return
        # another one later. These return none but {} and [].
        super().__init__(*args, **{**kwargs, "show_hidden_initial": False})

    def prepare_value(self, value: Any) -> Any:
        """Return the text in the box; what was typed, if that is not valid."""
        text = super().prepare_value(value)
        try:
            parsed = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            return text
        if isinstance(value, str):  # typed
            return text
        return json.dumps(parsed, ensure_ascii=False, indent=2)

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Return what is shown again: the text as it was typed, readable or not."""
        return initial if self.disabled or data is None else InvalidJSONInput(data)

    def to_python(self, value: Any) -> Any:
        """Parse the text. A key that is given twice is an error, as one would be dropped."""
        if isinstance(value, str) and value.strip():
            try:
                json.loads(
                    value, object_pairs_hook=_without_duplicates, parse_constant=_no_constant
                )
            except json.JSONDecodeError as error:
                raise ValidationError(
                    _("Enter a valid JSON: line %(line)d, column %(column)d: %(why)s."),
                    code="invalid",
                    params={"line": error.lineno, "column": error.colno, "why": error.msg},
                ) from error
            except (ValueError, RecursionError) as error:  # too many digits, too many brackets
                raise ValidationError(
                    _("This JSON can't be read: %(why)s."), code="invalid", params={"why": error}
                ) from error
        return super().to_python(value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(gettext("the key %(key)r is given twice") % {"key": twice})
    return found


def _no_constant(name: str) -> None:
    raise ValueError(gettext("%(name)s is no JSON") % {"name": name})


class SplitDateTime(AdminSplitDateTime):
    """A date and a time, each with a name for those who can't see what stands beside it."""

    def __init__(self, label: Any) -> None:
        super().__init__()
        for widget, part in zip(self.widgets, (_("date"), _("time")), strict=True):
            widget.attrs["aria-label"] = format_lazy("{}: {}", label, part)


JSON_FIELDS: dict[type[Any], dict[str, Any]] = {
    models.JSONField: {"form_class": JsonField, "widget": JsonWidget}
}
"""The ``formfield_overrides`` of a page with JSON on it."""


def name_boxes(form: forms.BaseForm) -> None:
    """Give the boxes of a form in a table, where they lack labels, names for screen readers."""
    for field in form.fields.values():
        box: Any = getattr(field.widget, "widget", field.widget)  # without the links beside it
        if not box.is_hidden:
            box.attrs.setdefault("aria-label", field.label)


class TreeSelect(AutocompleteSelect):
    """The box in which a tree is chosen by a part of its name."""

    @property
    def media(self) -> forms.Media:
        """Return Django's scripts, and one that names the box for screen readers."""
        return super().media + forms.Media(js=["proctree_dagster/named_boxes.js"])

    def build_attrs(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the attributes of the box, which says while it is empty what to type."""
        hint = gettext("Type a part of a process tree's name")
        return {**super().build_attrs(*args, **kwargs), "data-placeholder": hint}

    def optgroups(self, name: str, value: Sequence[str], attr: Any = None) -> Any:
        """Return the chosen tree; Django's own box fails on a value that is no number."""
        numbers = [each for each in value if str(each).isdecimal()]
        groups: Any = super().optgroups(name, numbers, attr)
        return groups


class Form(MergingForm):
    """Shows the errors of read-only fields, and one error for a field that can't be parsed."""

    may_run: MayRun | None = None
    """Whether the user may run a tree; see ``permissions.NeedsRunPermission``, which sets it."""

    runs: ClassVar[str] = "process_tree"
    """The field with the tree that the row makes run."""

    def add_error(self, field: str | None, error: Any) -> None:
        """Add errors; for fields that the form lacks, to the form itself.

        The model's errors for a field that has one already are left out: they are of its previous
        value.
        """
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            known: dict[str, list[Any]] = {}
            for name, each in error.error_dict.items():
                if name in self.errors and name != NON_FIELD_ERRORS:
                    continue
                known.setdefault(name if name in self.fields else NON_FIELD_ERRORS, []).extend(each)
            error = ValidationError(known)
        super().add_error(field, error)

    def clean(self) -> dict[str, Any] | None:
        """Refuse a tree that the user may not run."""
        cleaned = super().clean()
        tree = (cleaned or {}).get(self.runs)
        if tree is None or self.may_run is None or not self.has_changed():
            return cleaned
        if not self.may_run(tree):
            told = gettext("You may not run the process tree %(tree)r.") % {"tree": str(tree)}
            self.add_error(self.runs if self.runs in self.fields else None, told)
        return cleaned

    def has_new_context(self, *names: str) -> bool:
        """Return whether the context is to be checked: it, or what it depends on, has changed.

        A context that became invalid with a change of the code, or because a row was deleted, must
        not prevent an operator from switching something off.

        Parameters
        ----------
        names:
            The fields on which its validity depends.
        """
        return self.instance._state.adding or not {"context", *names}.isdisjoint(self.changed_data)


def stored_context(typed: Any) -> dict[str, Any]:
    """Return a typed context as it is stored, if all that it names is there.

    Parameters
    ----------
    typed:
        The JSON.

    Raises
    ------
    ContextError
        It can't be stored, or names a row that does not exist.
    """
    encoded = contexts.encode({} if typed is None else typed)
    contexts.decode(encoded)
    return encoded


INTERVAL, CRON = "interval", "cron"


class RuleKind(forms.ChoiceField):
    """Which of an interval and a cron counts. Left out, the one that is given does."""

    def __init__(self) -> None:
        super().__init__(
            label=_("Due"),
            choices=[(INTERVAL, _("every so many minutes")), (CRON, _("by a cron"))],
            initial=INTERVAL,
            required=False,
            widget=AdminRadioSelect(attrs={"class": "radiolist inline"}),
        )

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Return whether another one was chosen."""
        return bool(data) and super().has_changed(initial, data)


class ScheduleForm(Form):
    """A schedule: an interval or a cron, and a context with which its runs can succeed."""

    rule_kind = RuleKind()

    one_thing = (
        (
            *("rule_kind", "interval_minutes", "start_time", "cron", "timezone"),
            *("business_days", "calendar", "start_date", "end_date"),
        ),
        ("for_each", "for_each_as", "order_by", "spread_minutes"),
    )

    may_name_functions = False
    """Whether the user may name functions; its page sets it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ignored: list[str] = []
        """What was typed, or stored, and does not count: a sentence each."""
        if "name" in self.fields:
            self.fields["name"].required = False

    def get_initial_for_field(self, field: forms.Field, field_name: str) -> Any:
        """Return what a field shows at first: of a cron's rule, that it is one."""
        if field_name == "rule_kind" and self.instance.cron:
            return self.initial.get(field_name, CRON)
        return super().get_initial_for_field(field, field_name)

    def clean_name(self) -> str:
        """Return its name: the default one, if none was given."""
        return self.cleaned_data.get("name") or DEFAULT_SCHEDULE

    def clean_calendar(self) -> str:
        """Return its calendar; the model calls one that is a function to see its dates."""
        calendar: str = self.cleaned_data.get("calendar") or ""
        if calendars.is_function(calendar) and "calendar" in self.changed_data:
            self._require_naming()
        return calendar

    def clean(self) -> dict[str, Any] | None:
        """Let the chosen rule count, and compare the context with what the functions take."""
        cleaned = super().clean() or {}
        if "rule_kind" in self.fields:
            self._choose_rule(cleaned)
        self._check_context(cleaned)
        self._check_function(cleaned.get("for_each"))
        return cleaned

    def _check_function(self, for_each: Any) -> None:
        """Refuse a function that the user may not name."""
        names_function = isinstance(for_each, Mapping) and "function" in for_each
        if names_function and "for_each" in self.changed_data:
            try:
                self._require_naming()
            except ValidationError as error:
                self.add_error("for_each", error)

    def _require_naming(self) -> None:
        if not self.may_name_functions:
            raise ValidationError(
                gettext("To name a function needs the permission to name functions.")
            )

    def _choose_rule(self, cleaned: dict[str, Any]) -> None:
        chosen = cleaned.get("rule_kind") or _only_given(cleaned)
        if chosen == CRON:
            self._ignore(cleaned, "interval_minutes", None)
            self._ignore(cleaned, "start_time", self.instance.start_time)
            if not cleaned.get("cron") and "cron" not in self.errors:
                self.add_error("cron", _("Give a cron, or choose an interval."))
        elif chosen == INTERVAL:
            self._ignore(cleaned, "cron", "")
            if not cleaned.get("interval_minutes") and "interval_minutes" not in self.errors:
                self.add_error("interval_minutes", _("Give the minutes, or choose a cron."))

    def _ignore(self, cleaned: dict[str, Any], name: str, instead: Any) -> None:
        """Let a field not count, and note what was in it, unless that is the form's own default."""
        typed = self[name].value()
        is_known = name in self.changed_data or not self.instance._state.adding
        if typed not in (None, "") and is_known and str(typed) != str(instead):
            label, value = self.fields[name].label, str(typed)
            said = gettext("%(field)s %(value)s does not count: something else was chosen.")
            self.ignored.append(said % {"field": f"“{label}”", "value": value})
        self.errors.pop(name, None)
        cleaned[name] = instead
        setattr(self.instance, name, instead)  # Django keeps a default where a field was not posted

    def _check_context(self, cleaned: dict[str, Any]) -> None:
        tree, typed = cleaned.get("process_tree", self._tree()), cleaned.get("context")
        if "context" not in self.fields or "context" in self.errors:
            return
        others = ("process_tree", "pass_scheduled_for", "for_each", "for_each_as")
        if tree is None or not self.has_new_context(*others):
            return
        passes = bool(cleaned.get("pass_scheduled_for"))
        try:
            context = stored_context(typed)
            schedule = ProcessTreeSchedule(
                process_tree=tree,
                context=context,
                pass_scheduled_for=passes,
                for_each=cleaned.get("for_each") or {},
                for_each_as=cleaned.get("for_each_as") or "",
            )
            problems = schedule.context_problems()
        except ContextError as error:
            problems = [str(error)]
        if problems:
            self.add_error("context", ValidationError(problems))

    def _get_validation_exclusions(self) -> set[str]:
        """Return what is not validated; its tree is, where it stays: the name is unique in it."""
        left_out: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return left_out - ({"process_tree"} if self.instance.process_tree_id else set())

    def _tree(self) -> ProcessTree | None:
        return self.instance.process_tree if self.instance.process_tree_id else None


def _only_given(cleaned: Mapping[str, Any]) -> str:
    """Return which of an interval and a cron is given; blank if both are, or neither."""
    interval, cron = cleaned.get("interval_minutes"), cleaned.get("cron")
    if bool(interval) == bool(cron):
        return ""
    return CRON if cron else INTERVAL


class AddedForm(ScheduleForm):
    """A form that was added to a page is saved as it is shown, even if unchanged."""

    def has_changed(self) -> bool:
        """Whether there is anything to save."""
        return super().has_changed() or self.instance._state.adding


class SubscriptionForm(Form):
    """A subscription: its context names rows that exist, and what the tree's functions take."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None and "process_tree" in self.fields:
            tree, field = self.instance.process_tree, self.fields["process_tree"]
            field.disabled = True  # it stays that of its tree, and its box asks no database
            field.widget = forms.Select(choices=[(tree.pk, str(tree))])

    def clean(self) -> dict[str, Any] | None:
        """Compare the context with what the tree's functions take, if either has changed."""
        cleaned = super().clean() or {}
        tree = cleaned.get("process_tree")
        if tree is None or "context" in self.errors or not self.has_new_context("process_tree"):
            return cleaned
        try:
            context = stored_context(cleaned.get("context"))
            problems = tree.context_schema.problems(context, partial=True)
        except ContextError as error:
            problems = [str(error)]
        if problems:
            self.add_error("context", ValidationError(problems))
        return cleaned


class FollowerForm(Form):
    """A link: the tree that follows runs whenever the other one has."""

    runs = "target"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name_boxes(self)


class TriggerForm(Form):
    """A trigger."""

    one_thing = (("trigger_type", "configuration"),)

    may_name_functions = False
    """Whether the user has the permission to name functions."""

    def clean(self) -> dict[str, Any] | None:
        """Refuse a function that is named without the permission to do so."""
        cleaned = super().clean()
        is_custom = (cleaned or {}).get("trigger_type") == TriggerType.CUSTOM
        if is_custom and not self.may_name_functions:
            raise ValidationError(
                {"trigger_type": _("To name a function needs the permission to name functions.")}
            )
        return cleaned
