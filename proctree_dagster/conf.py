"""``settings.PROCTREE``, read lazily and checked.

Read a setting with ``conf.current().DAGSTER_URL``. The dictionary is read on each call, so
``override_settings`` works and nothing is read at import.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .domain import alert_settings, retention
from .domain.predicates import is_number, is_text, is_whole

SHORTEST_TOKEN = 16
"""Least characters of a token: shorter ones can be guessed."""

SOCKET = "unix:"
"""How the address of a socket begins."""

DAEMON_SILENT_AFTER = timedelta(minutes=2)
"""How long Dagster's daemon may be silent before it counts as down: it writes every 30 seconds."""


@dataclass(frozen=True)
class Settings:
    """One documented field for each key of ``settings.PROCTREE``; every key is optional."""

    FUNCTION_MODULES: tuple[str, ...] | None = None
    """Module prefixes that a row may name. ``None``: the project's own apps (``project_apps``)."""

    DEFINITIONS: str | None = None
    """Importable module of the Dagster code location.

    ``None``: the project's own ``definitions``, if it has one, else the packaged one,
    ``proctree_dagster.definitions``.
    """

    TRANSLATOR: str = "proctree_dagster.orchestration.translator.ProcessTreeTranslator"
    """Dotted path of the translator, a ``ProcessTreeTranslator`` or a subclass of it."""

    EXECUTOR: str = "threads"
    """An executor's name, or the dotted path of a Dagster ``ExecutorDefinition``."""

    MAX_CONCURRENT: int = 4
    """How many processes of one run may run at once, where the executor can do so.

    Also how many trees ``check_and_run_scheduled_tasks()`` runs at once.
    """

    POOLS: Mapping[str, int] = field(default_factory=dict)
    """Dagster's concurrency pools and their sizes."""

    DAGSTER_HOME: str | None = ""
    """The Dagster instance's folder.

    Left out: the environment's ``DAGSTER_HOME``, else ``dagster_home`` in the project's folder,
    which is created with a ``dagster.yaml`` when it is first used. ``None``: the environment's
    only; without one, runs from Python leave no history, and nothing can be scheduled.
    """

    DAGSTER_URL: str | None = field(default=None, repr=False)
    """The address at which Django itself reaches Dagster's webserver, for reloads.

    Also that of links, if there is no ``DAGSTER_PUBLIC_URL``. It may hold a user and a password,
    ``https://user:password@host``: they are sent as basic authentication, and are in no link, no
    message and no log. It may be a socket, ``unix:/run/dagster.sock``.
    """

    DAGSTER_PUBLIC_URL: str | None = field(default=None, repr=False)
    """The address at which people reach Dagster's UI: where links lead."""

    DAGSTER_PATH: str = "/dagster"
    """The path under which ``proctree_dagster.web`` serves Dagster's UI, beside the Django site."""

    SITE_URL: str | None = field(default=None, repr=False)
    """The address of the Django site, for links from Dagster to the admin."""

    LOG_LEVEL: str = "INFO"
    """Lowest level of the project's own loggers that is in a run's log."""

    LOGGERS: tuple[str, ...] | None = None
    """The loggers that are the project's own. ``None``: those of its own apps (``project_apps``).

    Of other loggers a run's log has warnings and errors.
    """

    CACHE: str = "default"
    """Alias in ``CACHES`` for the results of processes."""

    EXIT_GRACE: float = 60.0
    """Seconds that a run's process may take to end after its run."""

    RUNS_PER_WORKER: int = 100
    """How many runs the process of a run executes at most, where trees have ``reuse_worker``."""

    MEMORY_PER_WORKER: int = 512
    """Memory, in MiB, from which on such a process executes no further run."""

    COMMANDS_APP: str | None = None
    """Label of the app that ``create_command()`` writes into. ``None``: the function's app."""

    LOST_AFTER: float = 60.0
    """Seconds without a sign of life after which a run's worker counts as lost, on any host."""

    TERMINATE_GRACE: float = 15.0
    """Seconds that a terminated run may take to clean up before its worker is killed."""

    CONTEXT_MODELS: tuple[str, ...] | None = None
    """Models whose rows a context may hold: apps (``ledger``) and models (``ledger.Account``).

    An app stands for those of its models that hold no secret. ``None``: the project's own apps.
    """

    TRIGGER_MODELS: tuple[str, ...] | None = None
    """Models whose rows a trigger may count, filter and date; see ``CONTEXT_MODELS``.

    ``None``: the project's own apps, and ``AUTH_USER_MODEL``.
    """

    RELEASE: int | None = None
    """A number that grows with each release, such as that of the build.

    An older release than the last one that has synced trees (``proctree sync``) changes none.
    ``None``: the last sync counts.
    """

    SECRETS: str | tuple[str, ...] | None = None
    """Where the values of ``{"$secret": name}`` in contexts come from.

    Dotted path of a function that takes a name and returns a text, ``None`` for one that it does
    not know. Or the names of the environment's variables that contexts may refer to. ``None``: any
    variable of the environment.
    """

    SYNC_ON_MIGRATE: bool = False
    """Whether ``manage.py migrate`` makes the rows of declared trees follow the code, too."""

    PRELOAD: bool = False
    """Whether a process that serves pages imports Dagster when it starts, not when it needs it.

    Commands of ``manage.py`` import it when they need it, whatever this says.
    """

    SENTRY: tuple[str, ...] = ("errors",)
    """What Sentry is sent, where the project has called ``sentry_sdk.init``.

    ``"errors"``: the errors of processes. ``"crons"``: a check-in for each run of a schedule.
    """

    METRICS_TOKEN: str | None = field(default=None, repr=False)
    """What a reader of ``proctree_dagster.prometheus.metrics`` sends who has no login.

    ``None``: only users who may see runs read it.
    """

    KEEP: retention.Rules = field(default_factory=retention.Rules)
    """How long history is kept: a dictionary of texts, such as ``{"runs": "90 days"}``.

    Its keys are those of ``domain.retention.Rules``. What has no key is kept for good, but for the
    outbox: 30 days. A tree's ``keep_runs`` comes before ``runs``.
    """

    ALERTS: alert_settings.Alerts = field(default_factory=alert_settings.Alerts)
    """Who gets which alerts, as a dictionary (see ``domain.alert_settings``). None: nobody."""


