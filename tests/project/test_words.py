"""The words that we write: the field's own, in docstrings, comments and pages.

``WORDS`` lists what a reader stumbles over, each with the words to use instead. A line in which a
word is meant as written is named in ``ALLOWED``.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import TOP

PACKAGE = TOP / "proctree_dagster"

NOT_YET: tuple[str, ...] = ()
"""Packages whose prose has not been revised yet."""

CHANGELOG = TOP / "CHANGELOG.md"
"""A record: its entries stay as they were written."""

GENERATED = TOP / "docs" / "reference.md"
"""Made of docstrings, which are checked in the code, and of help texts, which migrations hold."""

WORDS = {
    r"\bsays? (if|whether)\b": "return whether",
    r"\ba look\b(?!-)|\blook(s|ed|ing)? at\b": "pass, poll, check",
    r"\btold\b|\btells?\b": "log, warn, distinguish",
    r"\blet(s|ting)? go\b": "evict",
    r"\bbehind\b": "downstream, after, upstream",
    r"\b(what|has|have|had|is|are)( it| they| others?| a run)* c[ao]mes? to\b": "outcome, status",
    r"\bwhole (job|run)s?\b": "full",
    r"\bcom(es?|ing) up\b|\bcame up\b": "start",
    r"\b(goes|going|went) on\b": "continue",
    r"\bpatien(ce|t)\b": "timeout, grace period, budget",
    r"\banew\b": "again",
    r"\bclockwork\b": "clock fields",
    r"\bmakes? (no|any) sense\b": "is invalid",
    r"\bwritten down\b|\bwrites? down\b": "record",
    r"\bat this moment\b": "meanwhile, now",
    r"\bgone stale\b": "may have died",
    r"\bwithout a word\b": "silently",
}
"""Regular expressions, in lower case, and the words to use instead."""

ALLOWED = (
    "left behind",
    "behind a proxy",
    "behind a reverse proxy",
    "behind nginx",
    "behind the login",
    "behind the site's login",
    "behind its login",
    "behind django's login",
    "behind whose login",
)
"""Phrases in which a listed word has its plain meaning."""

PROSE = "docs"
AREAS = [
    PROSE,
    "",
    *sorted(
        each.name
        for each in PACKAGE.iterdir()
        if (each / "__init__.py").exists() and each.name not in ("migrations", *NOT_YET)
    ),
]
"""The pages; the modules at the package's top; each package."""

BLOCK = re.compile(r"^(```+).*?^\1$|``[^`\n]+``|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area or "modules")
def test_prose_uses_the_words_of_the_field(area: str) -> None:
    assert [
        f"{file.relative_to(TOP)}:{line}: {found!r} -> {instead}"
        for file in _files(area)
        for line, text in _prose(file)
        for found, instead in _found(text)
    ] == []


def test_a_listed_word_is_found_and_an_allowed_phrase_is_not() -> None:
    assert list(_found("the processes behind it")) == [("behind", "downstream, after, upstream")]
    assert list(_found("It leaves nothing left behind; `a look`.")) == []


def _files(area: str) -> list[Path]:
    if area == PROSE:
        pages = sorted({*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")})
        return [page for page in pages if page not in (GENERATED, CHANGELOG)]
    if not area:
        return sorted(PACKAGE.glob("*.py"))
    return sorted((PACKAGE / area).rglob("*.py"))


def _found(text: str) -> Iterator[tuple[str, str]]:
    """Yield each listed word of a text, and what to write instead."""
    plain = BLOCK.sub(lambda code: "\n" * code.group().count("\n"), text).lower()
    for phrase in ALLOWED:
        plain = plain.replace(phrase, "")
    for word, instead in WORDS.items():
        yield from ((match.group(), instead) for match in re.finditer(word, plain))


def _prose(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the docstrings and comments of a module, or the lines of a page, by line number."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        yield from enumerate(
            BLOCK.sub(lambda code: "\n" * code.group().count("\n"), source).split("\n"), 1
        )
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, str(node.value.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
