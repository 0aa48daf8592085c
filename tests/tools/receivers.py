"""Real receivers of alerts: a mail server, and a server that takes what webhooks post."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from django.core import mail

from tests.tools.stack import free_port


class Received:
    """What a receiver has received; the first deliveries fail.

    Parameters
    ----------
    failing:
        How many.
    """

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.tried = 0
        self.items: list[Any] = []
        self.port = 0
        self.answer = 200
        """The status of the answers of a web server that takes what it is sent."""
        self.then: Callable[[], None] = lambda: None
        """Called when something has arrived, before it is acknowledged."""
        self._lock = threading.Lock()

    def take(self, item: Any) -> bool:
        """Take a delivery; return whether it succeeds."""
        with self._lock:
            self.tried += 1
            if self.tried <= self.failing:
                return False
            self.items.append(item)
        self.then()
        return True


def mail_settings(port: int) -> dict[str, Any]:
    """Return the settings with which this Django sends mail to a server of this machine."""
    backend = "django.core.mail.backends.smtp.EmailBackend"
    if hasattr(mail, "mailers"):  # from Django 6.1 on
        options = {"host": "127.0.0.1", "port": port, "timeout": 10}
        return {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": options}}}
    return {"EMAIL_BACKEND": backend, "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port}


@contextmanager
def mail_server(failing: int = 0, port: int | None = None) -> Iterator[Received]:
    """Run a mail server that refuses the first mails for now."""
    received = Received(failing)

    class Handler:
        async def handle_DATA(  # noqa: N802  # its name in aiosmtpd
            self, _server: Any, _session: Any, envelope: Any
        ) -> str:
            sent: Message = message_from_bytes(envelope.content)
            text = bytes(sent.get_payload(decode=True)).decode()
            is_taken = received.take((envelope.rcpt_tos, sent["Subject"], text))
            return "250 OK" if is_taken else "451 Try again later"

    received.port = port or free_port()
    controller = Controller(Handler(), hostname="127.0.0.1", port=received.port)
    controller.start()
    try:
        yield received
    finally:
        controller.stop()


@contextmanager
def web_server(failing: int = 0, port: int = 0) -> Iterator[Received]:
    """Run a web server that answers the first requests with 503."""
    received = Received(failing)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_taken = received.take((self.path, dict(self.headers), json.loads(body)))
            self.send_response(received.answer if is_taken else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    received.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
