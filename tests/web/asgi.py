"""Sending requests to an ASGI application in the test's own thread, and its database."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import Client
from django.utils.encoding import iri_to_uri

Headers = Sequence[tuple[str, str]]

HOST = "testserver"
ORIGIN = f"http://{HOST}"


@dataclass
class Got:
    """What an application has answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.body.decode()


class Inner:
    """An application behind the gate, which records what reaches it."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.bodies: list[bytes] = []
        self.messages: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await self._socket(receive, send)
            return
        if scope["method"] == "POST":
            self.bodies.append((await receive())["body"])
        headers = [(b"set-cookie", b"inner=1"), (b"x-frame-options", b"ALLOWALL")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"inner"})

    async def _socket(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.messages.append(message)


def cookies_of(client: Client) -> str:
    """Return the session's cookie of somebody who is logged in by Django's test client."""
    name = settings.SESSION_COOKIE_NAME
    return f"{name}={client.cookies[name].value}" if name in client.cookies else ""


def http(
    app: Any,
    path: str,
    method: str = "GET",
    *,
    body: bytes | Sequence[bytes] = b"",
    headers: Headers = (),
    client: Client | None = None,
    raw_path: bytes | None = None,
    host: str = HOST,
) -> Got:
    """Send a request, and return the answer."""
    given = {"host": host, **{key.lower(): value for key, value in headers}}
    if client is not None:
        given["cookie"] = cookies_of(client)
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "http_version": "1.1",
        "path": path,
        "raw_path": iri_to_uri(path).encode() if raw_path is None else raw_path,
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode()) for key, value in given.items()],
        "client": ("192.0.2.1", 1234),
        "server": (HOST, 80),
    }
    parts = [body] if isinstance(body, bytes) else list(body)
    incoming = [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
        for index, part in enumerate(parts)
    ]
    return _exchange(app, scope, incoming)


def query(
    app: Any, text: str, variables: Any = None, *, origin: str = ORIGIN, **others: Any
) -> Got:
    """Send a query as Dagster's UI does."""
    body = json.dumps({"query": text, "variables": variables or {}}).encode()
    headers = [("content-type", "application/json"), ("origin", origin)]
    return http(app, "/dagster/graphql", "POST", body=body, headers=headers, **others)


def socket(
    app: Any,
    *,
    client: Client | None = None,
    origin: str = ORIGIN,
    path: str = "/dagster/graphql",
    messages: Sequence[str] = (),
    host: str = HOST,
) -> Got:
    """Open a WebSocket, send messages, and leave; return what was sent to it."""
    headers = {
        "host": host,
        "origin": origin,
        "cookie": "" if client is None else cookies_of(client),
    }
    scope = {
        "type": "websocket",
        "scheme": "ws",
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "client": ("192.0.2.1", 1234),
        "server": (HOST, 80),
        "subprotocols": ["graphql-ws"],
    }
    texts = [{"type": "websocket.receive", "text": each} for each in messages]
    leaves = {"type": "websocket.disconnect", "code": 1000}
    return _exchange(app, scope, [{"type": "websocket.connect"}, *texts, leaves])


def _exchange(app: Any, scope: Any, incoming: list[Any]) -> Got:
    got = Got()
    waiting = list(incoming)

    async def receive() -> Any:
        if not waiting:  # the client waits for the answer
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: Any) -> None:
        got.sent.append(message)
        if message["type"] == "http.response.start":
            got.status = message["status"]
            pairs = message.get("headers", ())
            got.headers = {key.decode(): value.decode() for key, value in pairs}
        elif message["type"] == "http.response.body":
            got.body += message.get("body", b"")

    async_to_sync(app)(scope, receive, send)
    return got
