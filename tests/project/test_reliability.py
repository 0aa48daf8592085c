"""Every test that docs/internals/reliability.md names exists, so no promise is without one."""

import ast
import re

import pytest

from tests.tools import TOP

NAMED = sorted(
    set(
        re.findall(
            r"`(tests/[\w/]+\.py(?:::\w+)*)`",
            (TOP / "docs" / "internals" / "reliability.md").read_text(encoding="utf-8"),
        )
    )
)


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize("named", NAMED)
def test_every_test_that_a_promise_names_exists(named: str) -> None:
    file, *path = named.split("::")
    names: list[ast.stmt] = ast.parse((TOP / file).read_text(encoding="utf-8")).body
    for part in path:
        found = [
            each
            for each in names
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and each.name == part
        ]
        assert found, f"{file} has no {part}"
        names = found[0].body
