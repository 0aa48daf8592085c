"""A project's own Dagster definitions are served beside the trees."""

import logging
from typing import Any

import pytest
from dagster import (
    AssetExecutionContext,
    AssetSelection,
    Config,
    DagsterInvalidDefinitionError,
    Definitions,
    JobDefinition,
    RunRequest,
    ScheduleDefinition,
    SensorDefinition,
    asset,
    asset_check,
    define_asset_job,
    job,
    op,
    resource,
    sensor,
)
from dagster._core.remote_representation.external_data import RepositorySnap

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration import repository_data
from proctree_dagster.orchestration.repository import LiveRepository, build_repository
from proctree_dagster.orchestration.runs import run_taking
from proctree_dagster.orchestration.serving import merged_repository
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes
from tests.tools.noted_connections import noted_in

pytestmark = pytest.mark.django_db


class HowMany(Config):
    count: int = 3


@resource
def rate() -> float:
    return 2.0


@asset(required_resource_keys={"rate"})
def rates(context: AssetExecutionContext, config: HowMany) -> list[float]:
    return [context.resources.rate] * config.count


@asset
def average(rates: list[float]) -> float:
    return sum(rates) / len(rates)


@asset_check(asset=average)
def average_is_positive(average: float) -> Any:
    from dagster import AssetCheckResult

    return AssetCheckResult(passed=average > 0)


@op
def tidy_up() -> None:
    """Do nothing."""


def own(name: str = "tidy") -> Definitions:
    @job(name=name)
    def tidy() -> None:
        tidy_up()

    @sensor(job=tidy, name=f"{name}_sensor")
    def look() -> RunRequest:
        return RunRequest()

    rates_job = define_asset_job("refresh_rates", AssetSelection.all())
    return Definitions(
        assets=[rates, average],
        asset_checks=[average_is_positive],
        resources={"rate": rate},
        jobs=[tidy, rates_job],
        schedules=[
            ScheduleDefinition(job=tidy, cron_schedule="0 3 * * *", name=f"{name}_schedule"),
            ScheduleDefinition(job=rates_job, cron_schedule="0 4 * * *"),
        ],
        sensors=[look],
    )


def save(name: str = "close") -> None:
    tree = ProcessTreeInstance(name, overwrite=True).add_process("one", func=processes.one)
    tree.save()
    tree.register_schedule(interval_minutes=60)


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> LiveRepository:
    """The repository, of which no snapshot outlives the call that took it."""
    monkeypatch.setattr(repository_data, "SNAPSHOT_SECONDS", -1.0)
    return build_repository(extra=own())


def test_what_dagster_lists_is_the_trees_and_the_projects_own(repository: LiveRepository) -> None:
    save()
    assert {"close", "tidy", "refresh_rates"} <= set(repository.job_names)
    listed = RepositorySnap.from_def(repository)
    jobs = {each.name for each in listed.job_datas or []}
    assert {"close", "tidy", "refresh_rates", "__ASSET_JOB"} <= jobs
    assert {each.name for each in listed.schedules} == {
        *("close_schedule", "tidy_schedule", "refresh_rates_schedule")
    }
    assert {each.name for each in listed.sensors} == {*run_tags.SENSORS, "tidy_sensor"}
    assert {each.asset_key.to_user_string() for each in listed.asset_nodes} == {"rates", "average"}
    checks = [each.name for each in listed.asset_check_nodes or []]
    assert checks == ["average_is_positive"]
    assert [each.name for each in listed.resources or []] == ["rate"]


def test_each_is_found_by_its_name(repository: LiveRepository) -> None:
    save()
    for name in ("close", "tidy", "refresh_rates", "__ASSET_JOB"):
        assert repository.has_job(name)
        assert isinstance(repository.get_job(name), JobDefinition)
    for name in ("close_schedule", "tidy_schedule"):
        assert repository.has_schedule_def(name)
        assert isinstance(repository.get_schedule_def(name), ScheduleDefinition)
    for name in ("proctree_outbox", "tidy_sensor"):
        assert repository.has_sensor_def(name)
        assert isinstance(repository.get_sensor_def(name), SensorDefinition)
    assert not repository.has_job("nothing")
    assert not repository.has_schedule_def("nothing")
    assert not repository.has_sensor_def("nothing")


def test_assets_are_materialized_with_their_resources_and_configuration(
    repository: LiveRepository,
) -> None:
    result = repository.get_job("refresh_rates").execute_in_process(
        run_config={"ops": {"rates": {"config": {"count": 5}}}}
    )
    assert result.output_for_node("rates") == [2.0] * 5
    assert [each.passed for each in result.get_asset_check_evaluations()] == [True]


def test_trees_stay_live_beside_them(repository: LiveRepository) -> None:
    assert "close" not in repository.job_names
    save()
    assert "close" in repository.job_names
    repository.load_all_definitions()


def test_a_name_that_a_tree_has_is_the_trees_and_the_rest_goes_on(
    repository: LiveRepository, caplog: pytest.LogCaptureFixture
) -> None:
    before = repository.get_job("tidy")
    save("tidy")
    with caplog.at_level(logging.ERROR):
        listed = RepositorySnap.from_def(repository)
        RepositorySnap.from_def(repository)
    [said] = [line for line in caplog.messages if "left out" in line]
    assert said.startswith("The job 'tidy' of this project's own definitions is left out")
    jobs = [each.name for each in listed.job_datas or []]
    assert jobs.count("tidy") == 1
    assert repository.job_names.count("tidy") == 1
    assert [node.name for node in repository.get_job("tidy").graph.nodes] == ["one"]
    assert repository.get_job("tidy") is not before
    # What targets it would start the tree with another job's configuration.
    assert "tidy_sensor" not in {each.name for each in listed.sensors}
    schedules = [each.name for each in listed.schedules]
    assert schedules.count("tidy_schedule") == 1
    assert repository.get_schedule_def("tidy_schedule").cron_schedule != "0 3 * * *"
    assert "refresh_rates" in jobs
    with pytest.raises(DagsterInvalidDefinitionError, match="Rename one of them"):
        repository.load_all_definitions()


@pytest.mark.parametrize("name", run_tags.SENSORS)
def test_a_sensor_of_ours_is_ours(name: str) -> None:
    @sensor(name=name, target="*")
    def theirs() -> None:
        """Look at nothing."""

    with pytest.raises(DagsterInvalidDefinitionError, match="is proctree-dagster's: rename yours"):
        build_repository(extra=Definitions(sensors=[theirs]))


def test_the_worker_of_a_job_of_the_projects_own_keeps_no_connection(
    repository: LiveRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []

    monkeypatch.setattr(merged_repository, "fresh_connections", noted_in(inside))
    monkeypatch.setattr(run_taking, "take_if_worker", lambda: inside.append("it"))
    repository.get_job("tidy")
    assert inside == ["begins", "it", "ends"]
