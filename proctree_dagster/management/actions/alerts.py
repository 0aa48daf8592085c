"""Alerts: what was sent, and trying a recipient."""

from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ...domain.alert_rules import Message
from ...domain.texts import explain
from ...models import Alert, AlertDelivery
from ...services import alert_delivery
from ...support.row_reading import readable
from .base import Action
from .tree_list import say


class Alerts(Action):
    """Lists alerts, and tries recipients."""

    name = "alerts"
    help = (
        "List the latest alerts: what was sent to whom, and what could not be delivered yet. With "
        "--test a message is sent to a recipient: a mail address, or a name in "
        "PROCTREE['ALERTS']."
    )
    has_json = True

    @classmethod
    def add_arguments(cls, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--test", metavar="RECIPIENT", help="Send a message to this recipient.")
        parser.add_argument(
            "--undelivered", action="store_true", help="Those alone that are not delivered."
        )
        parser.add_argument(
            "--limit", type=int, default=20, help="How many at most; default: %(default)s."
        )

    def handle(self, options: Mapping[str, Any]) -> None:
        """List them, or send a message."""
        if options["test"] is not None:
            self._try(options["test"])
            return
        chosen = Alert.objects.order_by("-pk")
        if options["undelivered"]:
            chosen = chosen.exclude(state=AlertDelivery.DELIVERED)
        found = readable(chosen, most=max(options["limit"], 0))
        headings = ("LAST", "ALERT", "TO", "COUNT", "DELIVERY", "REASON")
        self.out.table(headings, [_cells(each) for each in found])
        self.out.document([_as_json(each) for each in found])

    def _try(self, recipient: str) -> None:
        text = "This message tries whether alerts of process trees reach this recipient."
        said = {"subject": "A test of alerts", "text": text, "kind": "test"}
        try:
            alert_delivery.send(recipient, Message(said["subject"], text, said))
        except Exception as error:  # whatever a mail server, a network or a library makes of it
            raise CommandError(f"Not sent to {recipient}: {explain(error)}") from error
        self.out.line(f"Sent to {recipient}.")
        self.out.document({"sent_to": recipient})


def _cells(alert: Alert) -> tuple[str, ...]:
    return (
        say(alert.last_at) or "",
        alert_delivery.message_of(alert).subject,
        alert.recipient,
        str(alert.count),
        alert.state,
        alert.reason,
    )


def _as_json(alert: Alert) -> dict[str, Any]:
    return {
        **alert_delivery.message_of(alert).data,
        "recipient": alert.recipient,
        "delivery": alert.state,
        "reason": alert.reason,
        "attempts": alert.attempts,
        "first_at": alert.first_at,
        "last_at": alert.last_at,
        "delivered_at": alert.delivered_at,
    }
