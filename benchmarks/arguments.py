"""What a benchmark is asked for: which measures, and how many samples of each."""

import argparse
import signal
import sys
from collections.abc import Collection

from tests.tools.interrupts import heed_interrupts


def asked(program: str, description: str | None, names: Collection[str]) -> argparse.Namespace:
    """Return the ``names`` that the command line chooses, and the number of ``rounds``.

    From now on, what was started is stopped whatever ends the program, a time limit included.

    Parameters
    ----------
    program:
        As it is typed.
    description:
        What it measures.
    names:
        Those that there are; the command line may have any of them.
    """
    heed_interrupts()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=10, help="samples of each measure")
    given = parser.parse_args()
    unknown = set(given.names) - set(names)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(names)}")
    return given
