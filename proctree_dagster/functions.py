"""References to functions and back: the registry and the allow-list.

A row names a function in one of two ways: ``module:qualname``, or a key under which somebody
registered it. The database never gets to name *any* function: a key must have been registered by
code, and a module must lie under an allowed prefix, which is checked before anything is imported.

A name resolves to the function that its author gave, or to none: a key that stands for two
functions resolves to neither, and a function that can't be named is saved under a reference that
no other function can have.

It is long because registry and allow-list decide together which function a name means.
"""

import importlib
import inspect
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from threading import RLock
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from . import conf
from .domain.names import short_hash
from .exceptions import (
    FunctionAmbiguous,
    FunctionError,
    FunctionNotAllowed,
    FunctionNotFound,
    FunctionNotNameable,
)
from .support import isolation
from .support.project_apps import project_modules

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

UNNAMEABLE = "<unnameable>"
"""Prefix of the references of functions that can't be named; no key may have it."""

_SHELLS = (None, "__console__", "django.core.management.commands.shell")
"""Values of ``__module__`` of functions that were typed in a shell, beside ``__main__``."""


@dataclass
class _Owner:
    """A function that was registered under a key."""

    func: Function
    site: str
    """The module that registered it."""
    decorated: bool
    """Whether ``@process_function`` registered it for every tree; otherwise one tree did."""


_registry: dict[str, list[_Owner]] = {}
"""The owners of each key: it resolves to none if it has several."""
_local: dict[str, dict[str, Function]] = {}
"""Functions that can't be named, as this process saved them: by tree and reference."""
_process = secrets.token_hex(8)
"""Identifies this process in the references of its functions that can't be named."""
_discovery = RLock()
_discovered = False
_broken_modules: dict[str, BaseException] = {}
_failed: ContextVar[dict[str, str] | None] = ContextVar("failed", default=None)
"""Import errors by module, while ``failing_once()`` caches them for many trees."""


# The registry


def process_function(key: str) -> Callable[[F], F]:
    """Register the decorated function under ``key``.

    Use it in an app's ``processes`` module: those are imported wherever trees run. The key still
    means the function after its module is renamed.

    Parameters
    ----------
    key:
        What rows will call the function: not empty, without a colon.

    Raises
    ------
    FunctionError
        The key is unusable.
    FunctionAmbiguous
        It was registered for another function, too; from now on it resolves to none.
    """
    _check_is_key(key)  # at once: without brackets, the function itself would be the key

    def decorate(func: F) -> F:
        register(key, func)
        return func

    return decorate


def register(key: str, func: Function) -> None:
    """Register ``func`` under ``key``; see ``process_function``."""
    _check_key(key, func)
    others = _claim(key, _Owner(func, _calling_module(), decorated=True))
    if any(other.decorated for other in others):
        raise _ambiguous(key)


def offer(key: str, func: Function) -> None:
    """Register ``func`` under ``key``, as ``add_function`` does for a tree.

    Several trees may each have a function of their own under one key; for everybody else the key
    resolves to none then.

    Raises
    ------
    FunctionError
        The key is unusable.
    FunctionAmbiguous
        It belongs to another function, by ``@process_function``.
    """
    _check_key(key, func)
    new = _Owner(func, _calling_module(), decorated=False)
    for owner in _registry.get(key, ()):
        if owner.decorated and not _is_same(owner, new):
            raise FunctionAmbiguous(
                f"The key {key!r} belongs to {describe(owner.func)}, by @process_function; give "
                f"{describe(func)} another key, or run the tree with it as a stand-in."
            )
    _claim(key, new)


def _check_key(key: str, func: Function) -> None:
    _check_is_key(key)
    if not callable(func):
        raise FunctionError(f"{_shown(func)}, registered under {key!r}, can't be called.")


def _check_is_key(key: str) -> None:
    usable = isinstance(key, str) and key.strip() and ":" not in key
    if not usable or key.startswith(UNNAMEABLE):
        raise FunctionError(f"A function's key is a non-empty string without ':', not {key!r}.")


def _claim(key: str, new: _Owner) -> list[_Owner]:
    """Add an owner of a key, in place of an equal one; return the other owners."""
    before = _registry.get(key, [])
    others = [owner for owner in before if not _is_same(owner, new)]
    # Of partials and the like one more is enough to make the key ambiguous.
    if _identity(new.func) is None:
        nameless = [owner for owner in others if _is_nameless(owner)]
        others = [owner for owner in others if not _is_nameless(owner)] + nameless[-1:]
    new.decorated |= any(owner.decorated for owner in before if owner not in others)
    _registry[key] = [*others, new]
    return others


