"""Everything that is measured, in one table.

    .venv/bin/python -m benchmarks [--rounds 10] [launch] [queue] …

Each benchmark starts what it needs in a temporary folder, both sides in the same run and in turns,
and stops what it started. The machine is better left alone meanwhile; the load is printed.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import launch, scale, schedules, steps, web
from .arguments import asked
from .table import HEADER, Row, tell

BENCHMARKS: dict[str, Callable[[Path, int], list[Row]]] = {
    "launch": launch.rows,
    "queue": launch.queue_rows,
    "scale": scale.rows,
    "schedules": schedules.rows,
    "steps": steps.rows,
    "web": web.rows,
}


def main() -> None:
    """Measure, and print the table."""
    given = asked("python -m benchmarks", __doc__, BENCHMARKS)
    load = os.getloadavg()
    found = []
    for name in given.names or BENCHMARKS:
        tell(f"== {name}")
        with tempfile.TemporaryDirectory() as folder:
            found += BENCHMARKS[name](Path(folder), given.rounds)
    print(HEADER)
    for row in found:
        print(row.line())
    print(
        f"\nMedians (least to most; samples), the sides taking turns, on {os.cpu_count()} cores; "
        f"load average {load[0]:.1f} before and {os.getloadavg()[0]:.1f} after."
    )


if __name__ == "__main__":
    main()
