"""A tree's processes in a form: as rows, and as JSON beside them. One field of the form has both.

Whichever was edited counts. If both were, the user is asked, and both stay as they were typed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.template.loader import render_to_string
from django.utils.translation import gettext_lazy as _

from .. import conf
from ..domain import tree_spec
from ..models import ProcessTree, Trigger
from ..services import function_listing
from .alert_forms import KindsField, RecipientsField
from .forms import FORMS_OF_SCHEDULES, Form, JsonField
from .process_rows import (
    FUNCTIONS,
    POOLS,
    PREFIX,
    TRIGGERS,
    BaseProcessRows,
    process_rows,
    rows_of,
)

SUGGESTED = 200
"""How many functions, and how many triggers, a page offers; a script fetches more functions."""


@dataclass(frozen=True)
class Submitted:
    """What a browser has sent of the processes."""

    text: str | None
    """The JSON; ``None`` if there was none."""

    rows: BaseProcessRows | None
    shown: str
    """The digest of what the page showed; blank if it was no page of ours."""

    chosen: str
    """Which of the two counts, ``rows`` or ``json``, if the user was asked."""

    def edited(self, current: Any) -> list[str]:
        """Return which of the two were edited: ``rows``, ``json``.

        Parameters
        ----------
        current:
            The processes as they are saved.
        """
        shown = self.shown or digest(current)
        edited = {
            "rows": self.rows is not None and self._changes(self._of_rows, shown),
            "json": self.text is not None and self._changes(self._of_text, shown),
        }
        return [name for name, is_edited in edited.items() if is_edited]

    def _changes(self, read: Callable[[], Any], shown: str) -> bool:
        try:
            return bool(digest(read()) != shown)
        except ValidationError:
            return True

    def _of_rows(self) -> list[dict[str, Any]]:
        """Return the processes of the rows. What is wrong is shown there."""
        assert self.rows is not None
        if not self.rows.is_valid():
            raise ValidationError([])
        return self.rows.processes()

    def _of_text(self) -> Any:
        return parse(self.text or "[]")

    def was_saved_meanwhile(self, current: Any) -> bool:
        """Return whether somebody else has saved other processes since the page was made."""
        return self.shown not in ("", digest(current))

    def is_ambiguous(self, current: Any) -> bool:
        """Return whether both were edited, and differ, and the user has not chosen."""
        if self.chosen or len(self.edited(current)) < 2:
            return False
        try:
            return digest(self._of_rows()) != digest(self._of_text())
        except ValidationError:
            return True

    def decide(self, current: Any) -> Any:
        """Return the processes that are to be saved.

        Raises
        ------
        ValidationError
            What was edited can't be read; or both were edited, or others saved meanwhile.
        """
        edited = self.edited(current)
        if edited and self.was_saved_meanwhile(current):
            raise ValidationError(
                _(
                    "The processes were changed by somebody else since this page was opened. What "
                    "you have entered is still here; save again to replace their change."
                ),
                code="meanwhile",
            )
        if self.is_ambiguous(current):
            raise ValidationError(
                _(
                    "Both the rows and the JSON were edited, and they differ. Choose below which "
                    "of them is to be saved."
                ),
                code="ambiguous",
            )
        if self.chosen in edited:
            edited = [self.chosen]
        if not edited:
            return current
        return self._of_rows() if edited[0] == "rows" else self._of_text()


def digest(processes: Any) -> str:
    """Return a hash of processes, by which it is seen what was edited."""
    return tree_spec.digest({"processes": processes})


def parse(text: str) -> Any:
    """Return parsed JSON; an error names its line and column."""
    return JsonField(required=False).to_python(text.strip() or "[]")


class Shown(str):
    """The processes as a page shows them: the text of the JSON, and what stands beside it.

    A text, as the value of any other field for JSON is.
    """

    rows: BaseProcessRows | None
    why_no_rows: str
    digest: str
    is_json_open: bool
    is_ambiguous: bool = False

    @classmethod
    def of(cls, processes: Any, other_fields: int = 0) -> "Shown":
        """Return how saved processes are shown, beside other fields of the page."""
        shown = cls(_as_text(processes))
        shown.rows, shown.why_no_rows = rows_of(processes, other_fields)
        shown.digest = digest(processes)
        shown.is_json_open = shown.rows is None
        return shown

    @classmethod
    def again(cls, sent: Submitted, current: Any, other_fields: int = 0) -> "Shown":
        """Return how a page that was sent is shown again: what was edited, as it was typed."""
        fresh = cls.of(current, other_fields)
        edited = sent.edited(current)
        is_stale = sent.was_saved_meanwhile(current)
        is_typed = sent.text is not None and ("json" in edited or not is_stale)
        shown = cls(sent.text if is_typed else fresh)
        shown.rows = sent.rows if "rows" in edited or not is_stale else None
        shown.rows = shown.rows or fresh.rows
        shown.why_no_rows, shown.digest = fresh.why_no_rows, fresh.digest
        shown.is_json_open = "json" in edited or shown.rows is None
        shown.is_ambiguous = sent.is_ambiguous(current)
        return shown


def _as_text(processes: Any) -> str:
    """Return processes as JSON for a person; what Python could not parse, as it is stored."""
    if isinstance(processes, str):
        return processes
    return json.dumps(processes, ensure_ascii=False, indent=2)


class ProcessesWidget(forms.Widget):
    """Both ways to edit the processes."""

    template = "admin/proctree_dagster/processtree/processes_widget.html"

    functions_url = ""
    """The address of the functions to choose from."""

    class Media:
        js = (forms.Script("proctree_dagster/processes.js", defer=True),)

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> Any:
        """Return the HTML. It is a template of the pages', whatever renders the project's forms."""
        listed = function_listing.matching(most=SUGGESTED)
        triggers = Trigger.objects.order_by("name").values_list("name", flat=True)
        context = {
            "name": name,
            "shown": value,
            "functions": listed.functions,
            "has_more_functions": bool(listed.more),
            "triggers": triggers[:SUGGESTED],
            "functions_url": self.functions_url,
            "pools": sorted(conf.current().POOLS),
            "lists": {"functions": FUNCTIONS, "triggers": TRIGGERS, "pools": POOLS},
        }
        return render_to_string(self.template, context)

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Submitted:
        """Return what a browser has sent."""
        has_rows = f"{PREFIX}-TOTAL_FORMS" in data
        return Submitted(
            text=data.get(name),
            rows=process_rows(data) if has_rows else None,
            shown=data.get(f"{name}-shown", ""),
            chosen=data.get(f"{name}-use", ""),
        )

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        """Return False: what was not sent stays as it is."""
        return False

    def id_for_label(self, id_: str) -> str:
        """Return nothing: each of its fields has a label of its own."""
        return ""


class ProcessesField(forms.Field):
    """The processes of a tree."""

    widget = ProcessesWidget

    current: Any = ()
    """The processes as they are saved."""

    other_fields = 0
    """How many fields a browser sends of the rest of the page."""

    def clean(self, value: Submitted) -> Any:
        """Return the processes that are to be saved."""
        found = value.decide(self.current)
        if found == []:
            raise ValidationError(_("The tree has no processes; add at least one."), "required")
        return found

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Return how they are shown again."""
        return Shown.again(data, self.current, self.other_fields)

    def prepare_value(self, value: Any) -> Any:
        """Return how they are shown."""
        return value if isinstance(value, Shown) else Shown.of(value, self.other_fields)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Return whether other processes are to be saved."""
        try:
            return digest(data.decide(self.current)) != digest(self.current)
        except ValidationError:
            return True


class ProcessTreeForm(Form):
    """A tree."""

    processes = ProcessesField(initial=list)
    alert_on = KindsField(
        label=_("alerts when"), help_text=_("Nothing is ticked: what the settings say.")
    )
    alert_to = RecipientsField(
        label=_("alerts to"),
        help_text=_(
            "Mail addresses, and names that the settings have, one a line. Blank: what the "
            "settings say."
        ),
    )

    merged_by_themselves = ("processes",)

    functions_url = ""
    """The address from which a script completes functions; the page sets it."""

    class Meta:
        model = ProcessTree
        exclude: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields.get("processes")
        if isinstance(field, ProcessesField):
            field.current = self.instance.processes
            field.other_fields = _other_fields(self.instance)
            field.widget.functions_url = self.functions_url


FIELDS_OF_TREE, FIELDS_OF_SCHEDULE, FIELDS_OF_FOLLOWER = 45, 22, 6
"""About how many fields a browser sends of the tree itself, of a schedule, and of a follower."""


def _other_fields(tree: ProcessTree) -> int:
    """Return about how many fields a browser sends of a tree's page, its processes apart."""
    schedules = 0 if tree.pk is None else tree.schedules.count()
    followers = 0 if tree.pk is None else tree.links_out.count()
    shown = schedules if schedules <= FORMS_OF_SCHEDULES else 0
    return (  # of each kind a page has one form more, for those that a script adds
        FIELDS_OF_TREE + FIELDS_OF_SCHEDULE * (shown + 1) + FIELDS_OF_FOLLOWER * (followers + 1)
    )
