"""Fields of a tree's form that say who gets which alerts of it."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from ..domain import alert_settings as kinds
from ..domain.tree_alerts import NOTHING

CHOICES = (
    (kinds.FAILURE, _("a run fails")),
    (kinds.THIRD_FAILURE, _("the third run in a row fails")),
    (kinds.RECOVERED, _("it has recovered")),
    (kinds.LATE, _("it is late")),
    (kinds.TOO_LONG, _("a run takes too long")),
    (kinds.NO_SUCCESS, _("no run has succeeded for too long")),
    (NOTHING, _("nothing: there are no alerts")),
)
"""The kinds of alerts, as a tree's page calls them."""


class KindsField(forms.MultipleChoiceField):
    """Kinds of alerts, to be ticked."""

    widget = forms.CheckboxSelectMultiple

    def __init__(self, **options: Any) -> None:
        super().__init__(choices=CHOICES, required=False, **options)


class RecipientsField(forms.CharField):
    """A list of texts, one a line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(widget=forms.Textarea(attrs={"rows": 3}), required=False, **options)

    def prepare_value(self, value: Any) -> Any:
        """Return what the box shows: the texts, or what somebody has typed."""
        return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else value

    def to_python(self, value: Any) -> Any:
        """Return the texts of the lines that are not blank."""
        lines = value if isinstance(value, (list, tuple)) else str(value or "").splitlines()
        return [line.strip() for line in lines if line.strip()]
