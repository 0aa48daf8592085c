"""A tree's processes as rows of a form.

What the rows don't show of a process is kept, and so is everything that was not touched: rows that
are sent back as they were change nothing. Of processes for which that can't be promised, such as
those of a broken row, there are no rows (``rows_of``).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django import forms
from django.conf import settings
from django.forms.formsets import (
    DELETION_FIELD_NAME,
    ORDERING_FIELD_NAME,
    BaseFormSet,
    formset_factory,
)
from django.utils.datastructures import MultiValueDict
from django.utils.functional import cached_property
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..domain import tree_spec
from ..domain.names import MAX_NAME_LENGTH
from ..domain.predicates import are_texts
from ..domain.texts import shorten
from .forms import JsonField

PREFIX = "processes-rows"
FUNCTIONS, TRIGGERS, POOLS = "pt-functions", "pt-triggers", "pt-pools"
"""Ids of the lists from which fields are completed."""

FIELDS_OF_ROW = 19
"""About how many fields of a row a browser sends, its dependencies apart."""

UNKNOWN = "="
"""Prefix of a choice that is the name of a process which is not in the tree."""


class Number(forms.FloatField):
    """Keeps a whole number whole: what is saved is what was typed."""

    def to_python(self, value: Any) -> Any:
        """Return an integer, a float, or nothing."""
        number = super().to_python(value)
        if number is None or not math.isfinite(number):
            return number
        return int(value) if str(value).strip().lstrip("+-").isdigit() else number


class Lines(forms.CharField):
    """A list of texts, one a line."""

    widget = forms.Textarea(attrs={"rows": 2, "class": "vLargeTextField"})

    def prepare_value(self, value: Any) -> Any:
        """Return the text in the box."""
        return value if value is None or isinstance(value, str) else "\n".join(value)

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]
        """Return the lines that are not blank."""
        lines = value if isinstance(value, (list, tuple)) else str(value or "").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Return whether other lines are in the box."""
        return list(initial or ()) != self.to_python(data)


class Json(JsonField):
    """JSON that may be left out."""

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        """Return the attributes of a small box."""
        return {"rows": 3}

    def prepare_value(self, value: Any) -> Any:
        """Return the text in the box."""
        return "" if value is None else super().prepare_value(value)


def _text(**attrs: Any) -> forms.TextInput:
    return forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off", **attrs})


_GROWTH = [("", _("not at all")), ("linear", "linear"), ("exponential", "exponential")]
_SPREAD = [("", _("not at all")), ("full", "full"), ("plus_minus", "plus_minus")]


class Row(NamedTuple):
    """A row of the form, as one of which other processes can depend on."""

    place: str
    """Its number, from 0."""

    process: Mapping[str, Any]
    """The process as it was when the page was made; empty for a new one."""

    label: str