def _is_nameless(owner: _Owner) -> bool:
    """Return whether a tree's own function has no identity that survives its re-creation."""
    return not owner.decorated and _identity(owner.func) is None


def _is_same(one: _Owner, other: _Owner) -> bool:
    """Return whether two objects are one function, also after a re-import of its module.

    A name such as ``log.<locals>.wrapper`` says little: many functions have it. They are one only
    if their code is, and one module registered both.
    """
    if _equal(one.func, other.func):
        return True
    identity = _identity(one.func)
    if identity is None or identity != _identity(other.func):
        return False
    return "<" not in describe(one.func) or one.site == other.site


def _identity(func: Function) -> tuple[object, ...] | None:
    """Return a function's identity; ``None`` for a partial or an instance's method."""
    if not isinstance(getattr(func, "__qualname__", None), str):
        return None
    owner = getattr(func, "__self__", None)
    if owner is not None and not isinstance(owner, (type, ModuleType)):
        return None
    code = getattr(func, "__code__", None)
    where = (code.co_filename, code.co_firstlineno) if code and "<" in describe(func) else None
    return describe(func), describe(owner) if isinstance(owner, type) else None, where


def _equal(one: object, other: object) -> bool:
    return one is other or (
        isinstance(one, MethodType) and isinstance(other, MethodType) and one == other
    )


def _calling_module() -> str:
    """Return the name of the calling module, the nearest outside this package."""
    frame = inspect.currentframe()
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name.partition(".")[0] != __name__.partition(".")[0]:
            return name
        frame = frame.f_back
    return ""


def _ambiguous(key: str) -> FunctionAmbiguous:
    first, *others = (_described(each) for each in _registry[key])
    return FunctionAmbiguous(
        f"The key {key!r} belongs to {first} already, and was given to {' and '.join(others)}, "
        "too: it stands for none of them. Give each a key of its own."
    )


def _described(owner: _Owner) -> str:
    name = describe(owner.func)
    return f"{name}, registered in {owner.site}," if "<" in name else name


# From a function to its reference


def describe(func: object) -> str:
    """Return ``module:qualname`` as far as ``func`` has them, for messages."""
    name = getattr(func, "__qualname__", None) or _shown(func)
    return f"{getattr(func, '__module__', '?')}:{name}"


def _shown(func: object) -> str:
    try:
        return repr(func)
    except Exception:  # noqa: BLE001  # an object's own code may raise anything; it is only shown
        return f"<{type(func).__name__}>"


def reference_to(func: Function) -> str:
    """Return the reference under which another process finds ``func``.

    It is the key of ``@process_function``, or ``module:qualname``. (A key that a tree's author gave
    it with ``add_function`` is that tree's own, and never saved.)

    Raises
    ------
    FunctionNotNameable
        It is a lambda, nested, a partial, from ``__main__``, … and was not registered with
        ``@process_function``.
    FunctionNotAllowed
        Its module is not allowed, and it was not registered.
    """
    for key, owners in list(_registry.items()):
        if len(owners) == 1 and owners[0].decorated and _equal(owners[0].func, func):
            return key
    reason = _naming_problem(func)
    if reason is not None:
        raise FunctionNotNameable(
            f"{reason}, so no other process can find it. Move it to the top level of a module, "
            "such as the 'processes' module of one of your apps."
        )
    if is_allowed(func.__module__) or _is_registered(func):
        return describe(func)
    raise FunctionNotAllowed(_not_allowed(describe(func), func.__module__))


def unnameable_reference(name: str, func: Function) -> str:
    """Return a reference for a function that can't be named; no other function can have it.

    Parameters
    ----------
    name:
        What its author calls it: a key, or the name of its process.
    func:
        The function.
    """
    return f"{UNNAMEABLE} {name} {short_hash(f'{_process} {os.getpid()} {id(func)}', 8)}"


def is_unnameable(reference: str) -> bool:
    """Return whether a reference stands for a function that can't be named."""
    return reference.startswith(UNNAMEABLE)


def given_name(reference: str) -> str:
    """Return what the author of a function that can't be named calls it."""
    return reference.removeprefix(UNNAMEABLE).strip().rpartition(" ")[0]


def keep_local(tree: str, found: Mapping[str, Function]) -> None:
    """Remember a saved tree's functions that can't be named, so that this process can run it."""
    _local.pop(tree, None)
    if found:
        _local[tree] = dict(found)


def local_functions(tree: str) -> Mapping[str, Function]:
    """Return the functions that ``keep_local`` remembers for a tree, by reference."""
    return _local.get(tree, {})


