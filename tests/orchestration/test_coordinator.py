"""Which runs are launched at once, and which wait in Dagster's queue."""

from collections.abc import Iterator
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, SubmitRunContext
from dagster._utils.tags import TagConcurrencyLimitsCounter

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.coordinator import StraightRunCoordinator
from proctree_dagster.orchestration.runs import create
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db

OF_TEAM = {"key": "team", "value": "books", "limit": 1}
PER_ORGANISATION = {"key": "org", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}


@pytest.fixture
def coordinator(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StraightRunCoordinator]:
    """A coordinator with limits by tags, for launches that are only noted."""
    monkeypatch.setattr(
        instance, "launch_run", lambda run_id, workspace: instance.get_run_by_id(run_id)
    )
    limits: list[dict[str, Any]] = [OF_TEAM, PER_ORGANISATION]
    found = StraightRunCoordinator(max_concurrent_runs=-1, tag_concurrency_limits=limits)
    found.register_instance(instance)
    monkeypatch.setattr(instance, "_run_coordinator", found)
    monkeypatch.setattr(found, "_can_launch", lambda context: True)
    yield found
    found.dispose()


def submitted(
    instance: DagsterInstance, coordinator: StraightRunCoordinator, **tags: str
) -> DagsterRun:
    tree = ProcessTreeInstance("books", overwrite=True).add_process("only", func=processes.one)
    job = translator().job(from_row(tree.save()))
    run = create.create_run(instance, job, {}, tags)
    return coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tags", "is_queued"),
    [
        ({}, False),
        ({"team": "sales"}, False),
        ({"team": "books"}, True),
        ({"org": "1"}, True),
        ({run_tags.KEY: "k"}, True),
    ],
)
def test_only_a_run_that_a_limit_concerns_is_queued(
    instance: DagsterInstance,
    coordinator: StraightRunCoordinator,
    tags: dict[str, str],
    is_queued: bool,
) -> None:
    run = submitted(instance, coordinator, **tags)
    assert (run.status == DagsterRunStatus.QUEUED) is is_queued


def test_dagsters_queue_holds_the_second_run_with_a_key_back(
    instance: DagsterInstance, coordinator: StraightRunCoordinator
) -> None:
    first = submitted(instance, coordinator, **{run_tags.KEY: "k"})
    limits = coordinator.get_run_queue_config().tag_concurrency_limits
    assert list(limits[:2]) == [OF_TEAM, PER_ORGANISATION]
    counter = TagConcurrencyLimitsCounter(limits, [first])
    assert counter.is_blocked(first.with_tags({run_tags.KEY: "k"}))
    assert not counter.is_blocked(first.with_tags({run_tags.KEY: "other"}))