_KEYS = tuple(each.name for each in fields(Settings))
_LISTS = {
    "FUNCTION_MODULES": "module prefixes",
    "CONTEXT_MODELS": "apps and models",
    "TRIGGER_MODELS": "apps and models",
    "LOGGERS": "loggers' names",
}
"""Keys that hold a list of texts, and of what; ``None`` means a default."""
_SWITCHES = ("PRELOAD", "SYNC_ON_MIGRATE")
_NUMBERS = ("MAX_CONCURRENT", "RUNS_PER_WORKER", "MEMORY_PER_WORKER")
_ADDRESSES = ("DAGSTER_URL", "DAGSTER_PUBLIC_URL", "SITE_URL")
_SENTRY = ("errors", "crons")
_PATH = re.compile(r"(/[A-Za-z0-9_-]+)+")
_TEXT = {"TRANSLATOR", "EXECUTOR", "CACHE"}
_SECONDS = {"EXIT_GRACE": 0, "LOST_AFTER": 5, "TERMINATE_GRACE": 0}
"""Keys that hold seconds, and their minimum."""


def current() -> Settings:
    """Return the settings as they are now.

    Raises
    ------
    ImproperlyConfigured
        A key is unknown or its value has the wrong type; all of them are named.
    """
    given = getattr(settings, "PROCTREE", {})
    found = problems(given)
    if found:
        raise ImproperlyConfigured(" ".join(found))
    values = dict(given)
    for key in (*_LISTS, "SECRETS", "SENTRY"):
        if values.get(key) is not None and not isinstance(values[key], str):
            values[key] = tuple(values[key])
    if "KEEP" in values:
        values["KEEP"] = retention.rules(values["KEEP"])
    for key in ("DAGSTER_HOME", *_ADDRESSES):
        if values.get(key) is not None:
            values[key] = str(values[key])
    if "ALERTS" in values:
        values["ALERTS"] = alert_settings.read(values["ALERTS"])
    return Settings(**values)


def problems(given: Any) -> list[str]:
    """Return a sentence for each problem of the dictionary ``given``."""
    if not isinstance(given, Mapping):
        return [f"PROCTREE must be a dictionary, not {type(given).__name__}."]
    found = []
    for key, value in given.items():
        if key not in _KEYS:
            found.append(_unknown(key))
        elif key == "KEEP":
            found += (f"PROCTREE['KEEP']{problem}" for problem in retention.problems(value))
        elif key == "ALERTS":
            found += alert_settings.problems(value)
        elif complaint := _complaint(key, value):
            found.append(f"PROCTREE[{key!r}] must be {complaint}, not {_shown(key, value)}.")
    return found


