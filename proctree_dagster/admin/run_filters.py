"""What the list of runs is narrowed to: the filters at its side, and its search."""

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import QueryDict
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..domain.runs import ENDED, STATUSES, RunQuery
from ..models import ProcessTree
from .html import STARTERS
from .html import STATUSES as STATUS_NAMES

UNFINISHED = "unfinished"
"""The filter for runs that have not ended, those that wait for Dagster included."""

REQUESTED = "requested"
"""The filter for runs that Dagster does not have yet."""

UI = "ui"
"""The filter for runs that Dagster's UI has started, which have no other mark."""

NOT_ENDED = tuple(status for status in STATUSES if status not in ENDED)

PAGING = ("before", "after")
"""The parameters that any other filter takes away."""

ID = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]{3,35}")
"""What may be the beginning of a run's id."""

IN_CONTEXTS = "context"
"""The value of ``in`` with which the search is for contexts, whatever it looks like."""

WITHIN_REASON = (
    MinValueValidator(dt.date(1970, 1, 1)),
    MaxValueValidator(dt.date(2999, 12, 31)),
)
"""Days whose midnight every database has, in any zone."""

Label = str | Promise


@dataclass(frozen=True)
class Choice:
    """One value of a filter, as a link."""

    label: Label
    url: str
    selected: bool


@dataclass(frozen=True)
class Filter:
    """A filter with its values."""

    title: Label
    choices: tuple[Choice, ...]


class DateInput(forms.DateInput):
    """The browser's own date picker."""

    input_type = "date"

    def __init__(self) -> None:
        super().__init__(format="%Y-%m-%d")


