"""The schema of a tree's context, from the signatures of its functions.

A context that a person types is checked against it before a run starts: in the Launchpad, in the
admin, on the command line and in ``register_schedule``. Contexts from Python, a trigger or another
tree are not: one such context is for many trees, and each function takes the keys that it names.
"""

import datetime as dt
import difflib
import enum
import inspect
import types
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
from django.apps import apps
from django.db.models import Model

from ..context import is_reference, lookups, sensitive
from ..domain.predicates import is_whole
from ..domain.texts import shown
from ..domain.tree_spec import ProcessSpec, TreeSpec, linked_trees
from ..exceptions import ContextError, InvalidTree
from ..process import calling
from ..process.calling import Function
from .validation import tree_validation

UNSAID = inspect.Parameter.empty
"""Stands for an annotation or a default that a signature lacks."""

SCHEDULED_FOR = "scheduled_for"
"""The key under which a scheduled run finds its due time, if its schedule passes it."""

CONTEXT = "context"
"""The parameter of an outdated check that is given the whole context."""

WRITTEN: Mapping[type, tuple[str, str]] = {
    dt.datetime: ("$datetime", "2026-03-31T09:00:00+00:00"),
    dt.date: ("$date", "2026-03-31"),
    dt.time: ("$time", "09:00"),
    uuid.UUID: ("$uuid", "00000000-0000-0000-0000-000000000000"),
    Decimal: ("$decimal", "1.50"),
}
"""The encoding of types that JSON lacks, each with an example; see ``context``."""


@dataclass(frozen=True)
class ContextKey:
    """A key that functions of a tree take from its context."""

    name: str
    """The key."""

    annotation: Any = UNSAID
    """The type that their annotations agree on; else ``UNSAID``."""

    default: Any = UNSAID
    """The default of the first function that has one."""

    description: str = ""
    """The description in the first docstring that has one."""

    needed_by: tuple[str, ...] = ()
    """The names of the processes that require it."""

    @property
    def required(self) -> bool:
        """Whether every run needs it."""
        return bool(self.needed_by)

    @property
    def type_text(self) -> str:
        """The type for people to read; blank if unknown."""
        return annotation_text(self.annotation)

    @property
    def default_text(self) -> str:
        """The default for people to read; blank if there is none."""
        return "" if self.default is UNSAID else shown(self.default, 80, write=sensitive.shown)


@dataclass(frozen=True)
class ContextSchema:
    """The schema of the context of a tree's runs."""

    keys: Mapping[str, ContextKey] = field(default_factory=dict)
    """The keys that its functions take, by name."""

    takes_anything: bool = True
    """Whether other keys are allowed, too: something takes them all, or passes them on."""

    def problems(self, context: Mapping[str, Any], *, partial: bool = False) -> list[str]:
        """Return a sentence for each key that is missing, unknown or of another type.

        Parameters
        ----------
        context:
            The whole context, as JSON.
        partial:
            Whether it is only a part of a context, so that missing keys are no problem.
        """
        return [
            *([] if partial else self._missing(context)),
            *self.unknown(context),
            *self._of_another_type(context),
        ]

    def check(self, context: Mapping[str, Any]) -> None:
        """Refuse a context that a run of the tree could not use.

        Raises
        ------
        ContextError
            With every problem of it.
        """
        problems = self.problems(context)
        if problems:
            raise ContextError(" ".join(problems))

    def _missing(self, context: Mapping[str, Any]) -> Iterator[str]:
        for key in self.keys.values():
            if key.required and key.name not in context:
                kind = f" ({key.type_text})" if key.type_text else ""
                processes = ", ".join(map(repr, key.needed_by))
                plural = "es" if len(key.needed_by) > 1 else ""
                yield f"The context lacks {key.name!r}{kind}, for process{plural} {processes}."

    def unknown(self, context: Mapping[str, Any]) -> Iterator[str]:
        """Yield a sentence for each key that nothing in the tree takes."""
        if self.takes_anything:
            return
        for name in context:
            if name not in self.keys:
                known = ", ".join(sorted(self.keys))
                similar = difflib.get_close_matches(name, self.keys, n=1)
                advice = f" Did you mean {similar[0]!r}?" if similar else ""
                yield f"No function of the tree takes {name!r}.{advice} They take: {known}."

    def _of_another_type(self, context: Mapping[str, Any]) -> Iterator[str]:
        for name, value in context.items():
            key = self.keys.get(name)
            if key is not None and not accepts(key.annotation, value):
                given = shown(value, 80, write=sensitive.shown)
                advice = _advice(key, value)
                yield f"context[{name!r}] must be {key.type_text}, not {given}.{advice}"


