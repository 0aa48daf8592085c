"""Cached results of processes, in Django's cache (``PROCTREE["CACHE"]``, an alias of ``CACHES``).

A key is a hash of the result's owner, of the ``cache_key`` template, and of the identity of each
value that fills its fields. So no two processes share a result by accident, even if their
formatted keys are equal, and every backend accepts the key.

Clearing deletes nothing, as a cache can't list its keys: each tree has a *generation* in the cache,
which is stored with every result, and clearing sets a new one.
"""

import datetime as dt
import enum
import hashlib
import json
import logging
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.core.cache import BaseCache, caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model

from .. import conf, functions
from ..context.lookups import GuardedFormatter, hint
from ..exceptions import CacheError, CacheKeyError
from ..support import isolation

logger = logging.getLogger(__name__)

PREFIX = "proctree:"
"""Prefix of the keys of results."""

FLEETING = (
    "django.core.cache.backends.locmem.LocMemCache",
    "django.core.cache.backends.dummy.DummyCache",
)
"""Backends that no other process can read."""

MAX_DEPTH = 50
"""How deep a value in a cache key may be nested."""


@dataclass(frozen=True)
class MadeBy:
    """The functions that a result depends on; the cached result is valid for these functions only.

    They are the process's own, those that check its result, and those of the processes that it
    depends on, directly or not.
    """

    key: str
    """A hash that identifies them."""

    only_here: bool
    """Whether one of them exists in this process only: a stand-in, or one that can't be named."""

    @classmethod
    def of(cls, functions: Iterable["Maker"], dependencies: Iterable["MadeBy"]) -> "MadeBy":
        """Return the functions that the results of a process depend on.

        Parameters
        ----------
        functions:
            Its own function and those that check its result.
        dependencies:
            The same of its dependencies.
        """
        own, before = list(functions), list(dependencies)
        return cls(
            _hashed([each.key for each in own], sorted(each.key for each in before)),
            any(each.only_here for each in own) or any(each.only_here for each in before),
        )


UNSAID = MadeBy("", only_here=False)
"""The value for a process whose tree caches nothing."""


@dataclass(frozen=True)
class Maker:
    """A function that a result depends on."""

    key: str
    """Its reference and its name, or its ``token``."""

    only_here: bool
    """Whether it exists in this process only, and is not the function that the tree names."""

    @classmethod
    def of(cls, reference: str, func: Callable[..., Any], only_here: bool) -> "Maker":
        """Return the function's maker: by its reference, or by its token if it exists only here."""
        if only_here:
            return cls(token(func), True)
        # The name, too: a test may have put another function in its place.
        named = func if isinstance(getattr(func, "__qualname__", None), str) else type(func)
        return cls(f"{reference} {functions.describe(named)}", False)


@dataclass(frozen=True)
class Owner:
    """The owner of results: no other process, tree or function gets them."""

    job_name: str
    """The tree's job, which keeps its name when the tree is renamed."""

    process: str
    """The process's name."""

    made_by: str
    """The functions that it depends on (see ``MadeBy``); blank if they don't matter."""

    shared: bool = False
    """Whether it shares its results with processes of the same ``cache_key`` that set this, too."""


class Entry:
    """The place of one result in the cache.

    Parameters
    ----------
    owner:
        Whose result it is.
    template:
        The process's ``cache_key`` as saved, such as ``journals-{organisation.pk}``.
    context:
        The run's keyword arguments, decoded.

    Raises
    ------
    CacheKeyError
        A field is not in the context or may not be read, or the key is no format string.
    """

    def __init__(self, owner: Owner, template: str, context: Mapping[str, Any]) -> None:
        scope = _shared(template) if owner.shared else _own(owner.job_name)
        place = [] if owner.shared else [owner.process]
        filled_in = _filled_in(owner.process, template, context)
        self._key = _hashed("result", *scope, *place, owner.made_by, template, filled_in)
        self._generation_key = _hashed("generation", *scope)
        self._generation: str | None = None

    def get(self) -> tuple[Any] | None:
        """Return a tuple of the cached result (it may be ``None``); ``None`` if nothing is cached.

        If the cache is cleared after this, ``put`` does not bring the result back.
        """
        try:
            cache = _cache()
            found = cache.get_many([self._generation_key, self._key])
            self._generation = found.get(self._generation_key)
            if self._generation is None:
                self._generation = cache.get_or_set(self._generation_key, _new_generation, None)
                return None
        except Exception:  # an unreachable cache costs time, not the run
            logger.warning("The cache can't be read; the process runs.", exc_info=True)
            return None
        cached = found.get(self._key)
        if not isinstance(cached, tuple) or len(cached) != 2:
            return None
        return (cached[1],) if cached[0] == self._generation else None

    def put(self, result: Any, ttl: int | None) -> None:
        """Cache a result for ``ttl`` seconds; ``None`` for the cache's own default."""
        try:
            cache = _cache()
            # The generation from before the process ran: a clear meanwhile stays in effect.
            generation = self._generation or cache.get_or_set(
                self._generation_key, _new_generation, None
            )
            timeout = DEFAULT_TIMEOUT if ttl is None else ttl
            cache.set(self._key, (generation, result), timeout)
        except Exception:  # an unreachable cache, or a result that can't be pickled
            logger.warning("A result could not be cached under %r.", self._key, exc_info=True)


