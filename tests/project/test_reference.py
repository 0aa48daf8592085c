"""docs/reference.md: every public name, from its docstring."""

import pytest

from scripts import reference
from scripts.reference import Member

MEMBERS = [
    member
    for module, names in reference.PUBLIC.items()
    for name in names
    for member in reference.members(module, name)
]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_every_public_name_has_a_docstring(member: Member) -> None:
    assert member.text


def test_the_page_says_what_the_docstrings_say() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run 'make docs'"


def test_every_method_that_is_named_is_there() -> None:
    shown = {member.name for member in MEMBERS}
    named = {f"{owner}.{name}" for owner, names in reference.METHODS.items() for name in names}
    assert named - shown == set()
