"""Sensitive data: models that no context may name, and fields that no row may read.

A row (a context, a trigger, a response variable) is written by people who may not see everything
that the project's code may. So the models that a row can name are those of the project's own apps,
without those that hold secrets, or the ones that the settings list; and the value of a field that
holds a secret is read by the project's code only, whatever the settings list.
"""

import re
from collections import deque
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from dataclasses import is_dataclass
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

from django.apps import apps
from django.conf import settings
from django.core.exceptions import FieldDoesNotExist
from django.db.models import (
    BooleanField,
    CompositePrimaryKey,
    DateField,
    DecimalField,
    DurationField,
    FloatField,
    IntegerField,
    JSONField,
    Model,
    QuerySet,
    TimeField,
)
from django.db.models.constants import LOOKUP_SEP

from .. import conf
from ..domain import texts
from ..support.project_apps import project_apps
from .references import is_reference

Use = Literal["CONTEXT_MODELS", "TRIGGER_MODELS"]
"""The use that a row makes of a model: the key of ``settings.PROCTREE`` that lists the models."""

_SECRET = re.compile(
    r"passw(or)?d|passphrase|passcode|passkeys?_|^_pass_$|pswd|_pwds?_|_pw_"
    r"|secret(?!ar)|credential|tokens?[0-9]*_|_jwts?_|_bearer_|_(basic|http)_auth_|auth_header"
    r"|(api|access|auth|private|signing|encryption|decryption|master|recovery|session|ssh|webhook"
    r"|service|client|consumer|deploy|license|shared|symmetric|hmac|aes|rsa|gpg|pgp)_?keys?_"
    r"|_(smtp|ftp|db|database|mail|email|user|admin|root|proxy|login|account)_?pass_"
    r"|(seed|recovery|backup)_?phrase|_mnemonic_"
    r"|_(totp|hotp|otp|mfa|cvv|cvc|pin|pins|salt|hmac|digest|csrf|cookies?|dsn)_"
    r"|_(hash|hashes|hashed)_|encrypted|_cipher|session_?(data|id)_"
    r"|(backup|recovery|reset|verification|activation|confirmation|authorization|security|auth"
    r"|one_time|access|device|pairing|login|sms|invite|invitation)_?(codes?|answers?)_"
    r"|connection_string|_authorization_|_(pre_?)?signed_ur[il]_|_(magic|reset)_link"
    r"|_(database|db|redis|broker|amqp|mongo|mongodb|postgres|postgresql|mysql)_ur[il]_"
)
"""A name, in lower case and between underscores, of what is a secret."""

_ABOUT = re.compile(
    r"_(count|at|on|date|time|type|kind|name|length|expiry|expires|expired|expiration|lifetime|age"
    r"|days|hours|minutes|seconds|version|hint|enabled|required|changed|updated|created|verified"
    r"|used|status|limit|budget|quota|usage|cost|price|balance)_$"
    r"|^_(is|has|uses|needs|requires|force|must|can|num|number)_"
    r"|_(total|prompt|completion|input|output|cached|max|min|remaining)_tokens_$"
    r"|_(sync|page|pagination|continuation|cursor|delta)_?token_$"
)
"""A name of something about a secret, or of a token that gives access to nothing.

Such as ``password_changed_at``, ``has_token``, and ``sync_token``.
"""

_OF_CONTENT = re.compile(
    r"_(content|file|image|photo|document|body|row|record|git|commit|block|data|url|payload|source"
    r"|import|dedupe?|line|transaction|schema|response|message|object|item|invoice|journal|batch"
    r"|snapshot)_"
    r"(\w+_)?(hash|hashes|digest)_"
)
"""A name of a checksum, which is no secret."""

_VALUES = frozenset({"key", "value", "code", "data", "content", "secret", "id_token"})
"""Names of the secret field of a model that stores secrets, such as ``Token.key``."""

_OF_WHOLE = frozenset(
    {
        *("icontains", "startswith", "istartswith", "endswith", "iendswith"),
        *("regex", "iregex", "iexact", "gt", "gte", "lt", "lte"),
    }
)
"""Lookups that read a JSON value as one text, secrets that it may hold included."""

_NO_SECRETS = (BooleanField, DateField, DecimalField, DurationField, FloatField, TimeField)
"""Types of fields that hold no secret, only facts about one."""

