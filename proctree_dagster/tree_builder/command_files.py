"""The files of ``create_command()``: a few lines that subclass the base command."""

import ast
import keyword
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.apps import AppConfig, apps
from django.core.management import get_commands

from .. import conf
from ..domain.names import MAX_NAME_LENGTH
from ..exceptions import CommandError
from ..support.project_apps import is_project_app

MARKER = "# Written by create_command() of proctree-dagster; it may write this file again."

_TEMPLATE = """\
{marker}
from proctree_dagster.management.base import TreeCommand


class Command(TreeCommand):
    tree_name = {tree_name!r}
"""


def write_command(
    tree_name: str,
    first_function: Callable[..., Any] | None,
    command_name: str | None = None,
    output_path: str | Path | None = None,
) -> Path:
    """Write the command of a tree and return the file's path.

    Parameters
    ----------
    tree_name:
        Any string; it goes into the file as a literal.
    first_function:
        The tree's first function; its app owns the command.
    command_name, output_path:
        As for ``ProcessTreeInstance.create_command``.

    Raises
    ------
    CommandError
        The name is no module name or is taken, the path is unsuitable, or a file exists there
        that was not generated for this tree.
    """
    target = None if output_path is None else Path(output_path)
    if target is not None and target.suffix == ".py":
        if command_name is not None and command_name != target.stem:
            raise CommandError(
                f"command_name is {command_name!r}, and output_path names the file "
                f"{target.name!r}; give one of them."
            )
        command_name, target = target.stem, target.parent
    name = tree_name if command_name is None else command_name
    _check_name(name, given=command_name is not None)
    app = None
    if target is None:
        app = _app(first_function)
        target = Path(app.path) / "management" / "commands"
    path = target / f"{name}.py"
    content = _TEMPLATE.format(marker=MARKER, tree_name=tree_name)
    present = _present(path, tree_name)
    _check_not_taken(name, app, path)
    _make_packages(target)
    if present is None or not _same_code(present, content):
        path.write_text(content, encoding="utf-8")
    return path


def _check_name(name: str, *, given: bool) -> None:
    if (
        len(name) <= MAX_NAME_LENGTH
        and name.isidentifier()
        and not keyword.iskeyword(name)
        and not name.startswith("_")
    ):
        return
    hint = "" if given else " The tree's name won't do; give a command_name."
    raise CommandError(
        f"{name!r} is no name for a command: it must be a Python module name, such as 'sync_all', "
        f"no keyword, and not begin with an underscore.{hint}"
    )


def _app(first_function: Callable[..., Any] | None) -> AppConfig:
    label = conf.current().COMMANDS_APP
    if label is not None:
        try:
            return apps.get_app_config(label)
        except LookupError as error:
            raise CommandError(f'PROCTREE["COMMANDS_APP"]: {error}') from error
    module = getattr(first_function, "__module__", None) or ""
    app = apps.get_containing_app_config(module)
    elsewhere = 'Set PROCTREE["COMMANDS_APP"] to an app\'s label, or pass output_path.'
    if app is None:
        raise CommandError(
            f"The tree's first function lives in {module!r}, which is in no installed app. "
            f"{elsewhere}"
        )
    if not is_project_app(app):
        raise CommandError(
            f"The tree's first function lives in the app {app.label!r}, an installed package; a "
            f"file written there would be lost. {elsewhere}"
        )
    return app


def _present(path: Path, tree_name: str) -> str | None:
    """Return the file's content, ``None`` if there is none; refuse a file that is not generated."""
    if path.is_dir():
        raise CommandError(f"{str(path)!r} is a folder.")
    if not path.exists():
        return None
    present = path.read_text(encoding="utf-8", errors="replace")
    if MARKER not in present:
        raise CommandError(
            f"{str(path)!r} exists and was not written by create_command(); it is left as it is. "
            "Choose another command_name."
        )
    if tree_name not in _literals(present):
        raise CommandError(
            f"{str(path)!r} is the command of another tree; it is left as it is. Choose another "
            "command_name, or delete the file."
        )
    return present


def _literals(code: str) -> set[str]:
    """Return the strings in ``code``: a formatter may have changed how they are written."""
    try:
        nodes = ast.walk(ast.parse(code))
    except SyntaxError:
        return set()
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _same_code(one: str, other: str) -> bool:
    """Return whether two files differ in layout only, so that the formatted one stays."""
    return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))


def _check_not_taken(name: str, app: AppConfig | None, path: Path) -> None:
    """Refuse a name that would shadow a command of Django or of another file."""
    owner = get_commands().get(name)
    if owner is None:
        return
    if path.exists() and (app is None or owner == app.name):
        return
    raise CommandError(
        f"There is a command {name!r} already, in {owner!r}. Choose another command_name."
    )


def _make_packages(folder: Path) -> None:
    """Create the folder, and ``__init__.py`` in ``management`` and ``commands``."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.name == "commands" and folder.parent.name == "management":
        for package in (folder.parent, folder):
            (package / "__init__.py").touch()
