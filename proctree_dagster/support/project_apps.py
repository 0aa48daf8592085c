"""The project's own apps: installed apps that were not installed as packages."""

import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from django.apps import AppConfig, apps

_PACKAGE = __name__.partition(".")[0]


def project_apps() -> list[AppConfig]:
    """Return the apps whose code is outside the folders for installed packages.

    Without Django's apps and this package's, wherever they are. An app that was installed editable
    is outside those folders, so it is the project's own.
    """
    return [app for app in apps.get_app_configs() if is_project_app(app)]


def project_modules() -> tuple[str, ...]:
    """Return the module names of the project's own apps; cached, as every reference needs them."""
    global _modules
    if _modules is None or _modules[0] is not apps.app_configs:
        # ``override_settings`` replaces this dictionary.
        found = apps.app_configs, tuple(app.name for app in project_apps())
        if not apps.ready:
            return found[1]
        _modules = found
    return _modules[1]


_modules: tuple[Mapping[str, AppConfig], tuple[str, ...]] | None = None


def is_project_app(app: AppConfig) -> bool:
    """Return whether an app is the project's own; see ``project_apps``."""
    return app.name.partition(".")[0] not in ("django", _PACKAGE) and not any(
        is_installed(app.name, folder) for folder in _folders(app)
    )


def _folders(app: AppConfig) -> Iterator[str]:
    """Return the folders of an app; a namespace package may have several."""
    yield app.path
    yield from getattr(app.module, "__path__", ())


@cache
def is_installed(name: str, folder: str) -> bool:
    """Return whether the package ``name`` in ``folder`` was put there by an installer."""
    written = Path(folder).absolute()
    for path in (written, written.resolve()):  # either may be a link into such a folder
        if _in_archive(path) or _in_package_folder(path):
            return True
    return _was_unpacked(name, written)


def _in_archive(path: Path) -> bool:
    return any(each.is_file() for each in (path, *path.parents))


def _in_package_folder(path: Path) -> bool:
    # By the folder's name, too: another Python's folder may be on the path.
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True
    return any(path.is_relative_to(each) for each in _package_folders())


@cache
def _package_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = {Path(paths[name]) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    found |= {Path(each) for each in (*site.getsitepackages(), site.getusersitepackages())}
    # Not the folder with all of Python (Windows lists it): a project may be below it.
    found -= {Path(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    return tuple(found | {path.resolve() for path in found})


def _was_unpacked(name: str, folder: Path) -> bool:
    """Return whether an installer's record lists the package, as after ``pip install --target``."""
    parts = name.split(".")
    if list(folder.parts[-len(parts) :]) != parts:
        return False  # the app config sets its own path
    root = folder.parents[len(parts) - 1]
    return any(
        line.startswith(f"{'/'.join(parts)}/")
        for record in root.glob("*.dist-info/RECORD")
        for line in record.read_text(encoding="utf-8", errors="replace").splitlines()
    )
