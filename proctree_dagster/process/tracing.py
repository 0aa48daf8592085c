"""Spans of runs and processes, where the project uses OpenTelemetry.

A run has a span, whose parent is that in which the run was submitted. Each try of a process has one
below it, which is the current one while the function is called. The project sets up its tracer
provider as ever; as long as it has not imported ``opentelemetry``, nothing is done.

Spans are written as W3C ``traceparent`` headers (https://www.w3.org/TR/trace-context/); ``""``
means none.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import __version__
from ..domain.texts import explain

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]

FLUSH_SECONDS = 2.0
"""Seconds that the process of a run waits for its spans to be exported, once it has ended."""

_spans: dict[str, str] = {}
"""The spans of the runs that this process executes."""


def is_in_use() -> bool:
    """Return whether the project uses OpenTelemetry."""
    return "opentelemetry.trace" in sys.modules


def current() -> str:
    """Return the current span: in it a run is submitted."""
    return _header() if is_in_use() else ""


@dataclass
class RunSpan:
    """The span of a run."""

    header: str = ""
    """Itself, for processes that are executed elsewhere."""

    failed: bool = False
    """Whether a process has failed that must not: to be set by whoever executes the run."""


@contextmanager
def of_run(run_id: str, name: str, parent: str, attributes: Attributes) -> Iterator[RunSpan]:
    """Have a span for a run.

    Parameters
    ----------
    run_id:
        The run.
    name:
        The span's name.
    parent:
        The span in which the run was submitted. ``""``: the current one.
    attributes:
        The span's attributes.
    """
    if not is_in_use():
        yield RunSpan()
        return
    from opentelemetry.trace import StatusCode, set_span_in_context

    # Not made the current one: it ends in another context than it begins in, a generator's.
    span = _tracer().start_span(name, _context(parent), attributes=_prefixed(attributes))
    run = RunSpan(_header(set_span_in_context(span)))
    _spans[run_id] = run.header
    try:
        yield run
        if run.failed:
            span.set_status(StatusCode.ERROR)
    except Exception as error:
        _fail(span, error)
        raise
    finally:
        del _spans[run_id]
        span.end()


@contextmanager
def of_process(run_id: str, name: str, parent: str, attributes: Attributes) -> Iterator[None]:
    """Have a current span for one try of a process.

    Parameters
    ----------
    run_id:
        The run.
    name:
        The span's name.
    parent:
        The span of the run, if another process has it.
    attributes:
        The span's attributes.
    """
    if not is_in_use():
        yield
        return
    from opentelemetry.trace import use_span

    span = _tracer().start_span(
        name, _context(_spans.get(run_id) or parent), attributes=_prefixed(attributes)
    )
    try:
        with use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    except Exception as error:
        _fail(span, error)
        raise
    finally:
        span.end()
        if run_id not in _spans:  # another process executes the run, and this one may end any time
            flush()


def flush() -> None:
    """Wait a little until the spans are exported: the process is about to end."""
    if not is_in_use():
        return
    from opentelemetry.trace import get_tracer_provider

    force_flush = getattr(get_tracer_provider(), "force_flush", None)  # the SDK's has it
    if force_flush is None:
        return
    try:
        exported = force_flush(int(1000 * FLUSH_SECONDS))
    except Exception:  # the project's own code; what was done is not undone by it
        logger.exception("Spans could not be exported.")
        return
    if not exported:
        logger.warning("Spans were not exported within %g seconds.", FLUSH_SECONDS)


def _tracer() -> Tracer:
    from opentelemetry.trace import get_tracer

    return get_tracer("proctree_dagster", __version__)


def _header(context: Context | None = None) -> str:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, context)
    return carrier.get("traceparent", "")


def _context(parent: str) -> Context | None:
    """Return the context with a span; ``None``, the current one, without."""
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})


def _fail(span: Span, error: Exception) -> None:
    from opentelemetry.trace import StatusCode

    span.record_exception(error)
    span.set_status(StatusCode.ERROR, explain(error))


def _prefixed(attributes: Attributes) -> dict[str, str | int]:
    return {f"proctree.{name}": value for name, value in attributes.items()}
