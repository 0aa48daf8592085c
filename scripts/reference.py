"""Write ``docs/reference.md`` from the docstrings of every public name: ``make docs``.

The names are imported and inspected, so that what is documented is what users get: aliases lead to
where they come from, and Django has finished its models. It needs nothing but Python: everybody's
environment can check that the page is up to date.
"""

import ast
import enum
import inspect
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"

PUBLIC: Mapping[str, tuple[str, ...]] = {
    "tree_builder": ("ProcessTreeInstance", "ProcessTreeBuilder", "ProcessTreeManager"),
    "running.results": ("Results",),
    "functions": ("process_function",),
    "process": ("progress", "log_table", "log_image"),
    "triggers": (
        *("create_trigger", "get_trigger", "fire_trigger", "FiredRun"),
        *("reset_trigger", "set_trigger_state", "poll_triggers"),
        *("subscribe_tree_to_trigger", "unsubscribe_tree_from_trigger"),
        *("get_trigger_subscriptions", "get_tree_subscription"),
    ),
    "prometheus": ("metrics", "TreeCollector"),
    "runs": (
        *("SubmittedRun", "state", "wait", "await_result", "changes"),
        *("RunState", "ProcessState"),
    ),
    "django_tasks": ("DagsterBackend", "DagsterTaskResult"),
    "tasks": ("check_and_run_scheduled_tasks",),
    "models": (
        *("ProcessTree", "ProcessTreeSchedule", "Trigger", "TriggerSubscription", "TreeLink"),
        *("TriggerType", "TriggerState", "RunStatus", "LinkKind", "OutboxRun"),
    ),
    "testing": ("run_tree", "submitted", "fired", "followed", "RecordedRun", "real_dagster"),
    "context": ("encode", "decode", "Secret"),
    "services.webserver": ("run_url",),
    "conf": ("Settings",),
    "management.base": ("TreeCommand",),
    "orchestration.translator": ("ProcessTreeTranslator",),
    "orchestration.executors": ("threads_executor",),
    "orchestration.repository": ("build_repository",),
    "orchestration.launcher": ("WarmRunLauncher",),
    "orchestration.coordinator": ("StraightRunCoordinator",),
    "orchestration.hosts": ("LazyHostScheduler",),
    "orchestration.storage": ("ProctreeInstance",),
    "orchestration.postgres": ("PostgresStorage",),
    "exceptions": (
        *("ProctreeError", "InvalidTree", "TreeExists", "TreeNotFound", "TreeNotSaved"),
        *("TreeFailed", "FunctionError", "FunctionNotNameable", "FunctionNotAllowed"),
        *("FunctionNotFound", "FunctionAmbiguous", "StandInError", "ArgumentError"),
        *("CacheKeyError", "CacheError", "ValidationFailed", "ProcessTimeout", "StillWorking"),
        *("UnstorableError", "ResponseVariableError", "ResultNotStored", "SyncCheckError"),
        *(
            "ContextError",
            "SecretError",
            "MaskedError",
            "RunNotFinished",
            "ScheduleError",
            "TriggerError",
            "TriggerNotFound",
            "ExecutorError",
        ),
        *("StepLost", "ReportError", "RunNotFound", "RunError", "CommandError", "InstanceError"),
        "UnnameableFunctionWarning",
    ),
}
"""What users may import, by module; anything else may change without notice."""

METHODS: Mapping[str, tuple[str, ...]] = {
    "ProcessTree": ("to_dict", "default_context", "schedule_or_none", "revision"),
    "ProcessTreeSchedule": (
        *("should_run", "update_next_run_time", "due_times", "due_after"),
        *("rule_in_words", "held_back_by"),
    ),
    "Trigger": ("is_polled",),
    "TriggerSubscription": (),
    "TreeLink": (),
    "OutboxRun": (),
    "TreeCommand": (),
    "real_dagster": (),
    "WarmRunLauncher": (),
    "StraightRunCoordinator": (),
    "LazyHostScheduler": (),
    "ProctreeInstance": (),
    "PostgresStorage": (),
}
"""Of classes that Django, Dagster or this package calls, the methods that users call."""

INTRODUCTION = """# Reference

Every public name, from its docstring; `make docs` writes this page. What is not listed here may
change without notice. See also the [settings](settings.md) and the [command line](command-line.md).
"""


class Member(NamedTuple):
    """Something that has a docstring."""

    name: str
    """As users write it."""

    level: int
    """Of its heading."""

    signature: str | None
    """How it is called; ``None``: it is not."""

    text: str
    """Its docstring, blank if there is none."""

    attributes: Mapping[str, str]
    """The docstrings of a class's fields."""


def main() -> None:
    """Write the page."""
    set_up()
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


