"""Where connections are fresh: what happens inside a block of ``fresh_connections``."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


def noted_in(noted: list[str]) -> Callable[[], AbstractContextManager[None]]:
    """Return what stands for ``fresh_connections``, and notes where a block begins and ends."""

    @contextmanager
    def fresh_connections() -> Iterator[None]:
        noted.append("begins")
        yield
        noted.append("ends")

    return fresh_connections
