"""The admin, and Dagster's UI behind its login: a real site, a real Dagster, a real browser."""

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.tools import browser as browsers
from tests.tools.code_files import code_of
from tests.tools.site import PASSWORD, SiteStack
from tests.tools.stack import SELECTOR, wait_for

pytestmark = pytest.mark.e2e

CODE = code_of(__file__)

LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""

PERMISSIONS = "{ permissions { permission value } }"

JOB = "receivables_reminder"

PARAMS = {"selector": {**SELECTOR, "jobName": JOB}, "runConfigData": "{}"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteStack]:
    stack = SiteStack(tmp_path_factory.mktemp("site"))
    shutil.copytree(CODE, stack.folder, dirs_exist_ok=True)
    stack.env["DJANGO_SETTINGS_MODULE"] = "site_settings"
    try:
        stack.start_site()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = browsers.chromium()
    if chromium is None:
        reason = "There is no Chromium here: apt-get install chromium."
        if os.environ.get("PROCTREE_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with browsers.open_browser(chromium) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(browsers.TIMEOUT_SECONDS * 1000)
    try:
        yield context.new_page()
    finally:
        context.close()


def actions(site: SiteStack) -> list[dict[str, Any]]:
    """Return what was recorded, the latest first."""
    printed = site.shell(
        "import json\nfrom proctree_dagster.models import DagsterAction\n"
        "print(json.dumps(list(DagsterAction.objects.values("
        "'username', 'action', 'target', 'run_ids', 'allowed'))))",
        silently=True,
    )
    found: list[dict[str, Any]] = json.loads(printed)
    return found


def log_in(page: Page, site: SiteStack, name: str) -> None:
    """Open Dagster, be led to the login, and come back."""
    page.goto(f"http://localhost:{site.port}/dagster/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/dagster/**")


def in_admin(site: SiteStack, path: str) -> str:
    return f"http://localhost:{site.port}/admin/proctree_dagster/{path}"


def test_an_operator_finds_what_failed_and_why_and_runs_it_again_with_another_context(
    page: Page, site: SiteStack
) -> None:
    failed = site.shell(CODE / "closing" / "save.py").splitlines()[-1]
    wait_for("it to fail", lambda: site.status(failed) == "FAILURE", 120)
    page.goto(f"http://localhost:{site.port}/admin/")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Overview").first.click()
    failures = page.get_by_role("region", name="Failed since yesterday")
    failures.get_by_role("link", name="close month").first.click()
    expect(page.get_by_role("heading", name="close month").first).to_be_visible()
    page.get_by_text("There is no month 2026-13").first.wait_for()
    page.get_by_role("link", name=failed[:8]).first.click()
    page.wait_for_url(f"**/run/{failed}/change/")
    page.get_by_text("ValueError: There is no month 2026-13").first.wait_for()
    page.get_by_role("link", name="Run again with another context").click()
    month = page.get_by_label("month", exact=False).first
    expect(month).to_have_value("2026-13")
    month.fill("2026-12")
    page.get_by_role("button", name="Run now").click()
    page.wait_for_url(lambda url: "/run/" in url and failed not in url)
    again = page.url.split("/run/")[1].split("/")[0]
    wait_for("it to succeed", lambda: site.status(again) == "SUCCESS", 120)
    expect(page.locator(".pt-run-head")).to_contain_text("succeeded")
    result = page.locator("#result-close")
    expect(result).to_contain_text("2026-12 is closed with 7 invoices")
    assert site.tags(again)["user"] == "operator"
    assert site.tags(again)["proctree/triggered_by"] == "admin"
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open it there").click()
    opened.value.wait_for_url(f"**/dagster/runs/{again}**")
    opened.value.get_by_text("Success", exact=True).first.wait_for()


def open_launchpad(page: Page, site: SiteStack) -> None:
    job = f"locations/{browsers.REPOSITORY}/jobs/{JOB}/playground"
    page.goto(f"http://localhost:{site.port}/dagster/{job}")
    page.locator(".CodeMirror").first.wait_for()


def test_an_operator_logs_in_launches_watches_it_live_and_is_locked_out_after_a_logout(
    page: Page, site: SiteStack
) -> None:
    frames: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda f: frames.append(str(f))))
    log_in(page, site, "operator")
    open_launchpad(page, site)
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(lambda url: "/runs/" in url)
    run_id = page.url.partition("/runs/")[2].partition("?")[0]
    page.get_by_text("Success", exact=True).first.wait_for()
    assert any("pipelineRunLogs" in frame for frame in frames), "it came over the WebSocket"
    # Who did it: on the run, and in Django.
    assert site.tags(run_id)["user"] == "operator"
    [mine] = [row for row in actions(site) if row["run_ids"] == [run_id]]
    assert (mine["username"], mine["allowed"]) == ("operator", True)
    assert mine["action"] == "launchPipelineExecution"  # as the UI calls it
    assert f"jobName={JOB}" in mine["target"] or f"pipelineName={JOB}" in mine["target"]
    # In another tab of the same browser.
    other = page.context.new_page()
    other.goto(f"http://localhost:{site.port}/admin/")
    other.get_by_role("button", name="Log out").click()
    page.goto(f"http://localhost:{site.port}/dagster/runs")
    page.get_by_label("Password").wait_for()


