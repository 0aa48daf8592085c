"""The files that a template has read while importing, and whether they have changed."""

import importlib.util
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings

Stamp = tuple[int, int, int] | None

_PATHS = sysconfig.get_paths()
_INSTALLED = tuple(
    {f"{_PATHS[key]}{os.sep}" for key in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_LEFT_OUT = (*_INSTALLED, "/proc/", "/sys/")


def user_modules() -> list[Path]:
    """Return the files of imported modules that may be edited in place.

    Not those of installed packages, but for the project's own, if those are installed: their
    settings and apps.
    """
    own = _own_packages()
    files = {
        file
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__dict__", {}).get("__file__"))
        and (not file.startswith(_INSTALLED) or name.partition(".")[0] in own)
    }
    return [Path(file) for file in sorted(files)]


def _own_packages() -> set[str]:
    if not apps.ready:
        return set()
    names = {config.name for config in apps.get_app_configs()} | {settings.SETTINGS_MODULE}
    return {name.partition(".")[0] for name in names} - {"django"}


def package_folders() -> list[Path]:
    """Return the folders that packages are installed into: one changes with each installation."""
    named = {Path(each) for each in sys.path if Path(each).name in _PACKAGE_FOLDERS}
    return sorted(named | {Path(_PATHS["purelib"]), Path(_PATHS["platlib"])})


_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}


THREAD_VARIABLES = (
    *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)
"""What keeps libraries such as numpy from starting threads when they are imported."""


def keep_libraries_from_threads() -> list[str]:
    """Limit libraries to one thread, unless the environment sets their number.

    Returns
    -------
    list[str]
        The variables that were set, which ``unset`` removes in a process that may use more.
    """
    found = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(found, "1"))
    return found


def unset(names: Iterable[str]) -> None:
    """Remove variables of ``keep_libraries_from_threads``, if they are still as it set them."""
    for name in names:
        if os.environ.get(name) == "1":
            del os.environ[name]


class Reads:
    """The files that this process reads, such as ``.env``, without those that it writes."""

    def __init__(self) -> None:
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._noting = False
        self._hooked = False

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Record the files that are opened in the block, missing ones included."""
        if not self._hooked:
            sys.addaudithook(self._note)  # an audit hook can't be removed
            self._hooked = True
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    def files(self) -> list[Path]:
        """Return them."""
        found = (Path(file) for file in sorted(self._read - self._written))
        return [file for file in found if file.is_file() or not file.exists()]

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._noting or event != "open" or not isinstance(args[0], str | bytes):
            return
        file = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100  # links are not followed
        flags = args[2]
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
            self._written.add(file)
        elif not file.endswith((".pyc", ".pth")) and not file.startswith(_LEFT_OUT):
            self._read.add(file)


def files_of(reads: Reads) -> set[Path]:
    """Return the files whose change makes the imports of this process outdated.

    ``.env`` counts where there is none: Dagster reads it as soon as it is there.
    """
    return {*user_modules(), *package_folders(), *reads.files(), Path.cwd() / ".env"}


def stamp(file: Path) -> Stamp:
    """Return a stamp that changes with the file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def stamps(files: Iterable[Path], since_ns: int) -> dict[Path, Stamp]:
    """Return the stamps of files; one that changed during the import gets another stamp.

    Parameters
    ----------
    files:
        The files.
    since_ns:
        When the imports began, in nanoseconds of the clock that stamps files.
    """
    now = time.time_ns()
    found = {file: stamp(file) for file in files}
    return {
        file: (-1, -1, -1) if mark and since_ns <= mark[0] <= now else mark
        for file, mark in found.items()
    }


def changed(before: Mapping[Path, Stamp]) -> list[Path]:
    """Return the changed files, and make Python read them again."""
    found = [file for file, mark in before.items() if stamp(file) != mark]
    for file in found:
        if file.suffix == ".py":
            # Python compares bytecode by size and whole seconds, which two edits may share.
            with suppress(OSError):  # there is none, or others may not remove it
                Path(importlib.util.cache_from_source(str(file))).unlink()
    return found
