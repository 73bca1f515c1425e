"""The gate before every page: who may read and act, and from which page.

A client of `fractale web` can start commands as the user who started it. So each request passes
these checks, in this order; none of them is left to a handler:

1. One well-formed Host header that names this machine's loopback, against DNS rebinding. Its port
   is free, since `ssh -L` forwards from any port.
2. Origin, if there is one, is that Host; Sec-Fetch-Site names no other page, except for a link that
   was clicked. No answer has a CORS header, so that no other page can read one.
3. The other end of the connection belongs to this user (or to root). Browsers send a cookie of
   127.0.0.1 to every port, and so to servers of other users of the machine. A Linux machine that
   does not show the user of a connection gets no server on a port, only on a Unix socket.
4. GET and HEAD, or POST with a bounded form.
5. The token of the printed address, which is exchanged for a cookie at once; then the cookie. It
   is a strict one: what another page leads to comes without it. So the answer to the token is a
   page that continues automatically, and so is that to a link of another page.
6. For a POST: its Origin, and the form's CSRF token.

Static files need the cookie, too. Every answer has the headers of `HEADERS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import socket
import struct
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fractale.studio.gate import ROOT, peer_uid

TOKEN: Final = "token"  # noqa: S105 - the name of a parameter
CSRF: Final = "csrf"
"""The field of each form that proves that the form is of a page of this server."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Of a form: an input may be a whole script."""
MOST_FIELDS: Final = 500
FORM: Final = "application/x-www-form-urlencoded"

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SANDBOX: Final = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""The policy of what a tool or a job wrote."""
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # With `no-referrer`, browsers send `Origin: null` with the forms of our own pages.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "x-frame-options": "DENY",
}

_HOST = re.compile(rb"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
Query = Sequence[tuple[str, str]]

_OTHER_PAGES = (b"cross-site", b"same-site")
"""`same-site` is another port of this machine."""

ENTER = "open the address that `fractale web` printed: it contains the token of this server"
WRONG_TOKEN = "this token is not of this server; it prints a new one at each start"  # noqa: S105
STRANGER = "this server answers only the user who started it"
OTHER_PAGE = "not from this page"
STALE_FORM = "this form is not of this server, or of an earlier start of it: reload the page"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The secrets of one start of the server.

    Args:
        name: Distinguishes the cookies of several servers; such as the port.
        check_user: Whether this machine shows which user connects.
    """

    name: str
    check_user: bool = True
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def cookie(self) -> str:
        return f"fractale-{self.name}"

    @property
    def csrf(self) -> str:
        """The value of the field `CSRF` of the session's forms."""
        return hmac.new(self.session.encode(), b"csrf", hashlib.sha256).hexdigest()


class Guard:
    """Refuses requests, as the module says, and passes the others on.

    The fields of a POST's form are in ``request.state.form``, each once: the last value of a name.
    """

    def __init__(self, app: ASGIApp, access: Access, uid: int | None = None) -> None:
        self._app = app
        self._access = access
        self._users = {ROOT, os.geteuid() if uid is None else uid}
        self._peers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer = await self._answer(scope, receive)
            await (answer or self._app)(scope, _Replayed(scope, receive), _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """The answer of the gate itself; None to pass the request on."""
        return (
            _of_another_page(scope)
            or await self._of_another_user(receive)
            or self._not_entered(scope)
            or await self._wrong_form(scope, receive)
        )

    # -- 3. the user

    async def _of_another_user(self, receive: Receive) -> Response | None:
        if not self._access.check_user:
            return None
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if transport is None:
            return _refused(STRANGER, 403)
        uid = self._peers.get(transport)
        if uid is None:
            uid = await asyncio.to_thread(user_of, transport.get_extra_info("socket"))
            if uid is None:
                return _refused(STRANGER, 403)
            self._peers[transport] = uid
        return None if uid in self._users else _refused(STRANGER, 403)

    # -- 4. and 5. the method, the token, the cookie

    def _not_entered(self, scope: Scope) -> Response | None:
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return _refused("not a method of this server", 405, {"allow": "GET, HEAD, POST"})
        request = Request(scope)
        query: bytes = scope["query_string"]
        given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in given if name == TOKEN]
        if tokens and scope["method"] == "GET":
            if not _same(tokens[-1], self._access.token):
                return _refused(WRONG_TOKEN, 403)
            return self._let_in(scope, [each for each in given if each[0] != TOKEN])
        if not _same(request.cookies.get(self._access.cookie, ""), self._access.session):
            if _is_link_elsewhere(scope):
                return _onward(scope, given)
            return _refused(ENTER, 401)
        return None

    def _let_in(self, scope: Scope, given: Query) -> Response:
        """Exchange the token for the cookie, and lead to the same page without the token."""
        answer = _onward(scope, given)
        answer.set_cookie(
            self._access.cookie, self._access.session, path="/", httponly=True, samesite="strict"
        )
        return answer

    # -- 6. the form

    async def _wrong_form(self, scope: Scope, receive: Receive) -> Response | None:
        """Read the form of a POST, and check that it is of a page of this server."""
        if scope["method"] != "POST":
            return None
        headers = Headers(scope=scope)
        if headers.get("origin") is None:
            return _refused(OTHER_PAGE, 403)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            return _refused("a form is expected", 415)
        body = await _body(headers, receive)
        if body is None:
            return _refused(f"the form is larger than {MOST_BYTES // 2**20} MiB", 413)
        try:
            fields = parse_qsl(
                body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"
            )
        except ValueError:
            return _refused("not a valid form", 400)
        form = dict(fields)
        if not _same(form.pop(CSRF, ""), self._access.csrf):
            return _refused(STALE_FORM, 403)
        scope.setdefault("state", {})["form"] = form
        return None


