"""References to functions and back: the registry and the allow-list.

A row names a function in one of two ways: ``module:qualname``, or a key under which somebody
registered it. The database never gets to name *any* function: a key must have been registered by
code, and a module must lie under an allowed prefix, which is checked before anything is imported.
"""

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from threading import RLock
from types import ModuleType
from typing import Any, TypeVar

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from . import conf
from .exceptions import (
    FunctionError,
    FunctionNotAllowed,
    FunctionNotFound,
    FunctionNotNameable,
)

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

_registry: dict[str, Function] = {}
_decorated: set[str] = set()
_discovery = RLock()
_discovered = False
_broken_modules: dict[str, BaseException] = {}
_failed: ContextVar[dict[str, str] | None] = ContextVar("failed", default=None)
"""Why modules can't be imported, where that is asked once for many trees."""


def process_function(key: str) -> Callable[[F], F]:
    """Register the decorated function under ``key``.

    Use it in an app's ``processes`` module: those are imported wherever trees run. The key goes
    on meaning the function when its module is renamed.

    Parameters
    ----------
    key:
        What rows will call the function: not empty, without a colon.

    Raises
    ------
    FunctionError
        The key is unusable, or taken by another function.
    """

    def decorate(func: F) -> F:
        register(key, func)
        _decorated.add(key)
        return func

    return decorate


def register(key: str, func: Function) -> None:
    """Register ``func`` under ``key``; see ``process_function``."""
    if not isinstance(key, str) or not key.strip() or ":" in key:
        raise FunctionError(f"A function's key is a non-empty string without ':', not {key!r}.")
    if not callable(func):
        raise FunctionError(f"{func!r}, registered under {key!r}, can't be called.")
    other = _registry.get(key)
    if other is not None and other is not func and describe(other) != describe(func):
        raise FunctionError(
            f"The key {key!r} belongs to {describe(other)} already; "
            f"register {describe(func)} under another."
        )
    _registry[key] = func


def offer(key: str, func: Function) -> None:
    """Register ``func`` under ``key`` unless the key is taken (``add_function`` does this)."""
    if key not in _registry:
        register(key, func)


def describe(func: Function) -> str:
    """Return ``module:qualname`` as far as ``func`` has them, for people to read."""
    name = getattr(func, "__qualname__", None) or repr(func)
    return f"{getattr(func, '__module__', '?')}:{name}"


def reference_to(func: Function) -> str:
    """Return the reference under which another process finds ``func``.

    Raises
    ------
    FunctionNotNameable
        It is a lambda, nested, a partial, from ``__main__``, … and was not registered with
        ``@process_function``.
    FunctionNotAllowed
        Its module is not allowed, and it was not registered.
    """
    keys = [key for key, each in _registry.items() if each is func]
    decorated = [key for key in keys if key in _decorated]
    if decorated:
        return decorated[0]
    reason = _why_not_nameable(func)
    if reason is not None:
        raise FunctionNotNameable(
            f"{reason}, so no other process can find it. Move it to the top level of a module, "
            "such as the 'processes' module of one of your apps."
        )
    if is_allowed(func.__module__):
        return describe(func)  # found even where nobody registered it
    if keys:
        return keys[0]
    raise FunctionNotAllowed(_not_allowed(describe(func), func.__module__))


def _why_not_nameable(func: Function) -> str | None:
    if isinstance(func, partial):
        return f"{func!r} is a partial"
    qualname = getattr(func, "__qualname__", None)
    module = getattr(func, "__module__", None)
    if not isinstance(qualname, str) or not isinstance(module, str):
        return f"{func!r} has no name of its own"
    if "<lambda>" in qualname:
        return f"{describe(func)} is a lambda"
    if "<locals>" in qualname:
        return f"{describe(func)} is nested in another function"
    if module == "__main__":
        return f"{describe(func)} is defined in the script that runs (__main__)"
    try:
        found = _attribute(importlib.import_module(module), qualname)
    except (ImportError, AttributeError):
        return f"{describe(func)} can't be found under that name"
    return None if found == func else f"{describe(func)} is something else under that name"


