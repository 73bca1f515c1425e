"""MCP servers in the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from fractale.durations import parse_duration
from fractale.errors import SettingsError
from fractale.secret_names import is_secret
from fractale.settings.environment import named_by, passed_on
from fractale.settings.secrets import (
    looks_random,
    secrets_of_arguments,
    secrets_of_url,
    secrets_of_variable,
    shown_arguments,
    shown_url,
)
from fractale.text import did_you_mean

DEFAULT_MCP_PORT = 8089

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""How a header names an environment variable."""

STARTED_BY = "FRACTALE_STARTED_BY"
"""The variable that marks the processes of a started server; batch jobs do not get it."""

Transport = Literal["stdio", "http", "sse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How to reach one MCP server.

    Args:
        transport: ``stdio`` starts `command`; ``http`` is streamable HTTP; ``sse`` the older one.
        env: The whole environment of the started server; see `fractale.settings.environment`.
        named: Names of the variables that its entry sets or passes on by name.
        withheld: Names of the variables that are set in this process but that it does not get.
        secrets: Texts of this entry that must not be shown or stored.
        token: Sent as ``Authorization: Bearer``.
        verify: Whether the server's TLS certificate is checked.
        ca_file: Certificates to check it against, instead of the system's.
        timeout: Seconds that one call may take; None waits as long as the call needs.
        handshake: Seconds that the server has for its first answer; None: the usual time.
        confine: Whether the started program is confined (`fractale.confine`).
        writable: If confined, directories that it may write besides the project's.
        network: If confined, whether it may open sockets.
        project: The project's directory, which it may write.
    """

    name: str
    transport: Transport
    url: str | None = None
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    named: tuple[str, ...] = field(default=(), repr=False)
    withheld: tuple[str, ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    cwd: str | None = None
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    verify: bool = True
    ca_file: str | None = None
    timeout: float | None = None
    handshake: float | None = None
    confine: bool = False
    writable: tuple[str, ...] = ()
    network: bool = False
    project: Path | None = None
    origin: str = ""

    @property
    def address(self) -> str:
        """The URL, or the command line, to display: without secrets."""
        if self.url:
            return shown_url(self.url)
        return " ".join([self.command or "", *shown_arguments(self.args)])


SERVER_KEYS = (
    "transport",
    "url",
    "command",
    "args",
    "env",
    "env_from",
    "cwd",
    "token",
    "token_env",
    "headers",
    "verify",
    "ca_file",
    "timeout",
    "handshake",
    "confine",
    "writable",
    "network",
)

CONFINE_KEYS = ("confine", "writable", "network")
"""Keys that the user's own settings decide for a project's servers."""


def parse_server(
    name: str,
    entry: Any,
    environment: Mapping[str, str],
    origin: str,
    *,
    project: Path | None = None,
    of_project: bool = False,
) -> ServerSettings:
    """One entry of `servers`.

    Args:
        project: The project's directory, which a confined server may write.
        of_project: Whether the project's settings name it: then it is confined unless the user's
            own settings say otherwise.

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
            known = f"one of: {', '.join(SERVER_KEYS)}"
            hint = did_you_mean(str(key), SERVER_KEYS, otherwise=known)
            raise SettingsError(f"server `{name}`: unknown key `{key}` ({origin})", hint=hint)
    if bool(data.get("url")) == bool(data.get("command")):
        raise SettingsError(f"server `{name}` needs either `url` or `command` ({origin})")
    transport = data.get("transport") or ("http" if data.get("url") else "stdio")
    if transport == "streamable-http":
        transport = "http"
    if transport not in ("stdio", "http", "sse"):
        raise SettingsError(f"server `{name}`: transport must be stdio, http or sse ({origin})")
    starts = transport == "stdio"
    _check_starts(name, data, origin, starts=starts)
    token = data.get("token")
    if variable := data.get("token_env"):
        token = environment.get(str(variable))
    args = tuple(str(a) for a in cast("list[Any]", data.get("args") or []))
    own, env_from = _texts(data.get("env")), _names(name, data.get("env_from"), origin)
    env = {**passed_on(environment, env_from), **own} if data.get("command") else {}
    headers = _texts(data.get("headers"))
    filled = _filled(name, headers, environment, origin)
    secrets = {
        *_secrets_of_table({**named_by(environment, env_from), **own}),
        *_secrets_of_table(filled),
        *_secrets_of_variables(headers, environment),
        *secrets_of_url(str(data.get("url") or "")),
        *secrets_of_arguments(args),
        *([str(token)] if token else []),
    }
    return ServerSettings(
        name=name,
        transport=transport,
        url=data.get("url"),
        command=data.get("command"),
        args=args,
        env=env,
        named=tuple(sorted({*own, *named_by(environment, env_from)})) if env else (),
        withheld=tuple(sorted(environment.keys() - env.keys())) if env else (),
        secrets=tuple(sorted(secrets)),
        cwd=data.get("cwd"),
        token=token,
        headers=filled,
        verify=bool(data.get("verify", True)),
        ca_file=data.get("ca_file"),
        timeout=_seconds(name, "timeout", data, origin),
        handshake=_seconds(name, "handshake", data, origin),
        confine=_flag(name, "confine", data, origin, default=of_project and starts),
        writable=_directories(name, data, origin),
        network=_flag(name, "network", data, origin),
        project=project,
        origin=origin,
    )


def bounded_servers(
    own: Mapping[str, Any], named: Mapping[str, Any], *, of_project: bool
) -> dict[str, Any]:
    """A file's servers; those of a project have the user's settings of their confinement.

    A project cannot lift its own confinement: `confine: false` in its file is ignored.

    Args:
        own: The servers of the user's own settings.
        of_project: Whether the file is the project's.
    """
    if not of_project:
        return dict(named)
    return {name: _bounded(entry, own.get(name)) for name, entry in named.items()}


def _bounded(entry: Any, own: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    table = cast("dict[str, Any]", entry)
    kept = {key: value for key, value in table.items() if key != "confine" or value is not False}
    said = cast("dict[str, Any]", own) if isinstance(own, dict) else {}
    return {**kept, **{key: said[key] for key in CONFINE_KEYS if key in said}}


def parse_servers(
    entries: Mapping[str, Any],
    environment: Mapping[str, str],
    origins: Mapping[str, Path],
    project_file: Path,
) -> dict[str, ServerSettings]:
    """The servers of all files, without entries that set only a confinement.

    Args:
        origins: The file that each is from.
        project_file: The project's settings: its servers are confined unless the user says
            otherwise.

    Raises:
        SettingsError: One of them is wrong.
    """
    return {
        name: parse_server(
            name,
            entry,
            environment,
            str(origins[name]),
            project=project_file.parent.parent,
            of_project=origins[name].absolute() == project_file,
        )
        for name, entry in entries.items()
        if not _only_confines(entry)
    }


def _check_starts(name: str, data: Mapping[str, Any], origin: str, *, starts: bool) -> None:
    if starts:
        return
    for key in CONFINE_KEYS:
        if key in data:
            raise SettingsError(
                f"server `{name}`: `{key}` is only for servers with a `command`; this one has a "
                f"URL ({origin})"
            )


def _only_confines(entry: Any) -> bool:
    keys = set(cast("dict[str, Any]", entry)) if isinstance(entry, dict) else set[str]()
    return bool(keys) and keys <= set(CONFINE_KEYS)


def _flag(
    name: str, key: str, data: Mapping[str, Any], origin: str, *, default: bool = False
) -> bool:
    value = data.get(key)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise SettingsError(f"server `{name}`: `{key}` must be true or false, not `{value}` ({origin})")


def _directories(name: str, data: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    value = data.get("writable")
    directories = [value] if isinstance(value, str) else value or []
    if isinstance(directories, list) and all(
        isinstance(f, str) for f in cast("list[Any]", directories)
    ):
        return tuple(cast("list[str]", directories))
    raise SettingsError(f"server `{name}`: `writable` must be a list of directories ({origin})")


def _secrets_of_table(table: Mapping[str, str]) -> set[str]:
    """The secrets in variables or headers that a server is given.

    If the name does not show whether the value is secret, the form of the value decides.
    """
    found: set[str] = set()
    for name, value in table.items():
        found |= secrets_of_variable(name, value)
        if looks_random(value):
            found.add(value)
    return found


def _secrets_of_variables(headers: Mapping[str, str], environment: Mapping[str, str]) -> set[str]:
    """The values of the variables that headers name, in headers or variables of secret names."""
    found: set[str] = set()
    for header, text in headers.items():
        for variable in VARIABLE.findall(text):
            value = environment.get(variable, "")
            found |= secrets_of_variable(variable, value)
            if value and (is_secret(header) or looks_random(value)):
                found.add(value)
    return found


def _names(server: str, value: Any, origin: str) -> tuple[str, ...]:
    """The names and globs of `env_from`.

    Raises:
        SettingsError: The value has another form.
    """
    names = [value] if isinstance(value, str) else value or []
    if isinstance(names, list):
        texts = [str(name) for name in cast("list[Any]", names)]
        if all(re.fullmatch(r"[A-Za-z_*?][A-Za-z0-9_*?]*", text) for text in texts):
            return tuple(texts)
    raise SettingsError(
        f"server `{server}`: `env_from` must be a list of names of variables ({origin})",
        hint='such as `env_from: [SITE_TOKEN, "EB*"]`; a value itself belongs under `env`',
    )


def _seconds(name: str, key: str, data: Mapping[str, Any], origin: str) -> float | None:
    """A time in seconds, from a number or a duration such as ``90s``; None if it is not set.

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
    """Add the server that FRACTALE_MCP_PORT or FRACTALE_MCP_TOKEN describes, as 0.1.0 did."""
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
        secrets=(token,) if token else (),
        origin=f"environment {variable}",
    )
    origins["servers"] = f"{origins['servers']}, environment {variable}"
