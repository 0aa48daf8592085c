"""Spans of runs and processes, made by OpenTelemetry's own SDK and kept in memory."""

import sys
import uuid
from collections.abc import Iterator, Sequence

import pytest
from dagster import DagsterInstance
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_django import Settings

from proctree_dagster.domain import run_tags
from proctree_dagster.models import OutboxRun
from proctree_dagster.process import tracing
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager

pytestmark = pytest.mark.django_db

OTHER_RUN = str(uuid.UUID(int=1))


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """The provider of this process: OpenTelemetry allows one. Afterwards it keeps nothing."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    exporter.shutdown()
    exporter.clear()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def tracer() -> trace.Tracer:
    return trace.get_tracer("the project's own")


def traced_inside() -> str:
    """Trace something, as a library does in a process."""
    with tracer().start_as_current_span("inside"):
        return "done"


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def span_id(span: ReadableSpan | trace.Span) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def save(*functions: str, retries: int = 0) -> ProcessTreeInstance:
    tree = ProcessTreeInstance("traced")
    for number, function in enumerate(functions):
        tree.add_process(f"step {number}", function, retries=retries)
    tree.save()
    return tree


def names(found: Sequence[ReadableSpan]) -> list[str]:
    return sorted(span.name for span in found)


def test_a_run_has_a_span_and_each_process_one_below_it_around_what_its_function_traces(
    spans: InMemorySpanExporter, instance: DagsterInstance, settings: Settings
) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "FUNCTION_MODULES": ["tests"]}
    with tracer().start_as_current_span("request") as request:
        outcome = save(f"{__name__}:traced_inside", "tests.app.processes:one").execute()
    found = by_name(spans)
    run, process = found["run traced"], found["process step 0"]
    assert parent(run) == span_id(request)
    assert [parent(found[f"process step {number}"]) for number in (0, 1)] == [span_id(run)] * 2
    assert parent(found["inside"]) == span_id(process)
    assert run.attributes == {"proctree.tree": "traced", "proctree.run_id": outcome["run_id"]}
    assert process.attributes is not None
    assert process.attributes["proctree.process"] == "step 0"


def test_each_try_of_a_process_is_a_span_and_an_error_is_on_its_own_and_on_the_runs(
    spans: InMemorySpanExporter, instance: DagsterInstance
) -> None:
    assert not save("tests.app.processes:fail", retries=1).execute()["success"]
    found = spans.get_finished_spans()
    assert names(found) == ["process step 0", "process step 0", "run traced"]
    tries = [span for span in found if span.name == "process step 0"]
    assert [(span.attributes or {})["proctree.try"] for span in tries] == [1, 2]
    for span in tries:
        assert span.status.status_code == trace.StatusCode.ERROR
        assert span.events[0].attributes is not None
        assert span.events[0].attributes["exception.type"] == "ValueError"
    assert by_name(spans)["run traced"].status.status_code == trace.StatusCode.ERROR


def test_a_submitted_run_carries_the_span_in_which_it_was_submitted(
    spans: InMemorySpanExporter,
) -> None:
    save("tests.app.processes:one")
    with tracer().start_as_current_span("request") as request:
        ProcessTreeManager.submit_tree("traced")
    ProcessTreeManager.submit_tree("traced")
    traced, alone = OutboxRun.objects.order_by("pk")
    assert f"{span_id(request):016x}" in traced.tags[run_tags.SUBMITTED_IN]
    assert run_tags.SUBMITTED_IN not in alone.tags


def test_a_step_in_another_process_finds_the_span_of_its_run_by_the_tag(
    spans: InMemorySpanExporter,
) -> None:
    with tracing.of_run(OTHER_RUN, "run", "", {}) as own:
        pass
    with tracing.of_process(OTHER_RUN, "process", own.header, {}):  # as a worker of Celery's does
        pass
    found = by_name(spans)
    assert parent(found["process"]) == span_id(found["run"])


def test_what_was_not_sampled_in_the_request_is_not_in_the_run(spans: InMemorySpanExporter) -> None:
    unsampled = f"00-{1:032x}-{2:016x}-00"
    with (
        tracing.of_run(OTHER_RUN, "run", unsampled, {}),
        tracing.of_process(OTHER_RUN, "process", "", {}),
    ):
        pass
    assert spans.get_finished_spans() == ()


def test_without_opentelemetry_nothing_is_traced_and_no_run_carries_anything(
    spans: InMemorySpanExporter, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert not tracing.is_in_use()
    run_id = save("tests.app.processes:one").execute()["run_id"]
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run_tags.SPAN not in run.tags
    assert "run traced" not in by_name(spans)


def test_an_exporter_that_fails_does_not_fail_the_process_and_is_logged(
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the collector is away")

    monkeypatch.setattr(trace.get_tracer_provider(), "force_flush", fail)
    with tracing.of_process(OTHER_RUN, "elsewhere", "", {}):
        pass
    assert names(spans.get_finished_spans()) == ["elsewhere"]
    assert "could not be exported" in caplog.text
    assert "the collector is away" in caplog.text
