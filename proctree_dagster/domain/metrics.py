"""What is measured of trees, and how Prometheus reads it as text."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

OTHERS = "(others)"
"""The label of all trees that have none of their own."""

MOST_TREES = 500
"""How many trees have a label of their own: each is a time series that Prometheus keeps."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What Prometheus expects of an answer."""


@dataclass(frozen=True)
class Metric:
    """Something that is measured: a gauge."""

    name: str
    help: str
    samples: Mapping[str, float]
    """Its values, by trees; under ``""`` the one of what concerns no tree alone."""

    def lines(self) -> Iterator[str]:
        """Return it in the format of Prometheus."""
        yield f"# HELP {self.name} {_escaped(self.help)}"
        yield f"# TYPE {self.name} gauge"
        for tree, value in self.samples.items():
            label = f'{{tree="{_quoted(tree)}"}}' if tree else ""
            yield f"{self.name}{label} {_number(value)}"


def as_text(metrics: Iterable[Metric]) -> str:
    """Return metrics in the text format of Prometheus."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def by_tree(
    values: Mapping[str, float],
    labelled: Collection[str],
    together: Callable[[Iterable[float]], float] = sum,
    default: float | None = 0.0,
) -> dict[str, float]:
    """Return values by trees, of which only some have a label of their own.

    Parameters
    ----------
    values:
        By the trees' names.
    labelled:
        The trees that have a label.
    together:
        Makes one value of those of all others.
    default:
        The value of a labelled tree that has none; ``None``: it is left out.
    """
    found = {tree: values.get(tree, default) for tree in labelled}
    others = [value for tree, value in values.items() if tree not in found]
    own = {tree: value for tree, value in found.items() if value is not None}
    return own | ({OTHERS: together(others)} if others else {})


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    return str(int(value)) if float(value).is_integer() else f"{value:.3f}"
