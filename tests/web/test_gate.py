"""The gate before Dagster's UI: what passes, for whom, and what reaches Dagster."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client
from pytest_django import Settings

from proctree_dagster.admin import ProcessTreeAdmin
from proctree_dagster.models import DagsterAction, ProcessTree
from proctree_dagster.services.dagster_access import MUTATIONS, RECORDER, VISITOR, Visitor
from proctree_dagster.tree_builder import ProcessTreeInstance
from proctree_dagster.web import gate as gates
from proctree_dagster.web.gate import Gate
from tests.app import processes
from tests.web import asgi
from tests.web.asgi import Got, Inner, http, query, socket

pytestmark = pytest.mark.django_db

PEOPLE = {
    "anonymous": None,
    "staff": [],
    "viewer": ["view_dagster"],
    "operator": ["view_dagster", "operate_dagster", "run_processtree"],
    "administrator": [
        *("view_dagster", "operate_dagster", "administer_dagster", "run_processtree"),
    ],
    "inactive": ["view_dagster", "operate_dagster", "administer_dagster", "run_processtree"],
    "superuser": [],
}
"""Who comes, and their permissions."""

ASK = "{ version }"
LAUNCH = "mutation { launchRun(executionParams: {}) { __typename } }"
DELETE = 'mutation { deleteRun(runId: "1") { __typename } }'
UNGUARDED = "mutation { setNuxSeen }"
FOLLOW = 'subscription { pipelineRunLogs(runId: "1") { __typename } }'


def start(text: str) -> str:
    return json.dumps({"type": "start", "id": "1", "payload": {"query": text}})


REQUESTS: dict[str, Callable[[Any, Client], Got]] = {
    "page": lambda app, client: http(
        app, "/dagster/runs", headers=[("accept", "text/html")], client=client
    ),
    "file": lambda app, client: http(app, "/dagster/favicon.png", client=client),
    "HEAD": lambda app, client: http(app, "/dagster/runs", "HEAD", client=client),
    "logs": lambda app, client: http(app, "/dagster/logs/1/compute_logs/a.out", client=client),
    "query": lambda app, client: query(app, ASK, client=client),
    "launch": lambda app, client: query(app, LAUNCH, client=client),
    "delete": lambda app, client: query(app, DELETE, client=client),
    "unguarded": lambda app, client: query(app, UNGUARDED, client=client),
    "WebSocket": lambda app, client: socket(app, messages=[start(FOLLOW)], client=client),
}

EXPECTED = {
    #                 page file HEAD logs query launch delete unguarded WebSocket
    "anonymous":     (302, 401, 401, 401, 401, 401, 401, 401, 4401),
    "staff":         (403, 403, 403, 403, 403, 403, 403, 403, 4403),
    "viewer":        (200, 200, 200, 200, 200, 403, 403, 403, "open"),
    "operator":      (200, 200, 200, 200, 200, 200, 403, 403, "open"),
    "administrator": (200, 200, 200, 200, 200, 200, 200, 403, "open"),
    "inactive":      (302, 401, 401, 401, 401, 401, 401, 401, 4401),
    "superuser":     (200, 200, 200, 200, 200, 200, 200, 403, "open"),
}  # fmt: skip
"""What each of them gets."""


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def gate(inner: Inner, settings: Settings) -> Gate:
    settings.ALLOWED_HOSTS = [asgi.HOST]
    return Gate(inner, "/dagster")


def come(who: str) -> Client:
    """Return the client of somebody of ``PEOPLE``, logged in where they can be."""
    client = Client()
    codenames = PEOPLE[who]
    if codenames is None:
        return client
    make = User.objects.create_superuser if who == "superuser" else User.objects.create_user
    user = make(who, password="secret", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    if who == "inactive":  # after the login
        User.objects.filter(pk=user.pk).update(is_active=False)
    return client


def outcome(got: Got) -> int | str:
    if got.status:
        return got.status
    if any(each["type"] == "websocket.accept" for each in got.sent):
        return "open"
    [closed] = [each for each in got.sent if each["type"] == "websocket.close"]
    code: int = closed["code"]
    return code


@pytest.mark.parametrize("who", PEOPLE)
def test_each_request_is_answered_as_the_matrix_says(who: str, gate: Gate, inner: Inner) -> None:
    client = come(who)
    got = {name: outcome(send(gate, client)) for name, send in REQUESTS.items()}
    assert got == dict(zip(REQUESTS, EXPECTED[who], strict=True))
    passed = sum(each in (200, "open") for each in EXPECTED[who])
    assert len(inner.scopes) == passed, "what is refused does not reach Dagster"


@pytest.fixture
def root() -> Client:
    return come("superuser")


JSON = ("content-type", "application/json")
OWN = ("origin", asgi.ORIGIN)
BODY = json.dumps({"query": ASK}).encode()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([JSON, OWN], BODY, 200),
        ([("content-type", "application/json; charset=utf-8"), OWN], BODY, 200),
        ([JSON], BODY, 403),  # no page of this site's
        ([JSON, ("origin", "null")], BODY, 403),
        ([JSON, ("origin", "http://evil.example")], BODY, 403),
        ([JSON, ("origin", "https://testserver")], BODY, 403),  # another scheme
        ([JSON, ("origin", "http://testserver:81")], BODY, 403),
        ([JSON, ("origin", "http://testserver.evil.example")], BODY, 403),
        ([("content-type", "application/x-www-form-urlencoded"), OWN], b"query=x", 415),
        ([("content-type", "multipart/form-data; boundary=x"), OWN], BODY, 415),
        ([("content-type", "text/plain"), OWN], BODY, 415),
        ([("content-type", "application/graphql"), OWN], ASK.encode(), 415),
        ([OWN], BODY, 415),
        ([JSON, OWN], b"[" + BODY + b"]", 400),  # a batch
        ([JSON, OWN], b"{}", 400),
        ([JSON, OWN], b'{"query": 5}', 400),
        ([JSON, OWN], b'{"query": "{a}", "variables": 5}', 400),
        ([JSON, OWN], b"no json", 400),
        ([JSON, OWN], b"[" * 100_000, 400),
        ([JSON, OWN, ("content-length", "99999999")], BODY, 413),
        ([JSON, OWN], b"x" * 3_000_000, 413),
        ([JSON, OWN], [b"x" * 1_000_000] * 3, 413),
    ],
)
def test_a_post_is_one_json_object_of_the_same_origin(
    gate: Gate, inner: Inner, root: Client, headers: Any, body: Any, status: int
) -> None:
    got = http(gate, "/dagster/graphql", "POST", body=body, headers=headers, client=root)
    assert got.status == status, got.text
    assert inner.bodies == ([BODY] if status == 200 else [])


@pytest.mark.parametrize("path", ["/dagster/graphql?query={version}", "/dagster/graphql?%71uery="])
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_a_query_in_an_address_is_refused(
    gate: Gate, inner: Inner, root: Client, path: str, accept: str
) -> None:
    assert http(gate, path, headers=[("accept", accept)], client=root).status == 405
    assert not inner.scopes


def test_a_query_in_an_address_is_refused_beside_one_that_is_sent(
    gate: Gate, inner: Inner, root: Client
) -> None:
    asked = "/dagster/graphql?query=mutation{setNuxSeen}"
    assert http(gate, asked, "POST", body=BODY, headers=[JSON, OWN], client=root).status == 405
    assert not inner.scopes


def test_of_two_content_types_none_is_believed(gate: Gate, inner: Inner, root: Client) -> None:
    async def twice(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"].insert(0, (b"content-type", b"text/plain"))
        await gate(scope, receive, send)

    got = http(twice, "/dagster/graphql", "POST", body=BODY, headers=[JSON, OWN], client=root)
    assert got.status == 415
    assert not inner.scopes


def test_an_address_of_many_fields_is_served(gate: Gate, root: Client) -> None:
    assert http(gate, "/dagster/runs?" + "q=a&" * 2000, client=root).status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_are_refused(gate: Gate, inner: Inner, root: Client, method: str) -> None:
    assert http(gate, "/dagster/graphql", method, client=root).status == 405
    assert not inner.scopes


def test_a_post_goes_to_the_endpoint_only(gate: Gate, inner: Inner, root: Client) -> None:
    path = "/dagster/report_asset_materialization/a"
    assert http(gate, path, "POST", body=BODY, headers=[JSON, OWN], client=root).status == 405
    assert not inner.scopes


@pytest.mark.parametrize(
    "raw",
    [
        b"/dagster/../admin/",
        b"/dagster/%2e%2e/admin/",
        b"/dagster/%252e%252e/admin/",
        b"/dagster/%25252e%25252e/admin/",
        b"/dagster/logs/%2e%2e%2f%2e%2e%2fetc/passwd",
        b"/dagster/logs/..%5c..%5cetc/passwd",
        b"/dagster//evil.example/",
        b"/dagster/%2f/evil.example/",
        b"/dagster/a%00b",
        b"/dagster/a%0d%0aset-cookie:x",
        b"/dagster/;a=b/x",
    ],
)
def test_a_path_that_is_not_plain_is_refused_however_often_it_is_encoded(
    gate: Gate, inner: Inner, root: Client, raw: bytes
) -> None:
    got = http(gate, "/dagster/x", raw_path=raw, client=root)
    assert got.status == 400
    assert not inner.scopes


@pytest.mark.parametrize("path", ["/dagster/locations/process_trees@proctree/jobs/a b%20c/runs"])
def test_a_plain_path_passes_with_its_spaces_and_signs(
    gate: Gate, inner: Inner, root: Client, path: str
) -> None:
    assert http(gate, path, client=root).status == 200
    assert inner.scopes[0]["path"] == path


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", ""])
def test_a_host_that_is_not_allowed_is_refused(
    gate: Gate, inner: Inner, root: Client, host: str
) -> None:
    assert http(gate, "/dagster/", client=root, host=host).status == 400
    assert outcome(socket(gate, client=root, host=host)) == gates.FORBIDDEN
    assert not inner.scopes


def test_a_slow_body_is_given_up(
    gate: Gate, inner: Inner, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "BODY_SECONDS", 0.05)
    scope: dict[str, Any] = {}

    async def keep(given: Any, receive: Any, send: Any) -> None:
        scope.update(given)

    http(keep, "/dagster/graphql", "POST", headers=[JSON, OWN], client=root)
    sent: list[Any] = []

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    async_to_sync(gate)(scope, never, send)
    assert sent[0]["status"] == 408
    assert not inner.scopes


def test_no_cookie_and_no_credential_reaches_dagster_and_none_comes_back(
    gate: Gate, inner: Inner, root: Client
) -> None:
    given = [("authorization", "Basic eDp5"), ("x-forwarded-user", "boss"), ("x-csrftoken", "a")]
    got = http(gate, "/dagster/", headers=[*given, ("accept", "text/html")], client=root)
    names = {name for name, _ in inner.scopes[0]["headers"]}
    assert names == {b"host", b"accept"}
    assert "session" not in inner.scopes[0]
    assert "set-cookie" not in got.headers
    assert got.headers["x-frame-options"] == "DENY"
    assert got.headers["x-content-type-options"] == "nosniff"


def test_what_is_refused_has_the_headers_of_every_answer(gate: Gate) -> None:
    got = http(gate, "/dagster/")
    assert got.status == 401
    assert got.headers["x-frame-options"] == "DENY"
    assert got.headers["cache-control"] == "no-store"
    assert json.loads(got.body) == {"errors": [{"message": "Log in to the Django site first."}]}


def test_a_page_leads_to_the_login_and_back(gate: Gate) -> None:
    got = http(gate, "/dagster/runs?q=a&b=c", headers=[("accept", "text/html")])
    assert got.status == 302
    assert got.headers["location"] == "/admin/login/?next=/dagster/runs%3Fq%3Da%26b%3Dc"


@pytest.mark.parametrize("login", ["/enter/?by=sso", "https://sso.example/enter?by=sso"])
def test_a_login_that_has_a_query_keeps_it(gate: Gate, settings: Settings, login: str) -> None:
    settings.LOGIN_URL = login
    got = http(gate, "/dagster/", headers=[("accept", "text/html")])
    assert got.headers["location"] == f"{login}&next=/dagster/"


def test_a_new_secret_key_ends_no_session(gate: Gate, root: Client, settings: Settings) -> None:
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    for _ in range(2):
        assert query(gate, ASK, client=root).status == 200
    assert root.get("/admin/").status_code == 200


def test_a_session_that_was_logged_out_is_no_session(gate: Gate, root: Client) -> None:
    assert query(gate, ASK, client=root).status == 200
    before = root.cookies
    root.logout()
    root.cookies = before
    assert query(gate, ASK, client=root).status == 401


def test_a_changed_password_ends_the_session(gate: Gate, root: Client) -> None:
    user = User.objects.get()
    user.set_password("another")
    user.save()
    assert query(gate, ASK, client=root).status == 401


def test_the_visitor_is_in_the_scope_with_what_they_may_do(gate: Gate, inner: Inner) -> None:
    query(gate, ASK, client=come("operator"))
    visitor = inner.scopes[0][VISITOR]
    assert isinstance(visitor, Visitor)
    assert visitor.username == "operator"
    assert visitor.may("launch_pipeline_execution")
    assert not visitor.may("delete_pipeline_run")


def test_a_tree_is_run_by_whom_the_admin_lets_run_it(
    gate: Gate, inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "theirs"):
        ProcessTreeInstance(name).add_process("one", func=processes.one).save()
    page = admin.site.get_model_admin(ProcessTree)
    monkeypatch.setattr(
        page, "has_run_permission", lambda request, tree=None: tree is None or tree.name == "mine"
    )
    query(gate, ASK, client=come("operator"))
    visitor = inner.scopes[0][VISITOR]
    assert visitor.may_on_job("launch_pipeline_execution", "mine")
    assert not visitor.may_on_job("launch_pipeline_execution", "theirs")
    assert visitor.may_on_job("launch_pipeline_execution", "a job of the project's own")


def test_so_it_is_where_the_projects_site_has_taken_the_place_of_djangos(
    gate: Gate, inner: Inner, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    ProcessTreeInstance("theirs").add_process("one", func=processes.one).save()
    settings.INSTALLED_APPS = [
        "django.contrib.admin.apps.AdminConfig" if app == "django.contrib.admin" else app
        for app in settings.INSTALLED_APPS
    ]
    page = admin.site.get_model_admin(ProcessTree)
    monkeypatch.setattr(page, "has_run_permission", lambda request, tree=None: tree is None)
    query(gate, ASK, client=come("operator"))
    assert not inner.scopes[0][VISITOR].may_on_job("launch_pipeline_execution", "theirs")


def test_where_several_sites_have_a_page_of_trees_each_has_to_agree(
    gate: Gate, inner: Inner
) -> None:
    ProcessTreeInstance("theirs").add_process("one", func=processes.one).save()

    class Mine(ProcessTreeAdmin):
        def has_run_permission(self, request: Any, tree: ProcessTree | None = None) -> bool:
            return tree is None

    own = admin.AdminSite(name="own")
    own.register(ProcessTree, Mine)
    query(gate, ASK, client=come("operator"))
    assert not inner.scopes[0][VISITOR].may_on_job("launch_pipeline_execution", "theirs")


# --- What is recorded -----------------------------------------------------------------------------


def test_what_is_refused_is_recorded_with_who_what_and_from_where(gate: Gate) -> None:
    text = "mutation L($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename } }"
    selector = {"jobName": "close", "repositoryLocationName": "proctree"}
    variables = {"p": {"selector": selector, "runConfigData": {"secret": 1}}}
    assert query(gate, text, variables, client=come("viewer")).status == 403
    [row] = DagsterAction.objects.all()
    assert (row.username, row.action, row.allowed) == ("viewer", "launchRun", False)
    assert row.user_id == str(User.objects.get().pk)
    assert row.target == "jobName=close repositoryLocationName=proctree"
    assert row.address == "192.0.2.1"


def test_nothing_of_a_runs_configuration_is_recorded_and_no_sign_prevents_the_record(
    gate: Gate,
) -> None:
    text = "mutation L($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename } }"
    metadata = {"runId": "a\0b\ud800", "tags": [{"key": "x", "value": {"path": "secret"}}]}
    config = {"ops": {"one": {"path": "secret", "id": "secret"}}}
    variables = {"p": {"runConfigData": config, "executionMetadata": metadata}}
    assert query(gate, text, variables, client=come("viewer")).status == 403
    assert DagsterAction.objects.get().target == "runId=a\\0b\\ud800"


def test_what_is_recorded_is_the_operation_that_was_asked_for_and_if_it_was_allowed(
    gate: Gate, inner: Inner
) -> None:
    query(gate, ASK, client=come("superuser"))
    visitor, on_query = (inner.scopes[0][key] for key in (VISITOR, RECORDER))
    visitor.allowed.add("launch_pipeline_execution")
    launch = "launchRun(executionParams: {}) { x }"
    text = (
        f"mutation A {{ {launch} deleteRun(runId: 1) {{ x }} }} mutation B {{ stopSensor {{ x }} }}"
    )
    on_query(visitor, text, None, "A")
    rows = DagsterAction.objects.order_by("pk").values_list("action", "allowed")
    assert list(rows) == [("launchRun", True), ("deleteRun", False)]


def test_a_mutation_hidden_in_a_fragment_or_behind_an_alias_is_found(gate: Gate) -> None:
    client = come("viewer")
    hidden = [
        "mutation { ok: launchRun(executionParams: {}) { __typename } }",
        "mutation { ... on Mutation { launchRun(executionParams: {}) { __typename } } }",
        "mutation { ...F } fragment F on Mutation { launchRun(executionParams: {}) { x } }",
        "query A { version } mutation B { launchRun(executionParams: {}) { __typename } }",
        "mutation { ...F } fragment F on Mutation { ...F deleteRun(runId: 1) { x } }",
    ]
    for text in hidden:
        assert query(gate, text, client=client).status == 403, text
    assert query(gate, "query { mutation: version }", client=client).status == 200


@pytest.mark.parametrize(
    "text", ["mutation {", "mutation " + "{a" * 500 + "}" * 500, "mutation" * 9], ids=range(3)
)
def test_a_mutation_that_cannot_be_read_is_refused(gate: Gate, inner: Inner, text: str) -> None:
    assert query(gate, text, client=come("superuser")).status == 400
    assert not inner.scopes


def test_every_mutation_is_refused_to_who_may_only_see(gate: Gate, inner: Inner) -> None:
    client = come("viewer")
    for name in MUTATIONS:
        assert query(gate, f"mutation {{ {name} }}", client=client).status == 403
    assert not inner.scopes


# --- WebSockets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "https://testserver"])
def test_a_socket_of_another_origin_is_closed_before_it_is_accepted(
    gate: Gate, inner: Inner, root: Client, origin: str
) -> None:
    assert outcome(socket(gate, client=root, origin=origin)) == gates.FORBIDDEN
    assert not inner.scopes


def test_a_socket_elsewhere_is_closed(gate: Gate, inner: Inner, root: Client) -> None:
    assert outcome(socket(gate, client=root, path="/dagster/other")) == gates.FORBIDDEN
    assert not inner.scopes


@pytest.mark.parametrize(
    "message",
    [
        start(LAUNCH),
        start(ASK),
        start(f"{FOLLOW} {LAUNCH}"),
        start("no graphql"),
        start(FOLLOW + " " * gates.MAX_MESSAGE),
        '{"type": "start"}',
        "[]",
        "no json",
    ],
    ids=range(8),
)
def test_a_socket_takes_small_subscriptions_only(
    gate: Gate, inner: Inner, root: Client, message: str
) -> None:
    socket(gate, client=root, messages=[start(FOLLOW), message, start(FOLLOW)])
    assert [each["text"] for each in inner.messages] == [start(FOLLOW)]


def test_a_socket_that_the_server_gives_up_leaves_no_task(gate: Gate, root: Client) -> None:
    left: list[Any] = []

    async def give_up(scope: Any, receive: Any, send: Any) -> None:
        before = asyncio.all_tasks()
        accepted = asyncio.Event()
        waiting = [await receive()]

        async def once() -> Any:
            return waiting.pop() if waiting else await asyncio.Event().wait()

        async def note(message: Any) -> None:
            accepted.set()

        task = asyncio.ensure_future(gate(scope, once, note))
        await accepted.wait()
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0)
        left.extend(asyncio.all_tasks() - before)

    socket(give_up, client=root)
    assert not left


def test_a_socket_is_closed_when_its_session_has_ended(
    gate: Gate, inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "CHECK_SECONDS", 0.05)
    client = come("viewer")
    scope: dict[str, Any] = {}

    async def keep(given: Any, receive: Any, send: Any) -> None:
        scope.update(given)

    socket(keep, client=client)
    sent: list[Any] = []

    async def open_and_log_out() -> None:
        waiting = [{"type": "websocket.connect"}]

        async def receive() -> Any:
            if waiting:
                return waiting.pop()
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        task = asyncio.ensure_future(gate(scope, receive, send))
        while not sent:
            await asyncio.sleep(0.01)
        await sync_to_async(User.objects.update)(is_active=False)
        await asyncio.wait_for(task, 20)

    async_to_sync(open_and_log_out)()
    assert [each["type"] for each in sent] == ["websocket.accept", "websocket.close"]
    assert sent[-1]["code"] == gates.UNAUTHORIZED