_RECORDS = frozenset(
    {
        "admin.logentry",
        "auditlog.logentry",
        "django_celery_results.groupresult",
        "django_celery_results.taskresult",
        "django_q.ormq",
        "django_q.task",
        "easyaudit.crudevent",
        "reversion.version",
        "sessions.session",
    }
)
"""Models with copies of other models' data: logs of changes, results of tasks, sessions."""


@lru_cache(maxsize=4096)
def is_sensitive_name(name: str) -> bool:
    """Return whether a field, key or attribute of this name is expected to hold a secret.

    Parameters
    ----------
    name:
        ``snake_case`` or ``camelCase``, such as ``password``, ``api_key`` or ``accessToken``.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+", "_", name)
    between = f"_{words.lower().strip('_')}_"
    if not _SECRET.search(between) or _ABOUT.search(between):
        return False
    return not _OF_CONTENT.search(between)


def is_sensitive_field(field: Any) -> bool:
    """Return whether a model's field holds a secret: by its name, its type, or its model.

    Parameters
    ----------
    field:
        A field, a relation from another model included; one that refers to a sensitive field
        (a foreign key to a model whose key is a secret) is sensitive, too.
    """
    if isinstance(field, _NO_SECRETS) or _counts_tokens(field):
        return False
    if is_sensitive_name(field.name) or _is_sensitive_type(field.__class__):
        return True
    if isinstance(field, CompositePrimaryKey):
        return any(is_sensitive_field(each) for each in field.fields)
    if field.name in _VALUES and is_sensitive_name(field.model.__name__):
        return True
    path = getattr(field, "path_infos", None) if field.is_relation else None
    targets = path[-1].target_fields if path else ()  # several, of a relation to a composite key
    return any(each is not field and is_sensitive_field(each) for each in targets)


def _counts_tokens(field: Any) -> bool:
    """Return whether a field counts a text's tokens: a number called ``tokens``."""
    return isinstance(field, IntegerField) and field.name.endswith("tokens")


@lru_cache(maxsize=1000)
def _is_sensitive_type(field_type: type) -> bool:
    """Return whether a field's type is made for secrets, such as ``EncryptedCharField``."""
    named = [each for each in field_type.__mro__ if not each.__module__.startswith("django.")]
    words = re.compile(r"encrypt|fernet|cipher|vault", re.IGNORECASE)
    return any(
        is_sensitive_name(each.__name__) or words.search(f"{each.__module__}.{each.__name__}")
        for each in named
    )


@lru_cache(maxsize=1000)
def is_sensitive_model(model: type[Model]) -> bool:
    """Return whether a model's rows hold a secret: by its label, its name or one of its fields."""
    return _is_record(model) or is_sensitive_name(model.__name__) or bool(_secret_fields(model))


def has_sensitive_key(model: type[Model]) -> bool:
    """Return whether the primary key of a model's rows is a secret, as a session's is."""
    return _is_record(model) or is_sensitive_field(model._meta.pk)


def _secret_fields(model: type[Model]) -> list[str]:
    """Return the names of a model's fields that hold secrets."""
    return [each.name for each in model._meta.concrete_fields if is_sensitive_field(each)]


def _is_record(model: type[Model]) -> bool:
    """Return whether a model, or one that it is derived from, is among ``_RECORDS``."""
    metas = [each._meta for each in model.__mro__ if hasattr(each, "_meta")]
    return any(meta.label_lower in _RECORDS for meta in metas)


def is_sensitive_attribute(owner: Any, name: str) -> bool:
    """Return whether ``owner.name`` is a secret of a row, which only the project's code may read.

    Parameters
    ----------
    owner:
        Any object; what is no row of a model hides nothing.
    name:
        The attribute's name.
    """
    if not isinstance(owner, Model):
        return False
    field = _field(owner._meta.model, name)  # not its type, which may be a lazy object's
    return is_sensitive_name(name) if field is None else is_sensitive_field(field)


def shown(value: Any) -> str:
    """Return ``repr(value)`` for people to read, without the secrets of rows.

    A row whose own text holds one of its secrets (a token that is shown as its key) is shown as its
    model's label; also in lists, tuples, sets and dictionaries, and as part of a queryset.
    Any other object that holds such a row is shown as its type.
    """
    if isinstance(value, QuerySet):
        return f"<{type(value).__name__} {shown(list(value[:20]))}>"
    if isinstance(value, Model):
        text = repr(value)
        return f"<{value._meta.label}>" if _row_tells_secret(value, text) else text
    rows = list(_rows_in(value, set()))
    if rows and type(value) in _COPIED:
        return repr(_replaced(value))
    text = repr(value)
    return f"<{type(value).__name__}>" if _any_tells_secret(rows, text) else text


