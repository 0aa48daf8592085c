"""What the Launchpad knows of a tree's context, and what it refuses."""

from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, JobDefinition
from dagster._config import ConfigSchemaSnapshot
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proctree_dagster.models import ProcessTree, ProcessTreeSchedule
from proctree_dagster.models.context_schema import ContextKey, ContextSchema
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.execution.tree_run import RUN_RESOURCE
from proctree_dagster.orchestration.runs.create import create_run
from proctree_dagster.orchestration.runs.local_runs import execute_here
from proctree_dagster.orchestration.serving.launchpad import context_mapping
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import annotated
from tests.app.models import Organisation


def problems(job: JobDefinition, run_config: dict[str, Any]) -> list[str]:
    """Return what a host says of a configuration; it has the job's snapshot only."""
    from dagster._config import validate_config_from_snap

    snapshot = job.get_job_snapshot()
    key = snapshot.mode_def_snaps[0].root_config_key
    assert key is not None
    evaluated = validate_config_from_snap(snapshot.config_schema_snapshot, key, run_config)
    return [] if evaluated.success else [each.message for each in evaluated.errors or []]


def prefilled(job: JobDefinition) -> Any:
    """Return what the Launchpad is filled in with."""
    snapshot = job.get_job_snapshot()
    schema: ConfigSchemaSnapshot = snapshot.config_schema_snapshot
    root = schema.get_config_snap(str(snapshot.mode_def_snaps[0].root_config_key))
    return yaml.safe_load(default_values_yaml_from_type_snap(schema, root)) or {}


@pytest.fixture
def tree(db: None) -> ProcessTreeInstance:
    tree = (
        ProcessTreeInstance("yearly")
        .add_process("fetch", func=annotated.fetch_invoices)
        .add_process("total", func=annotated.total, dependencies=["fetch"])
    )
    tree.save()
    return tree


def job() -> JobDefinition:
    return translator().job(from_row(ProcessTree.objects.get()))


ROW = {"$model": "app.Organisation", "pk": 1}
WHOLE = {"organisation": ROW, "year": 2026}


@pytest.mark.usefixtures("tree")
def test_a_misspelt_key_is_refused_by_a_host() -> None:
    [said] = problems(job(), {"context": {**WHOLE, "knid": "sale"}})
    assert 'Received unexpected config entry "knid" at path root:context' in said


@pytest.mark.usefixtures("tree")
def test_a_missing_key_is_refused_by_a_host() -> None:
    [said] = problems(job(), {"context": {"organisation": ROW}})
    assert 'Missing required config entry "year"' in said
    [said] = problems(job(), {})
    assert 'Missing required config entry "context"' in said


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    "wrong",
    [{"year": "2026"}, {"kind": "gift"}, {"organisation": 1}, {"since": "2026-03-31"}],
    ids=str,
)
def test_a_value_of_another_type_is_refused_by_a_host(wrong: dict[str, Any]) -> None:
    assert len(problems(job(), {"context": {**WHOLE, **wrong}})) == 1


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    "right",
    [
        {},
        {"kind": "bill"},
        {"since": {"$date": "2026-03-31"}},
        {"since": None},
        {"year": {"$int": "9007199254740993"}},
        {"rate": {"$decimal": "0.25"}},
        {"rate": 1},
        {"organisation": {**ROW, "using": "default"}},
    ],
    ids=str,
)
def test_what_suits_is_taken_by_a_host(right: dict[str, Any]) -> None:
    assert problems(job(), {"context": {**WHOLE, **right}}) == []


@pytest.mark.django_db
def test_a_reference_to_a_secret_is_taken_where_a_text_is() -> None:
    tree = ProcessTreeInstance("t").add_process("only", func=annotated.takes_secrets)
    tree.save()
    reference = {"$secret": "XERO_TOKEN"}
    for context in ({"api_key": reference, "settings": {}}, {"api_key": "a", "settings": {}}):
        assert problems(job(), {"context": context}) == []
    for wrong in ({"$secret": 5}, {"$sceret": "XERO_TOKEN"}, 5):
        assert problems(job(), {"context": {"api_key": wrong, "settings": {}}}) != []
    tree.register_schedule(context={"api_key": reference, "settings": {"password": reference}})
    assert prefilled(job())["context"] == {
        "api_key": reference,
        "settings": {"password": reference},
    }


