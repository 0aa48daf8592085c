"""Who may do what: every address of the admin, as each kind of person opens it and sends to it.

The addresses are the resolver's: a new one fails the test until it has its line.
"""

from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client

from proctree_dagster.models import Trigger
from tests.admin.people import DEEDS, OWNS, VIEWS, browser, user
from tests.admin.routes import APP, REVISION, Rows, make_rows, routes, table

pytestmark = pytest.mark.django_db

PEOPLE = ("anonymous", "staff", "viewer", "operator", "owner", "superuser")

TABLE = {
    "GET": """
GET                               anonymous  staff  viewer  operator  owner  superuser
/                                 login      200    200     200       200    200
autocomplete/                     login      403    200     200       200    200
(app)                             login      404    200     200       200    200
alert/                            login      403    200     200       200    200
alert/KEY/change/                 login      403    200     200       200    200
alert/KEY/delete/                 login      403    403     403       200    200
alert/KEY/history/                login      403    200     200       200    200
alert/add/                        login      403    403     403       403    403
backfill/                         login      403    200     200       200    200
backfill/KEY/action/              login      405    405     405       405    405
backfill/KEY/change/              login      403    200     200       200    200
backfill/KEY/delete/              login      403    403     403       200    200
backfill/KEY/history/             login      403    200     200       200    200
backfill/add/                     login      403    403     403       200    200
dagsteraction/                    login      403    200     200       200    200
dagsteraction/KEY/change/         login      403    200     200       200    200
dagsteraction/KEY/delete/         login      403    403     403       200    200
dagsteraction/KEY/history/        login      403    200     200       200    200
dagsteraction/add/                login      403    403     403       403    403
outboxrun/                        login      403    200     200       200    200
outboxrun/KEY/change/             login      403    200     200       200    200
outboxrun/KEY/delete/             login      403    403     403       200    200
outboxrun/KEY/history/            login      403    200     200       200    200
outboxrun/add/                    login      403    403     403       403    403
overview/                         login      403    200     200       200    200
pause/                            login      403    200     200       200    200
pause/KEY/action/                 login      405    405     405       405    405
pause/KEY/change/                 login      403    200     200       200    200
pause/KEY/delete/                 login      403    403     403       200    200
pause/KEY/history/                login      403    200     200       200    200
pause/add/                        login      403    403     403       200    200
processtree/                      login      403    200     200       200    200
processtree/KEY/change/           login      403    200     200       200    200
processtree/KEY/code/             login      403    200     200       200    200
processtree/KEY/delete/           login      403    403     403       200    200
processtree/KEY/history/          login      403    200     200       200    200
processtree/KEY/revisions/        login      403    200     200       200    200
processtree/KEY/revisions/HASH/   login      403    200     200       200    200
processtree/KEY/run/              login      403    403     200       200    200
processtree/KEY/run/choices/      login      403    403     404       404    404
processtree/add/                  login      403    403     403       200    200
processtree/functions/            login      403    403     403       200    200
processtreeschedule/              login      403    200     200       200    200
processtreeschedule/KEY/action/   login      405    405     405       405    405
processtreeschedule/KEY/change/   login      403    200     200       200    200
processtreeschedule/KEY/delete/   login      403    403     403       200    200
processtreeschedule/KEY/history/  login      403    200     200       200    200
processtreeschedule/add/          login      403    403     403       200    200
processtreeschedule/trees/        login      403    403     403       200    200
run/                              login      403    200     200       200    200
run/KEY/action/                   login      403    405     405       405    405
run/KEY/change/                   login      403    200     200       200    200
run/KEY/delete/                   login      403    403     403       403    403
run/KEY/history/                  login      302    302     302       302    302
run/KEY/live/                     login      403    200     200       200    200
run/add/                          login      403    403     403       403    403
run/retry-failed/                 login      403    200     200       200    200
trigger/                          login      403    200     200       200    200
trigger/KEY/action/               login      405    405     405       405    405
trigger/KEY/change/               login      403    200     200       200    200
trigger/KEY/delete/               login      403    403     403       200    200
trigger/KEY/history/              login      403    200     200       200    200
trigger/add/                      login      403    403     403       200    200
""",
    "POST": """
POST                              anonymous  staff  viewer  operator  owner  superuser
/                                 login      200    200     200       200    200
autocomplete/                     login      405    405     405       405    405
(app)                             login      404    200     200       200    200
alert/                            login      403    200     200       302*   302*
alert/KEY/change/                 login      403    403     403       403    403
alert/KEY/delete/                 login      403    403     403       302*   302*
alert/KEY/history/                login      403    200     200       200    200
alert/add/                        login      403    403     403       403    403
backfill/                         login      403    200     200       302*   302*
backfill/KEY/action/              login      403    403     403       302*   302*
backfill/KEY/change/              login      403    403     403       302*   302*
backfill/KEY/delete/              login      403    403     403       302*   302*
backfill/KEY/history/             login      403    200     200       200    200
backfill/add/                     login      403    403     403       200    200
dagsteraction/                    login      403    200     200       200    200
dagsteraction/KEY/change/         login      403    403     403       403    403
dagsteraction/KEY/delete/         login      403    403     403       302*   302*
dagsteraction/KEY/history/        login      403    200     200       200    200
dagsteraction/add/                login      403    403     403       403    403
outboxrun/                        login      403    200     200       302*   302*
outboxrun/KEY/change/             login      403    403     403       403    403
outboxrun/KEY/delete/             login      403    403     403       302*   302*
outboxrun/KEY/history/            login      403    200     200       200    200
outboxrun/add/                    login      403    403     403       403    403
overview/                         login      403    200     200       200    200
pause/                            login      403    200     200       302*   302*
pause/KEY/action/                 login      403    403     403       302*   302*
pause/KEY/change/                 login      403    403     403       200    200
pause/KEY/delete/                 login      403    403     403       302*   302*
pause/KEY/history/                login      403    200     200       200    200
pause/add/                        login      403    403     403       200    200
processtree/                      login      403    200     302*      302*   302*
processtree/KEY/change/           login      403    403     403       200    200
processtree/KEY/code/             login      403    403     403       302*   302*
processtree/KEY/delete/           login      403    403     403       302*   302*
processtree/KEY/history/          login      403    200     200       200    200
processtree/KEY/revisions/        login      405    405     405       405    405
processtree/KEY/revisions/HASH/   login      403    403     403       302    302
processtree/KEY/run/              login      403    403     302*      302*   302*
processtree/KEY/run/choices/      login      403    403     404       404    404
processtree/add/                  login      403    403     403       200    200
processtree/functions/            login      405    405     405       405    405
processtreeschedule/              login      403    200     302*      302*   302*
processtreeschedule/KEY/action/   login      403    403     403       302*   302*
processtreeschedule/KEY/change/   login      403    403     403       302*   302*
processtreeschedule/KEY/delete/   login      403    403     403       302*   302*
processtreeschedule/KEY/history/  login      403    200     200       200    200
processtreeschedule/add/          login      403    403     403       200    200
processtreeschedule/trees/        login      405    405     405       405    405
run/                              login      403    403     302*      302*   302*
run/KEY/action/                   login      403    403     302*      302*   302*
run/KEY/change/                   login      403    405     405       405    405
run/KEY/delete/                   login      403    403     403       403    403
run/KEY/history/                  login      302    302     302       302    302
run/KEY/live/                     login      403    405     405       405    405
run/add/                          login      403    403     403       403    403
run/retry-failed/                 login      403    405     405       405    405
trigger/                          login      403    200     302*      302*   302*
trigger/KEY/action/               login      403    403     302*      302*   302*
trigger/KEY/change/               login      403    403     403       200    200
trigger/KEY/delete/               login      403    403     403       302*   302*
trigger/KEY/history/              login      403    200     200       200    200
trigger/add/                      login      403    403     403       200    200
""",
}
"""What each page answers (``KEY`` is a row's key): the status; ``login``, a redirect to the page
for logging in; ``*``, it has written a row. A POST sends what does the page's deed (see ``sent``).
"""