def of_tree(data: Mapping[str, Any], known: Collection[str] = ()) -> ContextSchema:
    """Return a tree's schema (see ``schema_of``); one that allows everything if the tree is broken.

    Parameters
    ----------
    data:
        The tree as JSON.
    known:
        Other keys that may be given.
    """
    try:
        spec, functions = tree_validation.validated(data)
    except InvalidTree:  # its run reports what is wrong
        return ContextSchema()
    return schema_of(spec, functions, known)


def schema_of(
    spec: TreeSpec, functions: Mapping[str, Function], known: Collection[str] = ()
) -> ContextSchema:
    """Return the schema of a tree's context.

    A key that names a process's dependency is not taken from the context. Other keys are allowed
    where a function has ``**kwargs``; where a process waits for a trigger, or its outdated check
    takes the whole ``context``; where other trees follow the tree, which get the same context; and
    where nothing takes any key.

    Parameters
    ----------
    spec:
        The tree.
    functions:
        Its functions, by reference.
    known:
        Other keys that may be given, such as those of its schedule's context.
    """
    keys: dict[str, ContextKey] = {}
    linked = linked_trees(spec.dependent_trees, spec.sibling_trees)
    takes_anything = any(linked.values())
    for each in _taken(spec, functions):
        if each is None:
            takes_anything = True
        else:
            keys[each.name] = _joined(keys.get(each.name), each)
    extra = {name: ContextKey(name) for name in known if name not in keys}
    return ContextSchema({**keys, **extra}, takes_anything or not keys)


def _taken(spec: TreeSpec, functions: Mapping[str, Function]) -> Iterator[ContextKey | None]:
    """Yield each key that something takes; ``None`` for what takes them all."""
    for process in spec.processes:
        if process.trigger is not None:
            yield None  # the row of the trigger decides what it takes, and may change at any time
        yield from _taken_by(process, functions[process.func], needs=True)
        if process.outdated_check is not None:
            check = functions[process.outdated_check]
            if CONTEXT in calling.takes(check).names:
                yield None
            yield from _taken_by(process, check, needs=False)
        if process.cache_key is not None and spec.cache_enabled:
            for name in lookups.first_parts(process.cache_key):
                yield ContextKey(name, needed_by=(process.name,))


def _taken_by(process: ProcessSpec, func: Function, *, needs: bool) -> Iterator[ContextKey | None]:
    taken = calling.takes(func)
    if taken.everything:
        yield None
    parameters = _parameters(func)
    names = taken.names - set(process.dependencies)
    for name in sorted(names, key=[*parameters, *sorted(names)].index):  # as they are written
        key = parameters.get(name) or ContextKey(name)
        required = needs and name in taken.required
        yield replace(key, needed_by=(process.name,) if required else ())


def _joined(first: ContextKey | None, second: ContextKey) -> ContextKey:
    """Return the key as two functions describe it."""
    if first is None:
        return second
    said = [each.annotation for each in (first, second) if each.annotation is not UNSAID]
    agreed = said[0] if said and all(each == said[0] for each in said) else UNSAID
    return ContextKey(
        first.name,
        # Where their types differ, a value has to suit both, so none is known.
        Any if len(said) > 1 and agreed is UNSAID else agreed,
        second.default if first.default is UNSAID else first.default,
        first.description or second.description,
        tuple(dict.fromkeys((*first.needed_by, *second.needed_by))),
    )


# Signatures


def _parameters(func: Function) -> Mapping[str, ContextKey]:
    """Return the parameters of a function as its signature and its docstring describe them."""
    try:
        return _known_parameters(func)
    except TypeError:  # it can't be hashed
        return _known_parameters.__wrapped__(func)


@lru_cache(maxsize=4096)
def _known_parameters(func: Function) -> Mapping[str, ContextKey]:
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):  # it has none
        return {}
    hints, descriptions = annotations_of(func), _descriptions(func)
    found = {}
    for name, parameter in signature.parameters.items():
        annotation, said = _without_metadata(hints.get(name, UNSAID))
        description = said or descriptions.get(name, "")
        found[name] = ContextKey(name, annotation, parameter.default, description)
    return found


def annotations_of(func: Function) -> Mapping[str, Any]:
    """Return a function's annotations by parameter, and as ``return``.

    None of them if one is text and names something that only a type checker imports.
    """
    try:
        return get_type_hints(inspect.unwrap(func), include_extras=True)
    except Exception:  # noqa: BLE001  # an annotation may be any code
        return {}


def _without_metadata(annotation: Any) -> tuple[Any, str]:
    """Return the type of ``Annotated``, and the first text beside it or in it."""
    if get_origin(annotation) is not Annotated:
        return annotation, ""
    kind, *metadata = get_args(annotation)
    for each in metadata:
        said = each if isinstance(each, str) else getattr(each, "documentation", None)
        if isinstance(said, str):
            return kind, said
    return kind, ""


