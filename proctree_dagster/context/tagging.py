"""Tags of runs: values of the context, and tags that the caller gives.

Everybody who sees Dagster's runs sees their tags, and filters by them: so they are short and hold
no secret.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from django.apps import apps

from .. import context as contexts
from ..domain import run_tags as tags
from ..domain.names import READ_AS_OBJECTS, TAG_KEY, TAG_PART, dagster_name
from ..domain.texts import storable
from ..exceptions import TagError
from . import sensitive

logger = logging.getLogger(__name__)

LONGEST = 63
"""How many characters of a context's value a tag holds, as many as Dagster's newer tags may."""

LONGEST_GIVEN = 255
"""How many characters a caller's value may have."""

# As ``dagster._core.storage.tags.USER_EDITABLE_SYSTEM_TAGS``.
SETTINGS_OF_DAGSTER = frozenset(
    {
        *("dagster/priority", "dagster/max_retries", "dagster/retry_strategy"),
        *("dagster/max_runtime", "dagster/isolation", "dagster/retry_on_asset_or_op_failure"),
    }
)
"""The tags with Dagster's prefix that callers may set."""

_KEPT = ("dagster/", ".dagster/", "proctree/", tags.CONTEXT)
"""How tags begin that Dagster and this package set."""


# From the context


def from_context(keys: Iterable[str], context: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a run from its context. Makes no query and raises nothing.

    Parameters
    ----------
    keys:
        Keys of the context, as the tree names them. One that is called like a secret is left out.
    context:
        The run's context, as JSON.
    """
    named = [key for key in keys if key in context and not sensitive.is_sensitive_name(key)]
    found = {f"{tags.CONTEXT}{key}": _value(context[key]) for key in named}
    return {name: text for name, text in found.items() if text is not None}


def of_tree(keys: object, context: Mapping[str, Any]) -> dict[str, str]:
    """Return a tree's tags from the context of a run; the tree's row may be invalid."""
    named = keys if isinstance(keys, (list, tuple)) else ()
    good = [key for key in named if isinstance(key, str) and TAG_PART.fullmatch(key)]
    return from_context(good, context)


def missing(run_tags: Mapping[str, str], context: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags to add to a run, from the keys of the context that its job names.

    A tag that was copied from another run, and whose key this run's context lacks, becomes blank:
    Dagster can't remove a tag.

    Parameters
    ----------
    run_tags:
        The run's.
    context:
        Its context, as JSON.
    """
    keys = tags.split(run_tags.get(tags.FROM_CONTEXT))
    copied = {name: "" for key in keys if (name := f"{tags.CONTEXT}{key}") in run_tags}
    found = {**copied, **from_context(keys, context)}
    return {name: text for name, text in found.items() if run_tags.get(name) != text}


def _value(value: Any) -> str | None:
    """Return a value as a short text; ``None`` if it is empty or a secret."""
    try:
        written = _written(value)
        text = written if isinstance(written, str) else _json(written)
    except Exception:  # a tag must not fail the run, whatever the context holds
        logger.warning("A value of a run's context can't be its tag.", exc_info=True)
        return None
    if text is None:
        return None
    line = storable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _written(value: Any) -> Any:
    """Return JSON for a reader: rows and dates as text, secrets left out."""
    if isinstance(value, Mapping):
        if "$model" in value:
            return _row(value)
        if len(value) == 1 and not contexts.RESERVED.isdisjoint(value):
            return str(next(iter(value.values())))
        return {
            str(key): _written(each)
            for key, each in value.items()
            if not sensitive.is_sensitive_name(str(key))
        }
    if isinstance(value, (list, tuple)):
        return [_written(each) for each in value]
    return value


def _row(reference: Mapping[str, Any]) -> str | None:
    """Return a row's model and key, such as ``ledger.Organisation:1``."""
    label, pk, using = str(reference["$model"]), reference.get("pk"), reference.get("using")
    if not _may_be_shown(label, pk):
        return None
    written = _written(pk)
    key = ",".join(map(str, written)) if isinstance(written, list) else str(written)
    return f"{label}:{key}{'' if using is None else f'@{using}'}"


def _may_be_shown(label: str, pk: Any) -> bool:
    """Return whether the primary key of a model's rows is no secret."""
    if not apps.ready:
        # Dagster's webserver and daemon, which load no models. The worker adds the tag.
        is_uuid = isinstance(pk, Mapping) and "$uuid" in pk
        return isinstance(pk, int) or (is_uuid and not sensitive.is_sensitive_name(label))
    try:
        return not sensitive.has_sensitive_key(apps.get_model(label))
    except (LookupError, ValueError):  # no such model: the run reports it
        return False


# Given


def is_given(name: str) -> bool:
    """Return whether callers may set a tag of this name."""
    return name in SETTINGS_OF_DAGSTER or not name.startswith(_KEPT)


def problems(given: object) -> list[str]:
    """Return a sentence for each problem of a caller's tags."""
    if not isinstance(given, Mapping):
        return [f"Tags are a dictionary of texts by their names, not {given!r:.100}."]
    return [problem for name, text in given.items() if (problem := _problem(name, text))]


def _problem(name: object, text: object) -> str | None:
    if not isinstance(name, str) or not TAG_KEY.fullmatch(name) or name in READ_AS_OBJECTS:
        return (
            f"{name!r:.100} is no name of a tag: letters, digits, '_', '-' and '.', at most 63; "
            "before it may be another such name and '/'."
        )
    if not is_given(name):
        return (
            f"The tag {name!r} is not yours to set: it begins with one of {', '.join(_KEPT)}. Of "
            f"those only {', '.join(sorted(SETTINGS_OF_DAGSTER))} are."
        )
    if sensitive.is_sensitive_name(name):
        return f"The tag {name!r} is called like a secret, and would be shown to everybody."
    if not isinstance(text, str):
        return f"The tag {name!r} must be a text, not {text!r:.100}."
    if len(text) > LONGEST_GIVEN or storable(text) != text:
        return (
            f"The tag {name!r} must be a text of at most {LONGEST_GIVEN} characters, without NUL "
            f"and halves of surrogate pairs; it has {len(text)}."
        )
    return None


def checked(given: Mapping[str, str] | None) -> dict[str, str]:
    """Return a caller's tags.

    Raises
    ------
    TagError
        With every problem of them.
    """
    found = problems({} if given is None else given)
    if found:
        raise TagError(" ".join(found))
    return dict(given or {})


def of_row(written: object) -> dict[str, str]:
    """Return a row's tags without invalid ones, which only SQL can write."""
    good = {
        name: text
        for name, text in (written.items() if isinstance(written, Mapping) else ())
        if _problem(name, text) is None
    }
    if good != written:
        logger.error("Tags of a row are invalid, and are left out: %s", " ".join(problems(written)))
    return good


# Who has launched a run: what the column "Launched by" of Dagster's UI shows


def by_user(name: str) -> dict[str, str]:
    """Return the ``user`` tag of a run that a person asked for; a long name is cut."""
    text = storable(name)[:LONGEST_GIVEN]
    return {tags.USER: text} if text.strip() else {}


def sensor_name(trigger: str) -> str:
    """Return the name of the sensor of a trigger of this name."""
    return f"{dagster_name(trigger)}{tags.TRIGGER_SUFFIX}"
