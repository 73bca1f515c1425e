"""The gate before the development server: it admits the server's own user only.

A client of the server can run any command as the user who started it. So the server answers only:

- requests with its token, if it has one: as the first part of the path, as ``x-api-key``, or as
  ``Authorization: Bearer``;
- without a token, connections of this machine whose other end belongs to the same user, or to
  root. The kernel lists each TCP socket with its owner in ``/proc/net/tcp`` and
  ``/proc/net/tcp6``. A client cannot forge its row: the row names the user who opened the socket.

Of web pages, it admits only Studio's and those of this machine.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import re
import socket
import struct
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from fractale.errors import SettingsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


STUDIO = ("https://smith.langchain.com", "https://eu.smith.langchain.com")
"""The origins of Studio's page."""
TOKEN = "FRACTALE_STUDIO_TOKEN"  # noqa: S105 - the name of a variable
"""The environment variable with the server's token."""
UNKNOWN, FORBIDDEN = 401, 403
ROOT = 0
ITSELF = "/noauth"
"""The path prefix of the server's calls to itself; no outside request can use it."""
POLICY_VIOLATION = 1008
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")

STRANGER = "this server answers only the user who started it"
NO_TOKEN = f"this request needs the server's token ({TOKEN})"
NOBODY = (
    "this server cannot identify the user who connects: it answers only its own user on this "
    f"machine; for others, start it with a token in {TOKEN}"
)
PAGE = "not from this page"


