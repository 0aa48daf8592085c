"""The admin's pages on a site of the project's own: each link stays on it."""

from html.parser import HTMLParser

import pytest
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import path

from proctree_dagster import admin as pages
from proctree_dagster.models import ProcessTree, Trigger
from tests.admin.people import browser
from tests.admin.routes import Rows, make_rows, routes

pytestmark = pytest.mark.django_db

site = AdminSite(name="backoffice")
pages.register(site)

urlpatterns = [path("back/office/", site.urls)]
"""There is no other admin: an address of Django's own site would not be found."""


class Links(HTMLParser):
    """The addresses to which a page leads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fetched = ("data-ajax--url", "data-pt-refresh", "data-pt-functions")
        names = ("href", "action", "formaction", *fetched)
        self.found |= {value for name, value in attrs if name in names and value}


@pytest.fixture
def rows() -> Rows:
    return make_rows()


@pytest.fixture
def client() -> Client:
    return browser(User.objects.create_superuser("superuser"))


def on_site(rows: Rows, route: str) -> str:
    return rows.address(route).replace("/admin/", "/back/office/", 1)


@override_settings(ROOT_URLCONF=__name__)
def test_every_page_opens_on_a_site_of_its_own_and_leads_nowhere_else(
    rows: Rows, client: Client
) -> None:
    opened = set()
    for route in routes(below="back/office/"):
        answer = client.get(on_site(rows, route))
        if answer.status_code != 200:
            continue
        opened.add(route)
        links = Links()
        links.feed(answer.content.decode())
        inside = ("/back/office/", "?", "#", ".", "../")
        others = {each for each in links.found if not each.startswith((*inside, "/static/"))}
        assert others - {"/"} == set(), route  # "View site"
    lists = ("overview", "processtree", "trigger", "run", "dagsteraction")
    assert {f"proctree_dagster/{model}/" for model in lists} <= opened
    row = "<path:object_id>"
    pages = (
        "processtreeschedule/{}/change/",
        "run/{}/change/",
        "run/{}/live/",
        "processtree/{}/run/",
    )
    assert {f"proctree_dagster/{page.format(row)}" for page in pages} <= opened


@override_settings(ROOT_URLCONF=__name__)
def test_what_is_done_there_returns_there(rows: Rows, client: Client) -> None:
    address = on_site(rows, "proctree_dagster/trigger/<path:object_id>/")
    answer = client.post(f"{address}action/", {"action": "fire"})
    assert answer["Location"] == f"{address}change/"
    missing = "/back/office/proctree_dagster/trigger/77/action/"
    answer = client.post(missing, {"action": "fire"})
    assert answer["Location"] == "/back/office/proctree_dagster/trigger/"


def test_a_page_of_the_project_s_own_is_left_as_it_is() -> None:
    class OwnPage(ModelAdmin):  # type: ignore[type-arg]
        pass

    own = AdminSite(name="own")
    own.register(Trigger, OwnPage)
    pages.register(own)
    assert isinstance(own.get_model_admin(Trigger), OwnPage)
    assert isinstance(own.get_model_admin(ProcessTree), pages.ProcessTreeAdmin)


class OwnPageOfTrees(ModelAdmin):  # type: ignore[type-arg]
    """Knows nothing of running a tree."""


bare_site = AdminSite(name="admin")  # whose pages of trees are the project's own
bare_site.register(ProcessTree, OwnPageOfTrees)
pages.register(bare_site)


class BareUrls:
    """The addresses of that site."""

    urlpatterns = (path("admin/", bare_site.urls),)


@override_settings(ROOT_URLCONF=BareUrls)
def test_a_runs_page_opens_where_the_page_of_trees_is_the_project_s_own(
    rows: Rows, client: Client
) -> None:
    answer = client.get(rows.address("proctree_dagster/run/<path:object_id>/change/"))
    assert answer.status_code == 200
    assert "Run again with another context" not in answer.content.decode()
