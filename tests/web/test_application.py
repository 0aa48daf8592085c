"""The Django site and Dagster's UI in one application: each is served whatever the other does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from proctree_dagster import conf
from proctree_dagster.services import webserver
from proctree_dagster.support import project
from proctree_dagster.web.application import Application, _private_listener
from tests.tools.stack import wait_for
from tests.web import asgi
from tests.web.asgi import Got, http, socket

pytestmark = pytest.mark.django_db


@pytest.fixture
def application(settings: Settings) -> Iterator[Application]:
    """The application in a test, where no Dagster can be opened."""
    settings.ALLOWED_HOSTS = [asgi.HOST]
    application = Application()
    try:
        yield application
    finally:
        application._dagster.end()


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_the_site_is_served_and_dagsters_place_says_why_it_is_not(
    application: Application, root: Client
) -> None:
    def problem() -> Got | None:
        got = http(application, "/dagster/", headers=[("accept", "text/html")], client=root)
        assert got.status == 503
        assert got.headers["refresh"] == "2"
        return got if "can't be served" in got.text else None

    got = wait_for("the reason", problem, 60)
    assert "Dagster has no home" in got.text
    assert http(application, "/admin/", client=root).status == 200
    assert http(application, "/nowhere/", client=root).status == 404


def test_who_is_not_let_in_is_told_nothing_of_dagster(application: Application) -> None:
    assert http(application, "/dagster/").status == 401
    assert http(application, "/dagster").status == 401


def test_a_path_that_only_begins_like_dagsters_is_the_sites(
    application: Application, root: Client
) -> None:
    assert http(application, "/dagsters/", client=root).status == 404
    assert "text/html" in http(application, "/dagsters/", client=root).headers["Content-Type"]


def test_the_path_is_the_settings(settings: Settings, root: Client) -> None:
    settings.ALLOWED_HOSTS = [asgi.HOST]
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_PATH": "/ops/dagster"}
    application = Application()
    assert http(application, "/ops/dagster/").status == 401
    assert http(application, "/dagster/", client=root).status == 404


@pytest.mark.parametrize("path", ["dagster", "/", "/dagster/", "//dagster", "/a b", "", 5, None])
def test_a_path_that_could_not_be_served_is_refused(path: Any) -> None:
    [problem] = conf.problems({"DAGSTER_PATH": path})
    assert "a path such as /dagster" in problem


def test_the_gate_alone_serves_no_site_and_says_where_dagster_is(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = [asgi.HOST]
    application = Application(with_site=False)
    got = http(application, "/admin/")
    assert (got.status, got.text) == (
        404,
        "Dagster's UI is at /dagster/; the Django site is served elsewhere.\n",
    )
    assert http(application, "/dagster/").status == 401


def test_a_websocket_elsewhere_is_closed(application: Application, root: Client) -> None:
    got = socket(application, path="/ws/", client=root)
    assert got.sent == [{"type": "websocket.close", "code": 4404}]


def test_it_starts_and_ends_with_the_server(application: Application) -> None:
    waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async_to_sync(application)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert application._dagster._thread is None


def test_a_socket_whose_path_is_too_long_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"too long\. Let TMPDIR or --socket name"):
        _private_listener(tmp_path / ("a" * 100) / "dagster.sock")


# --- Two addresses --------------------------------------------------------------------------------


@pytest.fixture
def addresses(settings: Settings) -> Any:
    """Set the addresses of Dagster."""

    def to(**given: str) -> None:
        settings.PROCTREE = {**settings.PROCTREE, **given}

    return to


def test_links_lead_to_the_public_address_and_django_asks_the_other(addresses: Any) -> None:
    addresses(
        DAGSTER_URL="http://user:secret@10.0.0.1:3000",
        DAGSTER_PUBLIC_URL="https://books.example.com/dagster",
    )
    assert webserver.run_url("1") == "https://books.example.com/dagster/runs/1"
    assert webserver.graphql_url() == "http://user:secret@10.0.0.1:3000/graphql"


def test_without_a_public_address_links_lead_to_the_other_without_its_password(
    addresses: Any,
) -> None:
    addresses(DAGSTER_URL="http://user:secret@10.0.0.1:3000")
    assert webserver.run_url("1") == "http://10.0.0.1:3000/runs/1"


def test_no_link_leads_to_a_socket(addresses: Any) -> None:
    addresses(DAGSTER_URL="unix:/run/dagster.sock")
    assert webserver.run_url("1") is None
    assert webserver.graphql_url() == "unix:/run/dagster.sock:/graphql"


@pytest.mark.parametrize("address", ["unix:", "unix:dagster.sock", "unix:/a\nb"])
def test_a_socket_is_named_with_its_whole_path(address: str) -> None:
    [problem] = conf.problems({"DAGSTER_URL": address})
    assert "such as unix:/run/dagster.sock" in problem


@pytest.mark.parametrize(
    "address", ["unix:/run/dagster.sock", "https://user:secret@example.com", "example.com"]
)
def test_a_public_address_is_one_that_everybody_may_see(address: str) -> None:
    [problem] = conf.problems({"DAGSTER_PUBLIC_URL": address})
    assert "secret" not in problem


def test_a_socket_that_nobody_serves_is_an_error_that_names_it(
    tmp_path: Path, addresses: Any, caplog: pytest.LogCaptureFixture
) -> None:
    addresses(DAGSTER_URL=f"unix:{tmp_path}/dagster.sock")
    url = webserver.graphql_url()
    assert url is not None
    assert not webserver.reload_location(url)
    assert f"{tmp_path}/dagster.sock" in caplog.text
    assert project.public_url() is None