def _naming_problem(func: Function) -> str | None:
    if isinstance(func, partial):
        return f"{_shown(func)} is a partial"
    qualname = getattr(func, "__qualname__", None)
    module = getattr(func, "__module__", None)
    if isinstance(qualname, str) and _was_typed(func, module):
        return (
            f"{qualname!r} was typed in a shell or a notebook, which nothing can be imported from"
        )
    if not isinstance(qualname, str) or not isinstance(module, str):
        return f"{_shown(func)} has no name of its own"
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
    if found != func:
        return f"{describe(func)} is something else under that name"
    return _calling_problem(func)


def _was_typed(func: Function, module: object) -> bool:
    """Return whether a function was typed in a shell, a notebook, or given to ``python -c``."""
    try:
        code = inspect.unwrap(func).__code__
    except (AttributeError, ValueError):  # not a function, or one that wraps itself
        return False
    if module in _SHELLS:
        return True
    main = sys.modules.get("__main__")
    typed = code.co_filename.startswith(("<stdin", "<console", "<ipython")) or (
        "ipykernel_" in code.co_filename
    )
    return module == "__main__" and (typed or not hasattr(main, "__file__"))


# From a reference to its function


def resolve(reference: str) -> Function:
    """Return the function that ``reference`` names.

    Raises
    ------
    FunctionNotAllowed
        Its module, or the module that it really comes from, is not allowed; nothing was imported.
    FunctionNotFound
        No such key, module or name; or the module raised when it was imported.
    FunctionAmbiguous
        Several functions were registered under the key.
    FunctionNotNameable
        It was saved with a function that can't be named.
    """
    if is_unnameable(reference):
        raise FunctionNotNameable(
            f"The function {given_name(reference)!r} can't be named, so only the process that "
            "saved the tree can run it. Move it to the top level of a module, such as the "
            "'processes' module of one of your apps, and save the tree again."
        )
    if ":" not in reference:
        return _registered(reference)
    module_name, _, qualname = reference.partition(":")
    allowed = allowed_modules()
    if not _is_under(module_name, allowed):
        return _registered_as(reference)
    func = _attribute_named(reference, _imported(reference, module_name), qualname)
    # Otherwise ``processes:os.system``, an import in an allowed module, would bypass the list.
    origin = _origin(func)
    if not (_is_under(origin, allowed) or _is_registered(func) or _is_mock_of_test(func)):
        raise FunctionNotAllowed(_not_allowed(f"{reference} ({describe(func)})", origin))
    return func


def _imported(reference: str, module_name: str) -> ModuleType:
    failed = _failed.get()
    if failed is not None and module_name in failed:
        raise FunctionNotFound(f"The module of {reference!r} {failed[module_name]}")
    if "__" in module_name and any(map(_is_dunder, module_name.split("."))):
        raise FunctionNotFound(
            f"The module of {reference!r} can't be imported: it is Python's own."
        )
    try:
        return importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything at all when it is imported
        why = f"can't be imported: {type(error).__name__}: {error}"
        if failed is not None:
            failed[module_name] = why
        raise FunctionNotFound(f"The module of {reference!r} {why}") from error


def _attribute_named(reference: str, module: ModuleType, qualname: str) -> Function:
    """Return the function that a reference names in its module.

    Raises
    ------
    FunctionNotFound
        There is none, or the path leads through something that is no class.
    """
    try:
        func = _attribute(module, qualname)
    except Exception as error:  # a module's __getattr__ may raise anything
        raise FunctionNotFound(f"{reference!r} names nothing: {error}.") from error
    if not callable(func):
        raise FunctionNotFound(f"{reference!r} is {type(func).__name__}, which can't be called.")
    problem = _calling_problem(func)
    if problem is not None:
        raise FunctionNotFound(f"{reference!r} can't be a process: {problem}.")
    return func  # type: ignore[no-any-return]  # callable, as was just checked


def _calling_problem(func: Any) -> str | None:
    if issubclass(type(func), type):
        return f"{describe(func)} is a class; name a function or a static or class method"
    return None


def _attribute(module: ModuleType, qualname: str) -> Any:
    """Follow a qualname, through classes only, and without running any code of theirs.

    Raises
    ------
    AttributeError
        It leads nowhere, or through a module, an instance or a property.
    """
    value: Any = module
    for part in qualname.split("."):
        if not part.isidentifier() or _is_dunder(part):
            raise AttributeError(f"{part!r} is no name of a function or a class")
        value = getattr(value, part) if value is module else _class_attribute(value, part)
    return value


