"""The tutorial, and the pages that go on in its project: what they say is what happens."""

from collections.abc import Iterator

import pytest

from tests.e2e.newcomer import Newcomer

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("bookshop"))
    try:
        yield newcomer
    finally:
        newcomer.leave()


def test_the_tutorial_does_what_it_says(newcomer: Newcomer) -> None:
    newcomer.follow("docs/tutorial.md")
