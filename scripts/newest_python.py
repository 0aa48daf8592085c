"""Print the newest Python that is installed here: ``python3 scripts/newest_python.py``.

It is looked for under pyenv and on the ``PATH``. Only releases count that are newer than the oldest
that is supported, final, and have what a virtual environment needs. Any Python 3 can run this file.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NEWER_THAN = (3, 11)
"""The release that ``make test`` uses."""

QUESTION = (
    "import sys, ensurepip, sqlite3, ssl, venv; "
    "print(*sys.version_info[:3]) if sys.version_info.releaselevel == 'final' else sys.exit(1)"
)

NONE = """\
There is no Python 3.{} or newer here, neither under pyenv nor as python3.N on the PATH, so nothing
was tested with the newest releases. Install one (pyenv install 3.13) or name it:
make test-newest NEWEST=/path/to/python\
"""


def main() -> None:
    """Print its path, or say that there is none and exit with 1."""
    found: dict[tuple[int, ...], Path] = {}
    for path in candidates():
        version = release(path)
        if version is not None:
            found.setdefault(version, path)
    newest = max(found, default=NEWER_THAN)
    if newest[:2] <= NEWER_THAN:
        sys.exit(NONE.format(NEWER_THAN[1] + 1))
    print(found[newest])


def candidates() -> Iterator[Path]:
    """Yield every interpreter under pyenv and on the ``PATH``; a pyenv's shims may refuse."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/*/bin/python3"))
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder:
            names = sorted(Path(folder).glob("python3*"))
            yield from (each for each in names if re.fullmatch(r"python3(\.\d+)?", each.name))


def release(python: Path) -> tuple[int, ...] | None:
    """Return an interpreter's version; ``None`` if it does not run, or tests can't use it."""
    try:
        done = subprocess.run(  # noqa: S603
            [python, "-c", QUESTION], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return tuple(map(int, done.stdout.split()))


if __name__ == "__main__":
    main()