def test_a_viewer_sees_grey_buttons_and_the_mutation_is_refused_too(
    page: Page, site: SiteStack
) -> None:
    log_in(page, site, "viewer")
    page.goto(f"http://localhost:{site.port}/dagster/locations/{browsers.REPOSITORY}/jobs/{JOB}")
    expect(page.get_by_role("tab", name="Launchpad")).to_be_disabled()
    expect(page.get_by_role("checkbox")).to_be_disabled()  # its schedule's switch
    viewer = site.person("viewer")
    status, answer = viewer.ask(LAUNCH, params=PARAMS)
    assert status == 403
    assert "You lack the permission" in answer["errors"][0]["message"]
    last = actions(site)[0]
    assert (last["username"], last["action"], last["allowed"]) == ("viewer", "launchRun", False)


def test_dagsters_own_permissions_are_those_of_the_user(site: SiteStack) -> None:
    def permissions(name: str) -> set[str]:
        _, answer = site.person(name).ask(PERMISSIONS)
        return {each["permission"] for each in answer["data"]["permissions"] if each["value"]}

    assert permissions("viewer") == set()
    assert "launch_pipeline_execution" in permissions("operator")
    assert "delete_pipeline_run" not in permissions("operator")
    assert {"delete_pipeline_run", "wipe_assets"} <= permissions("administrator")


def test_an_operator_may_not_run_a_tree_that_is_not_theirs_to_run(site: SiteStack) -> None:
    site.shell(
        "from django.contrib.auth.models import Permission, User\n"
        f"user = User.objects.create_user('half', password={PASSWORD!r}, is_staff=True)\n"
        "names = ['view_dagster', 'operate_dagster']\n"
        "user.user_permissions.set(Permission.objects.filter(codename__in=names))\n"
    )
    status, answer = site.person("half").ask(LAUNCH, params=PARAMS)
    assert (status, answer["data"]["launchRun"]["__typename"]) == (200, "UnauthorizedError")
    assert actions(site)[0]["allowed"] is False


def test_a_tag_in_a_launch_names_nobody_else(site: SiteStack) -> None:
    tags = [{"key": "user", "value": "boss"}]
    params = {**PARAMS, "executionMetadata": {"tags": tags}}
    _, answer = site.person("operator").ask(LAUNCH, params=params)
    run_id = answer["data"]["launchRun"]["run"]["runId"]
    assert site.tags(run_id)["user"] == "operator"


def test_a_tree_that_is_saved_is_served_at_once_and_its_link_leads_here(site: SiteStack) -> None:
    said = site.shell(
        "row = ProcessTree.objects.get(name='monthly_close')\n"
        "row.pk, row.name, row.job_name = None, 'brand new', ''\n"
        "row.save()\n"
        "from proctree_dagster.services import webserver\n"
        "print(webserver.run_url('1'))"
    )
    assert said == f"http://localhost:{site.port}/dagster/runs/1"
    viewer = site.person("viewer")
    names = """query ($s: RepositorySelector!) { repositoryOrError(repositorySelector: $s) {
      ... on Repository { jobs { name } } } }"""

    def served() -> bool:
        jobs = viewer.ask(names, s=SELECTOR)[1]["data"]["repositoryOrError"]["jobs"]
        return any(job["name"].startswith("brand_new") for job in jobs)

    wait_for("the tree to be served", served, 30)


@pytest.mark.parametrize("origin", ["http://evil.example", None])
def test_a_websocket_of_another_origin_or_without_a_session_is_refused(
    site: SiteStack, origin: str | None
) -> None:
    operator = site.person("operator")
    cookie = "; ".join(f"{key}={value}" for key, value in operator.cookies.items())
    url = f"ws://localhost:{site.port}/dagster/graphql"

    def opens(**headers: str | None) -> bool:
        given = {key: value for key, value in headers.items() if value is not None}
        own = given.pop("Origin", None)
        try:
            with connect(url, additional_headers=given, origin=own, subprotocols=["graphql-ws"]):  # type: ignore[arg-type, list-item]
                return True
        except InvalidStatus as error:
            return error.response.status_code != 403

    assert opens(Cookie=cookie, Origin=operator.origin)
    assert not opens(Cookie=cookie, Origin=origin)
    assert not opens(Origin=operator.origin)


def test_what_no_permission_guards_is_not_served(site: SiteStack) -> None:
    administrator = site.person("administrator")
    headers = {"Content-Type": "application/json", "Origin": administrator.origin}
    path = "/dagster/report_asset_materialization/a"
    assert administrator.send("POST", path, "{}", headers)[0] == 405
    assert administrator.ask("mutation { setNuxSeen }")[0] == 403
    deep = "{ a " * 40 + "}" * 40
    assert administrator.ask(deep)[0] == 400
    escaped = administrator.send("GET", "/dagster/logs/%2e%2e/%2e%2e/%2e%2e/etc/passwd")
    assert escaped[0] == 400
