"""What a tree looks like in Dagster."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dagster
import pytest
import yaml
from dagster import DagsterInstance, JobDefinition, OpDefinition
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap
from django.core.exceptions import ImproperlyConfigured

from proctree_dagster.domain import run_tags
from proctree_dagster.models import ProcessTree
from proctree_dagster.orchestration import ticks_together
from proctree_dagster.orchestration.configured import translator
from proctree_dagster.orchestration.repository import build_repository
from proctree_dagster.orchestration.serving.port_types import port_type
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.orchestration.tree_records import TreeRecord, from_row
from proctree_dagster.process.run import Process
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import annotated, processes

pytestmark = pytest.mark.django_db


def job_of(tree: ProcessTreeInstance) -> JobDefinition:
    return translator().job(from_row(tree.save()))


def diamond(name: str = "diamond") -> ProcessTreeInstance:
    return (
        ProcessTreeInstance(name, "One, two, and their sum.")
        .add_process("one", func=processes.one, metadata={"owner": "books"})
        .add_process("naïve two!", func=processes.two)
        .add_process("sum", func=processes.add, dependencies=["one", "naïve two!"])
    )


def test_a_tree_is_a_job_whose_ops_are_wired_by_its_dependencies() -> None:
    job = job_of(diamond())
    assert job.name == "diamond"
    assert job.description == "One, two, and their sum."
    wired = {
        (op.name, inputs.input_name, output.node_name)
        for op in job.graph.nodes
        for inputs, outputs in job.dependency_structure.input_to_upstream_outputs_for_node(
            op.name
        ).items()
        for output in outputs
    }
    [two] = [node.name for node in job.graph.nodes if node.name.startswith("na")]
    assert wired == {("sum", "one", "one"), ("sum", two, two)}


def test_a_functions_docstring_is_its_ops_description() -> None:
    job = job_of(diamond())
    op = job.graph.node_named("one").definition
    assert isinstance(op, OpDefinition)
    assert op.description == "Return 1."


def test_a_docstring_that_no_page_can_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.one, "__doc__", "Half \ud800 of a pair, and \x00.")
    op = job_of(diamond()).graph.node_named("one").definition
    assert isinstance(op, OpDefinition)
    assert op.description == "Half \\ud800 of a pair, and \\x00."


def test_names_as_written_stay_in_the_description_and_the_metadata() -> None:
    job = job_of(diamond("my diamond?"))
    assert job.description is not None
    assert job.description.startswith("my diamond?\n\n")
    [two] = [node.definition for node in job.graph.nodes if node.name.startswith("na")]
    assert isinstance(two, OpDefinition)
    assert two.tags[run_tags.PROCESS] == "naïve two!"
    assert two.description is not None
    assert two.description.startswith("naïve two!")


def test_tags_and_metadata_name_the_tree_its_revision_and_its_functions(settings: Any) -> None:
    settings.PROCTREE = {"SITE_URL": "https://books.example/"}
    tree = diamond()
    job = job_of(tree)
    row = ProcessTree.objects.get()
    assert job.run_tags[run_tags.TREE] == "diamond"
    assert job.run_tags[run_tags.REVISION] == row.revision
    link = job.metadata[run_tags.ADMIN].value
    assert link == f"https://books.example/admin/proctree_dagster/processtree/{row.pk}/change/"
    op = job.graph.node_named("one").definition
    assert isinstance(op, OpDefinition)
    assert op.tags[run_tags.FUNCTION] == "tests.app.processes:one"
    assert op.tags[run_tags.METADATA] == '{"owner": "books"}'


def test_runs_of_a_tree_that_allows_it_say_that_they_may_share_a_process() -> None:
    tree = diamond()
    assert run_tags.REUSE_WORKER not in job_of(tree).run_tags
    assert run_tags.REUSE_WORKER in job_of(tree.set_reuse_worker()).run_tags
    assert ProcessTreeInstance.load("diamond").reuse_worker
    assert run_tags.REUSE_WORKER not in job_of(tree.set_reuse_worker(False)).run_tags


def test_the_revision_changes_with_the_content_and_with_the_default_context() -> None:
    tree = diamond()
    before = tree.save().revision
    tree.register_schedule(context={"a": 1})
    scheduled = ProcessTree.objects.get().revision
    tree.add_process("more", func=processes.one).save()
    changed = ProcessTree.objects.get().revision
    assert len({before, scheduled, changed}) == 3


def test_a_broken_tree_is_a_job_whose_one_op_raises_the_reason(instance: DagsterInstance) -> None:
    diamond().save()
    ProcessTree.objects.update(processes=[{"name": "a", "func": "tests.app.processes:gone"}])
    job = translator().job(from_row(ProcessTree.objects.get()))
    assert job.name == "diamond"
    assert job.description is not None
    assert "'tests.app.processes:gone' names nothing" in job.description
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    [failure] = result.get_step_failure_events()
    data = failure.step_failure_data
    assert data.user_failure_data is not None
    assert "names nothing" in str(data.user_failure_data.description)


class Shouting(ProcessTreeTranslator):
    """A project's own translator."""

    def op_description(self, process: Process) -> str:
        return super().op_description(process).upper()

    def job_tags(self, tree: TreeRecord) -> dict[str, str]:
        return {**super().job_tags(tree), "team": "books"}


def test_users_change_the_translation_by_subclassing(settings: Any) -> None:
    settings.PROCTREE = {"TRANSLATOR": "tests.orchestration.test_translator.Shouting"}
    job = job_of(diamond())
    op = job.graph.node_named("one").definition
    assert isinstance(op, OpDefinition)
    assert op.description == "RETURN 1."
    assert job.run_tags["team"] == "books"


