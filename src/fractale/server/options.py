"""Options of the server: flags, then files, then defaults; unsafe combinations are refused."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.registry import Registry
    from fractale.registry.files import Transport

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8089
HEALTH: Final = "/health"
"""The path that answers without a token."""
_PATHS: Final = {"http": "/mcp", "sse": "/sse"}
_OF_FILES: Final = ("transport", "host", "port", "path", "ssl_keyfile", "ssl_certfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Options of the server.

    Args:
        port: 0 for a free one.
        path: Of the MCP endpoint.
        token: The bearer token that clients must send; None: none.
        allowed_hosts: Names that the Host header may have, in addition to `host`.
        allowed_origins: Web origins that may call, in addition to the server's own.
        ssl_keyfile: With `ssl_certfile`, the server speaks HTTPS.
    """

    transport: Transport = "http"
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str = "/mcp"
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def url(self, port: int) -> str:
        """The endpoint's URL, with the port in use."""
        scheme = "https" if self.ssl_certfile else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}{self.path}"


def options_of(registries: Sequence[Registry], **flags: Any) -> ServeOptions:
    """Combine flags, files and defaults: the first that isn't None counts.

    Args:
        registries: The first whose file has an option decides it.
        flags: Fields of `ServeOptions`.

    Raises:
        UsageError: Another address without a token, a token that no header can carry, half a
            certificate, a reserved path.
    """
    chosen: dict[str, Any] = {name: _of_files(registries, name) for name in _OF_FILES}
    chosen.update({name: value for name, value in flags.items() if value is not None})
    chosen["token"] = chosen.get("token") or None
    path = chosen["path"] or _PATHS.get(chosen["transport"] or "http", "/mcp")
    chosen["path"] = "/" + str(path).strip("/")
    options = ServeOptions(**{name: value for name, value in chosen.items() if value is not None})
    if options.transport != "stdio":
        _check_token(options)
        _check_certificate(options)
        _check_path(options)
    return options


def _of_files(registries: Sequence[Registry], name: str) -> Any:
    said = (getattr(registry.server, name) for registry in registries)
    return next((value for value in said if value is not None), None)


def _check_token(options: ServeOptions) -> None:
    if options.token is None and not options.is_local:
        raise UsageError(
            f"serving on {options.host} without a token is refused: anyone who reaches this "
            "machine could call every tool",
            hint="set FRACTALE_MCP_TOKEN, or serve this machine only with `--host 127.0.0.1`",
        )
    token = options.token or ""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            "the token has characters that a header can't carry",
            hint="use letters and digits: `openssl rand -hex 32` makes one",
        )


def _check_certificate(options: ServeOptions) -> None:
    pair = options.ssl_keyfile, options.ssl_certfile
    if bool(pair[0]) != bool(pair[1]):
        raise UsageError("HTTPS needs both `ssl_keyfile` and `ssl_certfile`")
    for file in filter(None, pair):
        if not Path(file).is_file():
            raise UsageError(f"the certificate file {file} isn't there")


def _check_path(options: ServeOptions) -> None:
    """Refuse a path that is, or could match, the one that answers without a token."""
    if options.path == HEALTH:
        raise UsageError(f"`{HEALTH}` is the server's own; give the endpoint another `path`")
    if set("{}") & set(options.path):
        raise UsageError(f"the endpoint's path can't have variables: `{options.path}`")
