"""Links of the README and of the pages in docs/."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import TOP

PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])

CODE = re.compile(r"^(```+).*?^\1$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
EXPLICIT = re.compile(r'<a id="([^"]+)">')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert list(_broken(page)) == []


def test_the_index_names_every_page() -> None:
    index = TOP / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    assert {page for page in PAGES if index.parent in page.parents} - {index} - linked == set()


def test_no_message_of_the_package_names_a_page_that_a_wheel_lacks() -> None:
    named = [
        f"{path.relative_to(TOP)}: {literal}"
        for path in sorted((TOP / "proctree_dagster").rglob("*.py"))
        if "migrations" not in path.parts
        for literal in _texts(ast.parse(path.read_text(encoding="utf-8")))
        if re.search(r"\bdocs/[\w/-]+\.md\b", literal)
    ]
    assert named == []


def _texts(module: ast.Module) -> Iterator[str]:
    """Yield a module's text literals but docstrings."""
    bodies = [getattr(node, "body", None) for node in ast.walk(module)]
    prose = {
        id(first.value)
        for body in bodies
        if isinstance(body, list) and body
        for first in body[:1]
        if isinstance(first, ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def _broken(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            yield link


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them from its headings."""
    text = page.read_text(encoding="utf-8")
    outside_of_blocks = re.sub(r"^(```+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = [_anchor(heading) for heading in HEADING.findall(outside_of_blocks)]
    repeated = [
        f"{name}-{number}" for name in headings for number in range(1, headings.count(name))
    ]
    return {*headings, *repeated, *EXPLICIT.findall(text)}


def _anchor(heading: str) -> str:
    """Return what GitHub calls a heading: lower case, hyphens for spaces, no punctuation."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