ASKED = {
    "autocomplete/": {
        **{"app_label": "proctree_dagster", "model_name": "triggersubscription"},
        **{"field_name": "process_tree"},
    },
    f"{APP}processtreeschedule/trees/": {
        **{"app_label": "proctree_dagster", "model_name": "processtreeschedule"},
        **{"field_name": "process_tree"},
    },
}
"""What is sent along in a GET."""


def sent(route: str, rows: Rows) -> dict[str, Any]:
    """Return what is sent in a POST: what does the deed of the page, where it has one."""
    chosen: dict[str, dict[str, Any]] = {
        f"{APP}processtreeschedule/": {"action": "run_now", "_selected_action": rows.schedule.pk},
        f"{APP}trigger/": {"action": "fire", "_selected_action": rows.trigger.pk},
        f"{APP}outboxrun/": {
            **{"action": "delete_selected", "post": "yes", "_selected_action": rows.outbox.pk},
        },
        f"{APP}alert/": {
            **{"action": "delete_selected", "post": "yes", "_selected_action": rows.alert.pk},
        },
        f"{APP}processtreeschedule/<path:object_id>/action/": {"action": "disable"},
        f"{APP}trigger/<path:object_id>/action/": {"action": "fire"},
        f"{APP}processtree/": {"action": "run_now", "_selected_action": rows.tree.pk},
        f"{APP}processtree/<path:object_id>/code/": {"action": "keep", "place": "description"},
        f"{APP}run/": {
            **{"action": "cancel", "confirmed": "yes", "_selected_action": rows.outbox.run_id},
        },
        f"{APP}run/<path:object_id>/action/": {"action": "cancel"},
        f"{APP}pause/": {"action": "resume", "_selected_action": rows.pause.pk},
        f"{APP}pause/<path:object_id>/action/": {"action": "resume"},
        f"{APP}backfill/": {"action": "stop", "_selected_action": rows.backfill.pk},
        f"{APP}backfill/<path:object_id>/action/": {"action": "stop"},
    }
    return chosen.get(route, {"post": "yes"} if route.endswith("/delete/") else {})


