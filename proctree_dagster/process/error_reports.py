"""Errors of processes, reported to Sentry where the project uses it.

The project calls ``sentry_sdk.init`` in its settings as ever; as long as it has not, nothing is
done. ``PROCTREE["SENTRY"]`` says what is sent.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from .. import conf
from ..domain.run_tags import RUN_LOGGER
from . import masking

FLUSH_SECONDS = 2.0
"""Seconds that the process of a run waits for its reports to be sent, once it has ended."""


def is_in_use(what: str = "errors") -> bool:
    """Return whether the project uses Sentry, for ``"errors"`` or for ``"crons"``."""
    sdk = sys.modules.get("sentry_sdk")
    return sdk is not None and sdk.is_initialized() and what in conf.current().SENTRY


def begin() -> None:
    """Mask secrets in whatever this process sends; and leave out what is in a run's log.

    The log has the errors that are reported here, and what the project's loggers have logged.
    """
    if is_in_use():
        _mask_once()
        from sentry_sdk.integrations.logging import ignore_logger

        for name in ("dagster", RUN_LOGGER):  # in a worker, and in the calling process
            ignore_logger(name)


@cache
def _mask_once() -> None:
    """Mask the local variables of frames, above all."""
    from sentry_sdk.scope import add_global_event_processor

    add_global_event_processor(lambda event, hint: _masked(event))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return masking.text(value)
    if isinstance(value, dict):
        return {_masked_key(key): _masked(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_masked, value))
    return (
        value if value is None or isinstance(value, (bool, int, float)) else _masked_object(value)
    )


def _masked_key(key: Any) -> Any:
    return masking.text(key) if isinstance(key, str) else key


def _masked_object(value: Any) -> Any:
    """Return the object; if what Sentry would send of it has a secret, that without."""
    from sentry_sdk.serializer import serialize

    sent: Any = serialize({"value": value})
    shown = _masked(sent["value"])
    return value if shown == sent["value"] else shown


def report(error: BaseException, run: Mapping[str, str], *, handled: bool = False) -> None:
    """Report an error.

    Parameters
    ----------
    error:
        The error, with its traceback.
    run:
        What Sentry's tags say of its run: ``tree``, ``run_id``, ``process`` and others.
    handled:
        Whether the run continues: the process is not required.
    """
    if not is_in_use():
        return
    begin()
    import sentry_sdk
    from sentry_sdk.utils import event_from_exception

    event, hint = event_from_exception(
        error,
        client_options=sentry_sdk.get_client().options,
        mechanism={"type": "proctree_dagster", "handled": handled},
    )
    with sentry_sdk.new_scope() as scope:
        scope.set_tags({f"proctree.{key}": value for key, value in run.items()})
        scope.set_transaction_name(" / ".join(filter(None, [run.get("tree"), run.get("process")])))
        if handled:
            scope.set_level("warning")
        sentry_sdk.capture_event(event, hint=hint)


def flush() -> None:
    """Wait a little until the reports are sent: the process is about to end."""
    if is_in_use():
        import sentry_sdk

        sentry_sdk.flush(FLUSH_SECONDS)
