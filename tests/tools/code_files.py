"""Where the Python is that tests and benchmarks give to other processes.

It is in files, so that linters read it: in ``code/<module>/`` beside the module that uses it.
Modules (a tree's functions, settings, a code location) are copied into the folder of the test;
programs are, too, or are given to ``python -c`` and ``manage.py shell``. What varies, they read
from their arguments or the environment.
"""

from pathlib import Path


def code_of(module: str) -> Path:
    """Return the folder with the code of a module, of which ``module`` is the ``__file__``."""
    file = Path(module)
    return file.parent / "code" / file.stem
