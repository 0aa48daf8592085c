"""``--tag key=value`` on the command line, and the tag of the calling user."""

import getpass
import os
from collections.abc import Iterable

from django.core.management.base import CommandParser

from ..context import tagging
from ..exceptions import TagError
from .pairs import split


def add_arguments(parser: CommandParser, what: str) -> None:
    """Add ``--tag``.

    Parameters
    ----------
    parser:
        The command's.
    what:
        The use of the tags, for the help.
    """
    parser.add_argument(
        "--tag",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"{what}; may be repeated: --tag team=books.",
    )


def parse(pairs: Iterable[str]) -> dict[str, str]:
    """Return the tags of ``key=value`` pairs.

    Raises
    ------
    TagError
        A pair has no ``=``, or a key is given twice.
    """
    return split(pairs, "--tag", "team=books", TagError)


def of_run(pairs: Iterable[str]) -> dict[str, str]:
    """Return the tags of a run from the command line, with the calling user.

    Raises
    ------
    TagError
        The tags are not valid.
    """
    return {**tagging.by_user(os_user()), **tagging.checked(parse(pairs))}


def os_user() -> str:
    """Return the name of the operating system's user, or its number: a container may know none."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # the type depends on Python's version
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else ""
