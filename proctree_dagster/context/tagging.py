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
from ..domain.limits import MAX_LIMIT_PER_KEY
from ..domain.names import READ_AS_OBJECTS, TAG_KEY, TAG_PART, dagster_name, short_hash
from ..domain.predicates import is_whole
from ..domain.texts import storable
from ..exceptions import TagError
from . import sensitive
from .lookups import GuardedFormatter, first_parts
from .references import SECRET, is_reference

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
    if tags.LIMIT in run_tags:
        found |= of_limit(run_tags[tags.LIMIT], context)
    return {name: text for name, text in found.items() if run_tags.get(name) != text}


# From the limit of a tree's runs


_formatter = GuardedFormatter()


class _Row:
    """What a template may read of a row that the context names: its key."""

    def __init__(self, label: str, pk: Any) -> None:
        self.pk = self.id = pk
        self._text = f"{label}:{pk}"

    def __str__(self) -> str:
        return self._text


def of_limit(limit: str, context: Mapping[str, Any]) -> dict[str, str]:
    """Return the tag by which Dagster's queue limits a run. Makes no query and raises nothing.

    Runs whose template can't be filled in count together.

    Parameters
    ----------
    limit:
        The value of the tag ``LIMIT`` of the run's job.
    context:
        The run's context, as JSON.
    """
    number, job_name, template = tags.read_limit(limit)
    try:
        text = _formatter.vformat(template, (), _seen_by_template(context))
    except Exception:  # formatting may raise anything: the run is held back at worst
        told = "one_at_a_time_per of %r, %r, can't be filled in: such runs count together."
        logger.warning(told, job_name, template, exc_info=True)
        text = "?"
    value = storable(f"{job_name}:{text}")
    if len(value) > LONGEST_GIVEN:
        value = f"{job_name[:LONGEST]}:{short_hash(value, 12)}"
    return {f"{tags.AT_MOST}{number}": value}


def of_limited_tree(
    one_at_a_time_per: object, limit_per_key: object, job_name: str, context: Mapping[str, Any]
) -> dict[str, str]:
    """Return the tag by which a run of a tree is limited; the tree's row may be invalid."""
    if not isinstance(one_at_a_time_per, str) or not one_at_a_time_per:
        return {}
    if not is_whole(limit_per_key, 1, MAX_LIMIT_PER_KEY):
        return {}
    return of_limit(f"{limit_per_key}:{job_name}:{one_at_a_time_per}", context)


def limit_problems(template: object) -> list[str]:
    """Return a sentence for each field of a template that is called like a secret."""
    return [
        f"The tree's one_at_a_time_per names {field!r}, which is called like a secret: tags are "
        "shown to everybody who sees the runs."
        for field in (first_parts(template) if isinstance(template, str) else ())
        if sensitive.is_sensitive_name(field)
    ]


def _seen_by_template(value: Any) -> Any:
    """Return JSON of a context as a template reads it: rows by their keys, dates as text."""
    if isinstance(value, Mapping):
        if "$model" in value:
            return _Row(str(value["$model"]), _seen_by_template(value.get("pk")))
        if len(value) == 1 and not contexts.RESERVED.isdisjoint(value):
            return str(next(iter(value.values())))
        return {str(key): _seen_by_template(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_seen_by_template(each) for each in value]
    return value


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
    if is_reference(value):
        return f"<secret {value[SECRET]}>"
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