def _descriptions(func: Function) -> Mapping[str, str]:
    text = inspect.getdoc(func)
    if not text:
        return {}
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return {}
    found = {}
    for each in parsed.params:
        for name in each.arg_name.split(","):  # numpy's style: "first, second : int"
            found[name.strip().lstrip("*")] = " ".join((each.description or "").split())
    return found


def annotation_text(annotation: Any) -> str:
    """Return an annotation for people to read, such as ``list[Invoice] | None``; blank for none."""
    if annotation is UNSAID or annotation is Any:
        return ""
    annotation, _ = _without_metadata(annotation)
    if annotation is None or annotation is types.NoneType:
        return "None"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    allowed = members(annotation)
    if len(allowed) > 1:
        return " | ".join(annotation_text(each) or "Any" for each in allowed)
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if not arguments or origin is None:
        return str(getattr(annotation, "__name__", annotation))
    name = getattr(origin, "__name__", str(origin))
    return f"{name}[{', '.join(map(_argument_text, arguments))}]"


def _argument_text(argument: Any) -> str:
    if argument is Ellipsis:
        return "..."
    if isinstance(argument, list):
        return f"[{', '.join(map(_argument_text, argument))}]"
    return annotation_text(argument) or "Any"


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an annotation allows."""
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


STAND_INS = (str, int)
"""What a function may take in place of a row or a date: a key, a name, a text that it parses."""


def chosen_type(annotation: Any) -> Any:
    """Return the type of which a person chooses a value; ``None`` if there are several.

    None beside it does not count, and neither do ``STAND_INS`` beside a row of a model or a date:
    ``Organisation | str | int`` is an organisation.
    """
    kinds = [each for each in members(annotation) if each not in (None, types.NoneType)]
    if len(kinds) == 1:
        return kinds[0]
    chosen = [each for each in kinds if each not in STAND_INS]
    is_one = len(chosen) == 1 and isinstance(chosen[0], type)
    return chosen[0] if is_one and issubclass(chosen[0], (Model, dt.date)) else None


# Values


def accepts(annotation: Any, value: Any) -> bool:
    """Return whether a value may be passed where a function has an annotation.

    Only plain types are checked: text, numbers, dates, rows of models, choices. Any other
    annotation allows everything.

    Parameters
    ----------
    annotation:
        The annotation; ``UNSAID`` for none.
    value:
        JSON, as a context is stored.
    """
    return any(_accepts(each, value) for each in members(_without_metadata(annotation)[0]))


def _accepts(kind: Any, value: Any) -> bool:
    if kind is None or kind is types.NoneType:
        return value is None
    if is_reference(value):  # its value is a text
        return kind is str or not _is_checked(kind)
    if get_origin(kind) is Literal:
        return value in [
            each.value if isinstance(each, enum.Enum) else each for each in get_args(kind)
        ]
    if not isinstance(kind, type):
        return True
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind is int:
        return _is_whole(value)
    if kind is float:
        return _is_whole(value) or isinstance(value, float)
    if kind in WRITTEN:
        return _is_written(kind, value) or (kind is Decimal and _is_whole(value))
    if issubclass(kind, enum.Enum):
        return value in [each.value for each in kind]
    if issubclass(kind, Model):
        return _is_row(kind, value)
    return True


def _is_checked(kind: Any) -> bool:
    """Return whether values are checked for being of a type."""
    if not isinstance(kind, type):
        return get_origin(kind) is Literal
    return kind in (bool, int, float, *WRITTEN) or issubclass(kind, (enum.Enum, Model))


def _is_whole(value: Any) -> bool:
    is_large = isinstance(value, Mapping) and value.keys() == {"$int"}
    return is_large or is_whole(value)


def _is_written(kind: type, value: Any) -> bool:
    """Return whether a value is of a type that JSON does not have; a ``datetime`` is a ``date``."""
    tags = {tag for each, (tag, _) in WRITTEN.items() if issubclass(each, kind)}
    return isinstance(value, Mapping) and not tags.isdisjoint(value)


def _is_row(model: type[Model], value: Any) -> bool:
    label = value.get("$model") if isinstance(value, Mapping) else None
    try:
        found = apps.get_model(label) if isinstance(label, str) else None
    except (LookupError, ValueError):
        return True  # ``context`` reports that there is no such model
    return found is not None and issubclass(found, model)


def _advice(key: ContextKey, value: Any) -> str:
    """Return a hint on how to write a key's type in JSON; blank for plain types."""
    if is_reference(value):
        return " The value of a secret is a text."
    for kind in members(key.annotation):
        if kind in WRITTEN:
            tag, example = WRITTEN[kind]
            return f' Write it as {{"{tag}": "{example}"}}.'
        if isinstance(kind, type) and issubclass(kind, Model):
            return f' Write it as {{"$model": "{kind._meta.label}", "pk": 1}}.'
    return ""