class ProcessForm(forms.Form):
    """One process. What is out of bounds is left to the tree's validation, which names it."""

    original = forms.CharField(required=False, widget=forms.HiddenInput)
    """The process as JSON, as it was when the page was made; blank for a new one."""

    name = forms.CharField(
        label=_("Name"), required=False, strip=False, max_length=MAX_NAME_LENGTH, widget=_text()
    )
    func = forms.CharField(
        label=_("Function"),
        required=False,
        widget=_text(list=FUNCTIONS, spellcheck="false", placeholder="module:function"),
    )
    dependencies = forms.MultipleChoiceField(
        label=_("Depends on"), required=False, widget=forms.CheckboxSelectMultiple
    )
    required = forms.BooleanField(
        label=_("Required"),
        required=False,
        help_text=_("Whether the run fails if this process does."),
    )
    cache_key = forms.CharField(
        label=_("Cache key"),
        required=False,
        strip=False,
        widget=_text(),
        help_text=_("The result is cached under it; may hold {fields} of the context."),
    )
    cache_ttl = forms.IntegerField(
        label=_("Cached for"), required=False, help_text=_("Seconds that a cached result lives.")
    )
    shared_cache_key = forms.BooleanField(
        label=_("Shared cache key"),
        required=False,
        help_text=_("Use the results of other processes that have this cache key and share it."),
    )
    validation = Lines(
        label=_("Validation"),
        required=False,
        help_text=_("Functions that check the result, one a line."),
    )
    outdated_check = forms.CharField(
        label=_("Outdated check"),
        required=False,
        widget=_text(list=FUNCTIONS, spellcheck="false"),
        help_text=_("The function that returns whether the process needs to run."),
    )
    trigger = forms.CharField(
        label=_("Trigger"),
        required=False,
        strip=False,
        widget=_text(list=TRIGGERS),
        help_text=_("The trigger that the process waits for: it is skipped until that has fired."),
    )
    retries = forms.IntegerField(
        label=_("Retries"), required=False, help_text=_("How often it is tried again.")
    )
    retry_delay = Number(
        label=_("Retry delay"), required=False, help_text=_("Seconds between two tries.")
    )
    retry_backoff = forms.ChoiceField(
        label=_("Delay grows"), required=False, choices=_GROWTH, help_text=_("From try to try.")
    )
    retry_jitter = forms.ChoiceField(
        label=_("Delay is spread"),
        required=False,
        choices=_SPREAD,
        help_text=_("So that what failed together is not tried together."),
    )
    timeout = Number(
        label=_("Timeout"), required=False, help_text=_("Seconds after which it fails.")
    )
    pool = forms.CharField(
        label=_("Pool"),
        required=False,
        strip=False,
        widget=_text(list=POOLS),
        help_text=_("The Dagster pool that limits how many run at once, in all runs."),
    )
    response_vars = Json(
        label=_("Response variables"),
        required=False,
        help_text=_('Values of the result, as JSON: {"total": {"type": "decimal", "key": "sum"}}.'),
    )
    metadata = Json(
        label=_("Metadata"),
        required=False,
        help_text=_("Shown with the op in Dagster, as JSON."),
    )

    MAIN = ("name", "func", "dependencies")
    """The fields that are always in sight; the others are the options."""

    def __init__(self, *args: Any, own: str, rows: Sequence[Row], **kwargs: Any) -> None:
        """Make the form of a process.

        Parameters
        ----------
        own:
            The place of its row.
        rows:
            All rows; on those others it may depend.
        """
        super().__init__(*args, **kwargs)
        self.process = next((row.process for row in rows if row.place == own), {})
        self.before = _places(self.process, rows)
        """The places of what it depended on when the page was made."""
        self.initial = {**_initial(self.process), "dependencies": self.before}
        labels = {row.place: row.label for row in rows if row.place != own}
        known = {row.place: row.label for row in rows}
        others = {each: known.get(each) or _not_in_tree(each) for each in self.before}
        dependencies: Any = self.fields["dependencies"]
        dependencies.choices = list({**labels, **others}.items())

    @property
    def option_fields(self) -> list[forms.BoundField]:
        """The options, in their order."""
        return [self[name] for name in OPTIONS]

    @property
    def options_set(self) -> list[str]:
        """The names of the options that the process sets."""
        return [name for name in OPTIONS if name in self.process]

    @property
    def has_wrong_option(self) -> bool:
        """Whether an option can't be read, so that it must be in sight."""
        return any(name in self.errors for name in OPTIONS)

    @property
    def is_blank(self) -> bool:
        """Whether it is a row for a new process in which nothing was entered."""
        return not self.process and set(self.changed_data) <= {
            ORDERING_FIELD_NAME,
            DELETION_FIELD_NAME,
        }

    @property
    def is_deleted(self) -> bool:
        """Whether its process is to be removed."""
        return bool(self.cleaned_data.get(DELETION_FIELD_NAME))

    def merged(self, name_of: Mapping[str, str]) -> dict[str, Any]:
        """Return the process: what was there, with what was changed in the form.

        Parameters
        ----------
        name_of:
            The names of the rows' processes now, by their places.
        """
        found = dict(self.process) or {"name": "", "func": ""}
        for name in ("name", "func", *OPTIONS):
            if name in self.changed_data:
                _set(found, name, self.cleaned_data[name])
        names = [name_of.get(each, each.removeprefix(UNKNOWN)) for each in self._places_now()]
        if names != [*found.get("dependencies", ())]:
            _set(found, "dependencies", names)
        return found

    def _places_now(self) -> list[str]:
        """Return the places of what it depends on: former ones in their order, then others."""
        if "dependencies" not in self.changed_data:
            return self.before
        chosen: list[str] = self.cleaned_data["dependencies"]
        kept = [place for place in self.before if place in chosen]
        return [*kept, *(place for place in chosen if place not in kept)]