def test_a_translator_must_be_one(settings: Any) -> None:
    settings.PROCTREE = {"TRANSLATOR": "tests.app.models.Organisation"}
    with pytest.raises(ImproperlyConfigured, match="must name a subclass of ProcessTree"):
        translator()
    settings.PROCTREE = {"TRANSLATOR": "tests.nowhere.Translator"}
    with pytest.raises(ImproperlyConfigured, match="can't be imported"):
        translator()


@pytest.mark.parametrize(
    ("executor", "complaint"),
    [
        ("thread", "'thread' is unknown: choose one of threads, in_process, multiprocess, celery"),
        ("dask", "'dask' is not installed: pip install dagster-dask"),
        (
            "dagster_celery_k8s.celery_k8s_job_executor",
            "is not installed: pip install dagster-celery-k8s",
        ),
        ("nowhere.executor", "no module 'nowhere'; is its package installed?"),
        ("tests.app.processes.one", "not an executor"),
    ],
)
def test_an_unknown_executor_says_what_there_is(
    settings: Any, executor: str, complaint: str
) -> None:
    settings.PROCTREE = {"EXECUTOR": executor}
    with pytest.raises(ImproperlyConfigured, match=complaint):
        job_of(diamond())


@pytest.mark.parametrize(
    "default",
    [
        {"a": None, "b": 1},
        {"a": {}},
        {"a": {"b": None, "c": {"d": {}}}, "e": [None, {}]},
        {"a": {"b": {"c": None}}},
        {},
    ],
)
def test_a_launch_of_what_the_launchpad_shows_loses_no_null_and_no_empty_dictionary(
    default: dict[str, Any], instance: DagsterInstance
) -> None:
    tree = ProcessTreeInstance("seen").add_process("seen", func=processes.echo)
    tree.save()
    tree.register_schedule(context=default)
    job = translator().job(from_row(ProcessTree.objects.get()))
    snapshot = job.get_job_snapshot().config_schema_snapshot
    root = snapshot.get_config_snap(job.get_job_snapshot().mode_def_snaps[0].root_config_key or "")
    shown = yaml.safe_load(default_values_yaml_from_type_snap(snapshot, root)) or {}
    result = job.execute_in_process(run_config=shown, instance=instance)
    assert result.output_for_node("seen").result == default
    assert "execution" not in shown


def test_a_port_shows_the_type_that_its_functions_annotation_names() -> None:
    tree = (
        ProcessTreeInstance("yearly")
        .add_process("fetch", func=annotated.fetch_invoices)
        .add_process("total", func=annotated.total, dependencies=["fetch"])
        .add_process("untyped", func=processes.add, dependencies=["total"])
    )
    job = job_of(tree)
    ops = {node.name: node.definition for node in job.graph.nodes}
    fetch, total = ops["fetch"], ops["total"]
    assert fetch.output_def_named("result").dagster_type.display_name == "list[dict[str, Any]]"
    assert total.input_def_named("fetch").dagster_type.display_name == "list[dict[str, Any]]"
    assert total.output_def_named("result").dagster_type.display_name == "Decimal"
    assert ops["untyped"].input_def_named("total").dagster_type.display_name == "Any"


@pytest.mark.parametrize("name", ["Any", "String", "Nothing"])
def test_a_class_with_the_name_of_a_type_of_dagsters_is_shown_as_any(name: str) -> None:
    def function() -> None:
        """Return nothing."""

    function.__annotations__["return"] = type(name, (), {})
    assert port_type(function, "return") is dagster.Any


def test_types_of_one_name_may_be_in_one_job(instance: DagsterInstance) -> None:
    tree = ProcessTreeInstance("t")
    for name in "ab":
        tree.add_process(name, func=processes.one)
    first = type("Invoice", (), {})
    second = type("Invoice", (), {})
    record = from_row(tree.save())
    found = dict(record.processes)
    for name, kind in {"a": first, "b": second}.items():

        def function() -> int:
            return 1

        function.__annotations__["return"] = kind
        found[name] = replace(found[name], func=function)
    job = translator().job(replace(record, processes=found))
    assert job.get_job_snapshot_id()


class OnItsOwn(ProcessTreeTranslator):
    """Has a say in what a tick does."""

    made = 0

    def job(self, tree: TreeRecord, **options: Any) -> JobDefinition:
        type(self).made += 1
        return super().job(tree, **options)

    def schedule(self, schedule: Any) -> Any:
        return super().schedule(schedule)


def test_a_translator_of_the_projects_own_is_asked_for_each_run_of_a_template(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnItsOwn, "made", 0)
    settings.PROCTREE = {"TRANSLATOR": "tests.orchestration.test_translator.OnItsOwn"}
    tree = diamond()
    tree.save()
    repository = build_repository()
    repository.warm_up()  # as the template does
    repository.get_job(tree.name)
    assert OnItsOwn.made == 2


@pytest.mark.parametrize("name", ["", "Shouting", "OnItsOwn"])
def test_the_daemon_knows_whether_schedules_are_evaluated_one_by_one(
    settings: Any, name: str
) -> None:
    if name:
        settings.PROCTREE = {"TRANSLATOR": f"tests.orchestration.test_translator.{name}"}
    listed: Any = RepositorySnap.from_def(build_repository())
    location: Any = SimpleNamespace(
        get_repository=lambda name: SimpleNamespace(repository_snap=listed)
    )
    assert ticks_together._is_one_by_one(location) == (name == "OnItsOwn")
    listed = SimpleNamespace(metadata=None)  # of an earlier release
    assert not ticks_together._is_one_by_one(location)