def set_up() -> None:
    """Set Django up, as a project does."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example.settings")
    django.setup()


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for module, names in PUBLIC.items():
        parts.append(f"\n## `proctree_dagster.{module}`\n")
        for name in names:
            parts += [_written(member) for member in members(module, name)]
    return "\n".join(parts)


def members(module: str, name: str) -> Iterator[Member]:
    """Yield a public name and, if it is a class, its public methods."""
    found = getattr(import_module(f"proctree_dagster.{module}"), name)
    if inspect.isclass(found):
        yield _of_class(name, found)
        owner = found
    elif (
        callable(found)
        and not inspect.isroutine(found)
        and type(found).__module__.startswith("proctree_dagster")
    ):
        yield _member(name, type(found).__call__, 3)  # an object to call, with methods
        owner = type(found)
    else:
        yield _member(name, found, 3)
        return
    for method_name, method in _methods(owner):
        is_public = method_name in METHODS.get(name, (method_name,)) and method_name[0] != "_"
        if is_public and (function := _own(owner, method)) is not None:
            yield _member(f"{name}.{method_name}", function, 4)


def _methods(owner: type) -> Iterator[tuple[str, object]]:
    """Yield the attributes of a class, those of our own classes that it is derived from first."""
    for each in reversed(owner.__mro__):
        if each.__module__.rpartition(".")[0] == owner.__module__.rpartition(".")[0]:
            yield from vars(each).items()


def _of_class(name: str, found: type) -> Member:
    text = vars(found).get("__doc__") or ""
    if text.startswith(f"{name}("):  # what Django and NamedTuple write
        text = ""
    called = None if _has_no_signature(found) else _signature(found)
    return Member(name, 3, called, inspect.cleandoc(text), dict(_attributes(found)))


def _has_no_signature(found: type) -> bool:
    """Return whether a class is not called by users, or as any other of its kind."""
    from django.core.management.base import BaseCommand
    from django.db.models import Model

    own = "__init__" in vars(found) and found.__module__.startswith("proctree_dagster")
    return issubclass(found, (Model, enum.Enum, BaseCommand, dict)) or not own


def _own(owner: type, method: object) -> Any:
    """Return the function of a method or property that the class itself defines; else ``None``."""
    function = getattr(method, "fget", None) or getattr(method, "func", None) or method
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function) or function.__module__ not in {
        each.__module__ for each in owner.__mro__
    }:
        return None
    is_property = function is not method and not isinstance(method, (classmethod, staticmethod))
    return property(function) if is_property else function


def _member(name: str, found: Any, level: int) -> Member:
    text = inspect.cleandoc(found.__doc__ or "")
    called = None if isinstance(found, property) else _signature(found)
    return Member(name, level, called, text, {})


def _signature(found: Any) -> str | None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # an object of Dagster's
        return None
    kept = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in kept]
    return str(inspect.Signature(bare))


def _attributes(found: type) -> Iterator[tuple[str, str]]:
    """Yield the fields of a class that have a docstring below them, or a help text."""
    fields = getattr(found, "_meta", None)
    for field in () if fields is None else fields.get_fields():
        if getattr(field, "help_text", "") and not field.name.startswith("_"):
            yield field.name, str(field.help_text)
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(found))).body
    assert isinstance(body, ast.ClassDef)
    for statement, below in zip(body.body, body.body[1:], strict=False):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if not name.startswith("_"):
                yield name, inspect.cleandoc(text)


def _written(member: Member) -> str:
    """Return a member as Markdown."""
    parts = [f"{'#' * member.level} `{member.name}`\n"]
    if member.signature is not None:
        call = f"{member.name.rpartition('.')[2]}{member.signature}"
        parts.append(f"```python\n{_folded(call)}\n```\n")
    parts.append(_markdown(member.text))
    if member.attributes:
        parts += ["| field | meaning |", "|---|---|"]
        parts += [
            f"| `{name}` | {_inline(' '.join(text.split()))} |"
            for name, text in member.attributes.items()
        ]
        parts.append("")
    return "\n".join(parts)


def _folded(call: str, width: int = 100) -> str:
    return "\n".join(textwrap.wrap(call, width, subsequent_indent="    ", break_long_words=False))


def _markdown(text: str) -> str:
    """Return a NumPy docstring as Markdown: sections in bold, their entries as a list."""
    text = re.sub(r"^(\w[\w ]*)\n-{3,}$", r"**\1**\n", text, flags=re.MULTILINE)
    lines, section = [], ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"\*\*(.+)\*\*", line):
            section = heading[1]
        elif section in ("Parameters", "Attributes") and re.fullmatch(r"[\w*][\w*, ]*:.*", line):
            line = f"- `{line.partition(':')[0]}`{line.partition(':')[2]}:"
        elif section in ("Raises", "Returns", "Yields", "Warns") and re.fullmatch(r"\S.*", line):
            line = f"- `{line}`:"
        elif section and section not in ("Examples", "Notes"):
            line = f"  {line.strip()}" if line.strip() else ""
        lines.append(line)
    return _inline(_examples("\n".join(lines))) + "\n"


def _examples(text: str) -> str:
    """Return text with its indented examples (behind ``::``) as blocks of Python."""

    def block(match: re.Match[str]) -> str:
        code = textwrap.dedent(match[2]).strip("\n")
        return f"{match[1]}\n\n```python\n{code}\n```\n"

    text = re.sub(r"(?m)^::\n", "Such as::\n", text)
    return re.sub(r"(?m)^(.*:):\n((?:\n| {4}.*\n?)+)", block, text)


def _inline(text: str) -> str:
    """Return text with Markdown's marks of code in place of reStructuredText's."""
    return text.replace("``", "`") if "```" not in text else _outside_of_blocks(text)


def _outside_of_blocks(text: str) -> str:
    parts = re.split(r"(```python\n.*?\n```)", text, flags=re.DOTALL)
    return "".join(each if n % 2 else each.replace("``", "`") for n, each in enumerate(parts))


if __name__ == "__main__":
    main()