def read_token(environment: Mapping[str, str]) -> str | None:
    """Read the server's token; None if it has none.

    Raises:
        SettingsError: The token is too short, or can't be a part of a path.
    """
    token = environment.get(TOKEN) or None
    if token is not None and not _TOKEN.fullmatch(token):
        raise SettingsError(
            f"{TOKEN} must have 16 to 128 characters from A-Z, a-z, 0-9, `_` and `-`",
            hint='create one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return token


def required_token(environment: Mapping[str, str], *, tells_users: bool) -> str | None:
    """Read the server's token; None if it has none and needs none.

    Args:
        tells_users: Whether this machine shows which user connects.

    Raises:
        SettingsError: The token is missing, and the machine does not show which user connects.
    """
    token = read_token(environment)
    if token is None and not tells_users:
        raise SettingsError(
            "fractale cannot identify the user who connects, and the server has no token",
            hint=f"start it with `fractale studio`, which creates a token, or set {TOKEN}",
        )
    return token


class Gate:
    """Refuses requests of other users, and requests of foreign web pages.

    Args:
        origins: Web pages that may send requests, in addition to those of this machine.
        token: The required token; None: the user of the connection decides.
        uid: The user to admit, in addition to root; None: the user of this process.
    """

    def __init__(
        self,
        app: ASGIApp,
        origins: Sequence[str] = STUDIO,
        token: str | None = None,
        uid: int | None = None,
    ) -> None:
        self._app = app
        self._origins = origins
        self._token = token
        self._users = {ROOT, os.geteuid() if uid is None else uid}
        self._peers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 (no token) or 403."""
        root = scope.get("root_path") or ""
        if scope["type"] == "lifespan" or root == ITSELF or root.startswith(f"{ITSELF}/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        status, why = UNKNOWN, NO_TOKEN
        if self._token is None:
            status, why = FORBIDDEN, await self._stranger(receive)
        elif (inner := self._shown(scope, headers)) is not None:
            scope, why = inner, ""
        if not why and not self._is_own_page(headers):
            status, why = FORBIDDEN, PAGE
        if not why:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": why})
        else:
            await JSONResponse({"detail": why}, status)(scope, receive, send)

    # -- the token ------------------------------------------------------------------------------

    def _shown(self, scope: Scope, headers: Headers) -> Scope | None:
        """Return the request, without a token in its path; None if the token is missing."""
        bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._is_token(headers.get("x-api-key", "")) or self._is_token(bearer):
            return scope
        first, _, rest = str(scope["path"]).removeprefix("/").partition("/")
        if not self._is_token(first):
            return None
        raw: bytes = scope.get("raw_path") or b""
        _, _, raw_rest = raw.removeprefix(b"/").partition(b"/")
        return {**scope, "path": f"/{rest}", "raw_path": b"/" + raw_rest}

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), (self._token or "").encode())

    # -- the user -------------------------------------------------------------------------------

    async def _stranger(self, receive: Receive) -> str:
        """The reason to refuse the other end of a connection; empty to admit it."""
        # Only the connection itself identifies the client: headers can be forged, and the server
        # takes the client's address from a header.
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if transport is None:
            return NOBODY
        uid = self._peers.get(transport)
        if uid is None:
            connection = transport.get_extra_info("socket")
            uid = await asyncio.to_thread(peer_uid, connection)
            if uid is None:
                return NOBODY
            self._peers[transport] = uid
        return "" if uid in self._users else STRANGER

    # -- the page -------------------------------------------------------------------------------

    def _is_own_page(self, headers: Headers) -> bool:
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and origin not in self._origins:
            page = _host_of(origin)
            if not (_is_local(page) or (page == host and _is_address(host))):
                return False
        # A web page's domain can resolve to this machine, but the page does not know the token.
        return self._token is not None or _is_address(host)


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    """Whether a host is this machine, as a local browser names it."""
    name = _name_of(host)
    return name == "localhost" or (_is_address(host) and ipaddress.ip_address(name).is_loopback)


def _is_address(host: str) -> bool:
    """Whether a host is an IP address or localhost, and not a domain name."""
    name = _name_of(host)
    try:
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


# -- the user at the other end of a connection -----------------------------------------------------


TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")
_ESTABLISHED: Final = 1
_LOCAL, _REMOTE, _STATE, _UID, _INODE = 1, 2, 3, 7, 9
"""The columns of a row."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def can_tell_users() -> bool:
    """Whether this machine lists the owners of its sockets."""
    return TABLES[0].is_file()


def peer_uid(connection: Any) -> int | None:
    """Return the user id of the process at the other end of a TCP connection over loopback.

    Args:
        connection: The server's socket of the connection: a `socket.socket`, or an event loop's
            wrapper of one.

    Returns:
        None if the peer is on another machine, has closed its end, or is unknown.
    """
    try:
        (here, port), (there, peer_port) = (
            (_address(name[0]), int(name[1]))
            for name in (connection.getsockname(), connection.getpeername())
        )
        if not (here.is_loopback and there.is_loopback):
            return None
        owners = list(_owners((there, peer_port), (here, port)))
        # The port of an ended connection may belong to another user by now. While our end is
        # established, the row can only be that of our own peer. So this check comes last.
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
    return owners[0] if len(owners) == 1 and state == _ESTABLISHED else None


def _address(text: str) -> Address:
    """Parse an address; an IPv4 address in IPv6 notation becomes a plain IPv4 address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _owners(local: tuple[Address, int], remote: tuple[Address, int]) -> Iterator[int]:
    """Yield the owners of the sockets between these two ends, except sockets without a process.

    The kernel lists a socket that its process has closed as root's, without an inode.
    """
    written = {(a, b) for a, b in zip(_written(*local), _written(*remote), strict=True)}
    unknown = _OVERFLOW.read_text().strip()
    for table in TABLES:
        if not table.is_file():
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            row = line.split()
            if (row[_LOCAL], row[_REMOTE]) not in written or int(row[_STATE], 16) != _ESTABLISHED:
                continue
            if row[_INODE] != "0" and row[_UID] != unknown:
                yield int(row[_UID])


def _written(address: Address, port: int) -> list[str]:
    """Format an end of a connection as in the tables: words of 32 bits, in the machine's order."""
    forms = [address.packed]
    if address.version == 4:
        forms.append(bytes(10) + b"\xff\xff" + address.packed)
    return [
        "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed)) + f":{port:04X}"
        for packed in forms
    ]