def clear(job_name: str, shared_keys: Iterable[str] = ()) -> None:
    """Clear the cached results of a tree, those that it shares with other trees included.

    Parameters
    ----------
    job_name:
        The tree's job.
    shared_keys:
        The ``cache_key`` of each of its processes that shares its results.

    Raises
    ------
    CacheError
        The cache can't be written to: nothing, or not everything, was cleared.
    """
    scopes = [_own(job_name), *map(_shared, shared_keys)]
    try:
        _cache().set_many(
            {_hashed("generation", *scope): _new_generation() for scope in scopes}, None
        )
    except Exception as error:  # whatever the cache's client raises
        raise CacheError(f"The cache can't be cleared: {error}.") from error


def _own(job_name: str) -> tuple[str, ...]:
    return ("tree", _database(), job_name)


def _shared(template: str) -> tuple[str, ...]:
    return ("shared", _database(), template)


def _database() -> str:
    """Return the name of the database, so that test and production don't share cached results.

    Test runs don't share them either: they may run different code.
    """
    name = str(connections[DEFAULT_DB_ALIAS].settings_dict["NAME"])
    return f"{name} {_this_process}" if isolation.is_active() else name


_this_process = uuid.uuid4().hex


def _new_generation() -> str:
    return uuid.uuid4().hex


def _cache() -> BaseCache:
    cache: BaseCache = caches[conf.current().CACHE]
    return cache


def _hashed(*parts: Any) -> str:
    """Return a key that every backend accepts: of fixed length, without special characters."""
    return PREFIX + hashlib.sha256(json.dumps(parts).encode()).hexdigest()


_tokens: "weakref.WeakKeyDictionary[Callable[..., Any], str]" = weakref.WeakKeyDictionary()


def token(func: Callable[..., Any]) -> str:
    """Return an id of a function that has no reference, valid for the function's lifetime.

    Another function, and another process, has another token.
    """
    try:
        return _tokens.setdefault(func, uuid.uuid4().hex)
    except TypeError:  # not hashable or weakly referenceable: its results are never found again
        return uuid.uuid4().hex


# Keys

_formatter = GuardedFormatter()


def _filled_in(process: str, template: str, context: Mapping[str, Any]) -> list[Any]:
    """Return the identity of each value that fills a field of a cache key."""
    try:
        return [
            _field(field, spec or "", conversion, context)
            for _, field, spec, conversion in _formatter.parse(template)
            if field is not None
        ]
    except (LookupError, AttributeError) as error:
        there = ", ".join(map(repr, sorted(context))) or "nothing"
        field = str(error.args[0] if error.args else error)
        raise CacheKeyError(
            f"Process {process!r}: its cache key {template!r} names a field that the context lacks "
            f"({error}); the context has {there}.{hint(field, context)}"
        ) from error
    except Exception as error:  # formatting runs the value's own code, which may raise anything
        raise CacheKeyError(
            f"Process {process!r}: its cache key {template!r} can't be filled in: {error}. Write a "
            "brace that is meant as one twice: '{{'."
        ) from error


def _field(field: str, spec: str, conversion: str | None, context: Mapping[str, Any]) -> Any:
    value, _ = _formatter.get_field(field, (), context)
    if not spec and conversion is None:
        return _identity(value, 0)
    written = f"{{{field}{f'!{conversion}' if conversion else ''}:{spec}}}"
    return ["str", _formatter.vformat(written, (), context)]


def _identity(value: Any, depth: int) -> Any:
    """Return the identity of a value as JSON: its type and its content.

    A row is identified by its model, its database and its key, not by its text, which may change
    and need not be unique.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"a value is nested more than {MAX_DEPTH} deep, or holds itself")
    if isinstance(value, enum.Enum):
        return ["enum", type(value).__qualname__, value.name]
    if isinstance(value, Model):
        if value.pk is None:
            raise ValueError(f"{value._meta.label} is not saved, so it has no key")
        of = [value._meta.label_lower, value._state.db or DEFAULT_DB_ALIAS]
        return ["model", *of, _identity(value.pk, depth + 1)]
    if isinstance(value, Mapping):
        items = [[_identity(each, depth + 1) for each in pair] for pair in value.items()]
        return ["dict", sorted(items, key=json.dumps)]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted((_identity(each, depth + 1) for each in value), key=json.dumps)]
    if isinstance(value, (list, tuple)):
        return ["list", *(_identity(each, depth + 1) for each in value)]
    for plain in _PLAIN:
        if isinstance(value, plain):
            return [plain.__name__, repr(value) if plain is bytes else str(value)]
    kind, text = type(value), str(value)
    if text == object.__repr__(value):
        raise ValueError(f"{kind.__qualname__} has no text of its own (a __str__)")
    return [f"{kind.__module__}.{kind.__qualname__}", text]


_PLAIN = (bool, int, float, str, bytes, Decimal, dt.datetime, dt.date, dt.time, uuid.UUID)