def _class_attribute(owner: Any, name: str) -> Any:
    if not issubclass(type(owner), type):
        raise AttributeError(f"{name!r} belongs to {type(owner).__name__}, which is no class")
    found = inspect.getattr_static(owner, name)
    if isinstance(found, staticmethod):
        return found.__func__
    if isinstance(found, classmethod) and callable(found.__func__):
        return found.__get__(None, owner)
    if hasattr(type(found), "__get__") and not callable(found):
        raise AttributeError(f"{name!r} is {type(found).__name__}, which is no function")
    return found


def _is_dunder(name: str) -> bool:
    return name.startswith("__")


def _origin(func: Function) -> str:
    """Return the name of the module that defines a callable's code, as far as known."""
    if not isinstance(func, (FunctionType, MethodType)) and not hasattr(func, "__wrapped__"):
        call = getattr(type(func).__call__, "__module__", None)  # an instance's code is its class's
        if isinstance(call, str) and not is_allowed(call):
            return call
    return str(getattr(func, "__module__", None))


@contextmanager
def failing_once() -> Iterator[None]:
    """Cache import errors in the block: thousands of trees may name one broken module."""
    token = _failed.set({})
    try:
        yield
    finally:
        _failed.reset(token)


def keys_of(reference: str) -> list[str]:
    """Return the keys under which a reference's function is registered in this process."""
    if ":" not in reference or is_unnameable(reference):
        return []
    return [
        key
        for key, owners in list(_registry.items())
        if any(describe(owner.func) == reference for owner in owners)
    ]


def registered() -> dict[str, Function]:
    """Return the functions of ``@process_function`` by their keys, without the ambiguous ones."""
    autodiscover()
    return {
        key: owners[0].func
        for key, owners in list(_registry.items())
        if len(owners) == 1 and owners[0].decorated
    }


def is_offered(key: str) -> bool:
    """Return whether a key was registered by ``add_function`` only, so it belongs to one tree."""
    return key in _registry and not any(owner.decorated for owner in _registry[key])


def _registered(key: str) -> Function:
    autodiscover()
    owners = _registry.get(key, [])
    if len(owners) > 1:
        raise _ambiguous(key)
    if owners:
        return owners[0].func
    broken = "".join(
        f" The module {name!r} can't be imported: {type(error).__name__}: {error}."
        for name, error in _broken_modules.items()
    )
    raise FunctionNotFound(
        f"No function is registered under the key {key!r} in this process. Register it with "
        f"@process_function({key!r}) in the 'processes' module of an installed app.{broken}"
    )


def _registered_as(reference: str) -> Function:
    """Return the registered function of a module that is not on the allow-list.

    Imports nothing but the ``processes`` modules of the installed apps.

    Raises
    ------
    FunctionNotAllowed
        No such function is registered.
    """
    autodiscover()
    module_name, _, qualname = reference.partition(":")
    module = sys.modules.get(module_name)
    if module is not None and any(describe(each) == reference for each in _all_registered()):
        func = _attribute_named(reference, module, qualname)
        if _is_registered(func):
            return func
    raise FunctionNotAllowed(_not_allowed(reference, module_name))


def _is_mock_of_test(func: Function) -> bool:
    """Return whether a test has replaced a function of an allowed module with a mock."""
    mock = sys.modules.get("unittest.mock")
    if mock is None or not isolation.in_test():
        return False
    patched = func.__dict__.get("mock") if isinstance(func, FunctionType) else func  # autospec
    return issubclass(type(patched), mock.NonCallableMock)


def _is_registered(func: Function) -> bool:
    return any(_equal(each, func) for each in _all_registered())


def _all_registered() -> Iterator[Function]:
    for owners in list(_registry.values()):
        yield from (owner.func for owner in owners)


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
            except BaseException as error:  # a broken app must not break the others
                logger.exception("The module %s can't be imported.", name)
                _broken_modules[name] = error


# The allow-list


def allowed_modules() -> tuple[str, ...]:
    """Return the module prefixes that a row may name.

    They are those of ``PROCTREE["FUNCTION_MODULES"]``, or by default the project's own apps.
    """
    configured = conf.current().FUNCTION_MODULES
    if configured is not None:
        return configured
    return project_modules()


def is_allowed(module: str) -> bool:
    """Return whether ``module`` lies under an allowed prefix."""
    return _is_under(module, allowed_modules())


def _is_under(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def _not_allowed(what: str, module: str) -> str:
    allowed = allowed_modules()
    return (
        f"{what!r} is not allowed: its module {module!r} is under none of the allowed prefixes "
        f"({', '.join(allowed) or 'there are none'}). If trees may run what is in it, say so in "
        f"the settings: {to_allow(module)}; or register the function with @process_function."
    )


def to_allow(module: str) -> str:
    """Return the line of settings that adds a module to the allow-list."""
    return f'PROCTREE["FUNCTION_MODULES"] = {[*allowed_modules(), module]!r}'
