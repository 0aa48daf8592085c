"""The options of a tree that say who gets which alerts of it. It needs no Django."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .alert_settings import KINDS, MOST_MINUTES, NO_SUCCESS, TOO_LONG, Alerts, recipient_problem
from .predicates import are_texts, is_whole

NOTHING = "nothing"
"""What a tree's ``alert_on`` holds that has no alerts at all."""

MINUTES = ("expected_minutes", "success_within_minutes")
LISTS = ("alert_on", "alert_to")


@dataclass(frozen=True)
class TreeAlerts:
    """Who gets which alerts of a tree; each field that is empty leaves it to the settings."""

    alert_on: tuple[str, ...] = ()
    """Kinds of alerts, or ``nothing``."""

    alert_to: tuple[str, ...] = ()
    """Recipients."""

    expected_minutes: int | None = None
    """How long a run takes at most."""

    success_within_minutes: int | None = None
    """How long it takes at most from one success to the next one."""

    def options(self) -> dict[str, Any]:
        """Return them as JSON, without those that are empty."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value not in ((), None)
        }

    def kinds(self, settings: Alerts) -> tuple[str, ...]:
        """Return the kinds of alerts that somebody gets."""
        if self.alert_on:
            return self.alert_on
        limits = {TOO_LONG: self.expected_minutes, NO_SUCCESS: self.success_within_minutes}
        return (*settings.on, *(kind for kind, limit in limits.items() if limit is not None))

    def recipients(self, settings: Alerts) -> tuple[str, ...]:
        """Return who gets them."""
        return self.alert_to or settings.to


def of(given: Mapping[str, Any]) -> TreeAlerts:
    """Return the options that a tree's JSON has; an invalid one counts as empty."""
    values: dict[str, Any] = {name: as_list(given.get(name)) for name in LISTS}
    for name in MINUTES:
        value = given.get(name)
        values[name] = value if is_whole(value, 1, MOST_MINUTES) else None
    return TreeAlerts(**values)


def as_list(value: Any) -> tuple[str, ...]:
    """Return a text, or a list of texts, as a tuple; anything else as an empty one."""
    found = [value] if isinstance(value, str) else value
    return tuple(found) if are_texts(found) else ()


def problems(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each problem of the options in a tree's JSON."""
    for name in LISTS:
        if given.get(name) not in ((), [], None) and not are_texts(given[name]):
            yield f"The tree's {name} must be a list of texts, not {given[name]!r:.100}."
    if are_texts(given.get("alert_on")):
        for kind in given["alert_on"]:
            if kind not in (*KINDS, NOTHING):
                yield (
                    f"The tree's alert_on has no kind {kind!r:.100}; there are: "
                    f"{', '.join(KINDS)}; or {NOTHING}."
                )
    for name in MINUTES:
        value = given.get(name)
        if value is not None and not is_whole(value, 1, MOST_MINUTES):
            yield (
                f"The tree's {name} must be a whole number from 1 to {MOST_MINUTES}, or nothing, "
                f"not {value!r:.100}."
            )


def unknown_recipients(to: Any, known: frozenset[str]) -> Iterator[str]:
    """Yield a sentence for each of a tree's recipients that the settings don't know.

    Parameters
    ----------
    to:
        The tree's ``alert_to``.
    known:
        The names of webhooks and apprise.
    """
    for each in to if are_texts(to) else ():
        if (problem := recipient_problem(each, known)) is not None:
            yield f"The tree's alert_to: {problem}"
