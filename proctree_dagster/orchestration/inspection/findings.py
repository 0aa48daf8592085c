"""The subject and the findings of the doctor's checks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dagster import DagsterInstance


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Literal["ok", "warning", "error"]
    """``error``: trees do not run, or not as they should. ``warning``: they may not, one day."""

    what: str
    """The finding, in one sentence."""

    remedy: str = ""
    """What to do about it; blank if it is in order."""


@dataclass(frozen=True)
class Subject:
    """The subject of the checks."""

    home: Path | None
    """Dagster's home, or ``None`` if it has none."""

    instance: DagsterInstance | None
    """Its instance, or ``None`` if opening it would write; another check reports why."""


Check = Callable[[Subject], Iterable[Finding]]