def _unknown(key: object) -> str:
    close = difflib.get_close_matches(str(key).upper(), _KEYS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else f" Known keys: {', '.join(_KEYS)}."
    return f"PROCTREE has no key {key!r}.{hint}"


def _complaint(key: str, value: Any) -> str | None:
    """Return what ``value`` should have been; ``None`` if it is right."""
    if key in _LISTS:
        good = value is None or (
            isinstance(value, (list, tuple, set)) and all(is_text(each) for each in value)
        )
        return None if good else f"a list of {_LISTS[key]}"
    if key == "SENTRY":
        good = isinstance(value, (list, tuple, set)) and all(each in _SENTRY for each in value)
        return None if good else f"a list of {' and '.join(map(repr, _SENTRY))}, or an empty one"
    if key == "LOG_LEVEL":
        levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        return None if value in levels else f"one of {', '.join(levels)}"
    if key in _NUMBERS:
        return None if is_whole(value, 1) else "a whole number from 1"
    if key == "RELEASE":
        return None if value is None or is_whole(value, 0) else "a whole number from 0, or None"
    if key == "SECRETS":
        good = value is None or (
            all(is_text(each) for each in value)
            if isinstance(value, (list, tuple, set))
            else is_text(value) and "." in value
        )
        return (
            None
            if good
            else ("the dotted path of a function, a list of the environment's variables, or None")
        )
    if key == "METRICS_TOKEN":
        good = value is None or (is_text(value) and len(value) >= SHORTEST_TOKEN)
        return None if good else f"a text of at least {SHORTEST_TOKEN} characters, or None"
    if key in _SWITCHES:
        return None if isinstance(value, bool) else "True or False"
    if key in _SECONDS:
        least = _SECONDS[key]
        good = is_number(value) and least <= value < float("inf")
        return None if good else f"a number of seconds from {least}"
    if key == "POOLS":
        good = isinstance(value, Mapping) and all(
            is_text(name) and is_whole(size, 1) for name, size in value.items()
        )
        return None if good else "a dictionary of pool names and sizes from 1"
    if key in _TEXT:
        return None if is_text(value) else "a non-empty string"
    if key == "DAGSTER_PATH":
        good = is_text(value) and _PATH.fullmatch(value) is not None
        return None if good else "a path such as /dagster, without a slash at its end"
    if key in _ADDRESSES:
        return None if value is None else _complaint_of_address(key, value)
    # A pathlib.Path is welcome for a folder.
    good = value is None or is_text(value) or (key == "DAGSTER_HOME" and hasattr(value, "is_dir"))
    return None if good else "a non-empty string or None"


def _complaint_of_address(key: str, value: Any) -> str | None:
    if key == "DAGSTER_URL" and is_text(value) and value.startswith(SOCKET):
        good = value[len(SOCKET) :].startswith("/") and value.isprintable()
        return None if good else "a socket with its whole path, such as unix:/run/dagster.sock"
    if not is_text(value) or not value.startswith(("http://", "https://")):
        return "an address that begins with http:// or https://, or None"
    parts = _parts(value)
    if parts is None or not value.isprintable() or " " in value:
        return (
            "an address with a host (in its user and its password '/', '?' and '#' are written "
            "%2F, %3F and %23)"
        )
    if parts.query or parts.fragment:
        return "an address without '?' and '#': paths are appended to it"
    if key != "DAGSTER_URL" and "@" in parts.netloc:
        return "an address without a user and a password: it is a link that everybody sees"
    return None


def without_login(url: str) -> str:
    """Return an address without the user and the password in it."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def _parts(address: str) -> SplitResult | None:
    """Return the parts of an address with a host, and a valid port if it has one."""
    try:
        parts = urlsplit(address)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:  # its text names what can't be read, such as half a password
        return None


def _shown(key: str, value: Any) -> str:
    """Return a value for a message; an address only if it can't hold a password or a token."""
    text = repr(value)
    if key == "METRICS_TOKEN":
        return f"this {type(value).__name__} (not shown: it is a secret)"
    is_harmless = not isinstance(value, str) or "//" not in value or _parts(value) is not None
    if key not in _ADDRESSES or (is_harmless and not re.search("[@?#]", text)):
        return text
    return f"this {type(value).__name__} (not shown: it may hold a password)"
