"""Metrics."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from ...domain.metrics import MOST_TREES, as_text
from ...running import metrics
from .base import Action

IMPORT_SECONDS = 60.0
"""Seconds to wait for Dagster's import."""


class Metrics(Action):
    """Prints metrics."""

    name = "metrics"
    help = (
        "Print what is measured of trees, as Prometheus reads it: what is overdue, runs under way "
        "and in the queue, failures, the age of the last success and of the outbox. It only reads."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the arguments: how many trees have a label."""
        parser.add_argument(
            "--trees",
            type=int,
            default=MOST_TREES,
            metavar="N",
            help=f"How many trees have a label of their own (default: {MOST_TREES}).",
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """Print them."""
        found = metrics.collect(max(0, options["trees"]), wait=IMPORT_SECONDS)
        self.out.line(as_text(found).rstrip("\n"))
        self.out.document({metric.name: metric.samples for metric in found})