def test_the_schedules_context_is_filled_in(tree: ProcessTreeInstance) -> None:
    organisation = Organisation.objects.create(name="one")
    tree.register_schedule(context={"organisation": organisation, "year": 2026, "kind": "bill"})
    row = {"$model": "app.Organisation", "pk": organisation.pk}
    shown = {"context": {"organisation": row, "year": 2026, "kind": "bill"}}
    assert prefilled(job()) == shown
    assert problems(job(), shown) == []
    del shown["context"]["year"]
    assert len(problems(job(), shown)) == 1


def test_what_a_schedule_has_of_a_required_key_is_filled_in_though_another_is_missing(
    tree: ProcessTreeInstance,
) -> None:
    ProcessTreeSchedule.objects.create(process_tree=ProcessTree.objects.get(), context={"year": 1})
    assert prefilled(job()) == {"context": {"year": 1}}
    assert len(problems(job(), {"context": {"year": 1}})) == 1


def test_keys_of_the_schedules_that_nothing_takes_are_filled_in_and_taken(
    tree: ProcessTreeInstance,
) -> None:
    context = {**WHOLE, "old": {"a": [1]}, "year": "of another type"}
    ProcessTreeSchedule.objects.create(process_tree=ProcessTree.objects.get(), context=context)
    assert prefilled(job()) == {"context": context}
    assert problems(job(), {"context": context}) == []


def test_a_required_key_that_is_null_is_not_shown_and_not_asked_for(
    tree: ProcessTreeInstance,
) -> None:
    context = {"organisation": None, "year": 2026}
    ProcessTreeSchedule.objects.create(process_tree=ProcessTree.objects.get(), context=context)
    assert prefilled(job()) == {"context": {"year": 2026}}
    assert problems(job(), {"context": {"year": 2026}}) == []


@pytest.mark.usefixtures("tree")
def test_a_run_is_executed_whatever_keys_it_was_given(instance: DagsterInstance) -> None:
    organisation = Organisation.objects.create(name="one")
    row = {"$model": "app.Organisation", "pk": organisation.pk}
    record = from_row(ProcessTree.objects.get())
    context = {"organisation": row, "year": 2026, "of a trigger": "x"}
    here = translator().job(record)
    assert len(problems(here, {"context": context})) == 1
    run = create_run(instance, here, context, {}, in_memory=True)
    assert execute_here(instance, here, run).success


def test_where_anything_goes_a_host_takes_it_and_knows_what_is_required(db: None) -> None:
    ProcessTreeInstance("t").add_process("a", func=annotated.takes_anything).save()
    assert problems(job(), {"context": {"year": 1, "more": {"a": None}}}) == []
    assert len(problems(job(), {"context": {"yaer": 1}})) == 1


def test_a_key_is_described_by_its_type_its_docstring_and_its_default(
    tree: ProcessTreeInstance,
) -> None:
    schema = job().get_job_snapshot().config_schema_snapshot
    described = {
        field.name: field.description
        for snap in schema.all_config_snaps_by_key.values()
        for field in snap.fields or []
    }
    assert described["year"] == "int. The year that they are of."
    assert described["kind"] == "'sale' | 'bill'. Which of them. Default: 'sale'."
    assert described["rate"] == "Decimal. Of the tax. Default: Decimal('0.25')."


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=5,
)
keys = st.sampled_from(["organisation", "year", "kind", "", 'a "b"', "ü"])
annotations = st.sampled_from([str, int, bool, float | None, annotated.Kind, Organisation, Any])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    default_context=st.dictionaries(keys, json_values, max_size=4),
    described=st.dictionaries(keys, st.tuples(annotations, st.booleans()), max_size=4),
    takes_anything=st.booleans(),
)
def test_whatever_a_schedule_has_the_mapping_can_be_made(
    default_context: dict[str, Any],
    described: dict[str, tuple[Any, bool]],
    takes_anything: bool,
) -> None:
    names = {*described, *default_context}
    found = {
        name: ContextKey(
            name,
            described.get(name, (Any, False))[0],
            needed_by=("a",) if described.get(name, (Any, False))[1] else (),
        )
        for name in names
    }
    mapping = context_mapping(ContextSchema(found, takes_anything), default_context)
    resolved = mapping.resolve_from_unvalidated_config({})
    assert resolved["resources"][RUN_RESOURCE]["config"]["context"] == default_context
