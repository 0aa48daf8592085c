"""What people do with rows: actions of a list, which are buttons on each row's page, too."""

import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.contrib.admin import helpers
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from ..exceptions import ScheduleError
from ..support.connections import writing
from .html import page_address

NAMED = 10
"""How many rows, and how many reasons, a message names."""


class ActionForm(helpers.ActionForm):
    """The choice of a list's action, with a token: what was done with it is not done twice."""

    token = forms.CharField(label="", required=False, initial=uuid.uuid4, widget=forms.HiddenInput)


def token_of(request: HttpRequest) -> uuid.UUID | None:
    """Return the token of a form that was posted; ``None`` if it has none.

    By it the second click on a button is known.
    """
    try:
        return uuid.UUID(request.POST.get("token", ""))
    except ValueError:
        return None


class Deeds:
    """What an action did to each row, and what it did not: in Django's log, and as messages.

    Parameters
    ----------
    page:
        The page whose action it is.
    request:
        The request.
    """

    def __init__(self, page: Any, request: HttpRequest) -> None:
        self._page, self._request = page, request
        self._done: list[str] = []
        self._not_done: dict[str, list[str]] = {}

    def done(self, row: Any, name: str, log: str) -> None:
        """Record that something was done to a row, with what Django's log of it says."""
        self._page.log_change(self._request, row, log)
        self._done.append(name)

    def not_done(self, name: str, why: str) -> None:
        """Record why nothing was done to a row, in a sentence."""
        self._not_done.setdefault(why, []).append(name)

    def report(self, done: str, not_done: str) -> None:
        """Show what was done, and what was not.

        Parameters
        ----------
        done, not_done:
            A sentence about ``{names}``; ``not_done`` also has ``{why}``.
        """
        if self._done:
            self._tell(messages.SUCCESS, done, names=named(self._done))
        for why, names in list(self._not_done.items())[:NAMED]:
            self._tell(messages.WARNING, not_done, names=named(names), why=why)
        others = sum(map(len, list(self._not_done.values())[NAMED:]))
        if others:
            said = gettext("Nothing was done to {count} more, for other reasons.")
            self._tell(messages.WARNING, said, count=others)

    def _tell(self, level: int, sentence: str, **values: Any) -> None:
        self._page.message_user(self._request, format_html(sentence, **values), level)


def named(names: list[str]) -> SafeString:
    """Return some names as one text, the first few of many; links among them stay links."""
    listed = format_html_join(", ", "{}", ((name,) for name in names[:NAMED]))
    if len(names) <= NAMED:
        return listed
    return format_html(gettext("{names} and {count} more"), names=listed, count=len(names) - NAMED)


def switch(row: Any, on: bool, *also: str) -> str | None:
    """Save a row's ``enabled`` alone; return why that failed, or ``None``.

    Parameters
    ----------
    row:
        A schedule or a trigger.
    on:
        Whether it is switched on, or off.
    also:
        The fields that each save writes.
    """
    row.enabled = on
    rows = type(row)._default_manager.filter(pk=row.pk)
    try:
        with writing(type(row)):
            row.save(update_fields=["enabled", *also])
    except ScheduleError as error:  # its rule is invalid, as SQL has written it
        if on:
            return str(error)
        rows.update(enabled=False)
    except DatabaseError:
        if rows.exists():
            raise
        return gettext("It was deleted meanwhile.")
    return None


class ButtonsOnPage:
    """A page of rows whose list's actions are buttons on the page of each row, too."""

    change_form_template: Any = "admin/proctree_dagster/row_with_buttons.html"

    buttons: ClassVar[Mapping[str, Any]] = {}
    """The labels of the buttons, by the names of the actions."""

    admin_site: Any
    opts: Any

    def offers(self, action: str, row: Any) -> bool:
        """Return whether an action is of use for a row in its present state."""
        return True

    def may_do(self, request: HttpRequest, action: str, row: Any) -> bool:
        """Return whether the user may do an action with this row."""
        needed = getattr(getattr(self, action), "allowed_permissions", ())
        return any(getattr(self, f"has_{each}_permission")(request, row) for each in needed)

    def get_urls(self) -> list[Any]:
        """Add the address of the buttons."""
        view = self.admin_site.admin_view(self.action_view)
        name = f"{self.opts.app_label}_{self.opts.model_name}_action"
        urls: list[Any] = super().get_urls()  # type: ignore[misc]
        return [path("<path:object_id>/action/", view, name=name), *urls]

    def action_view(self: Any, request: HttpRequest, object_id: str) -> HttpResponse:
        """Do an action with one row; return to its page, if the action leads to no other."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        row = self.get_object(request, unquote(object_id))
        action = request.POST.get("action", "")
        if not self.has_view_or_change_permission(request, row):
            raise PermissionDenied
        if row is None:
            told = gettext("It does not exist any more. Nothing was done.")
            self.message_user(request, told, messages.WARNING)
            return HttpResponseRedirect(
                page_address(self.admin_site.name, self.model, "changelist")
            )
        if action not in self.buttons or not self.may_do(request, action, row):
            raise PermissionDenied
        rows = self.get_queryset(request).filter(pk=row.pk)
        answer = getattr(self, action)(request, rows)
        if isinstance(answer, HttpResponse):
            return answer
        page = ("change", row.pk) if rows.exists() else ("changelist",)  # a deed may delete it
        return HttpResponseRedirect(page_address(self.admin_site.name, self.model, *page))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Show the buttons of the actions that the user may do."""
        row = kwargs.get("obj")
        if row is not None:
            context["pt_buttons"] = {
                action: label
                for action, label in self.buttons.items()
                if self.offers(action, row) and self.may_do(request, action, row)
            }
            context["pt_token"] = uuid.uuid4()
            context["pt_action_url"] = page_address(self.admin_site.name, row, "action", row.pk)
        answer: HttpResponse = super().render_change_form(  # type: ignore[misc]
            request, context, *args, **kwargs
        )
        return answer
