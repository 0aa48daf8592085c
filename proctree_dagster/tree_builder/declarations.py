"""``@process_tree``: trees that are declared in code, in the ``trees`` modules of apps.

Decorating a function only notes it. ``collect()`` imports the modules and calls the functions,
which writes nothing (see ``services.declaring``); ``sync`` makes the rows follow.
"""

import importlib
import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

from .. import functions
from ..domain.texts import explain
from ..domain.tree_descriptions import OF_TREE, OPERATORS_OWN, RULE_OPTIONS, TreeDescription
from ..exceptions import ContextError, DeclarationError, ProctreeError
from ..models import ProcessTree
from ..services import declaring, tree_descriptions
from .instance import ProcessTreeInstance

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

MODULE = "trees"
"""The module of an app that declares its trees."""


@dataclass(frozen=True)
class Declaration:
    """A function that declares a tree."""

    name: str
    func: Callable[..., Any]
    description: str = ""
    cache_enabled: bool = True
    renamed_from: str | None = None
    operators_own: tuple[str, ...] = OPERATORS_OWN

    @property
    def names(self) -> list[str]:
        """The names of the tree: its own, and the one that it had before."""
        return [self.name, *([] if self.renamed_from is None else [self.renamed_from])]

    @property
    def place(self) -> str:
        """The function as ``module:qualname``."""
        return functions.describe(self.func)

    @property
    def app(self) -> AppConfig | None:
        """The app that it belongs to."""
        return apps.get_containing_app_config(self.func.__module__)


@dataclass(frozen=True)
class DeclaredTree:
    """A tree as code declares it."""

    description: TreeDescription
    app_label: str
    function: str
    renamed_from: str | None = None
    operators_own: tuple[str, ...] = OPERATORS_OWN

    @property
    def name(self) -> str:
        """The tree's name."""
        return self.description.name


@dataclass
class Collected:
    """The declared trees, and what prevents others from being declared."""

    trees: list[DeclaredTree] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    unknown_trees: set[str] = field(default_factory=set)
    """The names of trees whose functions could not be used: they are not removed from the code."""

    unknown_apps: set[str] = field(default_factory=set)
    """The labels of apps whose modules can't be imported: nothing is known of their trees."""

    def refuse(self, error: str, names: Iterable[str] = ()) -> None:
        """Record an error, and the trees of which nothing is known because of it."""
        self.errors.append(error)
        self.unknown_trees.update(names)


_declared: dict[tuple[str, str], Declaration] = {}
"""The declarations by their functions' places and the names of the trees."""


def process_tree(
    name: str,
    *,
    description: str = "",
    cache_enabled: bool = True,
    renamed_from: str | None = None,
    operators_own: Sequence[str] = OPERATORS_OWN,
) -> Callable[[F], F]:
    """Declare a process tree in code: ``manage.py proctree sync`` makes its rows follow.

    Use it in an app's ``trees`` module. The decorated function either takes the tree, a
    ``ProcessTreeInstance`` to fill, or takes nothing and returns one of this name. In it
    ``register_schedule()``, ``create_trigger()`` and ``subscribe_to_trigger()`` are declarations,
    too: they return rows that are not saved. It is called on every sync and check, may read the
    database, and may not write. It stays an ordinary function. See docs/trees-in-code.md.

    Parameters
    ----------
    name:
        The tree's name.
    description, cache_enabled:
        As for ``ProcessTreeInstance``, for a function that takes the tree.
    renamed_from:
        The name that the tree had before: its row gets the new one, and keeps its history.
    operators_own:
        The options that a sync leaves as operators have set them, in every schedule, subscription
        and trigger of the tree: names such as ``enabled``, ``context``, ``tags``, ``cron`` (which
        stands for the rule as a whole), ``executor``. Default: ``enabled`` and ``context``. Pauses
        are always the operators' own.

    Raises
    ------
    DeclarationError
        The name, or the former one, is no text.
    """
    if not isinstance(renamed_from, (str, type(None))):
        raise DeclarationError(f"renamed_from is a tree's former name, not {renamed_from!r:.100}.")
    if not isinstance(name, str):  # at once: without brackets, the function itself would be it
        raise DeclarationError(f'Write @process_tree("name"), with the tree\'s name, not {name!r}.')
    owned = (operators_own,) if isinstance(operators_own, str) else tuple(operators_own)

    def declare(func: F) -> F:
        declared = Declaration(name, func, description, cache_enabled, renamed_from, owned)
        _declared[declared.place, name] = declared
        return func

    return declare


def collect(labels: Collection[str] | None = None) -> Collected:
    """Import the ``trees`` modules, call the declaring functions, and return what they declare.

    An error of one app or function is recorded, and prevents no other.

    Parameters
    ----------
    labels:
        The labels of the apps whose functions are called; ``None``: all.
    """
    found = Collected()
    _import_modules(found, labels)
    by_name: dict[str, list[Declaration]] = {}
    for each in list(_declared.values()):
        if _counts(each, found):
            by_name.setdefault(each.name, []).append(each)
    _refuse_contested_names(found, by_name)
    for name, several in sorted(by_name.items()):
        if labels is not None and not any(_label(each) in labels for each in several):
            # of another app: it was not asked
            found.unknown_trees.update(*(each.names for each in several))
        elif name not in found.unknown_trees:
            _add(found, several[0])
    return found


