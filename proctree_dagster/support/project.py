"""The folder of the Django project, and its code location and home of Dagster.

A project that writes neither a ``definitions`` module nor a home gets both from here.
"""

import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.conf import settings

import proctree_dagster

from .. import conf
from ..domain import run_tags
from ..exceptions import InstanceError
from . import isolation
from .os_processes import Identity, State
from .project_apps import is_installed

logger = logging.getLogger(__name__)

PACKAGED = "proctree_dagster.definitions"
"""The code location of a project that has none of its own."""

OWN = "definitions"
"""The module of a project's own code location, unless ``PROCTREE["DEFINITIONS"]`` names it."""

HOME = "dagster_home"
"""The name of the folder of a project's Dagster instance, unless a setting names it."""

TEMPLATE = Path(proctree_dagster.__file__).parent / "orchestration/dagster_home/sqlite/dagster.yaml"

WORKSPACE = "workspace.yaml"
"""A project's own list of code locations, beside ``manage.py``."""

WEBSERVER = ".webserver.json"
"""The file in the home with the address at which ``proctree dev`` serves Dagster's UI."""

IGNORED = "# Dagster's databases and logs are no source code.\n*\n!.gitignore\n!dagster.yaml\n"


def root() -> Path | None:
    """Return the project's folder, with ``manage.py``: ``BASE_DIR``, if the settings have it.

    Otherwise it is the folder from which the settings' module is imported. ``None``: the settings
    have no module (``settings.configure()``).
    """
    base = getattr(settings, "BASE_DIR", None)
    if base:
        return Path(base).absolute()
    return _imported_from(getattr(settings, "SETTINGS_MODULE", None) or "")


def definitions() -> str:
    """Return the module of the code location: the setting's, the project's own or the package's."""
    named = conf.current().DEFINITIONS
    if named is not None:
        return named
    found = _find(OWN)
    own = found is not None and not is_installed(OWN, str(Path(found).parent))
    return OWN if own else PACKAGED


def working_directory() -> str:
    """Return the folder from which a run's process imports the code location and the project.

    Raises
    ------
    InstanceError
        There is no such module, or the project's folder is unknown.
    """
    module = definitions()
    if module == PACKAGED:
        # The package may be installed anywhere; the settings must be importable.
        found = _imported_from(os.environ.get("DJANGO_SETTINGS_MODULE", "")) or root()
        if found is None:
            raise InstanceError(
                "Runs in other processes need settings that these can import: set the environment "
                "variable DJANGO_SETTINGS_MODULE."
            )
        return str(found)
    folder = _imported_from(module)
    if folder is None:
        raise InstanceError(
            f'PROCTREE["DEFINITIONS"] names {module!r}, which can\'t be found from '
            f"{str(Path.cwd())!r}. It is the module that workspace.yaml names."
        )
    return str(folder)


def home() -> str | None:
    """Return the folder of Dagster's instance.

    The setting's, else the environment's, else ``dagster_home`` in the project's folder. ``None``:
    the setting is ``None`` and the environment names none, or the project's folder is unknown.
    """
    named = conf.current().DAGSTER_HOME
    found = named or os.environ.get("DAGSTER_HOME")
    if found:
        return str(Path(found).absolute())
    return None if named is None else _default_home()


def is_default_home(folder: str) -> bool:
    """Return whether the home is the default one, which is created if it is missing."""
    named = conf.current().DAGSTER_HOME
    return named == "" and not os.environ.get("DAGSTER_HOME") and folder == _default_home()


def create_home(folder: str) -> bool:
    """Create a home with the packaged ``dagster.yaml``; return whether it was created here.

    An existing folder is not changed. Of several processes at once, one creates it.

    Raises
    ------
    InstanceError
        It can't be created.
    """
    target = Path(folder)
    if target.is_dir():
        return False
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as parent:
            made = Path(parent) / "home"
            made.mkdir()
            shutil.copyfile(TEMPLATE, made / "dagster.yaml")
            (made / ".gitignore").write_text(IGNORED, encoding="utf-8")
            made.rename(target)
    except OSError as error:
        if target.is_dir():
            return False  # another process has created it meanwhile
        raise InstanceError(
            f"Dagster's home {folder!r} can't be created: {error}. Let this user write there, or "
            'name another folder in PROCTREE["DAGSTER_HOME"].'
        ) from error
    logger.info("Created Dagster's home %r, with a dagster.yaml to begin with.", folder)
    return True


