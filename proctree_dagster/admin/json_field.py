"""A form's field for JSON that says where the JSON is wrong, and shows it over several lines."""

import json
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy


class JSONField(forms.JSONField):
    """Says at which line and column the JSON can't be read; an empty field is ``empty_value``.

    It refuses what the databases refuse or drop: ``NaN``, infinite numbers, and an object with a
    key twice.
    """

    default_error_messages = {
        "invalid": gettext_lazy("Line %(line)d, column %(column)d: %(problem)s"),
        "unreadable": gettext_lazy("It can't be read as JSON: %(problem)s"),
    }

    def to_python(self, value: Any) -> Any:
        """Return the parsed JSON."""
        if self.disabled or value in self.empty_values or not isinstance(value, str):
            return super().to_python(value)
        return self.parse(value)

    def parse(self, text: str) -> Any:
        """Return parsed JSON.

        Raises
        ------
        ValidationError
            It can't be read; the message says where.
        """
        try:
            return json.loads(
                text, parse_constant=_no_constant, object_pairs_hook=_once, cls=self.decoder
            )
        except json.JSONDecodeError as error:
            params = {"line": error.lineno, "column": error.colno, "problem": error.msg}
            raise ValidationError(self.error_messages["invalid"], "invalid", params) from error
        except RecursionError as error:
            problem = _("it is nested too deeply.")
        except ValueError as error:  # a number of 5,000 digits, a constant, a key given twice
            problem = str(error)
        raise ValidationError(self.error_messages["unreadable"], "unreadable", {"problem": problem})

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Return what is shown again after an error: the text as it was typed."""
        return initial if self.disabled or data is None else InvalidJSONInput(data)

    def prepare_value(self, value: Any) -> Any:
        """Return the text that is shown."""
        if value is None or isinstance(value, InvalidJSONInput):
            return value
        return json.dumps(value, ensure_ascii=False, indent=2, cls=self.encoder)


def _no_constant(name: str) -> None:
    raise ValueError(_("%(name)s is no JSON.") % {"name": name})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _value in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(_("an object has the key %(key)r twice.") % {"key": twice})
    return found
