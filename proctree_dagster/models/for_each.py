"""A schedule's ``for_each``: a run for each row."""

from typing import Any

from django.core.validators import MaxValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from ..domain import for_each as for_each_rules
from ..domain.names import MAX_NAME_LENGTH
from .fields import RowField
from .primary import PrimaryModel
from .validation import for_each_validation


class ForEachModel(PrimaryModel):
    """The columns of ``for_each`` and its options."""

    for_each = RowField(
        _("for each"),
        default=dict,
        db_default=models.Value({}, models.JSONField()),
        blank=True,
        help_text=_(
            "A run for each row, as JSON: a model, with a filter if you like, or a function that "
            'yields contexts: {"model": "ledger.Organisation", "filter": {"active": true}}. '
            "Empty: one run."
        ),
    )
    for_each_as = models.CharField(
        _("as"),
        max_length=MAX_NAME_LENGTH,
        blank=True,
        default="",
        db_default="",
        help_text=_("The argument that is given the row. Blank: the model's name in lower case."),
    )
    spread_minutes = models.PositiveSmallIntegerField(
        _("spread over minutes"),
        blank=True,
        default=0,
        db_default=0,
        validators=[MaxValueValidator(for_each_rules.MAX_SPREAD)],
        help_text=_("The runs for the rows begin evenly over so many minutes. 0: all at once."),
    )
    order_by = models.CharField(
        _("order by"),
        max_length=MAX_NAME_LENGTH,
        blank=True,
        default="",
        db_default="",
        help_text=_("The fields by which the rows are ordered: -size, name. Blank: by their keys."),
    )

    class Meta:
        abstract = True

    def for_each_problems(self) -> dict[str, str]:
        """Return what is wrong with ``for_each`` and its options, by their fields."""
        self.for_each = {} if self.for_each is None else self.for_each  # a form left it empty
        self.spread_minutes = 0 if self.spread_minutes is None else self.spread_minutes
        found: dict[str, str] = {}
        wrong = for_each_validation.problems(self.for_each, self.order_by)
        for field, what in (("order_by", "order_by: "), ("for_each", "")):
            of_field = [each for each in wrong if each.startswith("order_by: ") == bool(what)]
            if of_field:
                found[field] = " ".join(each.removeprefix(what) for each in of_field)
        if self.for_each_as and not found:
            named = for_each_rules.problems_of_name(self.for_each_as)
            found |= {"for_each_as": " ".join(named)} if named else {}
        if not self.for_each and (self.for_each_as or self.spread_minutes or self.order_by):
            found["for_each"] = str(_("The options below it need one."))
        return found

    @property
    def row_name(self) -> str:
        """The key of the context that holds the row of a run; blank where a function names all."""
        if self.for_each_as or not isinstance(self.for_each, dict):
            return self.for_each_as
        return for_each_validation.default_name(self.for_each)

    @property
    def for_each_in_words(self) -> str:
        """What it has a run for each of, in words; blank if it has one run."""
        if not self.for_each or not isinstance(self.for_each, dict):
            return ""
        if "function" in self.for_each:
            words = f"context of {self.for_each['function']}"
        else:
            chosen = self.for_each.get("filter")
            words = f"{self.for_each.get('model')}{f' with {chosen}' if chosen else ''}"
        return words + (f", over {self.spread_minutes} min" if self.spread_minutes else "")

    @property
    def for_each_options(self) -> dict[str, Any]:
        """``for_each`` and its options; empty if it has none."""
        if not self.for_each:
            return {}
        return {
            **{"for_each": self.for_each, "for_each_as": self.for_each_as},
            **{"spread_minutes": self.spread_minutes, "order_by": self.order_by},
        }

    def sample_of_row(self) -> dict[str, Any]:
        """Return what a row adds to the context of its run, with a key that stands for any."""
        if not isinstance(self.for_each, dict) or "model" not in self.for_each:
            return {}
        return {self.row_name: {"$model": self.for_each["model"], "pk": None}}