def shortened(value: Any, limit: int = 80) -> str:
    """Return ``shown(value)`` cut after ``limit`` characters, for a message."""
    return texts.shown(value, limit, write=shown)


def tells_secret(value: Any, text: str) -> bool:
    """Return whether a value's text holds a secret of a row that it is, or that is in it."""
    return _any_tells_secret(_rows_in(value, set()), text)


def _any_tells_secret(rows: Iterable[Model], text: str) -> bool:
    return any(_row_tells_secret(row, text) for row in rows)


def _row_tells_secret(row: Model, text: str) -> bool:
    if _is_record(type(row)):
        return True
    return any(str(secret) in text for secret in _secrets_of(row) if secret not in (None, ""))


def _secrets_of(row: Model) -> Iterator[Any]:
    for field in row._meta.concrete_fields:
        value = row.__dict__.get(field.attname)  # loads no deferred field
        if is_sensitive_field(field):
            yield value
        elif isinstance(field, JSONField):
            yield from _secrets_of_json(value)


def _secrets_of_json(value: Any) -> Iterator[Any]:
    """Return what stands, however deep, under a key that is called like a secret."""
    if isinstance(value, dict) and not is_reference(value):
        for key, each in value.items():
            if is_sensitive_name(str(key)) and not isinstance(each, (bool, dict, list)):
                yield each
            yield from _secrets_of_json(each)
    elif isinstance(value, list):
        for each in value:
            yield from _secrets_of_json(each)


HIDDEN = "(hidden)"
"""Stands for a secret of a context that is shown."""


def masked(value: Any) -> Any:
    """Return a copy of JSON for people to read: ``HIDDEN`` in the place of each secret.

    Other values in it, such as rows and references to secrets, stay what they are.
    """
    if type(value) in (list, tuple):
        return type(value)(masked(each) for each in value)
    if not isinstance(value, dict) or is_reference(value):
        return value
    hides_key = _refers_to_secret_key(value)
    return {
        key: HIDDEN if _hides(str(key), each) or (hides_key and key == "pk") else masked(each)
        for key, each in value.items()
    }


def _hides(name: str, value: Any) -> bool:
    """Return whether a value is a secret by its name; that there is none is no secret."""
    if value is None or value == "" or isinstance(value, (bool, Model)) or is_reference(value):
        return False
    return is_sensitive_name(name)


def _refers_to_secret_key(value: Mapping[str, Any]) -> bool:
    """Return whether JSON refers to a row whose primary key is a secret."""
    label = value.get("$model")
    if not isinstance(label, str):
        return False
    try:
        return has_sensitive_key(apps.get_model(label))
    except (LookupError, ValueError):  # there is no such model
        return False


class _Shown:
    """Stands for a part of a value where the rest is shown by ``repr``."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


_COPIED = (dict, list, tuple, set, frozenset)
"""Containers that are shown with their rows replaced; not subclasses, whose constructors differ."""


def _rows_in(value: Any, seen: set[int]) -> Iterator[Model]:
    """Return the rows that a value's text may show."""
    if isinstance(value, Model):
        yield value
    elif isinstance(value, QuerySet):
        yield from value[:21]  # as many as its repr shows
    elif id(value) not in seen:
        seen.add(id(value))
        for part in _parts_of(value):
            yield from _rows_in(part, seen)


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, (dict, MappingProxyType)):
        return (*value, *value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque, KeysView, ValuesView, ItemsView)):
        return value
    if isinstance(value, SimpleNamespace) or (is_dataclass(value) and not isinstance(value, type)):
        return tuple(getattr(value, "__dict__", {}).values())
    return ()


def _replaced(value: Any, around: tuple[int, ...] = ()) -> Any:
    """Return a copy of nested containers with ``_Shown`` in the places of rows."""
    if isinstance(value, (Model, QuerySet)):
        return _Shown(shown(value))
    if type(value) not in _COPIED:
        return _Shown(shown(value)) if tells_secret(value, repr(value)) else value
    if id(value) in around:
        return _Shown("...")
    around = (*around, id(value))
    if type(value) is dict:
        return {_replaced(key, around): _replaced(each, around) for key, each in value.items()}
    return type(value)([_replaced(each, around) for each in value])