class RunFilters(forms.Form):
    """The filters of the list of runs, from its address."""

    use_required_attribute = False

    q = forms.CharField(label=_("search"), required=False, max_length=200)
    tree = forms.CharField(
        label=_("process tree"),
        required=False,
        max_length=ProcessTree._meta.get_field("name").max_length,
        widget=forms.TextInput(attrs={"list": "pt-trees", "autocomplete": "off"}),
    )
    tag = forms.CharField(
        label=_("tag"),
        required=False,
        max_length=400,
        widget=forms.TextInput(attrs={"placeholder": "team=books"}),
    )
    day = forms.DateField(
        label=_("day"), required=False, widget=DateInput, validators=WITHIN_REASON
    )
    since = forms.DateField(
        label=_("since"), required=False, widget=DateInput, validators=WITHIN_REASON
    )
    status = forms.ChoiceField(
        required=False,
        choices=[
            (UNFINISHED, _("not ended")),
            (REQUESTED, STATUS_NAMES[REQUESTED]),
            *((status, STATUS_NAMES[status]) for status in STATUSES),
        ],
        widget=forms.HiddenInput,
    )
    by = forms.ChoiceField(
        required=False,
        choices=[(name or UI, label) for name, label in STARTERS.items()],
        widget=forms.HiddenInput,
    )
    before = forms.CharField(required=False, max_length=36, widget=forms.HiddenInput)
    after = forms.CharField(required=False, max_length=36, widget=forms.HiddenInput)

    def __init__(self, data: QueryDict) -> None:
        super().__init__(data)
        self.data: QueryDict
        self._in_contexts = data.get("in") == IN_CONTEXTS
        self.is_valid()

    def clean_q(self) -> str:
        """Return the searched text without the spaces around it."""
        return str(self.cleaned_data["q"]).strip()

    def clean_tag(self) -> str:
        """Refuse what is no name and value."""
        tag = str(self.cleaned_data["tag"]).strip()
        if tag and not tag.partition("=")[0]:
            raise ValidationError(_("Write a tag as name=value: team=books."))
        if tag and "=" not in tag:
            raise ValidationError(_("Write a tag as name=value: team=books."))
        return tag

    def value(self, name: str) -> Any:
        """Return a filter's value; blank if it is not set, or not valid."""
        return self.cleaned_data.get(name) or ""

    @property
    def is_active(self) -> bool:
        """Whether any filter is set."""
        return any(bool(self.value(name)) for name in self.fields if name not in PAGING)

    @property
    def is_paged(self) -> bool:
        """Whether another page than the first is shown."""
        return any(bool(self.value(name)) for name in PAGING)

    @property
    def prefix_of_id(self) -> str:
        """The searched text, if it may be the beginning of an id."""
        text = str(self.value("q"))
        return text if not self._in_contexts and ID.fullmatch(text) else ""

    def search_contexts(self) -> None:
        """Search contexts for the text, whatever it looks like."""
        self._in_contexts = True

    def query(self) -> RunQuery:
        """Return which runs are listed, without those that an id's beginning finds."""
        tag, _is, text = str(self.value("tag")).partition("=")
        since, until = self._span()
        by, tree = self.value("by"), self.value("tree")
        row = ProcessTree.objects.filter(name=tree).only("job_name").first() if tree else None
        return RunQuery(
            job_name=row.job_name if row is not None else "",
            statuses=NOT_ENDED if self.value("status") == UNFINISHED else self._status(),
            triggered_by=("" if by == UI else by) if by else None,
            # A tree that was renamed keeps its job; one that was deleted has its name on its runs.
            tags={
                **({tag: text} if tag else {}),
                **({"proctree/tree": tree} if tree and row is None else {}),
            },
            since=since,
            until=until,
            text="" if self.prefix_of_id else self.value("q"),
        )

    def _status(self) -> tuple[str, ...]:
        status = self.value("status")
        return (status,) if status in STATUSES else ()

    def _span(self) -> tuple[dt.datetime | None, dt.datetime | None]:
        day, since = self.value("day"), self.value("since")
        if day:
            return _midnight(day), _midnight(day + dt.timedelta(days=1))
        return (_midnight(since) if since else None), None

    @property
    def lists_requested(self) -> bool:
        """Whether runs that Dagster does not have yet are listed: on the first page only."""
        if self.is_paged:
            return False
        return str(self.value("status")) in ("", UNFINISHED, REQUESTED)

    @property
    def lists_recorded(self) -> bool:
        """Whether runs that Dagster has are listed."""
        return str(self.value("status")) != REQUESTED

    # Links

    def url(self, **values: str | None) -> str:
        """Return the list's address with other values of some filters; ``None`` removes one."""
        params = self.data.copy()
        for name in PAGING:
            params.pop(name, None)
        for name, value in values.items():
            if value is None:
                params.pop(name, None)
            else:
                params[name] = value
        return f"?{params.urlencode()}"

    def hidden(self, *left_out: str) -> list[tuple[str, str]]:
        """Return the filters that a form at the side keeps, as names and values."""
        names = (name for name in self.fields if name not in (*left_out, *PAGING))
        return [(name, str(self.data[name])) for name in names if self.data.get(name)]

    def filters(self) -> Iterator[Filter]:
        """Yield the filters whose values are links."""
        for name, title in (("status", _("status")), ("by", _("what started it"))):
            yield Filter(title, tuple(self._choices(name)))
        yield Filter(_("day"), tuple(self._days()))

    def _choices(self, name: str) -> Iterator[Choice]:
        field: Any = self.fields[name]
        value = self.value(name)
        yield Choice(_("All"), self.url(**{name: None}), not value)
        for choice, label in field.choices:
            yield Choice(label, self.url(**{name: choice}), choice == value)

    def _days(self) -> Iterator[Choice]:
        today = timezone.localdate()
        yesterday, week = today - dt.timedelta(days=1), today - dt.timedelta(days=7)
        day, since = self.value("day"), self.value("since")
        yield Choice(_("Any day"), self.url(day=None, since=None), not day and not since)
        for label, chosen in ((_("Today"), today), (_("Yesterday"), yesterday)):
            yield Choice(label, self.url(day=f"{chosen}", since=None), chosen == day)
        yield Choice(_("Past 7 days"), self.url(day=None, since=f"{week}"), week == since)

    def problems(self) -> list[str]:
        """Return why filters don't count, a sentence each."""
        told = gettext("The filter “%(name)s” does not count: %(why)s")
        return [
            told % {"name": self.fields[name].label or name, "why": " ".join(map(str, errors))}
            for name, errors in self.errors.items()
        ]


def _midnight(day: dt.date) -> dt.datetime:
    return timezone.make_aware(dt.datetime.combine(day, dt.time()))