def dagster_yaml(folder: str | Path) -> dict[str, Any] | None:
    """Return the parsed ``dagster.yaml`` of a home; ``None`` if it can't be read.

    It does not import Dagster, which reports what is wrong with the file.
    """
    import yaml  # here: most Django processes need none

    try:
        found = yaml.safe_load((Path(folder) / "dagster.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else {} if found is None else None


def own_workspace() -> Path | None:
    """Return the project's own ``workspace.yaml``, if it has one."""
    own = (root() or Path()) / WORKSPACE
    return own if own.is_file() else None


def workspace(folder: Path) -> Path:
    """Return the project's ``workspace.yaml``; without one, write one (``write_workspace``)."""
    return own_workspace() or write_workspace(folder)


def write_workspace(folder: Path, socket: Path | None = None) -> Path:
    """Write a ``workspace.yaml`` that names the project's code location to Dagster.

    Parameters
    ----------
    folder:
        Where it is written.
    socket:
        Where a code server serves it; left out, who reads the file starts one.
    """
    location = {
        "module_name": definitions(),
        "attribute": run_tags.REPOSITORY,
        "location_name": run_tags.LOCATION,
        "working_directory": working_directory(),
    }
    served = {"socket": str(socket), "host": "localhost", "location_name": run_tags.LOCATION}
    kind, content = ("python_module", location) if socket is None else ("grpc_server", served)
    path = folder / WORKSPACE
    # JSON is YAML, too.
    path.write_text(json.dumps({"load_from": [{kind: content}]}), encoding="utf-8")
    return path


def note_webserver(
    home: str, url: str, pid: int, *, site: str | None = None, public: str | None = None
) -> None:
    """Record the address of a home's webserver, valid while the process that runs it lives.

    Parameters
    ----------
    home:
        The folder of Dagster's instance.
    url:
        The webserver's address, or its socket (``unix:/run/dagster.sock``).
    pid:
        The process that runs it.
    site:
        The address of the Django site, if it is served, too.
    public:
        The address for people, if it is another one.
    """
    said = {"url": url, "site": site, "public": public, **asdict(Identity.of(pid))}
    path = Path(home) / WEBSERVER
    path.with_suffix(".new").write_text(json.dumps(said), encoding="utf-8")
    path.with_suffix(".new").replace(path)


def forget_webserver(home: str, pid: int) -> None:
    """Remove the file that ``note_webserver`` has written for a process."""
    path = Path(home) / WEBSERVER
    if _webserver(path, {State.RUNNING, State.STOPPED, State.GONE, State.UNKNOWN}, pid):
        path.unlink(missing_ok=True)


def webserver_url() -> str | None:
    """Return the address of Dagster's webserver: the setting's, or that of ``proctree dev``.

    ``None`` if none is known. In a test it is the setting's only.
    """
    return conf.current().DAGSTER_URL or _noted().get("url")


def public_url() -> str | None:
    """Return the address of Dagster's UI for people, without a user and a password.

    That is the setting's, else the one of what serves it. ``None`` if none is known. In a test it
    is the settings' only.
    """
    settings = conf.current()
    url = settings.DAGSTER_PUBLIC_URL or settings.DAGSTER_URL
    if url is None or url.startswith(conf.SOCKET):
        noted = _noted()
        url = noted.get("public") or noted.get("url")
    return None if url is None or url.startswith(conf.SOCKET) else conf.without_login(url)


def site_url() -> str | None:
    """Return the address of the Django site: the setting's, or that of ``proctree dev --django``.

    ``None`` if none is known. In a test it is the setting's only.
    """
    return conf.current().SITE_URL or _noted().get("site")


def _noted() -> Mapping[str, str | None]:
    """Return the addresses of the running ``proctree dev``, if there is one."""
    folder = None if isolation.is_active() else home()
    return {} if folder is None else _webserver(Path(folder) / WEBSERVER, {State.RUNNING})


def _webserver(
    path: Path, states: Collection[State], pid: int | None = None
) -> Mapping[str, str | None]:
    """Return the addresses in a file, if the process that runs the webserver is in such a state."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = {
            "url": str(said.pop("url")),
            "site": said.pop("site", None),
            "public": said.pop("public", None),
        }
        process = Identity(**said)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # missing, or half written
        return {}
    return found if process.state in states and pid in (None, process.pid) else {}


def _default_home() -> str | None:
    found = root()
    return None if found is None else str(found / HOME)


def _imported_from(module: str) -> Path | None:
    """Return the folder from which a module is (or would be) imported; links are followed."""
    found = _find(module)
    if found is None:
        return None
    file = Path(found).resolve()
    depth = module.count(".") + (1 if file.stem == "__init__" else 0)
    return file.parents[depth]


def _find(module: str) -> str | None:
    """Return a module's file, without importing it again; ``None`` if there is none."""
    if not module:
        return None
    imported = getattr(sys.modules.get(module), "__file__", None)
    if imported:
        return str(imported)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: the module runs as a program
        return None
    return None if found is None else found.origin