def _onward(scope: Scope, query: Query) -> Response:
    """A page that leads to the same address with this query.

    A browser that comes from another page sends a strict cookie neither with the first request nor
    after redirects, but with what a page of this server leads to.
    """
    raw: bytes = scope.get("raw_path") or b"/"
    path = "/" + raw.decode("latin-1").partition("?")[0].lstrip("/\\")
    return HTMLResponse(_ONWARD.format(to=escape(f"{path}?{urlencode(query)}" if query else path)))


_ONWARD: Final = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>fractale</title>
<link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url={to}">
<p><a href="{to}">continue to fractale</a></p></html>
"""


def _is_link_elsewhere(scope: Scope) -> bool:
    """Whether a link of another page was clicked, so that the cookie is missing."""
    sites = _values(scope, b"sec-fetch-site")
    return scope["method"] == "GET" and bool(sites) and sites[0] in _OTHER_PAGES


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def _refused(why: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    # The connection ends, so that a body which was not read is not taken for the next request.
    return PlainTextResponse(f"{why}\n", status, {"connection": "close", **(headers or {})})


# -- 1. and 2. Host, Origin, and the page that asks ----------------------------------------------


def _of_another_page(scope: Scope) -> Response | None:
    hosts = _values(scope, b"host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return _refused("this server has no such name; use 127.0.0.1 or localhost", 421)
    origins = _values(scope, b"origin")
    if origins and (len(origins) > 1 or not _is_host(origins[0], hosts[0])):
        return _refused(OTHER_PAGE, 403)
    if any(site in _OTHER_PAGES for site in _values(scope, b"sec-fetch-site")):
        # A link that was clicked elsewhere; it comes without the cookie, see `_onward`.
        mode, dest = _values(scope, b"sec-fetch-mode"), _values(scope, b"sec-fetch-dest")
        if scope["method"] != "GET" or mode != [b"navigate"] or dest != [b"document"]:
            return _refused(OTHER_PAGE, 403)
    return None


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _is_host(origin: bytes, host: bytes) -> bool:
    try:
        parts = urlsplit(origin.decode("ascii"))
    except ValueError:
        return False
    named = parts.netloc.lower() == host.decode("ascii").lower()
    return parts.scheme == "http" and named and not (parts.path or parts.query or parts.fragment)


# -- the other end of a connection -----------------------------------------------------------------


def user_of(connection: Any) -> int | None:
    """The user id of the process at the other end of a connection; None if it is not known."""
    if connection is None:
        return None
    if connection.family != socket.AF_UNIX:
        return peer_uid(connection)
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    size = struct.calcsize("3i")
    try:
        return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, size))[1]
    except OSError:
        return None


# -- the body, and the headers of answers ----------------------------------------------------------


async def _body(headers: Headers, receive: Receive) -> bytes | None:
    """The body of a request; None if it is too large."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BYTES:
        return None
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


class _Replayed:
    """The messages of a request whose body was read."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._ended = scope["method"] == "POST"
        self._receive = receive
        self.__self__ = getattr(receive, "__self__", None)

    async def __call__(self) -> Message:
        if self._ended:
            self._ended = False
            return {"type": "http.request", "body": b"", "more_body": False}
        return await self._receive()


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                if name not in headers:
                    headers[name] = value
        await send(message)

    return sending
