"""How a run is requested: not before when, how urgently, and under which key."""

import datetime as dt
from dataclasses import dataclass
from typing import Literal, Self, get_args

from ..exceptions import SubmissionError
from .names import MAX_NAME_LENGTH
from .predicates import is_whole
from .texts import storable

OnConflict = Literal["return", "skip", "replace", "queue"]
"""What becomes of a request while another run with its key is unfinished."""

ON_CONFLICT: tuple[str, ...] = get_args(OnConflict)

RequestOutcome = Literal["requested", "returned", "skipped"]
"""What became of a request."""

PRIORITY = "dagster/priority"
"""Dagster's tag of how urgent a run in its queue is."""

MAX_PRIORITY = 1_000_000
"""The highest; its negative is the lowest."""


@dataclass(frozen=True)
class Submission:
    """The circumstances of a requested run."""

    run_after: dt.datetime | None = None
    """It is not made before; aware."""

    key: str = ""
    """Of the runs with the same key at most one is unfinished at any time; blank: it has none."""

    on_conflict: OnConflict = "return"
    """What becomes of it while another run with its key is unfinished."""

    @classmethod
    def checked(
        cls,
        run_after: dt.datetime | None = None,
        key: str | None = None,
        on_conflict: OnConflict | None = None,
    ) -> Self:
        """Return what a caller has given.

        Parameters
        ----------
        run_after, key, on_conflict:
            As for ``ProcessTreeManager.submit_tree``.

        Raises
        ------
        SubmissionError
            With every problem of it.
        """
        found = [*_problems_of_time(run_after), *_problems_of_key(key, on_conflict)]
        if found:
            raise SubmissionError(" ".join(found))
        return cls(run_after, key or "", on_conflict or "return")

    def is_due(self, now: dt.datetime) -> bool:
        """Return whether it may be made now."""
        return self.run_after is None or self.run_after <= now


def _problems_of_time(run_after: object) -> list[str]:
    if run_after is None:
        return []
    if not isinstance(run_after, dt.datetime):
        return [f"run_after must be a datetime, not {run_after!r:.100}."]
    if run_after.utcoffset() is None:
        return [
            f"run_after must say of which time zone it is, not {run_after!r}: "
            "django.utils.timezone.make_aware() adds the project's."
        ]
    if not dt.MINYEAR < run_after.year < dt.MAXYEAR:  # no zone of the world could show it
        return [f"run_after must be of the years 2 to 9998, not {run_after}."]
    return []


def _problems_of_key(key: object, on_conflict: object) -> list[str]:
    if key is None:
        return [] if on_conflict is None else ["on_conflict needs a key, which is not given."]
    found = []
    if not isinstance(key, str) or not key.strip():
        found.append(f"A key is a text that is not blank, not {key!r:.100}.")
    elif len(key) > MAX_NAME_LENGTH or storable(key) != key:
        found.append(
            f"A key has at most {MAX_NAME_LENGTH} characters, without NUL and halves of surrogate "
            f"pairs; {key!r:.60} has {len(key)}."
        )
    if on_conflict is not None and on_conflict not in ON_CONFLICT:
        found.append(f"on_conflict is one of {', '.join(ON_CONFLICT)}, not {on_conflict!r:.100}.")
    return found


def priority_tag(priority: int | None) -> dict[str, str]:
    """Return Dagster's tag for a priority; a run of a higher one leaves the queue first.

    Raises
    ------
    SubmissionError
        It is no whole number, or too large a one.
    """
    if priority is None:
        return {}
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise SubmissionError(f"A priority is a whole number, not {priority!r:.100}.")
    if not is_whole(priority, -MAX_PRIORITY, MAX_PRIORITY):
        raise SubmissionError(
            f"A priority is a whole number from {-MAX_PRIORITY:,} to {MAX_PRIORITY:,}."
        )
    return {PRIORITY: str(priority)}
