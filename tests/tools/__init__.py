"""Tools that tests, benchmarks and scripts share: real stacks, browsers, databases, hosts."""

import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
"""The folder of the clone."""

STARTUP = TOP / "tests" / "tools" / "startup"
"""The folder with what each Python reads when it starts, if the tests have started it."""


def python_path(*folders: Path | str) -> str:
    """Return a ``PYTHONPATH`` for a process that a test starts."""
    return os.pathsep.join(map(str, (*folders, STARTUP)))