def problem_of_model(model: type[Model], use: Use) -> str | None:
    """Return why a row may not name a model; ``None`` if it may.

    Parameters
    ----------
    model:
        The model.
    use:
        The use that it makes of the model.
    """
    names = {each.lower().removesuffix(".*") for each in _listed(use)}
    of_app = model._meta.app_label.lower() in names
    if model._meta.label_lower in names or (of_app and not _holds_secrets(model, use)):
        return None
    if _holds_secrets(model, use):
        named = ", ".join(map(repr, _secret_fields(model)))
        holds = f"holds secrets ({named})" if named else "holds secrets"
        why = f"{holds}, so it must be listed by its own name"
    elif getattr(conf.current(), use) is None:
        why = "is not of the project's own apps"
    else:
        why = "is not listed"
    listed = ", ".join(f'"{each}"' for each in [*_listed(use), model._meta.label])
    return (
        f"The model {model._meta.label} is not allowed here: it {why}. To allow it, set "
        f'PROCTREE["{use}"] = [{listed}].'
    )


def _listed(use: Use) -> Sequence[str]:
    """Return what the settings list; by default, the labels of the project's own apps.

    Triggers may also ask about users, whose password is refused like any secret.
    """
    configured: Sequence[str] | None = getattr(conf.current(), use)
    if configured is not None:
        return configured
    own = [app.label for app in project_apps()]
    return own if use == "CONTEXT_MODELS" else [*own, settings.AUTH_USER_MODEL]


def _holds_secrets(model: type[Model], use: Use) -> bool:
    """Return whether a model must be listed by its own name; listing its app does not allow it."""
    if use == "CONTEXT_MODELS":
        return is_sensitive_model(model)
    # A trigger asks for single fields, and those that are sensitive are refused one by one.
    return _is_record(model) or is_sensitive_name(model.__name__)


def problem_of_lookup(model: type[Model], lookup: str) -> str | None:
    """Return why a trigger may not use this look-up on a model's rows; ``None`` if it may.

    Django checks whether the fields exist.

    Parameters
    ----------
    model:
        The model, which must be allowed itself.
    lookup:
        A path as ``QuerySet.filter()`` takes it: relations, a field, transforms and a lookup.
    """
    if lookup.startswith("_"):  # ``_connector`` and ``_negated`` are Django's own arguments
        return f"{lookup!r} is no field of {model._meta.label}."
    current: type[Model] | None = model
    for part, following in pairwise([*lookup.split(LOOKUP_SEP), ""]):
        field = _field(current, part)
        if is_sensitive_name(part) if field is None else is_sensitive_field(field):
            return f"{lookup!r} asks for {part!r}, which holds a secret: no trigger may read it."
        if isinstance(field, JSONField) and following in _OF_WHOLE:
            return f"{lookup!r} reads all of {part!r}, whatever it holds; name one of its keys."
        # Transforms, keys of JSON and a lookup may follow any other field.
        current = field.related_model if field is not None and field.is_relation else None
        if current is not None and not _asks_for_key(field, current, following):
            problem = problem_of_model(current, "TRIGGER_MODELS")
            if problem is not None:
                return f"{lookup!r}: {problem}"
    return None


def json_read_as_text(model: type[Model], lookup: str) -> str | None:
    """Return the path to a part of a JSON field that a lookup reads as text; ``None`` if none.

    Such a part may be a dictionary, whose text holds all of its keys and values.

    Parameters
    ----------
    model, lookup:
        As for ``problem_of_lookup``, which has allowed it.
    """
    *path, last = lookup.split(LOOKUP_SEP)
    current: type[Model] | None = model
    for part in path:
        field = _field(current, part)
        if isinstance(field, JSONField):
            return LOOKUP_SEP.join(path) if last in _OF_WHOLE else None
        current = field.related_model if field is not None and field.is_relation else None
    return None


def _field(model: type[Model] | None, part: str) -> Any:
    if model is None:
        return None
    try:
        return model._meta.pk if part == "pk" else model._meta.get_field(part)
    except FieldDoesNotExist:
        return None


def _asks_for_key(field: Any, related: type[Model], following: str) -> bool:
    """Return whether a relation is compared by the column of the model that it starts from."""
    if getattr(field, "column", None) is None:
        return False
    return following in ("pk", field.target_field.name) or _field(related, following) is None


def unknown_entries(use: Use) -> list[str]:
    """Return the entries of the settings that name neither an installed app nor a model."""
    labels = {app.label.lower() for app in apps.get_app_configs()}
    known = labels | {model._meta.label_lower for model in apps.get_models()}
    listed: Sequence[str] = getattr(conf.current(), use) or ()
    return [each for each in listed if each.lower().removesuffix(".*") not in known]
