"""Colleagues with rights, and what their browsers send, for tests of the admin."""

import json
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any

from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client

ADMIN = "/admin/proctree_dagster"

VIEWS = (
    *("view_processtree", "view_processtreeschedule", "view_trigger", "view_triggersubscription"),
    *("view_treelink", "view_outboxrun", "view_run", "view_dagsteraction"),
    *("view_pause", "view_backfill", "view_alert"),
)
"""Those of people who only watch."""

DEEDS = ("run_processtree", "cancel_run", "retry_run", "fire_trigger")
"""Those of an operator, besides."""

MODELS = (
    *("processtree", "processtreeschedule", "pause", "backfill"),
    *("trigger", "triggersubscription", "treelink"),
)
OWNS = (
    *(f"{verb}_{model}" for verb in ("add", "change", "delete") for model in MODELS),
    *("delete_alert", "delete_outboxrun", "delete_dagsteraction", "name_functions"),
)
"""Those of an owner, besides."""


def user(name: str, codenames: Iterable[str]) -> User:
    """Return a colleague with these permissions and no others."""
    made = User.objects.create_user(name, is_staff=True)
    wanted = set(codenames)
    found = Permission.objects.filter(
        content_type__app_label="proctree_dagster", codename__in=wanted
    )
    assert {each.codename for each in found} == wanted
    made.user_permissions.set(found)
    return made


def browser(of: User, **options: Any) -> Client:
    """Return the browser of a user who has logged in."""
    client = Client(**options)
    client.force_login(of)
    return client


def staff(*codenames: str) -> Client:
    """Return the browser of a colleague with these permissions and no others."""
    return browser(user("clerk", codenames))


def shown(client: Client, page: str) -> dict[str, Any]:
    """Return what a page shows in its fields, as a browser would send it back untouched."""
    answer = client.get(page)
    assert answer.status_code == 200
    forms = [answer.context["adminform"].form]
    formsets = [inline.formset for inline in answer.context["inline_admin_formsets"]]
    for formset in formsets:
        forms += [formset.management_form, *formset.forms]
    bounds = [bound for form in forms for bound in form]
    ticked = {each.html_name for each in bounds if hasattr(each.field, "choices")}
    values = {each.html_name: each.value() for each in bounds if each.value() is not None}
    return {
        name: json.dumps(value) if isinstance(value, (dict, list)) and name not in ticked else value
        for name, value in values.items()
        if value is not False
    }


def act(client: Client, model: str, action: str, *keys: Any) -> str:
    """Do an action with rows of a list, and return the text of the page after it."""
    data = {"action": action, "_selected_action": list(keys)}
    return text_of(client.post(f"{ADMIN}/{model}/", data, follow=True))


def press(client: Client, model: str, key: Any, button: str) -> Any:
    """Press a button on the page of a row."""
    return client.post(f"{ADMIN}/{model}/{key}/action/", {"action": button}, follow=True)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(answer: Any) -> str:
    """Return the text of a page, as one line."""
    assert isinstance(answer, HttpResponse)
    parser = _Text()
    parser.feed(answer.content.decode())
    return " ".join(" ".join(parser.parts).split())
