"""The results of processes in Django's cache (``PROCTREE["CACHE"]``, an alias of ``CACHES``)."""

import logging
from collections.abc import Mapping
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from . import conf
from .exceptions import CacheKeyError

logger = logging.getLogger(__name__)

PREFIX = "proctree:"
"""What the keys of results begin with."""

FLEETING = (
    "django.core.cache.backends.locmem.LocMemCache",
    "django.core.cache.backends.dummy.DummyCache",
)
"""Backends whose content no other process sees."""


def render_key(process: str, key: str, context: Mapping[str, Any]) -> str:
    """Fill the ``{context}`` fields of a cache key.

    Parameters
    ----------
    process:
        The process's name, for messages.
    key:
        The key as saved, such as ``journals-{tenant_id}`` or ``journals-{organisation.pk}``.
    context:
        The run's keyword arguments, decoded.

    Raises
    ------
    CacheKeyError
        A field is not in the context, or the key is no format string.
    """
    try:
        return PREFIX + key.format_map(context)
    except (LookupError, AttributeError) as error:
        there = ", ".join(map(repr, sorted(context))) or "nothing"
        raise CacheKeyError(
            f"Process {process!r}: its cache key {key!r} names a field that the context lacks "
            f"({error}); the context has {there}."
        ) from error
    except (ValueError, TypeError) as error:
        raise CacheKeyError(
            f"Process {process!r}: its cache key {key!r} can't be filled in: {error}. Write a "
            "brace that is meant as one twice: '{{'."
        ) from error


def get(key: str) -> tuple[Any] | None:
    """Return a cached result in a tuple, as it may be ``None``; ``None`` if there is none."""
    try:
        found = caches[conf.current().CACHE].get(key)
    except Exception:  # a cache that is away costs time, not the run
        logger.warning("The cache can't be read; the process runs.", exc_info=True)
        return None
    return found if isinstance(found, tuple) and len(found) == 1 else None


def put(key: str, result: Any, ttl: int | None) -> None:
    """Cache a result for ``ttl`` seconds; ``None`` for the cache's own default."""
    try:
        caches[conf.current().CACHE].set(key, (result,), DEFAULT_TIMEOUT if ttl is None else ttl)
    except Exception:  # a cache that is away, or a result that can't be pickled
        logger.warning("A result could not be cached under %r.", key, exc_info=True)
