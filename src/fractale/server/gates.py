"""The gates before the MCP endpoint. Each request passes them in this order.

1. `HostGate`: one well-formed Host header that names this server, against DNS rebinding; and an
   Origin that may call, against web pages of other sites.
2. `BearerGate`: the token, unless the request is for ``/health``.
3. `JsonGate`: JSON of at most `MOST_DEPTH` levels.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fractale.server.options import HEALTH

MOST_DEPTH: Final = 200

MOST_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a request's body that are examined; the MCP library refuses longer bodies."""

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


class HostGate:
    """Checks the headers Host and Origin.

    It answers 400 to a malformed or repeated Host, 421 to the Host of another server, and 403 to
    a web page of another origin.

    Args:
        hosts: Names that Host may have, beside those of this machine's loopback and the address
            that the request came in on. Patterns such as ``*``.
        origins: Origins that may call, beside the server's own. Patterns such as
            ``https://*.example``.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = (*_LOOPBACK, *map(_host_name, hosts))
        self._origins = tuple(map(_origin, origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        hosts = _headers(scope, b"host")
        if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
            return _bad_request("the Host header is not one host name")
        host = (hosts[0] if hosts else b"").decode("ascii")
        if not _matches(_host_name(host), (*self._hosts, *_address(scope))):
            return PlainTextResponse("Misdirected Request", status_code=421)
        given = b",".join(_headers(scope, b"origin")).decode("latin-1")
        if given and not self._admits(given, f"{scope.get('scheme', 'http')}://{host}"):
            return PlainTextResponse("Forbidden Origin", status_code=403)
        return None

    def _admits(self, given: str, own: str) -> bool:
        if _matches(_origin(given), self._origins) or _origin(given) == _origin(own):
            return True
        return all(map(_is_loopback, (given, own)))


class BearerGate:
    """Passes a request that has the token; ``/health`` needs none.

    Args:
        token: Compared in constant time.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass the request on."""
        if scope["type"] != "http" or scope["path"] == HEALTH or self._admits(scope):
            await self._app(scope, receive, send)
            return
        error = {"error": "unauthorized", "message": "send `Authorization: Bearer TOKEN`"}
        challenge = {"WWW-Authenticate": 'Bearer realm="fractale"'}
        await JSONResponse(error, status_code=401, headers=challenge)(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = _headers(scope, b"authorization")
        scheme, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        return hmac.compare_digest(token.strip(), self._expected) and scheme.lower() == b"bearer"


class JsonGate:
    """Answers 400 to JSON of more than `MOST_DEPTH` levels, which no JSON reader could parse."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        read: list[Message] = []
        body = bytearray()
        while not read or (read[-1].get("more_body") and len(body) <= MOST_BYTES):
            message = await receive()
            read.append(message)
            body += message.get("body", b"")
        if _depth(bytes(body)) > MOST_DEPTH:
            words = f"the JSON has more than {MOST_DEPTH} levels"
            await _bad_request(words)(scope, receive, send)
            return
        read.reverse()

        async def again() -> Message:
            return read.pop() if read else await receive()

        await self._app(scope, again, send)


def _depth(body: bytes) -> int:
    """How deep JSON is nested, at least as far as `MOST_DEPTH`."""
    if body.count(b"[") + body.count(b"{") <= MOST_DEPTH:
        return 0
    depth = 0
    for token in _TOKEN.finditer(body):
        if token[0] in b"[{":
            depth += 1
            if depth > MOST_DEPTH:
                break
        elif token[0] in b"]}":
            depth -= 1
    return depth


def _bad_request(words: str) -> JSONResponse:
    return JSONResponse({"error": "bad request", "message": words}, status_code=400)


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _matches(value: str, patterns: Iterable[str]) -> bool:
    return any(pattern == "*" or fnmatchcase(value, pattern) for pattern in patterns)


def _address(scope: Scope) -> list[str]:
    """The address that a request came in on, unless it is that of every network."""
    name = _host_name(scope["server"][0]) if scope.get("server") else ""
    try:
        return [] if ipaddress.ip_address(name).is_unspecified else [name]
    except ValueError:
        return [name] if name else []


def _host_name(host: str) -> str:
    """A host without its port: an IPv6 address without its brackets, all else up to the colon."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _origin(text: str) -> str:
    """An origin with its port, in lower case; a text that is none, in lower case."""
    text = text.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return text.lower()
    if not parts.scheme or not parts.hostname or parts.path or parts.query or parts.fragment:
        return text.lower()
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _is_loopback(origin: str) -> bool:
    try:
        name = urlsplit(origin).hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
