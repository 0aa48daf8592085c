"""The launcher and the way past the queue, with a real daemon, webserver and UI API."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster import DagsterInstance

from proctree_dagster.domain import run_tags
from tests.tools.code_files import code_of
from tests.tools.stack import Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CODE = code_of(__file__)

LIMITS = """
    max_concurrent_runs: 4
    tag_concurrency_limits:
      - {key: proctree/tree, value: alone, limit: 1}
"""


NO_LIMIT_BUT_FOR_ONE = """
    max_concurrent_runs: -1
    tag_concurrency_limits:
      - {key: proctree/tree, value: alone, limit: 1}
"""

NEVER = 3600
"""Seconds between two polls of a daemon that polls when it is woken, and no other time."""


class Speaking(Stack):
    """A stack whose processes say who they are."""

    def __init__(self, folder: Path, *, limits: str = LIMITS, poll_seconds: int = 1) -> None:
        super().__init__(folder)
        for module in ("spoken.py", "dying.py", "derived.py"):
            shutil.copy(CODE / module, folder)
        (folder / "word").write_text("one")
        (folder / "e2e_settings.py").write_text(
            "from example.settings import *\n"
            "PROCTREE |= {'FUNCTION_MODULES': ['spoken', 'dying'], 'POOLS': {'a_pool': 1}}\n"
            "TASKS = {'default': {'BACKEND': 'derived.Derived'}}\n"
        )
        self.env["DJANGO_SETTINGS_MODULE"] = "e2e_settings"
        settings = self.home / "dagster.yaml"
        text = settings.read_text()
        for before, after in (
            ("    max_concurrent_runs: 10\n", limits),
            ("WarmRunLauncher\n", "WarmRunLauncher\n  config:\n    linger_seconds: 5\n"),
            (
                "StraightRunCoordinator\n  config:\n",
                "StraightRunCoordinator\n  config:\n"
                f"    dequeue_interval_seconds: {poll_seconds}\n",
            ),
        ):
            assert before in text
            text = text.replace(before, after)
        settings.write_text(text)
        self.migrate()
        self.shell(CODE / "save_trees.py", silently=True)

    def launch_named(self, name: str, *, job: str = "speak", sleeps: bool = False) -> str:
        return self.launch(job, {"context": {"name": name, "sleeps": sleeps}})

    def said(self, name: str) -> dict[str, Any]:
        """Wait for what a process says of itself."""
        path = self.folder / f"{name}.said"
        wait_for(f"{name} to speak", path.exists, 120)
        said: dict[str, Any] = json.loads(path.read_text())
        return said

    def go(self, name: str) -> None:
        (self.folder / f"{name}.go").touch()

    def template(self) -> psutil.Process:
        """Return the process that is forked, once there was a run."""
        self.launch_named("whose child")
        parent = self.said("whose child")["parent"]
        (self.folder / "whose child.said").unlink()
        return psutil.Process(parent)

    def events(self, run_id: str) -> list[str]:
        return [event["__typename"] for event in self.run(run_id)["eventConnection"]["events"]]

    def steps(self, run_id: str) -> list[str] | None:
        """Return the steps that are written down on a run."""
        query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { stepKeysToExecute } } }"
        steps: list[str] | None = self.graphql(query, id=run_id)["runOrError"]["stepKeysToExecute"]
        return steps

    def times(self, run_ids: list[str]) -> list[tuple[float, float]]:
        """Return when each run was launched, and when it ended."""
        query = """query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs {
          results { endTime stats { ... on RunStatsSnapshot { launchTime } } } } } }"""
        found = self.graphql(query, filter={"runIds": run_ids})["runsOrError"]["results"]
        assert len(found) == len(run_ids)
        return [(run["stats"]["launchTime"], run["endTime"]) for run in found]

    def terminate(self, run_id: str) -> None:
        """Press "Terminate"."""
        data = self.graphql(
            "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id
        )
        assert data["terminateRun"]["__typename"] == "TerminateRunSuccess", data

    def submit(self, name: str, tree: str = "speak") -> str:
        """Queue a tree from a Django process, and return the run's id."""
        return self.shell(
            f"print(ProcessTreeManager.submit_tree({tree!r}, context={{'name': {name!r}}}).run_id)"
        )


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    """A webserver and a daemon, each by itself."""
    stack = Speaking(tmp_path_factory.mktemp("services"))
    try:
        stack.start_dagster(as_services=True)
        yield stack
    finally:
        assert stack.stop() == [], "the template ends when it has waited for the next daemon"


def test_every_way_to_launch_leads_to_one_template(services: Speaking) -> None:
    from_the_ui, submitted = services.launch_named("ui"), services.submit("django")
    assert services.said("ui")["parent"] == services.said("django")["parent"]
    assert services.finished(from_the_ui)["status"] == "SUCCESS"
    assert services.finished(submitted)["status"] == "SUCCESS"
    assert "RunEnqueuedEvent" in services.events(from_the_ui), "there is a limit"
    assert services.steps(from_the_ui) is None, "it runs the tree as it is when it starts"


