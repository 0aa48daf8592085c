"""``PROCTREE["ALERTS"]``: who gets which alerts, and by which ways."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from .predicates import are_texts, is_text, is_whole

FAILURE = "failure"
THIRD_FAILURE = "third failure in a row"
RECOVERED = "recovered"
LATE = "late"
TOO_LONG = "too long"
NO_SUCCESS = "no success"
SILENCE = "silence"

KINDS = (FAILURE, THIRD_FAILURE, RECOVERED, LATE, TOO_LONG, NO_SUCCESS)
"""The kinds of alerts of a tree; there is ``SILENCE`` of the daemon beside them."""

MOST_MINUTES = 525_600


@dataclass(frozen=True)
class Webhook:
    """An address to which an alert is posted as JSON."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Any = None
    """The JSON, in whose texts ``{subject}``, ``{text}``, … are filled in; ``None``: ours."""


@dataclass(frozen=True)
class Alerts:
    """The settings of alerts."""

    to: tuple[str, ...] = ()
    """Recipients: mail addresses, and names in ``webhooks`` and ``apprise``."""

    on: tuple[str, ...] = (FAILURE, RECOVERED, LATE)
    """The kinds that are sent of a tree that says nothing else."""

    webhooks: Mapping[str, Webhook] = field(default_factory=dict)
    apprise: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The URLs of apprise, by the names of recipients."""

    late_minutes: int = 10
    """How many minutes after its due time a run that has not started is late."""

    silent_minutes: int = 5
    """Minutes without a pass of the daemon after which there is an alert."""

    every_minutes: int = 15
    """Least minutes between two messages of the same tree and cause to the same recipient."""


_KEYS = tuple(each.name for each in fields(Alerts))
_MINUTES = ("late_minutes", "silent_minutes", "every_minutes")


def read(given: Mapping[str, Any]) -> Alerts:
    """Return valid settings (see ``problem``)."""
    values = dict(given)
    for key in ("to", "on"):
        if key in values:
            values[key] = tuple(values[key])
    if "webhooks" in values:
        values["webhooks"] = {
            name: Webhook(url=each) if isinstance(each, str) else Webhook(**each)
            for name, each in values["webhooks"].items()
        }
    return Alerts(**values)


def problems(given: Any) -> list[str]:
    """Return a sentence for each problem of ``PROCTREE["ALERTS"]``; none shows an address."""
    if not isinstance(given, Mapping):
        return [f"PROCTREE['ALERTS'] must be a dictionary, not {type(given).__name__}."]
    return [f"PROCTREE['ALERTS']{each}" for each in _problems(given)]


def _problems(given: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in given.items():
        if key not in _KEYS:
            yield f" has no key {key!r}. Known keys: {', '.join(_KEYS)}."
        elif key in _MINUTES and not is_whole(value, 0 if key == "every_minutes" else 1):
            yield f"[{key!r}] must be a whole number of minutes, not {value!r}."
        elif key in ("to", "on") and not are_texts(value):
            yield f"[{key!r}] must be a list of texts, not {type(value).__name__}."
        elif key == "on":
            yield from (f"['on']: {problem}" for problem in kind_problems(value))
        elif key == "webhooks":
            yield from _webhook_problems(value)
        elif key == "apprise" and not _is_texts(value):
            yield "['apprise'] must be a dictionary of names and apprise's URLs."
    known = _names(given)
    for each in given["to"] if are_texts(given.get("to")) else ():
        if (problem := recipient_problem(each, known)) is not None:
            yield f"['to']: {problem}"


def kind_problems(kinds: Any) -> Iterator[str]:
    """Yield a sentence for each of some texts that is no kind of alert."""
    for each in kinds:
        if each not in KINDS:
            yield f"there is no kind of alert {each!r}; there are: {', '.join(KINDS)}."


def recipient_problem(recipient: str, known: set[str] | frozenset[str]) -> str | None:
    """Return why a text is no recipient: no mail address, and no name of a way to send alerts.

    Parameters
    ----------
    recipient:
        The text.
    known:
        The names in ``webhooks`` and ``apprise``.
    """
    name, _at, host = recipient.rpartition("@")
    if recipient in known or (name and host and not recipient.split()[1:]):
        return None
    if "@" in recipient:
        return f"{recipient!r} is no mail address."
    named = f"; the names are: {', '.join(sorted(known))}" if known else ""
    return (
        f"{recipient!r} is neither a mail address nor a name in PROCTREE['ALERTS']['webhooks'] "
        f"or ['apprise']{named}."
    )


def names(settings: Alerts) -> frozenset[str]:
    """Return the recipients that are no mail addresses."""
    return frozenset([*settings.webhooks, *settings.apprise])


def _names(given: Mapping[Any, Any]) -> set[str]:
    found = (given.get(key) for key in ("webhooks", "apprise"))
    return {name for each in found if isinstance(each, Mapping) for name in each}


def _webhook_problems(given: Any) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield "['webhooks'] must be a dictionary of names and addresses."
        return
    for name, each in given.items():
        where = f"['webhooks'][{name!r}]"
        entry = {"url": each} if isinstance(each, str) else each
        if not is_text(name) or "@" in name:
            yield f"{where}: a name is a text without '@'."
        elif not isinstance(entry, Mapping) or set(entry) - {"url", "headers", "body"}:
            yield f"{where} must be an address, or a dictionary of url, headers and body."
        elif not _is_address(entry.get("url")):
            yield f"{where}: its url must begin with http:// or https:// and have a host."
        elif not _is_texts(entry.get("headers", {})):
            yield f"{where}: its headers must be a dictionary of texts."


def _is_address(value: Any) -> bool:
    if not is_text(value) or not value.startswith(("http://", "https://")):
        return False
    try:
        return bool(urlsplit(value).hostname)
    except ValueError:
        return False


def _is_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        is_text(name) and is_text(each) for name, each in value.items()
    )
