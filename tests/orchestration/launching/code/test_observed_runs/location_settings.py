"""Settings of a project that uses Sentry and OpenTelemetry, as their manuals say."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import sentry_sdk
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tests.settings import *  # noqa: F403

FOLDER = Path(os.environ["TEST_FOLDER"])
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{FOLDER}/db.sqlite3"},
}
PROCTREE = {"FUNCTION_MODULES": ["observed"]}
sentry_sdk.init(dsn=os.environ["TEST_SENTRY"])


class ToFile(SpanExporter):
    """Appends each span to a file, as a line of JSON."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with (FOLDER / "spans").open("a") as file:
            file.writelines(json.dumps(json.loads(span.to_json())) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
# It has a thread, and sends in a minute what it is not asked for before.
provider.add_span_processor(BatchSpanProcessor(ToFile(), schedule_delay_millis=60_000))
trace.set_tracer_provider(provider)