def _attribute(module: ModuleType, qualname: str) -> Any:
    value: Any = module
    for part in qualname.split("."):
        value = getattr(value, part)
    return value


def resolve(reference: str) -> Function:
    """Return the function that ``reference`` names.

    Raises
    ------
    FunctionNotAllowed
        Its module, or the module that it really comes from, is not allowed; nothing was imported.
    FunctionNotFound
        No such key, module or name; or the module raised when it was imported.
    """
    if ":" not in reference:
        return _registered(reference)
    module_name, _, qualname = reference.partition(":")
    allowed = allowed_modules()
    if not _is_under(module_name, allowed):
        raise FunctionNotAllowed(_not_allowed(reference, module_name))
    failed = _failed.get()
    if failed is not None and module_name in failed:
        raise FunctionNotFound(f"The module of {reference!r} {failed[module_name]}")
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything at all when it is imported
        why = f"can't be imported: {type(error).__name__}: {error}"
        if failed is not None:
            failed[module_name] = why
        raise FunctionNotFound(f"The module of {reference!r} {why}") from error
    try:
        func = _attribute(module, qualname)
    except Exception as error:  # a module's __getattr__ may raise anything
        raise FunctionNotFound(f"{reference!r} names nothing: {error}.") from error
    if not callable(func):
        raise FunctionNotFound(f"{reference!r} is {type(func).__name__}, which can't be called.")
    # ``processes:os.system`` or an import in an allowed module would be a way round the list.
    origin = getattr(func, "__module__", None)
    if not isinstance(origin, str) or not _is_under(origin, allowed):
        raise FunctionNotAllowed(_not_allowed(f"{reference} ({describe(func)})", str(origin)))
    return func  # type: ignore[no-any-return]  # callable, as was just checked


@contextmanager
def failing_once() -> Iterator[None]:
    """Import no module twice that can't be imported: thousands of trees may name it."""
    token = _failed.set({})
    try:
        yield
    finally:
        _failed.reset(token)


def _registered(key: str) -> Function:
    autodiscover()
    if key in _registry:
        return _registry[key]
    broken = "".join(
        f" The module {name!r} can't be imported: {type(error).__name__}: {error}."
        for name, error in _broken_modules.items()
    )
    raise FunctionNotFound(
        f"No function is registered under the key {key!r} in this process. Register it with "
        f"@process_function({key!r}) in the 'processes' module of an installed app.{broken}"
    )


def autodiscover() -> None:
    """Import each installed app's ``processes`` module, once.

    It is called when the first key is looked up, not in ``AppConfig.ready()``: a Django process
    that runs no tree must not pay for the imports.
    """
    global _discovered
    with _discovery:
        if _discovered:
            return
        _discovered = True
        for app in apps.get_app_configs():
            if app.module is None or not module_has_submodule(app.module, "processes"):
                continue
            name = f"{app.name}.processes"
            try:
                importlib.import_module(name)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a broken app must not take others down
                logger.exception("The module %s can't be imported.", name)
                _broken_modules[name] = error


def allowed_modules() -> tuple[str, ...]:
    """Return the module prefixes that a row may name (``PROCTREE["FUNCTION_MODULES"]``)."""
    configured = conf.current().FUNCTION_MODULES
    if configured is not None:
        return configured
    # This package's own functions are no processes, and some of them act on the project.
    return tuple(
        app.name
        for app in apps.get_app_configs()
        if app.name.split(".")[0] not in ("django", "proctree_dagster")
    )


def is_allowed(module: str) -> bool:
    """Say whether ``module`` lies under an allowed prefix."""
    return _is_under(module, allowed_modules())


def _is_under(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def _not_allowed(what: str, module: str) -> str:
    return (
        f"{what!r} is not allowed: its module {module!r} is under none of the allowed prefixes "
        f"({', '.join(allowed_modules()) or 'there are none'}). Add it to "
        'PROCTREE["FUNCTION_MODULES"] or register the function with @process_function.'
    )
