"""What a tree or a process is called in Dagster. Pure."""

import hashlib
import keyword
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from .run_tags import DEFAULT_SCHEDULE, SCHEDULE_SUFFIX

MAX_NAME_LENGTH = 200
"""The longest name of a tree, a process or a trigger, in characters (as long as its column)."""

_TAKEN = frozenset(keyword.kwlist) | {
    *("context", "conf", "config", "meta", "arg_dict", "dict", "input_arg_dict"),
    *("output_arg_dict", "int", "str", "float", "bool", "input", "output", "type"),
}
READ_AS_OBJECTS = frozenset(
    {"__class__", "__enum__", "__set__", "__frozenset__", "__mapping_items__"}
)
"""Dictionary keys that Dagster's deserializer reads as type markers.

One stored run with such a key makes the whole list of runs unreadable
(``dagster_shared.serdes.serdes._unpack_object``).
"""

TAG_PART = re.compile(r"[A-Za-z0-9_.-]{1,63}")
"""A valid part of a tag's name in Dagster: its prefix, or the name after the slash."""

TAG_KEY = re.compile(rf"({TAG_PART.pattern}/)?{TAG_PART.pattern}")
"""The whole name of a tag (``dagster._utils.tags.VALID_TAG_KEY_REGEX``)."""

_ACCEPTED = re.compile(r"[A-Za-z0-9_]+")
_REFUSED = re.compile(r"[^A-Za-z0-9_]+")


def problems(what: str, name: Any) -> Iterable[str]:
    """Return a sentence if a name can't be one.

    Parameters
    ----------
    what:
        Whose name it is, for the sentence.
    name:
        The name.
    """
    if not isinstance(name, str) or not name.strip():
        yield f"{what} must have a name that is not empty, not {name!r}."
        return
    if len(name) > MAX_NAME_LENGTH:
        yield (
            f"{what}'s name is {len(name)} characters long and may have {MAX_NAME_LENGTH}: "
            f"{name[:40]!r}…"
        )
    if "\x00" in name:
        yield f"{what}'s name may not hold a NUL character: {name!r}."
    if any("\ud800" <= each <= "\udfff" for each in name):
        yield f"{what}'s name may not hold half of a surrogate pair: {name!r}."


def strict_problems(what: str, name: Any) -> Iterable[str]:
    """Return a sentence for each problem of a name, invisible characters included."""
    yield from problems(what, name)
    if not isinstance(name, str) or not name.strip():
        return
    if name != name.strip():
        yield f"{what}'s name may not begin or end with a space: {name!r}."
    if any(unicodedata.category(each) == "Cc" for each in name.replace("\x00", "")):
        yield f"{what}'s name may not hold control characters: {name!r}."


def short_hash(text: str, length: int = 8) -> str:
    """Return the first ``length`` hex digits of the SHA-256 of ``text``."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def dagster_name(name: str) -> str:
    """Return the name that stands for ``name`` in Dagster.

    A name that Dagster takes is used as it is. Any other is sanitised and always gets a short
    hash of itself, so that no name depends on its neighbours. Nothing parses the result back.

    Parameters
    ----------
    name:
        The name as its author wrote it.

    Returns
    -------
    str
        A name that Dagster accepts for a job, an op and an input
        (``dagster._core.definitions.utils.check_valid_name`` is the rule's source).
    """
    taken = name in _TAKEN or name in READ_AS_OBJECTS or name.startswith("__ASSET_JOB")
    if _ACCEPTED.fullmatch(name) and not taken:
        return name
    return f"{_readable(name)}_{short_hash(name)}"


def schedule_name(job_name: str, name: str, number: int = 1) -> str:
    """Return the name that stands for a schedule of a tree in Dagster.

    That of a named one always has a hash, so that no name depends on its neighbours: the schedule
    ``b`` of the job ``a`` beside the job ``a_b``. Nothing parses the result back.

    Parameters
    ----------
    job_name:
        The job name of the tree.
    name:
        The schedule's name as its author wrote it.
    number:
        From 2 on: another name for the same, where one is taken by a schedule that was renamed.
    """
    if name == DEFAULT_SCHEDULE and number == 1:
        return f"{job_name}{SCHEDULE_SUFFIX}"
    what = "\0".join([job_name, name, *([str(number)] if number > 1 else [])])
    return f"{job_name}_{_readable(name)}_{short_hash(what)}{SCHEDULE_SUFFIX}"


def _readable(name: str) -> str:
    return _REFUSED.sub("_", name).strip("_") or "unnamed"
