"""Sentry's SDK, whose reports are kept in memory instead of being sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.check_ins: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))
        items = [each for each in envelope.items if each.type == "check_in"]
        self.check_ins += [dict(each.payload.json or {}) for each in items]


@contextmanager
def in_use() -> Iterator[Kept]:
    """Set Sentry up as a project does, with its default integrations; afterwards it is not."""
    transport = Kept()
    with sentry_sdk.isolation_scope():
        sentry_sdk.init(
            dsn="http://key@127.0.0.1:1/1",
            transport=transport,
            auto_enabling_integrations=False,  # they would stay in this process
        )
        yield transport
        sentry_sdk.get_client().close(timeout=0)
        sentry_sdk.get_global_scope().set_client(None)
