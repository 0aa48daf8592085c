"""Which alerts are due, and what they say. It needs no Django."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .alert_settings import (
    FAILURE,
    LATE,
    NO_SUCCESS,
    RECOVERED,
    SILENCE,
    THIRD_FAILURE,
    TOO_LONG,
)
from .texts import shorten

MANY_FAILURES = 3
"""How many failures in a row have an alert of their own."""

GIVE_UP_AFTER = dt.timedelta(days=1)
"""How long the delivery of an alert is tried."""

CUSTOMERS_SHOWN = 5
SAID_SHOWN = 1000


def customer(tags: Mapping[str, str]) -> str:
    """Return for whom a run works, by its tags from the context: ``organisation: Acme``."""
    return shorten(", ".join(f"{name}: {tags[name]}" for name in sorted(tags)), 160)


def of_failure(failures_in_a_row: int) -> Iterator[str]:
    """Yield the kinds of alerts of a run that failed.

    Parameters
    ----------
    failures_in_a_row:
        How many runs have failed in a row, this one included.
    """
    yield FAILURE
    if failures_in_a_row == MANY_FAILURES:
        yield THIRD_FAILURE


def planned(now: dt.datetime, last: dt.datetime | None, every: dt.timedelta) -> dt.datetime:
    """Return when a new message is delivered: at once, unless another one was not long ago.

    Parameters
    ----------
    now:
        The present.
    last:
        When the last one of the same cause to the same recipient was to be delivered.
    every:
        Least time between two.
    """
    return now if last is None else max(now, last + every)


def retry_at(now: dt.datetime, attempts: int) -> dt.datetime:
    """Return when a delivery that has failed is tried again: first a minute later.

    Parameters
    ----------
    now:
        The present.
    attempts:
        How often it was tried.
    """
    return now + dt.timedelta(minutes=min(2 ** max(attempts - 1, 0), 60))


@dataclass(frozen=True)
class Message:
    """An alert as it is sent."""

    subject: str
    text: str
    data: Mapping[str, Any]
    """The same for programs."""


def message(
    kind: str,
    tree: str,
    facts: Mapping[str, Any],
    *,
    count: int = 1,
    first: str = "",
    last: str = "",
    link: str = "",
) -> Message:
    """Return an alert in words.

    Parameters
    ----------
    kind, tree:
        The kind of alert, and the tree's name.
    facts:
        What is known of it (see ``services.alerts``).
    count:
        How many events it stands for.
    first, last:
        When the first and the last of them happened.
    link:
        The address of the page about it.
    """
    subject = _subject(kind, tree, facts, count)
    lines = [_sentence(kind, tree, facts), *_lines(facts)]
    lines.append(f"At: {first}" if count == 1 else f"{count} times, from {first} to {last}.")
    text = "\n".join(filter(None, [*lines, link]))
    data = {
        "kind": kind,
        "tree": tree,
        **facts,
        "count": count,
        "first": first,
        "last": last,
        "link": link,
    }
    return Message(subject, text, {"subject": subject, "text": text, **data})


def _subject(kind: str, tree: str, facts: Mapping[str, Any], count: int) -> str:
    customers = facts.get("customers") or []
    who = f" ({customers[0]})" if len(customers) == 1 and not facts.get("other_customers") else ""
    often = f", {count} times" if count > 1 else ""
    said = {
        FAILURE: f"{tree} failed",
        THIRD_FAILURE: f"{tree} failed for the third time in a row",
        RECOVERED: f"{tree} is not late any more" if facts.get("due") else f"{tree} has recovered",
        LATE: f"{tree} is late",
        TOO_LONG: f"{tree} runs too long",
        NO_SUCCESS: f"{tree} has not succeeded",
    }
    if kind == SILENCE:
        return "Dagster's daemon works again" if facts.get("is_over") else "No daemon looks"
    return " ".join(f"{said.get(kind, f'{tree}: {kind}')}{who}{often}".split())


def _sentence(kind: str, tree: str, facts: Mapping[str, Any]) -> str:
    say = _SENTENCES.get(kind)
    return f"{kind}: {tree}" if say is None else say(tree, facts)


_SENTENCES: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    FAILURE: lambda tree, _: f"The process tree {tree!r} failed.",
    THIRD_FAILURE: lambda tree, _: f"The process tree {tree!r} failed three times in a row.",
    RECOVERED: lambda tree, facts: (
        f"The process tree {tree!r} is not late any more: it was due at {facts['due']}."
        if facts.get("due")
        else f"The process tree {tree!r} succeeds again."
    ),
    LATE: lambda tree, facts: (
        f"The process tree {tree!r} was due at {facts.get('due')}, and has not started."
    ),
    TOO_LONG: lambda tree, facts: (
        f"A run of the process tree {tree!r} takes longer than {facts.get('minutes')} minutes."
    ),
    NO_SUCCESS: lambda tree, facts: (
        f"The process tree {tree!r} has not succeeded since {facts.get('since')}: at least every "
        f"{facts.get('minutes')} minutes is expected."
    ),
    SILENCE: lambda _, facts: (
        f"Dagster's daemon works again, after it was silent since {facts.get('since')}."
        if facts.get("is_over")
        else f"No daemon of Dagster has looked since {facts.get('since')}: nothing that is due "
        "runs. Is 'dagster-daemon run' there, and is the sensor 'proctree_alerts' on?"
    ),
}


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts.get("schedule"):
        yield f"Schedule: {facts['schedule']}"
    customers = list(facts.get("customers") or [])
    if customers:
        others = facts.get("other_customers") or 0
        yield f"For: {'; '.join([*customers, *([f'{others} others'] if others else [])])}"
    for process, error in (facts.get("failures") or {}).items():
        said = shorten(error or "it failed", SAID_SHOWN)
        yield f"Process {process}: {said}" if process else f"It said: {said}"
    if facts.get("failing_since"):
        in_a_row = facts.get("failures_in_a_row") or 1
        word = "Failed" if facts.get("is_over") else "Failing"
        yield f"{word} since {facts['failing_since']}: {in_a_row} in a row."