def has_module(app: AppConfig) -> bool:
    """Return whether an app has a module that may declare trees."""
    return app.module is not None and module_has_submodule(app.module, MODULE)


def _import_modules(found: Collected, labels: Collection[str] | None) -> None:
    """Import the modules of all apps, as a tree may have moved from one to another."""
    for app in apps.get_app_configs():
        if not has_module(app):
            continue
        module = f"{app.name}.{MODULE}"
        try:
            importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an app's module may raise anything; the others are synced
            logger.exception("The module %s can't be imported.", module)
            found.unknown_apps.add(app.label)
            if labels is None or app.label in labels:
                found.refuse(f"{module} can't be imported: {explain(error)}")


def _counts(declaration: Declaration, found: Collected) -> bool:
    """Return whether a declaration counts; one that belongs to no app is an error."""
    label = _label(declaration)
    if label is None:
        told = f"{declaration.name}: {declaration.place} is in no installed app."
        found.refuse(told, declaration.names)
    return label is not None and label not in found.unknown_apps


def _label(declaration: Declaration) -> str | None:
    app = declaration.app
    return None if app is None else app.label


def _refuse_contested_names(found: Collected, by_name: dict[str, list[Declaration]]) -> None:
    """Refuse names that two functions declare, and a ``renamed_from`` that another one has."""
    for name, several in by_name.items():
        if len(several) > 1:
            places = " and ".join(sorted(each.place for each in several))
            told = f"{name}: declared by {places}, and only one may. Neither counts."
            found.refuse(told, [each for one in several for each in one.names])
    claimed: dict[str, Declaration] = {}
    for declaration in [each for several in by_name.values() for each in several]:
        before = declaration.renamed_from
        if before is None:
            continue
        other = claimed.setdefault(before, declaration)
        rival = by_name[before][0] if before in by_name else other
        if rival is not declaration:
            found.refuse(
                f"{declaration.name}: {declaration.place} has renamed_from={before!r}, and "
                f"{rival.place} {'declares' if before in by_name else 'has'} that name, too.",
                [*declaration.names, *rival.names],
            )


def _add(found: Collected, declaration: Declaration) -> None:
    """Call a function, and add the tree that it declares."""
    try:
        found.trees.append(_declare(declaration))
    except (ProctreeError, TypeError) as error:
        found.refuse(f"{declaration.name}: {declaration.place}: {error}", declaration.names)
    except (Exception, SystemExit) as error:  # it may raise anything; the others are synced
        logger.exception("The process tree %r can't be declared.", declaration.name)
        why = explain(error)
        found.refuse(f"{declaration.name}: {declaration.place}: {why}", declaration.names)


def _declare(declaration: Declaration) -> DeclaredTree:
    """Return the tree that a function declares.

    Raises
    ------
    DeclarationError
        It returns no tree, one of another name, or does what is no declaration.
    ProctreeError
        What it declares is not valid.
    """
    _check_owned(declaration)
    assert declaration.app is not None
    with declaring.collecting(declaration.name, declaration.place) as declared:
        tree = _called(declaration)
        if not isinstance(tree, ProcessTreeInstance):
            raise DeclarationError(
                f"It returned {type(tree).__name__}. A function that takes no argument returns the "
                "ProcessTreeInstance; one that takes the tree may return nothing."
            )
        declared.require_own(tree.name)
        content = tree._declared_content(declared.triggers)
        row = ProcessTree(**{key: content[key] for key in OF_TREE if "trees" not in key})
        row.name = tree.name
        for schedule in declared.schedules.values():
            schedule.process_tree = row
            if problems := schedule.context_problems():
                raise ContextError(
                    f"The context of the schedule {schedule.name!r} will not do: "
                    f"{' '.join(problems)}"
                )
    return DeclaredTree(
        TreeDescription(
            tree.name,
            content,
            schedules={
                name: tree_descriptions.schedule_options(each)
                for name, each in declared.schedules.items()
            },
            subscriptions=tree._declared_subscriptions(),
            triggers={
                name: tree_descriptions.trigger_options(each)
                for name, each in declared.triggers.items()
            },
        ),
        declaration.app.label,
        declaration.place,
        declaration.renamed_from,
        declaration.operators_own,
    )


def _called(declaration: Declaration) -> Any:
    """Call a function: with a new tree, if it takes one."""
    takes = [
        each
        for each in inspect.signature(declaration.func).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if not takes:
        return declaration.func()
    tree = ProcessTreeInstance(declaration.name, declaration.description, declaration.cache_enabled)
    return declaration.func(tree) or tree


def _check_owned(declaration: Declaration) -> None:
    known = {
        *tree_descriptions.schedule_fields(),
        *tree_descriptions.OF_SUBSCRIPTION,
        *(each for each in tree_descriptions.OF_TRIGGER if each != "trigger_type"),
        *OF_TREE,
        *RULE_OPTIONS,
    }
    unknown = [each for each in declaration.operators_own if each not in known]
    if unknown:
        raise DeclarationError(
            f"operators_own names {', '.join(map(repr, unknown))}; what there is: "
            f"{', '.join(sorted(known))}."
        )