OPTIONS = tuple(
    name for name in ProcessForm.base_fields if name not in ("original", *ProcessForm.MAIN)
)
"""The fields of a process that are not always in sight."""


def _set(process: dict[str, Any], name: str, value: Any) -> None:
    """Set an option of a process; remove it, if it is blank or the default."""
    is_blank = value in ("", None, [], {}) or not tree_spec.without_defaults({name: value})
    if is_blank and name not in ("name", "func"):
        process.pop(name, None)
    else:
        process[name] = value


def _places(process: Mapping[str, Any], rows: Iterable[Row]) -> list[str]:
    """Return the places of what a process depends on; of an unknown one, its name."""
    place_of: dict[str, str] = {}
    for row in rows:
        name = row.process.get("name")
        if isinstance(name, str):  # SQL may have put anything there
            place_of.setdefault(name, row.place)
    names = process.get("dependencies", ())
    return [place_of.get(name, f"{UNKNOWN}{name}") for name in names if isinstance(name, str)]


def _not_in_tree(place: str) -> str:
    return gettext("%(name)s (not in the tree)") % {"name": place.removeprefix(UNKNOWN)}


def _initial(process: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: process.get(name) for name in ("name", "func", *OPTIONS)},
        "required": process.get("required", True),
        "original": json.dumps(process, ensure_ascii=False) if process else "",
    }


class BaseProcessRows(BaseFormSet):  # type: ignore[type-arg]
    """The processes of a tree as rows, with some rows for new ones.

    Parameters
    ----------
    data:
        What a browser has sent; left out, the rows show ``processes``.
    processes:
        JSON objects that rows can show (see ``rows_of``).
    other_fields:
        How many fields the rest of the page sends (see ``most_rows``).
    """

    def __init__(
        self,
        data: Any = None,
        processes: Sequence[Mapping[str, Any]] = (),
        other_fields: int = 0,
        **kwargs: Any,
    ) -> None:
        self.extra = 1 if processes else 3
        self.max_num = max(most_rows(other_fields), len(processes))
        self.absolute_max = 2 * self.max_num
        self.shown = processes
        super().__init__(data, prefix=PREFIX, **{"initial": [{}] * len(processes), **kwargs})

    @cached_property
    def rows(self) -> list[Row]:
        """Rows on which processes can depend."""
        originals = map(self._original, range(self.total_form_count()))
        return [
            Row(str(number), process, self._name(number, process) or _new(number))
            for number, process in enumerate(originals)
        ]

    def _original(self, number: int) -> Mapping[str, Any]:
        if not self.is_bound:
            return self.shown[number] if number < len(self.shown) else {}
        try:
            found = json.loads(self.data.get(f"{PREFIX}-{number}-original") or "{}")
        except (ValueError, RecursionError):  # no page of ours has sent it
            return {}
        return found if isinstance(found, dict) else {}

    def _name(self, number: int, process: Mapping[str, Any]) -> str:
        return str(self.data.get(f"{PREFIX}-{number}-name", process.get("name", "")))

    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        """Return what a row's form needs; ``None`` stands for a row that a script adds."""
        own = "" if index is None else str(index)
        return {**super().get_form_kwargs(index), "own": own, "rows": self.rows}

    def clean(self) -> None:
        """Refuse a dependency on a row in which there is no process."""
        blank = {str(number) for number, form in enumerate(self.forms) if form.is_blank}
        for form in self.forms:
            for place in blank.intersection(form.cleaned_data.get("dependencies", ())):
                form.add_error(
                    "dependencies", gettext("%(row)s has no process.") % {"row": _new(int(place))}
                )

    def processes(self) -> list[dict[str, Any]]:
        """Return the processes in the order of the rows; the rows must be valid."""
        given = [(number, form) for number, form in enumerate(self.forms) if not form.is_blank]
        name_of = {str(number): str(form.cleaned_data.get("name", "")) for number, form in given}
        left = [(number, form) for number, form in given if not form.is_deleted]

        def turn(each: tuple[int, ProcessForm]) -> tuple[float, int]:
            order = each[1].cleaned_data.get(ORDERING_FIELD_NAME)
            return float("inf") if order is None else order, each[0]

        return [form.merged(name_of) for _, form in sorted(left, key=turn)]

    def as_sent(self) -> MultiValueDict[str, str]:
        """Return what a browser sends of rows that nobody has touched."""
        sent: dict[str, list[str]] = {}
        for form in [self.management_form, *self.forms]:
            for field in form:
                values = _sent(field)
                if values is not None:
                    sent[field.html_name] = values
        return MultiValueDict(sent)


