"""The gate before Dagster's webserver: nothing passes that is not let through.

It is an ASGI application around another one. A request passes if its path and host are plain, its
method and content are among the few that Dagster's UI uses, it comes from the same origin, and its
session is that of an active user who may see Dagster. What the user may change is put into the
scope for Dagster's resolvers to ask; a mutation that no permission guards does not pass at all. No
cookie, credential or forwarded header reaches the inner application.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, reverse
from graphql import GraphQLError

from ..services.dagster_access import MUTATIONS, RECORDER, ROLES, VIEW, VISITOR, Visitor
from . import actions, documents, visitors
from .documents import Refused

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 30.0
"""How long a request may take to send its body."""

CHECK_SECONDS = 20.0
"""Seconds between two checks of a WebSocket's session."""

MAX_MESSAGE = 256 * 1024
"""Most bytes of a message of a WebSocket."""

PASSED_HEADERS = (
    *(b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"content-length"),
    *(b"content-type", b"if-modified-since", b"if-none-match", b"range", b"user-agent"),
    *(b"connection", b"upgrade", b"sec-websocket-version", b"sec-websocket-key"),
    *(b"sec-websocket-protocol", b"sec-websocket-extensions", b"host"),
)
"""The headers of a request that reach the inner application."""

ANSWER_HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""The headers of every answer."""

UNAUTHORIZED, FORBIDDEN = 4401, 4403
"""The codes with which a WebSocket is closed."""


class Answer(Exception):
    """An answer instead of the inner application's: its status, and a sentence."""

    def __init__(self, status: int, reason: str, code: int = FORBIDDEN) -> None:
        super().__init__(reason)
        self.status, self.reason, self.code = status, reason, code


class LogIn(Answer):
    """Nobody is logged in: a page leads to the login, anything else gets 401."""

    def __init__(self) -> None:
        super().__init__(401, "Log in to the Django site first.", UNAUTHORIZED)


