"""Names, contexts and results full of markup are text on every page of the admin."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from django.contrib.auth.models import User
from django.test import Client

from proctree_dagster.models import OutboxRun, ProcessTree, ProcessTreeSchedule
from tests.admin.people import browser
from tests.admin.routes import APP, Rows, make_rows, routes

pytestmark = pytest.mark.django_db

SCRIPT, IMAGE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
EVIL = f"{SCRIPT} {IMAGE} '{{{{7*7}}}}' </textarea></title></style>"
"""It closes what it may stand in, and begins what a browser would run."""

QUERIES = ("", "q={evil}", "o={evil}", "p={evil}", "_popup=1&_facets=True&all=", "{evil}={evil}")
"""What is added to the addresses of lists."""

FILTERS: dict[str, tuple[str, ...]] = {
    "processtreeschedule": ("overdue={evil}", "rule={evil}", "held_back={evil}"),
    "trigger": ("state__exact={evil}", "enabled__exact={evil}"),
    "run": ("status={evil}", "tree={evil}&tag={evil}", "day={evil}", "trigger={evil}"),
}
"""What is added besides to that of a list."""


class Elements(HTMLParser):
    """The elements and attributes of a page, and whatever of them markup could have made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []
        self.text: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        for name, value in attrs:
            runs = name.startswith("on") or (name == "src" and value == "x")
            if runs or (name in ("href", "src", "action") and "javascript:" in (value or "")):
                self.made.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and "alert(1)" in data:
            self.made.append(data)
        self.text.append(data)


def check(answer: Any, address: str) -> str:
    """Return the text of an answer in which nothing came of the markup."""
    assert answer.status_code < 500, address
    content: str = answer.content.decode()
    if answer["Content-Type"].startswith("application/json"):
        assert answer["X-Content-Type-Options"] == "nosniff", address
        return content
    assert answer.status_code in (302, 400, 403, 404, 405) or (
        answer["Content-Type"].startswith("text/html")
    ), address
    page = Elements()
    page.feed(content)
    assert page.made == [], address
    assert SCRIPT not in content, address
    assert IMAGE not in content, address
    return "".join(page.text)


@pytest.fixture
def rows() -> Rows:
    made = make_rows(EVIL, {EVIL: EVIL}, {EVIL: EVIL})
    executor, function = {"executor": EVIL}, [{"name": EVIL, "func": EVIL, "trigger": EVIL}]
    ProcessTree.objects.create(name=f"broken {EVIL}", job_name="broken", processes=function)
    ProcessTree.objects.filter(pk=made.tree.pk).update(**executor)
    ProcessTreeSchedule.objects.update(timezone="UTC", last_run_id=EVIL[:64], last_run_status="x")
    OutboxRun.objects.update(after=[EVIL])
    return made


@pytest.fixture
def client() -> Client:
    return browser(User.objects.create_superuser(EVIL[:150]))


def addresses(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the address of each page, and what is asked for there."""
    for route in routes():
        address = rows.address(route)
        if route == "autocomplete/" or route.endswith(("/trees/", "/functions/")):
            for model, field in [
                ("triggersubscription", "process_tree"),
                ("processtreeschedule", "process_tree"),
                ("treelink", "target"),
                (EVIL, EVIL),
            ]:
                named = {"app_label": "proctree_dagster", "model_name": model, "field_name": field}
                yield address, {**named, "term": ""}
                yield address, {**named, "term": EVIL}
        elif route.startswith(APP) and route.count("/") == 2:
            model = route.removeprefix(APP).rstrip("/")
            for query in (*QUERIES, *FILTERS.get(model, ())):
                yield address, dict(parse_qsl(query.replace("{evil}", quote(EVIL)), True))
        else:
            yield address, {}
        yield address.replace(rows.key("run"), EVIL), {}


@pytest.mark.parametrize(
    "page",
    [SCRIPT, f'<input value="{IMAGE}">', "<a href='javascript:alert(1)'>", "<p onclick='x'>"],
)
def test_markup_that_is_no_text_is_found(page: str) -> None:
    found = Elements()
    found.feed(page)
    assert found.made


def test_markup_is_text_on_every_page(rows: Rows, client: Client) -> None:
    seen = set()
    for address, asked in addresses(rows):
        text = check(client.get(address, asked), f"{address} {asked}")
        if "alert(1)" in text:
            seen.add(address)
    for model in ("processtree", "processtreeschedule", "trigger", "outboxrun"):
        for page in ("", f"{rows.key(model)}/change/", f"{rows.key(model)}/delete/"):
            assert f"/admin/{APP}{model}/{page}" in seen, "it shows no name"
    assert f"/admin/{APP}run/{rows.key('run')}/change/" in seen


def test_markup_is_text_in_messages_on_confirmations_and_beside_errors(
    rows: Rows, client: Client
) -> None:
    deeds = {
        "run": ["cancel"],
        "processtree": ["run_now", "delete_selected"],
        "processtreeschedule": ["disable", "disable", "enable", "delete_selected"],
        "trigger": ["fire", "reset", "disable", "disable", "fire", "delete_selected"],
        "outboxrun": ["delete_selected"],
    }
    for model, actions in deeds.items():
        address = f"/admin/{APP}{model}/"
        for action in actions:
            data = {"action": action, "_selected_action": [rows.key(model)]}
            text = check(client.post(address, data, follow=True), f"{address} {action}")
            assert "alert(1)" in text
        check(client.get(f"{address}{rows.key(model)}/history/"), f"{address} history")
    typed = {"name": EVIL, "processes": EVIL, "context": EVIL, "configuration": EVIL, "cron": EVIL}
    typed |= {"trigger_type": EVIL, "rule_kind": "cron", "process_tree": EVIL, "timezone": EVIL}
    for model in ("processtree", "processtreeschedule", "trigger"):
        for page in ("add/", f"{rows.key(model)}/change/"):
            address = f"/admin/{APP}{model}/{page}"
            check(client.post(address, typed), address)
        check(client.post(f"/admin/{APP}{model}/{rows.key(model)}/delete/", {"post": "yes"}), model)
