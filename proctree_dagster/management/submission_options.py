"""``--run-after``, ``--priority``, ``--key`` and ``--on-conflict`` of a run that is queued."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from ..domain.submissions import ON_CONFLICT, Submission, priority_tag
from ..exceptions import SubmissionError

_OPTIONS = ("run_after", "priority", "key", "on_conflict")


def add_arguments(parser: CommandParser) -> None:
    """Add them."""
    parser.add_argument(
        "--run-after",
        metavar="TIME",
        help="With --submit: not before this time, such as 2026-12-01T18:00, in the project's time "
        "zone, or 2026-12-01T18:00+02:00.",
    )
    parser.add_argument(
        "--priority",
        type=int,
        metavar="NUMBER",
        help="With --submit: a run of a higher one leaves Dagster's queue first; the default is 0.",
    )
    parser.add_argument(
        "--key",
        help="With --submit: of the runs with the same key at most one is unfinished at any time.",
    )
    parser.add_argument(
        "--on-conflict",
        choices=ON_CONFLICT,
        help="With --key, what to do if another run with it is unfinished: return its id (the "
        "default), skip this one, replace that one, or queue behind it.",
    )


def read(options: Mapping[str, Any]) -> tuple[Submission, dict[str, str]]:
    """Return how a run is requested, and the tag of its priority.

    Raises
    ------
    SubmissionError
        An option is not valid, or is given without ``--submit``.
    """
    given = [name for name in _OPTIONS if options.get(name) is not None]
    if given and not options["submit"]:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SubmissionError(f"{named}: only a run that is queued has it; add --submit.")
    checked = Submission.checked(
        _time(options.get("run_after")), options.get("key"), options.get("on_conflict")
    )
    return checked, priority_tag(options.get("priority"))


def _time(text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise SubmissionError(
            f"--run-after is a time such as 2026-12-01T18:00, not {text!r}."
        ) from error
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
