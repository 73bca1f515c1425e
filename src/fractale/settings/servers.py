"""MCP servers in the settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from fractale.errors import SettingsError
from fractale.plan.durations import parse_duration
from fractale.settings.secrets import shown_arguments, shown_url, without_secrets

DEFAULT_MCP_PORT = 8089

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""How a header names an environment variable."""

STARTED_BY = "FRACTALE_STARTED_BY"
"""The variable that marks the processes of a started server; batch jobs don't get it."""

Transport = Literal["stdio", "http", "sse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How to reach one MCP server.

    Args:
        transport: ``stdio`` starts `command`; ``http`` is streamable HTTP; ``sse`` the older one.
        token: Sent as ``Authorization: Bearer``.
        verify: Whether the server's TLS certificate is checked.
        ca_file: Certificates to check it against, instead of the system's.
        timeout: Seconds that one call may take; None waits as long as the call needs.
        handshake: Seconds that the server has for its first answer; None: the usual time.
    """

    name: str
    transport: Transport
    url: str | None = None
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: str | None = None
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    verify: bool = True
    ca_file: str | None = None
    timeout: float | None = None
    handshake: float | None = None
    origin: str = ""

    @property
    def address(self) -> str:
        """The URL, or the command line, for people to read: nothing secret is in it."""
        if self.url:
            return shown_url(self.url)
        return " ".join([self.command or "", *shown_arguments(self.args)])


SERVER_KEYS = (
    "transport",
    "url",
    "command",
    "args",
    "env",
    "cwd",
    "token",
    "token_env",
    "headers",
    "verify",
    "ca_file",
    "timeout",
    "handshake",
)


def parse_server(
    name: str, entry: Any, environment: Mapping[str, str], origin: str
) -> ServerSettings:
    """One entry of `servers`.

    Raises:
        SettingsError: Unknown key, neither `url` nor `command`, or a wrong type.
    """
    if isinstance(entry, str):
        entry = {"url": entry}
    if not isinstance(entry, dict):
        raise SettingsError(f"server `{name}` must be a URL or a mapping ({origin})")
    data = cast("dict[str, Any]", entry)
    for key in data:
        if key not in SERVER_KEYS:
            near = difflib.get_close_matches(str(key), SERVER_KEYS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(SERVER_KEYS)}"
            raise SettingsError(f"server `{name}`: unknown key `{key}` ({origin})", hint=hint)
    if bool(data.get("url")) == bool(data.get("command")):
        raise SettingsError(f"server `{name}` needs either `url` or `command` ({origin})")
    transport = data.get("transport") or ("http" if data.get("url") else "stdio")
    if transport == "streamable-http":
        transport = "http"
    if transport not in ("stdio", "http", "sse"):
        raise SettingsError(f"server `{name}`: transport must be stdio, http or sse ({origin})")
    token = data.get("token")
    if variable := data.get("token_env"):
        token = environment.get(str(variable))
    return ServerSettings(
        name=name,
        transport=transport,
        url=data.get("url"),
        command=data.get("command"),
        args=tuple(str(a) for a in cast("list[Any]", data.get("args") or [])),
        env={**without_secrets(environment), **_texts(data.get("env"))},
        cwd=data.get("cwd"),
        token=token,
        headers=_filled(name, _texts(data.get("headers")), environment, origin),
        verify=bool(data.get("verify", True)),
        ca_file=data.get("ca_file"),
        timeout=_seconds(name, "timeout", data, origin),
        handshake=_seconds(name, "handshake", data, origin),
        origin=origin,
    )


def _seconds(name: str, key: str, data: Mapping[str, Any], origin: str) -> float | None:
    """A time in seconds, from a number or a duration such as ``90s``; None where there is none.

    Raises:
        SettingsError: It is neither.
    """
    value = data.get(key)
    if value is None:
        return None
    try:
        seconds = parse_duration(str(value))
    except ValueError:
        seconds = 0.0
    if seconds > 0:
        return seconds
    raise SettingsError(
        f"server `{name}`: `{key}` must be a time such as `90s`, not `{value}` ({origin})"
    )


def _filled(
    name: str, headers: Mapping[str, str], environment: Mapping[str, str], origin: str
) -> dict[str, str]:
    """Headers with the value of each environment variable that they name as ``${NAME}``.

    Raises:
        SettingsError: A variable is not set.
    """

    def value_of(found: re.Match[str]) -> str:
        variable = found[1]
        if variable in environment:
            return environment[variable]
        raise SettingsError(
            f"server `{name}`: the environment variable `{variable}` is not set, "
            f"which its `headers` need ({origin})"
        )

    return {key: VARIABLE.sub(value_of, value) for key, value in headers.items()}


def _texts(table: Any) -> dict[str, str]:
    pairs = cast("dict[Any, Any]", table or {}).items()
    return {str(key): str(value) for key, value in pairs}


def add_default_server(
    values: dict[str, Any], origins: dict[str, str], env: Mapping[str, str]
) -> None:
    """Add the server that FRACTALE_MCP_PORT or FRACTALE_MCP_TOKEN speaks of, as 0.1.0 did."""
    port, token = env.get("FRACTALE_MCP_PORT"), env.get("FRACTALE_MCP_TOKEN")
    if not port and not token:
        return
    if port and not port.isdigit():
        raise SettingsError(f"FRACTALE_MCP_PORT must be a port number, not `{port}`")
    variable = "FRACTALE_MCP_PORT" if port else "FRACTALE_MCP_TOKEN"
    values["servers"]["default"] = ServerSettings(
        name="default",
        transport="http",
        url=f"http://127.0.0.1:{port or DEFAULT_MCP_PORT}/mcp",
        token=token,
        origin=f"environment {variable}",
    )
    origins["servers"] = f"{origins['servers']}, environment {variable}"
