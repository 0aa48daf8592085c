"""What the doctor's checks take and return."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dagster import DagsterInstance


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    level: Literal["ok", "warning", "error"]
    """``error``: trees do not run, or not as they should. ``warning``: they may not, one day."""

    what: str
    """What is so, in one sentence."""

    remedy: str = ""
    """What to do about it; nothing if it is in order."""


@dataclass(frozen=True)
class Subject:
    """What the checks examine."""

    home: Path | None
    """Dagster's home, or ``None`` if it has none."""

    instance: DagsterInstance | None
    """Its instance, or ``None`` if it can't be opened without writing; another check says why."""


Check = Callable[[Subject], Iterable[Finding]]