def test_a_tree_may_have_one_process_execute_runs_from_the_ui_and_from_django(
    services: Speaking,
) -> None:
    def one_process_executes_both() -> bool:  # a process waits some seconds for its next run
        assert services.finished(services.launch_named("once", job="shared"))["status"] == "SUCCESS"
        assert services.finished(services.submit("again", "shared"))["status"] == "SUCCESS"
        return bool(services.said("once")["pid"] == services.said("again")["pid"])

    wait_for("both to be executed by one process", one_process_executes_both, 120)


def test_a_run_that_the_daemon_launched_is_terminated_in_the_ui(services: Speaking) -> None:
    run_id = services.launch_named("endless", sleeps=True)
    services.said("endless")
    services.terminate(run_id)
    assert services.finished(run_id)["status"] == "CANCELED"


def at_once(times: list[tuple[float, float]]) -> int:
    """Return how many of these spans overlap at most."""
    return max(sum(begin <= at < end for begin, end in times) for at, _ in times)


def test_limits_are_kept_exactly_when_many_runs_want_to_start(services: Speaking) -> None:
    alone = [f"alone {number}" for number in range(3)]
    others = [f"other {number}" for number in range(5)]
    ids = {name: services.launch_named(name, job="alone", sleeps=True) for name in alone}
    ids |= {name: services.launch_named(name, sleeps=True) for name in others}

    def speaking() -> list[str]:
        return [name for name in ids if (services.folder / f"{name}.said").exists()]

    wait_for("as many runs as may", lambda: len(speaking()) == 4)
    statuses = [services.run(run_id)["status"] for run_id in ids.values()]
    assert sorted(statuses) == ["QUEUED"] * 4 + ["STARTED"] * 4
    for name in ids:
        services.go(name)
    assert {services.finished(run_id)["status"] for run_id in ids.values()} == {"SUCCESS"}
    assert at_once(services.times(list(ids.values()))) == 4
    assert at_once(services.times([ids[name] for name in alone])) == 1


@pytest.mark.parametrize(("how", "status"), [("in the UI", "CANCELED"), ("SIGTERM", "FAILURE")])
def test_a_fan_out_that_is_terminated_stops_all_of_its_processes(
    services: Speaking, how: str, status: str
) -> None:
    for file in services.folder.glob("*.cleaned"):
        file.unlink()
    for name in ("left", "right"):
        (services.folder / f"{name}.said").unlink(missing_ok=True)
    run_id = services.launch("fan", {"context": {"name": f"fan {how}"}})
    said = [services.said(name) for name in (f"fan {how}", "left", "right")]
    assert len({each["pid"] for each in said}) == 1, "threads of one process"
    if how == "SIGTERM":  # nobody has asked Dagster for it, so to Dagster it is a failure
        os.kill(said[0]["pid"], signal.SIGTERM)
    else:
        services.terminate(run_id)
    assert services.finished(run_id)["status"] == status
    assert all((services.folder / f"{name}.cleaned").exists() for name in ("left", "right"))
    events = services.events(run_id)
    assert events.count("ExecutionStepStartEvent") == 3, "the last one never began"
    assert events.count("ExecutionStepFailureEvent") == 2


def test_a_tree_may_have_processes_of_the_operating_system(services: Speaking) -> None:
    template = services.template()
    run_id = services.launch("forked", {"context": {"name": "forked"}})
    run = services.finished(run_id)
    assert run["status"] == "SUCCESS", run
    worker = json.loads(services.tags(run_id)[run_tags.WORKER])["pid"]
    said = services.said("forked")
    assert worker not in (said["pid"], said["parent"])
    assert said["parent"] != template.pid


def test_a_killed_daemon_takes_nothing_with_it(services: Speaking) -> None:
    template = services.template()
    slow = services.launch_named("slow", sleeps=True)
    services.said("slow")
    daemon = services.processes.pop()
    daemon.kill()
    daemon.wait()
    queued = services.launch_named("queued meanwhile")
    services.start_daemon()
    assert services.said("queued meanwhile")["parent"] == template.pid
    assert services.finished(queued)["status"] == "SUCCESS"
    assert services.run(slow)["status"] == "STARTED"
    services.go("slow")
    assert services.finished(slow)["status"] == "SUCCESS"


def test_a_killed_template_is_replaced_and_its_worker_still_watched(services: Speaking) -> None:
    lives = services.launch_named("lives", sleeps=True)
    dies = services.launch_named("dies", sleeps=True)
    services.said("lives"), services.said("dies")
    template = services.template()
    template.kill()
    assert services.template() != template
    os.kill(services.said("dies")["pid"], signal.SIGKILL)
    run = services.finished(dies)
    assert run["status"] == "FAILURE"
    assert f"process {services.said('dies')['pid']}" in json.dumps(run["eventConnection"])
    assert services.run(lives)["status"] == "STARTED"
    services.go("lives")
    assert services.finished(lives)["status"] == "SUCCESS"


