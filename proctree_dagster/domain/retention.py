"""How long history is kept: the rules of ``PROCTREE["KEEP"]``, and of a tree's ``keep_runs``."""

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .names import MAX_NAME_LENGTH

MOST_YEARS = 100
"""The longest age, so that no moment before the calendar's first day is computed."""

MOST_RUNS = 10_000_000
"""The highest number of runs that can be kept."""

ALL = "all"
"""What is written to keep everything."""

_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}
_UNITS = {
    "minute": dt.timedelta(minutes=1),
    "hour": dt.timedelta(hours=1),
    **{unit: dt.timedelta(days=days) for unit, days in _DAYS.items()},
}
_AGE = re.compile(rf"(\d{{1,9}})\s*({'|'.join(_UNITS)})s?", re.IGNORECASE | re.ASCII)
_LAST = re.compile(r"(?:the\s+)?last\s+(\d{1,9})(?:\s+runs?)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Keep:
    """How long something is kept, or how many of it; all of it if neither is given."""

    age: dt.timedelta | None = None
    last: int | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is removed."""
        return self.age is None and self.last is None

    def __str__(self) -> str:
        if self.last is not None:
            return f"last {self.last}"
        if self.age is None:
            return ALL
        unit = next(name for name in ("day", "hour", "minute") if not self.age % _UNITS[name])
        number = self.age // _UNITS[unit]
        return f"{number} {unit}{'' if number == 1 else 's'}"


KEEP_ALL = Keep()


def parse(value: Any) -> Keep:
    """Return a rule that is written as text, as a ``timedelta``, or as ``None``: all is kept.

    Raises
    ------
    ValueError
        It is no rule.
    """
    if value is None:
        return KEEP_ALL
    if isinstance(value, dt.timedelta):
        return _aged(value - value % _UNITS["minute"])
    text = value.strip() if isinstance(value, str) else ""
    if text.lower() == ALL:
        return KEEP_ALL
    if match := _LAST.fullmatch(text):
        return _counted(int(match[1]))
    if match := _AGE.fullmatch(text):
        number, unit = int(match[1]), _UNITS[match[2].lower()]
        # Compared as numbers: the product of large ones is no timedelta any more.
        if number <= MOST_YEARS * _UNITS["year"] // unit:
            return _aged(number * unit)
    raise ValueError(f"{value!r:.100} is no rule")


def _aged(age: dt.timedelta) -> Keep:
    if not _UNITS["minute"] <= age <= MOST_YEARS * _UNITS["year"]:
        raise ValueError(f"{age} is not between a minute and {MOST_YEARS} years")
    return Keep(age=age)


def _counted(number: int) -> Keep:
    if not 1 <= number <= MOST_RUNS:
        raise ValueError(f"{number} is not between 1 and {MOST_RUNS:,}")
    return Keep(last=number)


@dataclass(frozen=True)
class Bound:
    """A rule at one moment, for the runs of one tree: which of them are old enough to go."""

    ended_by: float | None = None
    """Those that ended until then, in seconds since 1970."""

    older_than: int | None = None
    """Those with a lower number, of the numbers that Dagster gives runs in their order."""

    def is_passed(self, number: int, ended: float) -> bool:
        """Return whether a run is old enough, by its number and its end."""
        if self.ended_by is not None:
            return ended <= self.ended_by
        return self.older_than is not None and number < self.older_than


COUNTED = ("runs", "failed_runs", "events", "results")
"""What may be counted: of each tree, so many are kept."""


@dataclass(frozen=True)
class Rules:
    """What ``PROCTREE["KEEP"]`` says: one field for each of its keys, all optional."""

    runs: Keep = KEEP_ALL
    """Runs that have ended, with all that belongs to them."""

    failed_runs: Keep | None = None
    """Those that have failed; ``None``: as ``runs``."""

    events: Keep = KEEP_ALL
    """The log of a run: its events, and what its processes have printed."""

    results: Keep = KEEP_ALL
    """The results that its processes have passed on, by which it can go on from a failure."""

    ticks: Keep = KEEP_ALL
    """Evaluations of schedules and sensors."""

    outbox: Keep = field(default_factory=lambda: Keep(age=dt.timedelta(days=30)))
    """Rows of the outbox whose run was made, or dropped."""

    revisions: Keep = KEEP_ALL
    """What trees were."""

    actions: Keep = KEEP_ALL
    """What people did in Dagster's UI."""

    def removing(self) -> dict[str, Keep]:
        """Return the rules by which something is removed, by their keys."""
        every = {key: getattr(self, key) for key in KEYS}
        return {key: rule for key, rule in every.items() if rule not in (None, KEEP_ALL)}

    def of_tree(self, own: Keep | None) -> tuple[Keep, ...]:
        """Return the rules for a tree's successful and canceled runs: one that any keeps stays."""
        return (self.runs if own is None else own,)

    def of_failed(self, own: Keep | None) -> tuple[Keep, ...]:
        """Return the rules for its failed runs.

        Parameters
        ----------
        own:
            The tree's own rule, if it has one. It replaces ``runs``, and beside it ``failed_runs``
            keeps failures for longer.
        """
        if own is None:
            return (self.runs if self.failed_runs is None else self.failed_runs,)
        return (own,) if self.failed_runs is None else (own, self.failed_runs)


KEYS = tuple(Rules.__dataclass_fields__)


def rules(given: Mapping[str, Any]) -> Rules:
    """Return the rules of a dictionary in which ``problems`` has found none."""
    return Rules(**{key: parse(value) for key, value in given.items()})


def problems(given: Any) -> Iterable[str]:
    """Yield what each value of the setting must be, with its key."""
    if not isinstance(given, Mapping):
        yield f" must be a dictionary such as {{'runs': '90 days'}}, not {given!r:.100}."
        return
    for key, value in given.items():
        if key not in KEYS:
            yield f" has no key {key!r}. Known keys: {', '.join(KEYS)}."
        elif wrong := problem_of(value, counted=key in COUNTED):
            yield f"[{key!r}] must be {wrong}, not {value!r:.100}."


def problem_of(value: Any, *, counted: bool = True) -> str:
    """Return what a rule must be; blank if it is one."""
    try:
        rule = parse(value)
        if counted or rule.last is None:
            return ""
    except ValueError:
        pass
    last = "'last 500', " if counted else ""
    return (
        f"an age such as '90 days' or '1 year' (minutes, hours, days, weeks, months, years; up to "
        f"{MOST_YEARS} years), {last}or '{ALL}'"
    )


def tree_option(keep_runs: Any) -> dict[str, Any]:
    """Return the JSON of a tree's own rule; empty where it has none."""
    return {} if keep_runs == "" else {"keep_runs": keep_runs}


def tree_problems(keep_runs: Any) -> Iterable[str]:
    """Yield a sentence if a tree's own rule is none."""
    if keep_runs == "":
        return
    is_text = isinstance(keep_runs, str) and len(keep_runs) <= MAX_NAME_LENGTH
    if wrong := problem_of(keep_runs if is_text else 0):
        yield f"The tree's keep_runs must be {wrong}, not {keep_runs!r:.100}."


def own_rule(keep_runs: Any) -> Keep | None:
    """Return a tree's own rule; ``None`` if it has none.

    Of one that SQL has broken all is kept: nothing is removed by mistake.
    """
    if keep_runs == "":
        return None
    return KEEP_ALL if any(tree_problems(keep_runs)) else parse(keep_runs)
