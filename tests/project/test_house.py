"""The house: which package holds what, and that arrows between modules run one way."""

import ast
import graphlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import proctree_dagster

TOP = Path(proctree_dagster.__file__).parent
PACKAGES = sorted(each.parent for each in TOP.rglob("__init__.py") if each.parent != TOP)


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for file in TOP.rglob("*.py"):
        parts = file.relative_to(TOP.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules that a module imports as it runs, in functions, too."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    tree = ast.parse(file.read_text())
    only_typed = [
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in only_typed:
            continue
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for each in node.names:
            inner = f"{base}.{each.name}"
            found |= {inner} if inner in known else {base} & known.keys()
    return found - {name}


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {name: imported(name, file, known) for name, file in known.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises with the circle, if there is one


NO_CODE = {"__init__.py", "__pycache__", "py.typed", "locale", "static", "templates"}
GENERATED = {"migrations"}


def test_the_listing_of_the_package_is_at_most_two_dozen_entries() -> None:
    listed = {each.name for each in TOP.iterdir()} - NO_CODE - GENERATED
    assert len(listed) <= 24, sorted(listed)


def test_each_package_says_what_belongs_in_it_and_who_may_import_it() -> None:
    for package in PACKAGES:
        said = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
        if package.name not in ("migrations", "commands"):
            assert "import" in said, f"{package.relative_to(TOP)} does not say who may import it"


def test_a_file_has_at_most_480_lines_or_says_why_it_is_long() -> None:
    for name, file in modules().items():
        text = file.read_text()
        if len(text.splitlines()) > 480 and ".migrations." not in name:
            said = ast.get_docstring(ast.parse(text)) or ""
            assert "is long because" in said, name


def test_only_one_module_imports_what_dagster_keeps_to_itself() -> None:
    only = {"proctree_dagster.orchestration.dagster_internals"}
    top = TOP.parent
    elsewhere = [*(top / "example").rglob("*.py"), *(top / "definitions").rglob("*.py")]
    files = {**modules(), **{str(each): each for each in elsewhere}}
    found = {
        name
        for name, file in files.items()
        for each in ast.walk(ast.parse(file.read_text()))
        if any(map(_is_internal, _modules_of(each)))
    }
    assert found == only


def _modules_of(node: ast.AST) -> list[str]:
    """Return the modules that a statement imports, or imports names of."""
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{each.name}" for each in node.names]
    return [each.name for each in node.names] if isinstance(node, ast.Import) else []


def _is_internal(module: str) -> bool:
    package, _, inner = module.partition(".")
    if package == "dagster_shared":
        return True
    # Also of a package beside it, such as dagster_postgres.
    return package.startswith("dagster") and any(
        part.startswith("_") and not part.startswith("__") for part in inner.split(".")
    )


def test_a_commit_is_checked_by_the_tools_that_ci_has() -> None:
    hooks = (TOP.parent / ".pre-commit-config.yaml").read_text()
    pinned = set(re.findall(r'"([a-z-]+==[\d.]+)"', hooks))
    assert {each.partition("==")[0] for each in pinned} == {"ruff", "codespell"}
    assert pinned <= set((TOP.parent / "constraints.txt").read_text().split())


BESIDE_THE_PACKAGES = {"e2e", "example", "project"}
"""Folders of tests that mirror no package: whole stacks, the example, the project's own rules."""


def test_each_folder_of_tests_is_named_as_what_it_tests() -> None:
    tests = TOP.parent / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    mirrors = {each for each in folders if str(each) not in BESIDE_THE_PACKAGES}
    known = {each.relative_to(TOP) for each in PACKAGES} | {Path("admin")}
    assert mirrors
    assert mirrors <= known


LONGEST_PROGRAM = 11
"""Lines of Python that a string may have. Linters read files: see ``tests/tools/code_files.py``."""

STATEMENT = re.compile(
    r"^\s*(import \w|from [\w.]+ import |(async )?def \w+\(|class \w+[(:])", re.MULTILINE
)


@pytest.mark.parametrize("folder", ["benchmarks", "scripts", "tests"])
def test_a_program_of_more_than_eleven_lines_is_a_file_and_no_string(folder: str) -> None:
    top = TOP.parent
    assert [
        f"{file.relative_to(top)}:{line} has {length} lines"
        for file in sorted((top / folder).rglob("*.py"))
        for line, length in _programs(file.read_text(), LONGEST_PROGRAM)
    ] == []


def test_programs_are_found_in_strings_and_other_texts_are_not() -> None:
    source = """
'a docstring with\\nx = 1'
program = '\\n  import os\\n  print(os.name)\\n'
template = 'def f():\\n  return {value!r}'
tree = f'\\n  tree = {builder}(1)\\n  tree.save()\\n'
query = 'SELECT 1\\nFROM t'
settings = 'telemetry:\\n  enabled: false'
"""
    assert list(_programs(source, 1)) == [(3, 2), (4, 2), (5, 2)]


def _programs(source: str, allowed: int) -> Iterator[tuple[int, int]]:
    """Yield the line of each string that is Python of more lines than ``allowed``, and how many."""
    nodes = list(ast.walk(ast.parse(source)))
    docs = {id(each.value) for each in nodes if isinstance(each, ast.Expr)}
    parts = {id(part) for each in nodes if isinstance(each, ast.JoinedStr) for part in each.values}
    for node in nodes:
        if not isinstance(node, ast.expr) or id(node) in docs | parts:
            continue
        text = _text(node)
        length = len(text.strip().splitlines())
        if length > allowed and _is_python(text):
            yield node.lineno, length


def _text(node: ast.expr) -> str:
    """Return the text of a string, with a name for each value of an f-string."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "value" for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""


def _is_python(text: str) -> bool:
    """Return whether a text is a program; templates of one need not be valid."""
    if STATEMENT.search(text):
        return True
    try:
        body = ast.parse(textwrap.dedent(text)).body
    except (SyntaxError, ValueError):
        return False
    return any(not isinstance(each, ast.Expr | ast.AnnAssign) for each in body)
