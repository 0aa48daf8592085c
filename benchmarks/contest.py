"""Several peers that are up at the same time and take turns, and the tables of what they took."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

import psutil

from . import launch
from .stacks import Launches
from .table import spread, tell

QUEUED = 60
"""Runs that are launched at once."""

ONE_AFTER_ANOTHER = 10
"""Runs that the CPU of one is an average of, where a run takes a second or less."""

SETTLING = 3.0
"""Seconds until what a run does after its last function is done."""

IDLE_SECONDS = 60.0
"""How long to be idle for, in all."""

FAILURES = (AssertionError, OSError, ImportError, subprocess.SubprocessError, psutil.Error)
"""What a peer that can't be installed, started or measured raises here."""


@dataclass(frozen=True)
class Keeps:
    """What one has of a peer besides the speed, in words."""

    steps: str = field(metadata={"title": "recorded of a step"})
    killed: str = field(metadata={"title": "a run whose worker is killed (SIGKILL)"})
    process: str = field(metadata={"title": "a process a run"})
    ui: str = field(metadata={"title": "UI with history"})
    schedules: str = field(metadata={"title": "schedules"})
    logs: str = field(metadata={"title": "logs of a run"})


class Peer(Launches, Protocol):
    """Something that runs chains, once it was started."""

    keeps: Keeps
    few: bool
    """Whether it takes so long that fewer samples must do."""

    at_once: str
    """How many runs, or steps, it executes at the same time."""

    def versions(self) -> str:
        """Return the releases of what is measured."""

    def start(self) -> None:
        """Start everything, and wait until a run can be launched."""

    def stop(self) -> object:
        """Stop everything."""

    def throughput(self) -> float:
        """Return the runs per minute of ``QUEUED`` that are launched at once."""


@dataclass
class Measured:
    """A peer's samples."""

    name: str
    versions: str
    at_once: str
    keeps: Keeps
    latencies: list[float] = field(default_factory=list)
    """Milliseconds."""

    costs: list[float] = field(default_factory=list)
    """Milliseconds of CPU."""

    throughputs: list[float] = field(default_factory=list)
    """Runs a minute."""

    def line(self) -> str:
        """Return the samples as a line of the table."""
        cells = [
            f"{self.name} ({self.versions})",
            spread(self.latencies, "ms"),
            spread(self.costs, "ms"),
            spread(self.throughputs, "a minute"),
            self.at_once,
        ]
        return f"| {' | '.join(cells)} |"


def table(found: Sequence[Measured], failed: Mapping[str, str]) -> Iterator[str]:
    """Return the lines of what is printed.

    Parameters
    ----------
    found:
        The peers that were measured.
    failed:
        Why others were not, by their names.
    """
    yield f"| | launch → first line | CPU of a run of four | {QUEUED} launched at once | at once |"
    yield "|---|---|---|---|---|"
    for each in found:
        yield each.line()
    yield ""
    titles = [each.metadata["title"] for each in fields(Keeps)]
    yield f"| | {' | '.join(titles)} |"
    yield f"|{'---|' * (len(titles) + 1)}"
    for each in found:
        words = [getattr(each.keeps, cell.name) for cell in fields(Keeps)]
        yield f"| {each.name} | {' | '.join(words)} |"
    if failed:
        yield ""
    for name, reason in failed.items():
        yield f"Not measured: {name}: {reason}"


class Field:
    """The peers that are up, and why others are not."""

    def __init__(self) -> None:
        self.up: dict[str, Peer] = {}
        self.found: dict[str, Measured] = {}
        self.failed: dict[str, str] = {}

    def start(self, makes: Mapping[str, Callable[[Path], Peer]], folder: Path) -> None:
        """Start peers, one after another, and let each execute two runs."""
        for name, make in makes.items():
            peer = make(folder / name)
            self.up[name] = peer
            with self.surviving(name, "start"):
                peer.start()
                seconds = [launch.latency(peer) for _ in range(2)]
                tell(f"warming up: {peer.name} {seconds[-1]:.2f} s")
                versions = peer.versions()
                self.found[name] = Measured(peer.name, versions, peer.at_once, peer.keeps)

    @contextmanager
    def surviving(self, name: str, doing: str) -> Iterator[None]:
        """Take a peer out if it fails, with the reason, and let the others continue."""
        try:
            yield
        except FAILURES as error:
            peer = self.up.pop(name)
            tell(f"{peer.name} failed to {doing}: {error}")
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = " … ".join(dict.fromkeys([lines[0], lines[-1]]))
            self.failed[peer.name] = f"could not {doing}: {reason}"
            self.found.pop(name, None)
            _stop(peer)

    def turns(self, doing: str, what: Callable[[str, Peer], None]) -> None:
        """Let all have a turn."""
        for name, peer in list(self.up.items()):
            with self.surviving(name, doing):
                what(name, peer)

    def stop(self) -> None:
        """Stop all, whatever happens."""
        while self.up:
            _stop(self.up.popitem()[1])


def _stop(peer: Peer) -> None:
    try:
        peer.stop()
    except FAILURES as error:
        tell(f"{peer.name} did not stop: {error}")


def cost(peer: Launches, idle: float, count: int) -> float:
    """Return the CPU seconds of a run, of several one after another, less the idle ones.

    Parameters
    ----------
    peer:
        Whose.
    idle:
        The CPU seconds a second that it takes for nothing.
    count:
        How many runs.
    """
    before, at = peer.cpu(), time.monotonic()
    for _ in range(count):
        _, token = peer.launch_one()
        peer.ended(token)
    time.sleep(SETTLING)
    return (peer.cpu() - before - idle * (time.monotonic() - at)) / count


def measure(entrants: Field, rounds: int) -> list[Measured]:
    """Measure all that are up.

    Parameters
    ----------
    entrants:
        Those.
    rounds:
        Samples of each measure; a fifth of them of how fast the slow ones are with many runs.
    """
    found = entrants.found
    tell("idle")
    time.sleep(SETTLING)
    idle = dict(
        zip(entrants.up, launch.idle_cpu(list(entrants.up.values()), IDLE_SECONDS), strict=True)
    )
    tell(f"idle CPU: { {name: f'{each:.2%}' for name, each in idle.items()} }")
    for number in range(rounds):

        def one(name: str, peer: Peer) -> None:
            found[name].latencies.append(1000 * launch.latency(peer))

        def some(name: str, peer: Peer) -> None:
            count = 2 if peer.few else ONE_AFTER_ANOTHER
            found[name].costs.append(1000 * cost(peer, idle[name], count))

        def many(name: str, peer: Peer, number: int = number) -> None:
            if not peer.few or number % 5 == 0:
                found[name].throughputs.append(peer.throughput())
                tell(f"  {peer.name}: {found[name].throughputs[-1]:.0f} runs a minute")

        for doing, what in {"launch a run": one, "run a few": some, "run many": many}.items():
            begun = time.monotonic()
            entrants.turns(doing, what)
            tell(f"round {number + 1}, {doing}: {time.monotonic() - begun:.0f} s")
        for each in found.values():
            last = [each.latencies[-1], each.costs[-1]]
            tell(f"  {each.name}: {[round(value) for value in last]} ms")
    return list(found.values())