class Gate:
    """Lets requests through to Dagster's webserver.

    Parameters
    ----------
    inner:
        Dagster's webserver, an ASGI application.
    path:
        The path under which it is served, such as ``/dagster``.
    """

    def __init__(self, inner: ASGIApp, path: str) -> None:
        self._inner, self._path = inner, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        serve = self._serve_socket if scope["type"] == "websocket" else self._serve_http
        try:
            await serve(scope, receive, send)
        except Answer as answer:
            await _answer(answer, scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _plain_request(scope)
        seen = await visitors.look_async(request)
        visitor = await _let_in(seen)
        if scope["method"] == "POST":
            _require_same_origin(request)
            receive = await self._checked_body(scope, receive, request, visitor)
        await self._inner(self._scope(scope, visitor, request), receive, _hardened(send))

    async def _checked_body(
        self, scope: Scope, receive: Receive, request: HttpRequest, visitor: Visitor
    ) -> Receive:
        """Read a request for the GraphQL endpoint, and return what hands it on."""
        if scope["path"] != f"{self._path}/graphql":
            raise Answer(405, "Only the GraphQL endpoint takes a POST.")
        kinds = _headers(scope, b"content-type")  # of two, another server may read the other one
        if [each.split(";")[0].strip().lower() for each in kinds] != ["application/json"]:
            raise Answer(415, "Send JSON: the content type must be application/json.")
        body = await _body(scope, receive)
        query, variables = _query_of(body)
        if "mutation" in query:  # no mutation lacks the word, most queries do
            await _check_mutations(query, variables, visitor, _address(request))
        return _replay(body, receive)

    def _scope(self, scope: Scope, visitor: Visitor, request: HttpRequest) -> Scope:
        """Return the scope for the inner application."""
        headers = [pair for pair in scope["headers"] if pair[0].lower() in PASSED_HEADERS]
        recorder = actions.recorder(_address(request))
        passed = {name: value for name, value in scope.items() if name not in ("user", "session")}
        return {**passed, "headers": headers, VISITOR: visitor, RECORDER: recorder}

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _plain_request(scope)
        if scope["path"] != f"{self._path}/graphql":
            raise Answer(404, "There is no WebSocket here.")
        _require_same_origin(request)
        visitor = await _let_in(await visitors.look_async(request))
        inner = asyncio.ensure_future(
            self._inner(self._scope(scope, visitor, request), _checked_messages(receive), send)
        )
        watch = asyncio.ensure_future(_session_ends(scope))
        try:
            done, _ = await asyncio.wait({inner, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # the server may cancel this one
            for task in (inner, watch):
                task.cancel()
        if inner not in done:
            logger.info("A WebSocket of %r is closed: its session has ended.", visitor.username)
            await send({"type": "websocket.close", "code": UNAUTHORIZED})
        with suppress(asyncio.CancelledError):
            await inner


def _plain_request(scope: Scope) -> HttpRequest:
    """Refuse a path, a method or a host that is not plain; return Django's request."""
    raw = scope.get("raw_path") or scope["path"].encode()
    if not _is_plain(raw.partition(b"?")[0], scope["path"]):
        raise Answer(400, "The path is not plain.")
    method = scope.get("method", "GET")
    if method not in ("GET", "HEAD", "POST"):
        raise Answer(405, f"{method} is not served here.")
    if scope["path"].endswith("/graphql") and _asks_in_address(scope["query_string"]):
        raise Answer(405, "A query is sent as a POST, not in an address.")
    request = visitors.request_of(scope)
    try:
        request.get_host()
    except DisallowedHost:
        raise Answer(400, "The host is not among ALLOWED_HOSTS.") from None
    return request


def _asks_in_address(query_string: bytes) -> bool:
    """Return whether an address holds a query, as Starlette reads it; it may be long."""
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return any(name == "query" for name, _ in pairs)


def _is_plain(raw: bytes, path: str) -> bool:
    """Return whether a path has no part that another server would read differently.

    It is decoded until nothing changes, so that ``%252e`` hides nothing.
    """
    decoded = raw
    for _ in range(5):
        before, decoded = decoded, unquote_to_bytes(decoded)
        if before == decoded:
            break
    else:
        return False
    odd = (b"\\", b"\0", b"//", b"\r", b"\n", b";")
    if any(each in decoded for each in odd) or "\\" in path:
        return False
    return not any(part in (b".", b"..") for part in decoded.split(b"/"))


async def _let_in(seen: visitors.Seen) -> Visitor:
    if not seen.is_known:
        raise LogIn
    visitor = await visitors.visitor_async(seen)
    if VIEW not in visitor.granted:
        raise Answer(403, "You lack the permission to see Dagster.")
    return visitor


def _require_same_origin(request: HttpRequest) -> None:
    """Refuse what another site's page, or something that is no page, has sent."""
    origin = request.headers.get("Origin", "")
    own = f"{request.scheme}://{request.get_host()}"
    trusted = {own, *(each for each in settings.CSRF_TRUSTED_ORIGINS if "*" not in each)}
    if origin not in trusted:
        raise Answer(403, f"The origin {origin!r:.100} is not this site's, {own}.")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Return a request's body, bounded in size and time."""
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 2_621_440
    length = _header(scope, b"content-length")
    if length is not None and length.isdecimal() and int(length) > most:
        raise Answer(413, f"The request is longer than {most:,} bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Answer(400, "The request was cut off.")
                body += message.get("body", b"")
                if len(body) > most:
                    raise Answer(413, f"The request is longer than {most:,} bytes.")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Answer(408, f"The request did not end within {BODY_SECONDS:.0f} s.") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that hands on a body that was read."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _query_of(body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the query of a request and its variables; refuse a batch, or anything else."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        raise Answer(400, "The request is no JSON.") from None
    if not isinstance(sent, dict) or not isinstance(sent.get("query"), str):
        raise Answer(400, 'Send one object with a "query"; batches are not served.')
    variables = sent.get("variables") or {}
    if isinstance(variables, str):
        try:
            variables = json.loads(variables)
        except (ValueError, RecursionError):
            raise Answer(400, "The variables are no JSON.") from None
    if not isinstance(variables, dict):
        raise Answer(400, "The variables must be an object.")
    return sent["query"], variables


async def _check_mutations(
    query: str, variables: dict[str, Any], visitor: Visitor, address: str
) -> None:
    """Refuse a mutation that no permission guards, or for which the user lacks the role."""
    try:
        found = documents.mutations(documents.read(query), variables)
    except (Refused, GraphQLError, RecursionError) as error:
        raise Answer(400, str(error)) from error
    roles = {each.name: ROLES.get(MUTATIONS.get(each.name, "")) for each in found}
    refused = [each for each in found if roles[each.name] not in visitor.granted]
    if refused:
        await sync_to_async(actions.record)(visitor, address, refused, allowed=False)
        names = ", ".join(each.name for each in refused)
        raise Answer(403, f"You lack the permission for this in Django: {names}.")


def _checked_messages(receive: Receive) -> Receive:
    """Return a ``receive`` that lets only small messages and subscriptions through."""

    async def checked() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive":
            problem = _problem_of_message(message)
            if problem:
                logger.warning("A message of a WebSocket was refused: %s", problem)
                return {"type": "websocket.disconnect", "code": FORBIDDEN}
        return message

    return checked


def _problem_of_message(message: Message) -> str:
    """Return why a message of a WebSocket is not let through; blank if it is."""
    text = message.get("text")
    if text is None:
        return "it is no text"
    if len(text) > MAX_MESSAGE:
        return f"it is longer than {MAX_MESSAGE:,} characters"
    try:
        sent = json.loads(text)
        if not isinstance(sent, dict):
            return "it is no object"
        if sent.get("type") != "start":
            return ""
        payload = sent.get("payload")
        query = payload.get("query") if isinstance(payload, dict) else None
        if not isinstance(query, str):
            return "it has no query"
        if documents.kinds(documents.read(query)) != {"subscription"}:
            return "it asks for something other than a subscription"
    except (ValueError, RecursionError, Refused) as error:
        return f"it can't be read: {error}"
    return ""


async def _session_ends(scope: Scope) -> None:
    """Return when a WebSocket's session may see Dagster no longer."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        try:
            await _let_in(await visitors.look_async(visitors.request_of(scope)))
        except Answer:
            return
        except Exception:  # the database can't be asked: who is let in stays until it can
            logger.exception("A session can't be read; its WebSocket is closed.")
            return


def _hardened(send: Send) -> Send:
    """Return a ``send`` that adds the headers of every answer, and lets no cookie through."""
    names = {name for name, _ in ANSWER_HEADERS} | {b"set-cookie"}

    async def hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            message = {**message, "headers": [*kept, *ANSWER_HEADERS]}
        await send(message)

    return hardened


async def _answer(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in place of the inner application."""
    if scope["type"] == "websocket":
        await receive()  # the request to connect
        await send({"type": "websocket.close", "code": answer.code, "reason": answer.reason})
        return
    if isinstance(answer, LogIn) and _is_page(scope):
        asked = scope["path"] + ("?" + scope["query_string"].decode("latin-1")).rstrip("?")
        location = redirect_to_login(asked, login_path()).headers["Location"]
        await respond(send, 302, b"", [(b"location", location.encode())])
    else:
        await respond_to_person(scope, receive, send, answer.status, answer.reason)


def _is_page(scope: Scope) -> bool:
    """Return whether a person waits for the answer, and not a program."""
    accepts = _header(scope, b"accept") or ""
    return scope.get("method") in ("GET", "HEAD") and "text/html" in accepts


async def respond_to_person(
    scope: Scope, receive: Receive, send: Send, status: int, reason: str, refresh: int | None = None
) -> None:
    """Answer with a sentence: as a text for a person, as JSON for a program.

    Parameters
    ----------
    scope, receive, send:
        The connection.
    status:
        The status of the answer.
    reason:
        The sentence.
    refresh:
        After how many seconds the browser asks again.
    """
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1013, "reason": reason})
        return
    headers = [] if refresh is None else [(b"refresh", str(refresh).encode())]
    if _is_page(scope):
        kind, text = b"text/plain; charset=utf-8", f"{reason}\n"
    else:
        kind, text = b"application/json", json.dumps({"errors": [{"message": reason}]})
    await respond(send, status, text.encode(), [*headers, (b"content-type", kind)])


async def respond(
    send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    """Answer with a status, a body and headers, and the headers of every answer."""
    length = (b"content-length", str(len(body)).encode())
    cache = (b"cache-control", b"no-store")
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*headers, length, cache, *ANSWER_HEADERS]})
    await send({"type": "http.response.body", "body": body})


def login_path() -> str:
    """Return the path of the login: the settings', or the admin's where that one does not exist."""
    path = resolve_url(settings.LOGIN_URL)
    if settings.LOGIN_URL == "/accounts/login/":  # Django's default, which most sites lack
        with suppress(NoReverseMatch):
            path = reverse("admin:login")
    return str(path)


def _header(scope: Scope, name: bytes) -> str | None:
    found = _headers(scope, name)
    return found[-1] if found else None


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _address(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))
