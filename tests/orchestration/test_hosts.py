"""A host fetches a job's snapshot when it is asked for: with a real code server, started once."""

import contextlib
import inspect
import logging
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from dagster._api import snapshot_repository
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.errors import DagsterUserCodeProcessError, DagsterUserCodeUnreachableError
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.remote_representation.external_data import RepositoryErrorSnap
from dagster._grpc.client import DagsterGrpcClient
from dagster._serdes import serialize_value
from dagster_shared.error import SerializableErrorInfo

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration import dagster_features, hosts, kept_plans
from tests.tools import TOP
from tests.tools.stack import Stack, free_port

SAVE = """
for name in ("one", "two", "three"):
    tree = ProcessTreeInstance(name, description="As saved.")
    tree.add_process("a", func="example.ledger.processes:fetch_journals")
    tree.save()
"""

STOCK = snapshot_repository.sync_get_external_repositories_data_grpc


class CodeServer:
    """A code server with three trees, and what a host does with it."""

    def __init__(self, folder: Path, instance: DagsterInstance) -> None:
        self._instance = instance
        self._stack = Stack(folder)
        self._stack.migrate()
        self._stack.shell(SAVE, silently=True)
        self.origin = self._stack.serve_code()

    def refresh(self) -> RemoteRepository:
        """Look at the repository anew, as a host does each minute."""
        return self.origin.create_location(self._instance).get_repository(run_tags.REPOSITORY)

    def change(self, statement: str) -> None:
        """Change the trees behind every back."""
        with contextlib.closing(sqlite3.connect(self._stack.env["EXAMPLE_DATABASE"])) as database:
            database.execute(statement)
            database.commit()
        time.sleep(1.1)  # what was just listed serves for a second

    def stop(self) -> None:
        self._stack.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodeServer]:
    with DagsterInstance.ephemeral() as instance:
        server = CodeServer(tmp_path_factory.mktemp("hosts"), instance)
        yield server
        server.stop()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fetch lazily; the names of the jobs that were fetched."""
    names: list[str] = []
    original = DagsterGrpcClient.external_job

    # Its parameters are among what is checked.
    def external_job(
        self: Any, remote_repository_origin: Any, job_name: str, timeout: int = 60
    ) -> Any:
        names.append(job_name)
        return original(self, remote_repository_origin, job_name, timeout)

    monkeypatch.setattr(DagsterGrpcClient, "external_job", external_job)
    monkeypatch.setattr(snapshot_repository, hosts._NAME, STOCK)
    monkeypatch.setattr(hosts, "_known", {})
    assert hosts.install()
    return names


# What is fetched when


def test_a_refresh_fetches_the_list_and_a_job_when_it_is_asked_for(
    server: CodeServer, fetched: list[str]
) -> None:
    repository = server.refresh()
    jobs = repository.get_all_jobs()
    assert {job.name for job in jobs} == {"one", "two", "three"}
    assert all(job.identifying_job_snapshot_id for job in jobs)
    assert fetched == []
    assert repository.get_full_job("two").description == "As saved."
    assert fetched == ["two"]


def test_an_unchanged_job_is_not_fetched_again(server: CodeServer, fetched: list[str]) -> None:
    for _ in range(3):
        assert server.refresh().get_full_job("two").tags[run_tags.TREE] == "two"
    assert fetched == ["two"]


def test_a_changed_job_is_fetched_again_and_no_other(
    server: CodeServer, fetched: list[str]
) -> None:
    for name in ("one", "two"):
        assert server.refresh().get_full_job(name).description == "As saved."
    fetched.clear()
    server.change("UPDATE proctree_dagster_processtree SET description = 'X' WHERE name = 'one'")
    repository = server.refresh()
    assert repository.get_full_job("two").description == "As saved."
    assert fetched == []
    assert repository.get_full_job("one").description == "X"
    assert fetched == ["one"]


def test_a_job_that_is_newer_than_the_list_is_kept_once_the_list_says_so(
    server: CodeServer, fetched: list[str]
) -> None:
    repository = server.refresh()
    server.change("UPDATE proctree_dagster_processtree SET description = 'Y' WHERE name = 'one'")
    assert repository.get_full_job("one").description == "Y"
    assert server.refresh().get_full_job("one").description == "Y"
    assert fetched == ["one"]


def test_what_a_host_is_told_of_a_job_is_what_dagster_tells_it(
    server: CodeServer, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lazily = server.refresh()
    monkeypatch.setattr(snapshot_repository, hosts._NAME, STOCK)
    as_ever = server.refresh()
    assert serialize_value(lazily.repository_snap) == serialize_value(as_ever.repository_snap)
    for job in as_ever.get_all_jobs():
        same = lazily.get_full_job(job.name)
        assert serialize_value(same.job_data_snap) == serialize_value(job.job_data_snap)
        assert job.job_snapshot.snapshot_id == same.identifying_job_snapshot_id


def test_a_job_that_was_deleted_after_it_was_listed_gives_an_error_that_names_it(
    server: CodeServer, fetched: list[str]
) -> None:
    repository = server.refresh()
    server.change("DELETE FROM proctree_dagster_processtree WHERE name = 'three'")
    with pytest.raises(DagsterUserCodeProcessError, match=r"'three' can't be fetched.*deleted"):
        _ = repository.get_full_job("three").description
    assert repository.get_full_job("two").description == "As saved."
    assert {job.name for job in server.refresh().get_all_jobs()} == {"one", "two"}
    [known] = hosts._known.values()
    assert set(known.snapshots) == {"two"}


def test_the_snapshots_of_jobs_that_are_gone_are_let_go() -> None:
    snapshots: dict[str, Any] = {"one": "snapshot 1", "two": "snapshot 2"}

    def fetch(name: str) -> tuple[str, Any]:
        return snapshots[name][-1], snapshots[name]

    before = hosts.Snapshots({"one": "1", "two": "2"}, fetch)
    assert [before[name] for name in ("one", "two")] == list(snapshots.values())
    after: Any = hosts.Snapshots({"two": "2", "three": "3"}, fetch, before)
    assert after == {"two": "snapshot 2"}
    with pytest.raises(KeyError):
        after["one"]


# What if the code server can't answer


ORIGIN = RemoteRepositoryOrigin(
    GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1, location_name="x"), run_tags.REPOSITORY
)


def test_a_code_server_that_does_not_answer_gives_an_error_that_names_the_job() -> None:
    client = DagsterGrpcClient(host="127.0.0.1", port=free_port())
    with pytest.raises(DagsterUserCodeUnreachableError, match="'one' can't be fetched"):
        hosts.fetch_job(client, ORIGIN, "one")


def test_a_list_that_fails_fails_as_ever() -> None:
    class Failing:
        def external_repository(self, **kwargs: Any) -> str:
            info = SerializableErrorInfo("No database.", [], "DatabaseError")
            return serialize_value(RepositoryErrorSnap(error=info))

    with pytest.raises(DagsterUserCodeProcessError, match="No database"):
        hosts.fetch_list(Failing(), Location(), defer_snapshots=True)  # type: ignore[arg-type]


# Where Dagster stays as it is


class Location:
    """What is asked of a code location before it is whole."""

    def __init__(self, *repositories: str) -> None:
        self.origin = ORIGIN.code_location_origin
        self.repository_names = set(repositories or [run_tags.REPOSITORY])
        self._job_snaps_by_name: Any = defaultdict(dict)


def without_snapshots(location: Location) -> Location:
    location._job_snaps_by_name = {}
    return location


@pytest.mark.parametrize(
    ("location", "deferred"),
    [
        (Location("somebody_elses"), True),
        (Location(run_tags.REPOSITORY, "somebody_elses"), True),
        (Location(), False),
        (without_snapshots(Location()), True),
    ],
)
def test_other_repositories_are_fetched_as_ever(
    location: Any, deferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_dagsters", lambda *args: {"stock": args})
    client: Any = "client"
    found: Any = hosts.fetch_list(client, location, deferred)
    assert found == {"stock": (client, location, deferred)}


def test_dagster_is_what_this_was_written_for() -> None:
    assert hosts.differences() == []


@contextlib.contextmanager
def examined_again() -> Iterator[None]:
    """Let what Dagster looks like be examined anew, and afterwards once more."""
    dagster_features.forget()
    try:
        yield
    finally:
        dagster_features.forget()


def renamed(api_client: Any, location: Any, defer_snapshots: Any) -> None: ...


def made_otherwise(self: Any, *args: Any) -> None: ...


@pytest.mark.parametrize(
    ("where", "name", "other"),
    [
        (snapshot_repository, hosts._NAME, renamed),
        (snapshot_repository, hosts._NAME, None),
        (GrpcServerCodeLocation, "__init__", made_otherwise),
        (GrpcServerCodeLocation, "_job_ref_to_snap", made_otherwise),
        (GrpcServerCodeLocation, "_job_ref_to_snap", None),
        (DagsterGrpcClient, "external_job", made_otherwise),
    ],
)
def test_where_its_parts_differ_dagster_stays_as_it_is_and_the_log_says_so_once(
    where: Any,
    name: str,
    other: Callable[..., Any] | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(snapshot_repository, hosts._NAME, STOCK)
    monkeypatch.setattr(where, name, other)
    stock = snapshot_repository.sync_get_external_repositories_data_grpc
    with examined_again(), caplog.at_level(logging.WARNING):
        assert not hosts.install()
        assert not hosts.install()
    assert snapshot_repository.sync_get_external_repositories_data_grpc is stock
    [record] = caplog.records
    assert "differs" in record.getMessage()


def test_the_worker_of_a_run_is_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_repository, hosts._NAME, STOCK)
    monkeypatch.setattr(hosts, "_executes_run", False)
    hosts.executes_run()
    assert not hosts.install()
    assert snapshot_repository.sync_get_external_repositories_data_grpc is STOCK


# Where it is switched on


@pytest.mark.parametrize("lazily", [True, False])
def test_every_process_that_opens_the_instance_fetches_lazily_unless_told_not_to(
    lazily: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_repository, hosts._NAME, STOCK)
    option = f"{{max_tick_retries: 3, fetch_jobs_lazily: {str(lazily).lower()}}}"
    (tmp_path / "dagster.yaml").write_text(
        "scheduler:\n"
        "  module: proctree_dagster.orchestration.hosts\n"
        "  class: LazyHostScheduler\n"
        f"  config: {option}\n"
        "telemetry: {enabled: false}\n"
    )
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        # Without asking the instance for anything: a host does not, before its first look.
        installed = snapshot_repository.sync_get_external_repositories_data_grpc
        assert (installed is hosts.fetch_list) == lazily
        assert instance.scheduler is not None
        assert instance.scheduler.max_tick_retries == 3  # type: ignore[attr-defined]


def test_the_package_by_itself_leaves_dagster_as_it_is() -> None:
    code = (
        "from dagster._api import snapshot_repository as theirs\n"
        "from proctree_dagster.orchestration import coordinator, hosts, launcher\n"
        f"assert theirs.{hosts._NAME}.__module__ == theirs.__name__\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=TOP, check=True)


# --- Execution plans ------------------------------------------------------------------------------


class Plans:
    """What a host asks of a code location, and how often the code server was asked."""

    def __init__(self, server: CodeServer, asked: list[str]) -> None:
        self.asked = asked
        self._server = server
        self.look()

    def look(self) -> None:
        """See the code location anew, as a host does after any change."""
        self.location: Any = self._server.origin.create_location(self._server._instance)

    def plan(self, name: str, config: Any = None, keys: Any = None, op: Any = None) -> Any:
        selector = JobSubsetSelector(
            location_name=self.location.name,
            repository_name=run_tags.REPOSITORY,
            job_name=name,
            op_selection=op,
        )
        job = self.location.get_job(selector)
        return self.location.get_execution_plan(job, config or {}, keys, None, None)


@pytest.fixture
def plans(server: CodeServer, fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> Plans:
    """Keep plans in this test alone."""
    asked: list[str] = []
    original = DagsterGrpcClient.execution_plan_snapshot

    def execution_plan_snapshot(self: Any, execution_plan_snapshot_args: Any) -> Any:
        asked.append(execution_plan_snapshot_args.job_origin.job_name)
        return original(self, execution_plan_snapshot_args)

    monkeypatch.setattr(DagsterGrpcClient, "execution_plan_snapshot", execution_plan_snapshot)
    dagsters = inspect.unwrap(GrpcServerCodeLocation.get_execution_plan)
    monkeypatch.setattr(GrpcServerCodeLocation, "get_execution_plan", dagsters)
    kept_plans.install()
    return Plans(server, asked)


def test_a_job_s_plan_is_asked_for_once(plans: Plans) -> None:
    first = plans.plan("one")
    assert plans.plan("one") is first
    assert first.step_keys_in_plan == ["a"]
    plans.plan("two")
    assert plans.asked == ["one", "two"]


def test_it_is_that_which_dagster_is_given(plans: Plans) -> None:
    kept, name = plans.plan("one"), "get_execution_plan"
    job = plans.location.get_repository(run_tags.REPOSITORY).get_full_job("one")
    dagsters = inspect.unwrap(getattr(GrpcServerCodeLocation, name))
    asked = dagsters(plans.location, job, {}, None, None, None)
    assert kept.execution_plan_snapshot == asked.execution_plan_snapshot


def test_another_configuration_has_a_plan_of_its_own(plans: Plans) -> None:
    plans.plan("one")
    plans.plan("one", {"execution": {"config": {"max_concurrent": 3}}})
    plans.plan("one", {"execution": {"config": {"max_concurrent": 3}}})
    assert plans.asked == ["one", "one"]


def test_a_configuration_that_is_refused_is_refused_again(plans: Plans) -> None:
    for _ in range(2):
        with pytest.raises(DagsterUserCodeProcessError, match="no_such"):
            plans.plan("one", {"no_such": 1})
    assert plans.asked == ["one", "one"]


def test_a_part_of_a_job_is_asked_for_each_time(plans: Plans) -> None:
    for _ in range(2):
        plans.plan("one", keys=["a"])
        plans.plan("one", op=["a"])
    assert plans.asked == ["one"] * 4


def test_after_a_change_the_plan_is_asked_for_again(plans: Plans) -> None:
    plans.plan("one")
    plans.look()
    plans.plan("one")
    assert plans.asked == ["one", "one"]


def test_only_so_many_steps_are_kept(plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_plans, "MOST_STEPS", 2)
    three = {"execution": {"config": {"max_concurrent": 3}}}
    for name, config in (("one", {}), ("two", {}), ("one", {}), ("one", three), ("one", {})):
        plans.plan(name, config)
    assert plans.asked == ["one", "two", "one"]
    plans.plan("two")
    assert plans.asked[3:] == ["two"], "it was used before the others"


def test_a_code_server_that_is_gone_is_said_so(plans: Plans) -> None:
    def gone(**_: Any) -> None:
        raise DagsterUserCodeUnreachableError("gone")

    plans.plan("one")
    plans.location.client.execution_plan_snapshot = gone
    with pytest.raises(DagsterUserCodeUnreachableError):
        plans.plan("two")
