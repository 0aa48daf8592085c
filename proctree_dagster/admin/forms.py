"""Forms that several pages share."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.utils.translation import gettext_lazy as _

from ..models import ProcessTreeSchedule, TriggerType


class Form(forms.ModelForm):  # type: ignore[type-arg]
    """Shows the errors of read-only fields, too."""

    def add_error(self, field: str | None, error: Any) -> None:
        """Add errors; for fields that the form lacks, to the form itself."""
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            known: dict[str, list[Any]] = {}
            for name, each in error.error_dict.items():
                known.setdefault(name if name in self.fields else NON_FIELD_ERRORS, []).extend(each)
            error = ValidationError(known)
        super().add_error(field, error)


class ScheduleForm(Form):
    """Refuses a context with which no run could succeed, or with a key that nothing takes."""

    def clean(self) -> dict[str, Any] | None:
        """Compare the context with what the tree's functions take, if either has changed.

        A schedule whose context became invalid with a change of the code can still be disabled.
        """
        cleaned = super().clean() or {}
        changed = {"process_tree", "context", "pass_scheduled_for"} & {*self.changed_data}
        tree, context = cleaned.get("process_tree"), cleaned.get("context")
        if isinstance(context, Mapping) and tree and (changed or self.instance._state.adding):
            passes = bool(cleaned.get("pass_scheduled_for"))
            schedule = ProcessTreeSchedule(
                process_tree=tree, context=context, pass_scheduled_for=passes
            )
            if problems := schedule.context_problems():
                self.add_error("context", ValidationError(problems))
        return cleaned


class AddedForm(ScheduleForm):
    """A form that was added to a page is saved as it is shown, even if unchanged."""

    def has_changed(self) -> bool:
        """Whether there is anything to save."""
        return super().has_changed() or self.instance._state.adding


class TriggerForm(Form):
    """Shows one error for a field that can't be parsed, and none for its previous value."""

    def add_error(self, field: str | None, error: Any) -> None:
        """Add errors, but none to a field that has one already."""
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            new = {name: each for name, each in error.error_dict.items() if name not in self.errors}
            error = ValidationError(new)
        super().add_error(field, error)

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
