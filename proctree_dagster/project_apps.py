"""Which installed apps are the project's own: those that were not installed from elsewhere."""

import site
import sysconfig
from functools import cache
from pathlib import Path

from django.apps import AppConfig, apps

_PACKAGE = __name__.rpartition(".")[0]


def project_apps() -> list[AppConfig]:
    """Return the apps whose code lies outside of Python's folders for installed packages.

    Neither Django's apps nor this package's own are among them, wherever they lie.
    """
    return [app for app in apps.get_app_configs() if is_project_app(app)]


def is_project_app(app: AppConfig) -> bool:
    """Return whether an app is the project's own; see ``project_apps``."""
    return app.name.split(".")[0] not in ("django", _PACKAGE) and not _is_installed(app.path)


@cache
def _is_installed(path: str) -> bool:
    folder = Path(path).resolve()
    # By name, too: another Python's folder may be on the path.
    if not {"site-packages", "dist-packages"}.isdisjoint(folder.parts):
        return True
    return any(folder.is_relative_to(each) for each in _package_folders())


@cache
def _package_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(Path(each).resolve() for each in found)
