"""The table that every benchmark fills: what was measured beside its baseline, and the ratio."""

import statistics
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    measure: str
    """What was measured."""

    unit: str
    """Of both sides' figures."""

    target: str
    """What ours should be against the baseline."""

    baseline: list[float]
    """The samples that ours are compared with: stock Dagster's, unless the measure says else."""

    ours: list[float]
    """Our samples."""

    @property
    def ratio(self) -> float:
        """Our median against the baseline's."""
        return statistics.median(self.ours) / statistics.median(self.baseline)

    def line(self) -> str:
        """Return it as Markdown: medians, spread, and ours against the baseline."""
        times = f"{self.ratio:.2f}×" if self.ratio >= 0.5 else f"1/{1 / self.ratio:.1f}"
        return (
            f"| {self.measure} | {spread(self.baseline, self.unit)} "
            f"| {spread(self.ours, self.unit)} | {times} | {self.target} |"
        )


HEADER = "| measure | baseline | ours | ours against it | target |\n|---|---|---|---|---|"


def spread(values: list[float], unit: str) -> str:
    """Return the median, and the least and the most, and how many there are."""
    digits = 0 if statistics.median(values) >= 20 else 2
    text = f"{statistics.median(values):.{digits}f} {unit}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f}; n={len(values)})"
    return text


def tell(text: str) -> None:
    """Say what is going on, beside the table."""
    print(text, file=sys.stderr, flush=True)