def test_a_task_whose_worker_was_killed_knows_that_at_its_next_attempt(services: Speaking) -> None:
    first = services.shell("from dying import dies_once\nprint(dies_once.enqueue().id)")
    assert services.finished(first)["status"] == "FAILURE"
    with DagsterInstance.from_config(str(services.home)) as instance:
        instance.add_run_tags(first, {run_tags.WILL_RETRY: "true"})  # as Dagster does, if it may
    second = services.reexecute(first, "ALL_STEPS")
    assert services.finished(second)["status"] == "SUCCESS"
    said = json.loads(services.shell(CODE / "ask_for_result.py", RESULT=first))
    assert said == ["SUCCESSFUL", [first, second], [2, 1, [first, second]]]


def test_an_edited_function_is_what_the_next_run_executes(services: Speaking) -> None:
    services.launch_named("unedited")
    assert services.said("unedited")["word"] == "before"
    functions = (CODE / "spoken.py").read_text()
    (services.folder / "spoken.py").write_text(functions.replace("before", "behind"))
    services.launch_named("edited")
    assert services.said("edited")["word"] == "behind"


def test_reload_definitions_lets_the_next_run_import_anew(services: Speaking) -> None:
    services.launch_named("old")
    assert services.said("old")["data"] == "one"
    (services.folder / "word").write_text("two")
    data = services.graphql(
        """mutation ($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) {
          __typename } }""",
        name=services.selector["repositoryLocationName"],
    )
    assert data["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"
    services.launch_named("new")
    assert services.said("new")["data"] == "two"


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Speaking]:
    """``dagster dev`` without a limit on runs; its daemon must be woken. The last test stops it."""
    folder = tmp_path_factory.mktemp("unlimited")
    stack = Speaking(folder, limits=NO_LIMIT_BUT_FOR_ONE, poll_seconds=NEVER)
    try:
        stack.start_dagster()
        yield stack
    finally:
        assert stack.stop() == []


def test_where_no_limit_could_apply_a_launch_passes_the_queue(unlimited: Speaking) -> None:
    for run_id in (unlimited.launch_named("straight"), unlimited.submit("submitted")):
        assert unlimited.finished(run_id)["status"] == "SUCCESS"
        assert "RunEnqueuedEvent" not in unlimited.events(run_id)
        assert unlimited.steps(run_id) is None
    assert unlimited.said("straight")["parent"] == unlimited.said("submitted")["parent"]


def test_a_tree_with_a_pool_is_queued_and_the_daemon_is_woken(unlimited: Speaking) -> None:
    run_id = unlimited.launch_named("pooled", job="pooled")
    assert unlimited.finished(run_id)["status"] == "SUCCESS"
    assert "RunEnqueuedEvent" in unlimited.events(run_id)


def test_of_runs_that_exclude_each_other_the_next_starts_when_one_has_ended(
    unlimited: Speaking,
) -> None:
    names = ["the first", "the second", "the third"]
    runs = [unlimited.launch_named(name, job="alone") for name in names]
    assert {unlimited.finished(run_id)["status"] for run_id in runs} == {"SUCCESS"}
    assert at_once(unlimited.times(runs)) == 1


def test_a_due_schedule_passes_the_queue_too(unlimited: Speaking) -> None:
    [run] = wait_for("the scheduled run", lambda: unlimited.runs("due"), 150)
    assert unlimited.finished(run["runId"])["status"] == "SUCCESS"
    assert run["tags"]["proctree/triggered_by"] == "schedule"
    assert "RunEnqueuedEvent" not in unlimited.events(run["runId"])


def test_a_launch_past_the_queue_that_fails_leaves_a_failed_run(unlimited: Speaking) -> None:
    (unlimited.folder / "spoken.py").rename(unlimited.folder / "away.py")
    run = unlimited.finished(unlimited.launch_named("lost"))
    (unlimited.folder / "away.py").rename(unlimited.folder / "spoken.py")
    assert run["status"] == "FAILURE"
    assert "spoken" in json.dumps(run["eventConnection"])


def test_a_run_launched_by_the_webserver_is_terminated(unlimited: Speaking) -> None:
    run_id = unlimited.launch_named("endless", sleeps=True)
    unlimited.said("endless")
    unlimited.terminate(run_id)
    assert unlimited.finished(run_id)["status"] == "CANCELED"


def test_ctrl_c_ends_the_template_and_the_runs(unlimited: Speaking) -> None:
    unlimited.launch_named("left over", sleeps=True)
    said = unlimited.said("left over")
    left = [psutil.Process(said[who]) for who in ("pid", "parent")]
    assert unlimited.stop() == []
    assert psutil.wait_procs(left, timeout=30)[1] == []