def people() -> dict[str, Client]:
    """Return the browser of each kind of person."""
    operator = (*VIEWS, *DEEDS)
    return {
        "anonymous": Client(),
        "staff": browser(user("staff", ())),
        "viewer": browser(user("viewer", VIEWS)),
        "operator": browser(user("operator", operator)),
        "owner": browser(user("owner", (*operator, *OWNS))),
        "superuser": browser(User.objects.create_superuser("superuser")),
    }


def answer_to(ask: Callable[..., Any], address: str, data: Mapping[str, Any]) -> str:
    """Return what the table says of an answer: its status, and ``*`` if it has written a row.

    What it has written is undone.
    """
    with transaction.atomic():
        before = connection.connection.total_changes
        answer = ask(address, data)
        wrote = "*" if connection.connection.total_changes > before else ""
        transaction.set_rollback(True)
    is_login = answer.status_code == 302 and answer["Location"].startswith("/admin/login/")
    return f"{'login' if is_login else answer.status_code}{wrote}"


def title(route: str) -> str:
    """Return what the table calls a route."""
    short = route.removeprefix(APP).replace("<path:object_id>", "KEY").replace(REVISION, "HASH")
    return short or ("(app)" if route else "/")


def found(method: str) -> str:
    """Return the table as the admin answers now."""
    rows, clients = make_rows(), people()
    assert tuple(clients) == PEOPLE
    lines: list[tuple[str, ...]] = [(method, *PEOPLE)]
    for route in routes():
        data = ASKED.get(route, {}) if method == "GET" else sent(route, rows)
        asks = [getattr(client, method.lower()) for client in clients.values()]
        answers = [answer_to(ask, rows.address(route), data) for ask in asks]
        lines.append((title(route), *answers))
    return table(lines)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_page_answers_each_person_as_the_table_says(method: str) -> None:
    assert found(method) == TABLE[method].strip("\n"), "what is found is on the left"


def test_no_get_writes_a_row_and_nothing_that_people_without_rights_send_does() -> None:
    """By the tables above, which hold for what the admin does."""
    assert "*" not in TABLE["GET"]
    for line in TABLE["POST"].strip().splitlines()[1:]:
        _page, anonymous, staff, viewer, *_others = line.split()
        assert "*" not in f"{anonymous}{staff}{viewer}", line


def test_what_comes_from_another_site_is_refused_whoever_is_logged_in() -> None:
    rows = make_rows()
    client = browser(User.objects.create_superuser("superuser"), enforce_csrf_checks=True)
    for route in routes():
        answered = answer_to(client.post, rows.address(route), sent(route, rows))
        assert answered == "403", route


class Presses(HTMLParser):
    """What a page offers to fill in or to press in a form that posts, but for logging out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self._posts = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            posts = (given.get("method") or "").lower() == "post"
            self._posts = posts and given.get("id") != "logout-form"
        is_control = tag in ("input", "button", "select", "textarea")
        if self._posts and is_control and given.get("type") != "hidden":
            self.found.append(given)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._posts = False


def opened(client: Client, rows: Rows) -> Iterator[tuple[str, str]]:
    """Yield the addresses that open for somebody, each with its page."""
    for route in routes():
        answer = client.get(rows.address(route), ASKED.get(route, {}))
        if answer.status_code == 200:
            yield route, answer.content.decode()


def test_who_may_only_view_can_press_nothing_and_sees_no_secret() -> None:
    rows = make_rows(context={"password": "sesame", "plain": "to be seen"})
    Trigger.objects.update(configuration={"filter": {"api_key": "sesame"}})
    seen = 0
    for route, page in opened(browser(user("viewer", VIEWS)), rows):
        presses = Presses()
        presses.feed(page)
        assert presses.found == [], route
        assert "sesame" not in page, route
        seen += "to be seen" in page
    assert seen >= 3, "what is no secret is shown"


def test_a_page_that_is_only_viewed_has_no_buttons() -> None:
    rows, client = make_rows(), browser(user("viewer", VIEWS))
    for model in ("processtreeschedule", "trigger"):
        answer = client.get(rows.address(f"{APP}{model}/<path:object_id>/change/"))
        assert answer.context["pt_buttons"] == {}
        assert "pt-buttons" not in answer.content.decode()
