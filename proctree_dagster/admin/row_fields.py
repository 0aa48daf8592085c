"""Fields for rows of models in a form that no model has: as the admin lets the user see them."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin import widgets
from django.contrib.admin.exceptions import NotRegistered
from django.contrib.admin.views.autocomplete import AutocompleteJsonView
from django.core.exceptions import PermissionDenied
from django.db.models import CompositePrimaryKey, Model
from django.http import Http404, HttpRequest

from ..context import sensitive
from ..models import ProcessTree
from ..models.context_schema import ContextKey, chosen_type

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite

MOST_ROWS = 200
"""How many rows of a model are offered at most where they can't be searched."""


class RowChoiceField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A row of a model; one whose text holds a secret is named by its key."""

    def label_from_instance(self, obj: Model) -> str:
        """Return what a row is called."""
        return row_text(obj)


def row_text(row: Model) -> str:
    """Return a row's text; of one that would show a secret, its model and key."""
    text = str(row)
    return f"{row._meta.label}:{row.pk}" if sensitive.tells_secret(row, text) else text


class KeyAutocomplete(widgets.AutocompleteSelect):
    """Chooses a row of a model that a key of the context takes, as one types."""

    def __init__(self, model: type[Model], name: str, site: "AdminSite", url: str) -> None:
        relation = SimpleNamespace(
            model=ProcessTree, name=name, remote_field=SimpleNamespace(model=model)
        )
        super().__init__(relation, site)  # no field of any model
        self._url = url

    def get_url(self) -> str:
        """Return the address that is asked for rows."""
        return self._url


@dataclass(frozen=True)
class RowFields:
    """Makes the fields by which rows of models are chosen, as the admin lets this user see them."""

    site: "AdminSite"
    request: HttpRequest
    choices_url: str
    """The address that is asked for the rows of a key."""

    def __call__(self, model: type[Model], key: ContextKey) -> forms.Field | None:
        """Return the field for a key; ``None`` if it is to be typed as JSON."""
        is_composite = isinstance(model._meta.pk, CompositePrimaryKey)
        is_refused = sensitive.problem_of_model(model, "CONTEXT_MODELS") is not None
        if is_composite or is_refused or sensitive.has_sensitive_key(model):
            return None
        page = page_of(self.site, self.request, model)
        if page is None:
            return RowChoiceField(model._base_manager.all(), widget=widgets.AdminTextInputWidget)
        rows = page.get_queryset(self.request)
        if page.get_search_fields(self.request):
            url = f"{self.choices_url}?key={key.name}"
            return RowChoiceField(rows, widget=KeyAutocomplete(model, key.name, self.site, url))
        if rows[: MOST_ROWS + 1].count() > MOST_ROWS:
            return RowChoiceField(rows, widget=widgets.AdminTextInputWidget)
        return RowChoiceField(rows)


def page_of(site: "AdminSite", request: HttpRequest, model: type[Model]) -> Any:
    """Return the page of a model's rows, if the user may see these; else ``None``."""
    try:
        page = site.get_model_admin(model)
    except NotRegistered:
        return None
    return page if page.has_view_permission(request) else None


class KeyChoices(AutocompleteJsonView):
    """The rows that a key of a tree's context may be, for ``KeyAutocomplete``."""

    model: type[Model]
    """The model of the key."""

    def process_request(self, request: HttpRequest) -> tuple[str, Any, Any, str]:
        """Return the typed term, the page of the model, a stand-in for a relation, and the key."""
        page = page_of(self.admin_site, request, self.model)  # type: ignore[arg-type]
        if page is None:
            raise PermissionDenied
        if not page.get_search_fields(request):
            raise Http404
        anything = SimpleNamespace(get_limit_choices_to=dict)
        return request.GET.get("term", ""), page, anything, self.model._meta.pk.attname

    def serialize_result(self, obj: Model, to_field_name: str) -> dict[str, str]:
        """Return a row as an option."""
        return {"id": str(getattr(obj, to_field_name)), "text": row_text(obj)}


def model_of(key: ContextKey) -> type[Model] | None:
    """Return the model whose rows a key takes; ``None`` if it takes something else."""
    kind = chosen_type(key.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, Model) else None