_Rows: Any = formset_factory(ProcessForm, formset=BaseProcessRows, can_order=True, can_delete=True)


def process_rows(
    data: Any = None, processes: Sequence[Mapping[str, Any]] = (), other_fields: int = 0
) -> BaseProcessRows:
    """Return the rows of processes, or those that a browser has sent (see ``BaseProcessRows``)."""
    rows: BaseProcessRows = _Rows(data, processes=processes, other_fields=other_fields)
    return rows


def _new(number: int) -> str:
    return gettext("Process %(number)d") % {"number": number + 1}


def _sent(field: forms.BoundField) -> list[str] | None:
    """Return what a browser sends of a field; ``None``: nothing."""
    value, widget = field.value(), field.field.widget
    if isinstance(widget, forms.CheckboxSelectMultiple):
        return [str(each) for each in value] or None
    if isinstance(widget, forms.CheckboxInput):
        return ["on"] if value else None
    text = "" if value is None else str(value)
    if isinstance(widget, forms.Select):
        choices = [str(choice) for choice, _label in widget.choices]
        return [text if text in choices else choices[0]]
    if isinstance(widget, forms.Textarea):
        return ["\r\n".join(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))]
    return [text.replace("\r", "").replace("\n", "")]


def most_rows(other_fields: int = 0) -> int:
    """Return how many processes a form may hold: Django limits the fields that a browser sends.

    Parameters
    ----------
    other_fields:
        How many fields the rest of the page sends.
    """
    limit = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
    return 100 if limit is None else max(0, min(100, (limit - other_fields) // FIELDS_OF_ROW))


def rows_of(processes: Any, other_fields: int = 0) -> tuple[BaseProcessRows | None, str]:
    """Return the rows of saved processes, or why they can be edited as JSON only.

    There are rows only if they show all of each process: sent back as they are, they must change
    nothing.
    """
    if not isinstance(processes, list) or not all(isinstance(each, dict) for each in processes):
        return None, gettext("Only JSON can be edited: the processes are no list of objects.")
    for number, process in enumerate(processes, 1):
        if not _has_rows_types(process):
            return None, _not_shown(number, process)
    many = sum(len(each.get("dependencies", ())) for each in processes)
    if len(processes) + many / FIELDS_OF_ROW >= most_rows(other_fields):
        return None, gettext(
            "Only JSON can be edited: these are more processes than Django takes as rows of a form "
            "(DATA_UPLOAD_MAX_NUMBER_FIELDS)."
        )
    rows = process_rows(processes=processes, other_fields=other_fields)
    sent_back = process_rows(rows.as_sent())
    for number, (process, form) in enumerate(zip(processes, sent_back.forms, strict=False), 1):
        if form.has_changed() or not form.is_valid():
            return None, _not_shown(number, process)
    return rows, ""


def _has_rows_types(process: Mapping[str, Any]) -> bool:
    """Return whether a process is not empty, and its dependencies and ticks are of their types."""
    flags = [process.get(name, True) for name in ("required", "shared_cache_key")]
    are_flags = all(isinstance(each, bool) for each in flags)
    return bool(process) and are_flags and are_texts(process.get("dependencies", []))


def _not_shown(number: int, process: Mapping[str, Any]) -> str:
    name = shorten(str(process.get("name")), 40)
    return gettext(
        "Only JSON can be edited: rows can't show process %(number)d, “%(name)s”, as it is."
    ) % {"number": number, "name": name}
