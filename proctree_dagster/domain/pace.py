"""The pace at which much is removed: in batches that never hold a lock for long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AIM = 0.05
"""Seconds that a batch should take; none may hold a lock for more than 0.2."""

MOST = 200
"""Rows in a batch at most: databases limit how many parameters a query has."""

FIRST = 20
"""Rows in the first batch, before it is known how long one takes."""

SHORTEST_PAUSE = 0.01
"""Seconds between two batches at least: who waits for SQLite's lock asks only now and then."""

LONGEST_PAUSE = 0.5
"""Seconds between two batches at most, where one took long as its process had no processor."""


class Pace:
    """The size of the next batch, by how long the last one took.

    After each batch others may write for twice as long as it took.

    Parameters
    ----------
    seconds:
        Seconds after which no further batch is begun.
    clock, sleep:
        For tests.
    """

    def __init__(
        self,
        seconds: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._ends = clock() + seconds
        self.size = FIRST
        self.longest = 0.0
        """Seconds that the longest batch took."""

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._ends

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Time a batch, pause after it, and adapt the size of the next one."""
        begun = self._clock()
        try:
            yield
        finally:
            self._note(self._clock() - begun)

    def _note(self, seconds: float) -> None:
        self.longest = max(self.longest, seconds)
        if seconds > AIM:
            self.size = max(1, self.size // 2)
        elif seconds < AIM / 2:
            self.size = min(MOST, self.size * 2)
        self._sleep(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, 2 * seconds)))
