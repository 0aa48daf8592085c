"""What the daemon and the code server say to each other about ticks that are evaluated together.

A request is the log key of the schedule ``run_tags.DUE_TOGETHER``, the one text that Dagster passes
on to a schedule as it is; an answer is the reason for which that schedule skips.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import NamedTuple


class Tick(NamedTuple):
    """A tick of one schedule."""

    schedule: str
    """The schedule's name in Dagster."""

    timestamp: float
    """Its time."""

    tick_id: str
    """Its id in Dagster's storage, where it is recorded as started."""


@dataclass(frozen=True)
class Request:
    """Ticks, and what their runs are to be created with."""

    instance: str
    """Dagster's instance, serialized (``InstanceRef``)."""

    repository: str
    """The repository as the daemon knows it, serialized (``RemoteRepositoryOrigin``)."""

    code: str
    """Where its code is, serialized (``RepositoryPythonOrigin``)."""

    ticks: list[Tick]
    """At most one of each schedule."""

    def as_text(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Request":
        """Return what ``as_text`` has written."""
        read = json.loads(text)
        return cls(**{**read, "ticks": [Tick(*each) for each in read["ticks"]]})


class Made(NamedTuple):
    """A tick's run, which is recorded, but not queued."""

    run_id: str
    run_key: str


@dataclass
class Answer:
    """The outcome of ticks, by the names of their schedules; that of a failed one is missing."""

    made: dict[str, Made] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """The reasons."""

    def as_text(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Answer":
        """Return what ``as_text`` has written."""
        read = json.loads(text)
        return cls({name: Made(*each) for name, each in read["made"].items()}, read["skipped"])
