"""Trees of whose runs only so many go on at the same time, for each customer, say."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, SubmitRunContext
from dagster._utils.tags import TagConcurrencyLimitsCounter

from example.ledger.models import Organisation
from proctree_dagster.context import encode, tagging
from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import InvalidTree
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.coordinator import OUR_LIMITS, StraightRunCoordinator
from proctree_dagster.orchestration.inspection.findings import Subject
from proctree_dagster.orchestration.inspection.queue_limits import check_limits
from proctree_dagster.orchestration.runs import origins
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager
from tests.app import processes

pytestmark = pytest.mark.django_db

ONE, TWO = f"{run_tags.AT_MOST}1", f"{run_tags.AT_MOST}2"


def save(per: Any = "{organisation.pk}", limit: Any = 1) -> ProcessTree:
    tree = ProcessTreeInstance("close", overwrite=True, one_at_a_time_per=per, limit_per_key=limit)
    return tree.add_process("only", func=processes.one).save()


@pytest.mark.parametrize(
    ("per", "text"),
    [
        ("{organisation.pk}", "7"),
        ("{organisation}", "ledger.Organisation:7"),
        ("{region[name]} {day}", "north 2026-06-10"),
        ("{missing}", "?"),
        ("{organisation.name}", "?"),
        ("all", "all"),
        ("{region.__class__}", "?"),
    ],
)
def test_the_tag_is_the_template_over_the_context_without_a_query(
    per: str, text: str, django_assert_num_queries: Any
) -> None:
    organisation = Organisation(pk=7, name="Acme")
    organisation._state.adding = False
    context = {"region": {"name": "north"}, "day": dt.date(2026, 6, 10)}
    encoded = {**encode(context), "organisation": {"$model": "ledger.Organisation", "pk": 7}}
    with django_assert_num_queries(0):
        found = tagging.of_limit(run_tags.limit(2, "close", per), encoded)
    assert found == {TWO: f"close:{text}"}


def test_a_long_text_is_a_short_hash() -> None:
    limit = run_tags.limit(1, "close", "{text}")
    [one], [other] = (
        tagging.of_limit(limit, {"text": "x" * length}).values() for length in (1000, 1001)
    )
    assert one != other
    assert max(len(one), len(other)) < 100


def test_it_is_saved_loaded_and_left_out_where_there_is_none() -> None:
    row = save(limit=2)
    assert row.content["one_at_a_time_per"] == "{organisation.pk}"
    assert row.content["limit_per_key"] == 2
    loaded = ProcessTreeInstance.load("close")
    assert (loaded.one_at_a_time_per, loaded.limit_per_key) == ("{organisation.pk}", 2)
    loaded.set_limit("").save()
    row.refresh_from_db()
    assert (row.one_at_a_time_per, row.limit_per_key) == ("", 1)
    assert not {"one_at_a_time_per", "limit_per_key"} & row.content.keys()


@pytest.mark.parametrize(
    ("per", "limit", "why"),
    [
        ("{organisation", 1, "can't be filled in"),
        ("{}", 1, "names a key of the context"),
        ("{0}", 1, "names a key of the context"),
        (5, 1, "must be a text"),
        ("{api_key}", 1, "called like a secret"),
        ("{a}", 0, "from 1 to 20"),
        ("{a}", 21, "from 1 to 20"),
    ],
)
def test_what_is_invalid_is_refused_when_it_is_saved(per: Any, limit: Any, why: str) -> None:
    with pytest.raises(InvalidTree, match=why):
        save(per, limit)


def launched_in_the_ui(instance: DagsterInstance, config: Any) -> DagsterRun:
    """Launch a run as the webserver does, which has the job's snapshot only."""
    job = translator().job(from_row(ProcessTree.objects.with_schedules().get(name="close")))
    run = instance.create_run_for_job(
        job,
        run_config=config,
        tags=job.run_tags,
        remote_job_origin=origins.remote_origin(job.name),
        job_code_origin=origins.code_origin(job.name),
    )
    coordinator = StraightRunCoordinator(max_concurrent_runs=-1)
    coordinator.register_instance(instance)
    try:
        return coordinator.submit_run(SubmitRunContext(run, workspace=None))  # type: ignore[arg-type]
    finally:
        coordinator.dispose()


def test_it_holds_for_runs_from_python_and_from_the_ui_together(instance: DagsterInstance) -> None:
    organisation = Organisation.objects.create(name="Acme")
    save(limit=2)
    ProcessTreeInstance.load("close").register_schedule(context={"organisation": organisation})
    run_id, _ = ProcessTreeManager.submit_tree("close")
    runs = [
        launched_in_the_ui(instance, {"context": encode({"organisation": organisation})}),
        launched_in_the_ui(instance, {}),
        instance.get_run_by_id(run_id),
    ]
    other = launched_in_the_ui(instance, {"context": {"organisation": {"$model": "x.Y", "pk": 8}}})
    assert [run.tags[TWO] for run in runs if run] == [f"close:{organisation.pk}"] * 3
    counter = TagConcurrencyLimitsCounter(list(OUR_LIMITS), [run for run in runs[:2] if run])
    assert runs[2] is not None
    assert counter.is_blocked(runs[2])
    assert not counter.is_blocked(other)


def test_the_text_of_an_executed_run_is_a_tag_too_so_it_counts(instance: DagsterInstance) -> None:
    save("{a}")
    run_id = ProcessTreeManager.execute_tree("close", {"a": 5})["run_id"]
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.tags[ONE] == "close:5"


def test_the_doctor_says_if_dagsters_queue_lacks_a_limit_that_is_used(
    instance: DagsterInstance, dagster_home: Path
) -> None:
    subject = Subject(dagster_home, instance)
    assert list(check_limits(subject)) == []
    save(limit=2)
    [finding] = check_limits(subject)
    assert finding.level == "warning"
    assert TWO in finding.what
    ours = {"module": "proctree_dagster.orchestration.coordinator"}
    coordinator = {"run_coordinator": {**ours, "class": "StraightRunCoordinator"}}
    (dagster_home / "dagster.yaml").write_text(json.dumps(coordinator))
    with DagsterInstance.from_config(str(dagster_home)) as changed:
        [finding] = check_limits(Subject(dagster_home, changed))
    assert finding.level == "ok"
