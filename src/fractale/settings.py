"""Settings: what a person set, where, and where each value came from.

Nothing else in fractale reads the environment. A value comes from, in this order: the command
line, the environment, the project's ``.fractale/config.yaml`` (in the working folder or the
nearest one above it), the user's ``~/.config/fractale/config.yaml``, the default.

A settings file looks like this; every key may be left out::

    provider: openai              # gemini, openai or local
    model: openai:gpt-4.1-mini    # provider:name, for any that LangChain's init_chat_model knows
    local_model: ~/models/a.gguf  # the file that the provider `local` loads
    fallback_models: [openai:gpt-4.1-nano]  # tried in turn where a step's model is out of reach
    max_attempts: 100
    store: postgresql://user@host/runs  # where checkpoints are kept, if not in the state folder
    servers:
      site: {url: "https://mcp.site.example/mcp", token_env: SITE_TOKEN}
      flux: {command: flux-mcp, args: [], env: {FLUX_URI: "local:///run/flux/local"}}
    prices:                       # US dollars per million tokens
      openai:gpt-4.1-mini: {input: 0.4, output: 1.6}
    policy:                       # what may be called; globs of tool names, and of arguments
      allow: ["hpc.filesystem_*"]
      deny: ["*.k8s_delete*", {tool: "*.shell", arguments: {command: "*rm *"}}]

`servers` and `prices` of the two files are put together by name, the project's over the user's;
the lists of `policy` are added to each other.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import unquote

from fractale.errors import SettingsError

DEFAULT_PROVIDER = "gemini"
DEFAULT_MODELS = {"gemini": "gemini-2.5-pro", "openai": "gpt-4.1", "local": "smollm2-135m"}
DEFAULT_MCP_PORT = 8089
DEFAULT_MAX_ATTEMPTS = 100
PROJECT_FOLDER = ".fractale"

STORE_SCHEMES = ("postgresql://", "postgres://")
STORE_VARIABLE = "FRACTALE_STORE"

Transport = Literal["stdio", "http", "sse"]

SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")
"""An environment variable with one of these words in its name holds a secret."""
SECRET_LENGTH = 8
"""A shorter secret is not looked for in texts: it would be found where it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How to reach one MCP server.

    Args:
        transport: ``stdio`` starts `command`; ``http`` is streamable HTTP; ``sse`` the older one.
        token: Sent as ``Authorization: Bearer``.
        verify: Whether the server's TLS certificate is checked.
        ca_file: Certificates to check it against, instead of the system's.
        timeout: Seconds that one call may take; None waits as long as the call needs.
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
    origin: str = ""

    @property
    def address(self) -> str:
        """The URL, or the command line, for people to read."""
        return self.url or " ".join([self.command or "", *self.args])


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float


@dataclass(frozen=True, slots=True)
class ToolRule:
    """One entry of a policy's list: which calls it speaks of.

    Args:
        tool: A glob of the bare or the ``server.tool`` name.
        arguments: Argument → glob of its text (of its JSON, where it is not text). All of them
            must be given and match.
        origin: The file that it stands in.
    """

    tool: str
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    origin: str = field(default="", compare=False)

    def __str__(self) -> str:
        """The entry as a person would say it."""
        if not self.arguments:
            return self.tool
        return f"{self.tool} where {', '.join(f'{k} is {v}' for k, v in self.arguments.items())}"


PolicyList: TypeAlias = "tuple[str | ToolRule, ...]"
"""Globs of tool names, or rules that look at arguments, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Calls that a model may make freely, or after asking, and those that nobody may make."""

    allow: PolicyList = ()
    ask: PolicyList = ()
    deny: PolicyList = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one process, and in `origins` where each came from."""

    provider: str = DEFAULT_PROVIDER
    model: str | None = None
    local_model: str | None = None
    openai_api_key: str | None = field(default=None, repr=False)
    openai_base_url: str | None = None
    gemini_api_key: str | None = field(default=None, repr=False)
    gemini_base_url: str | None = None
    fallback_models: tuple[str, ...] = ()
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    state_dir: Path = Path(PROJECT_FOLDER)
    store: str | None = field(default=None, repr=False)
    servers: Mapping[str, ServerSettings] = field(default_factory=dict[str, ServerSettings])
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    policy: PolicySettings = field(default_factory=PolicySettings)
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def model_spec(self) -> str:
        """The model as ``provider:name``."""
        if self.model and ":" in self.model:
            return self.model
        name = self.model or DEFAULT_MODELS.get(self.provider, "")
        return f"{self.provider}:{name}"

    @property
    def checkpoints(self) -> Path | str:
        """Where checkpoints are kept: a SQLite file, or a PostgreSQL server's URL."""
        return self.store or self.state_dir / "checkpoints.sqlite"

    def with_flags(
        self,
        *,
        provider: str | None = None,
        model: str | None = None,
        max_attempts: int | None = None,
        store: str | None = None,
    ) -> Settings:
        """The same settings with what the command line says put over them.

        Raises:
            SettingsError: `store` is no place that checkpoints can be kept in.
        """
        flags = {"provider": provider, "model": model, "max_attempts": max_attempts}
        given: dict[str, Any] = {k: v for k, v in flags.items() if v is not None}
        if provider is not None and model is None:
            # Another provider's model name would be meaningless to this one.
            given["model"] = None
        if store is not None:
            given["store"] = _store(store)
            given["secrets"] = _with_password(self.secrets, given["store"])
        origins = {**self.origins, **dict.fromkeys(given, "command line")}
        return replace(self, **given, origins=origins)


ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "provider": ("FRACTALE_LLM_PROVIDER",),
    "model": ("FRACTALE_LLM_MODEL",),
    "local_model": ("FRACTALE_LOCAL_MODEL",),
    "openai_api_key": ("OPENAI_API_KEY",),
    "openai_base_url": ("OPENAI_BASE_URL",),
    "gemini_api_key": ("GEMINI_API_KEY", "GEMINI_API_TOKEN", "GOOGLE_API_KEY"),
    "gemini_base_url": ("GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
    "max_attempts": ("FRACTALE_MAX_ATTEMPTS",),
    "state_dir": ("FRACTALE_STATE_DIR",),
    "store": (STORE_VARIABLE,),
}
"""Setting → the environment variables that set it; the first that is set counts."""

FILE_KEYS = (
    "provider",
    "model",
    "local_model",
    "fallback_models",
    "openai_base_url",
    "gemini_base_url",
    "max_attempts",
    "state_dir",
    "store",
    "servers",
    "prices",
    "policy",
)


def load_settings(
    environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Settings:
    """Read the settings files and the environment.

    Args:
        environment: In place of the process's own environment.
        folder: The working folder to search from; the process's own if None.

    Returns:
        The settings with their origins.

    Raises:
        SettingsError: A file cannot be read, has an unknown key, or a value of the wrong type.
    """
    env = dict(os.environ if environment is None else environment)
    here = folder or Path.cwd()
    project = find_project_folder(here)
    values: dict[str, Any] = {"state_dir": project}
    origins = {f.name: "default" for f in fields(Settings)}
    user_file = Path(
        env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config"
    )
    for path in (user_file / "fractale" / "config.yaml", project / "config.yaml"):
        for key, value in read_file(path).items():
            if key in ("servers", "prices"):
                merged = {**values.get(key, {}), **_named(path, key, value)}
                values[key] = merged
            elif key == "policy":
                values[key] = _added(values.get(key, PolicySettings()), _policy(value, str(path)))
            else:
                values[key] = value
            origins[key] = str(path)
    values["servers"] = {
        name: parse_server(name, entry, env, origins.get("servers", ""))
        for name, entry in values.get("servers", {}).items()
    }
    values["prices"] = {name: _price(name, p) for name, p in values.get("prices", {}).items()}
    for key, variables in ENVIRONMENT.items():
        for variable in variables:
            if env.get(variable):
                values[key] = env[variable]
                origins[key] = f"environment {variable}"
                break
    _add_default_server(values, origins, env)
    values["max_attempts"] = _positive(values.get("max_attempts", DEFAULT_MAX_ATTEMPTS))
    values["fallback_models"] = _models(values.get("fallback_models", ()))
    values["state_dir"] = Path(str(values["state_dir"])).expanduser()
    values["store"] = _store(values.get("store"))
    secrets = tuple(
        sorted(
            {value for key, value in env.items() if len(value) >= SECRET_LENGTH and is_secret(key)}
            | {s.token for s in values["servers"].values() if s.token}
        )
    )
    secrets = _with_password(secrets, values["store"])
    return Settings(**values, origins=origins, secrets=secrets, environment=env)


def allows_color(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the environment allows colour on a terminal: neither NO_COLOR nor a dumb one."""
    env = os.environ if environment is None else environment
    return not env.get("NO_COLOR") and env.get("TERM", "") != "dumb"


def find_project_folder(here: Path) -> Path:
    """The nearest ``.fractale`` folder at or above `here`, else one that would be made there."""
    for folder in (here, *here.parents):
        if (folder / PROJECT_FOLDER).is_dir():
            return folder / PROJECT_FOLDER
    return here / PROJECT_FOLDER


def read_file(path: Path) -> dict[str, Any]:
    """One settings file as a mapping; empty if there is no such file.

    Raises:
        SettingsError: It is not YAML, or has a key that no setting has.
    """
    import yaml

    if not path.is_file():
        return {}
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"{path} must be a mapping of settings")
    table = cast("dict[str, Any]", data)
    for key in table:
        if key not in FILE_KEYS:
            near = difflib.get_close_matches(str(key), FILE_KEYS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(FILE_KEYS)}"
            raise SettingsError(f"{path}: unknown setting `{key}`", hint=hint)
    return table


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
        headers=_texts(data.get("headers")),
        verify=bool(data.get("verify", True)),
        ca_file=data.get("ca_file"),
        timeout=float(data["timeout"]) if data.get("timeout") is not None else None,
        origin=origin,
    )


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that a started server gets: all of it but what looks like a secret.

    A server on a cluster needs what the scheduler, modules and Spack have set; a key that it
    needs is named under its `env`.
    """
    return {
        key: value
        for key, value in environment.items()
        if not is_secret(key) and not (key == STORE_VARIABLE and store_password(value))
    }


def is_secret(variable: str) -> bool:
    """Whether an environment variable holds a secret, going by its name."""
    return any(word in variable.upper() for word in SECRET_WORDS)


def store_password(store: str | None) -> str | None:
    """The password in the URL of a store, as it stands there; None where there is none.

    It ends at the last ``@`` that can be it, so that also a password that should have been
    escaped is found as a whole.
    """
    parts = _URL_PASSWORD.search(store or "")
    return next((part for part in parts.groups() if part), None) if parts else None


def without_password(store: str | None) -> str | None:
    """The URL of a store for people to read."""
    password = store_password(store)
    return store.replace(password, "***") if store and password else store


_URL_PASSWORD = re.compile(r"://[^:/?#@]*:(.+)@|[?&]password=([^&]+)")


def _with_password(secrets: tuple[str, ...], store: str | None) -> tuple[str, ...]:
    written = store_password(store) or ""
    forms = {form for form in (written, unquote(written)) if len(form) >= SECRET_LENGTH}
    return tuple(sorted({*secrets, *forms}))


def _store(value: Any) -> str | None:
    if value is None or value == "sqlite":
        return None
    if isinstance(value, str) and value.startswith(STORE_SCHEMES):
        return value
    raise SettingsError(
        f"store must be `sqlite` or postgresql://user@host/database, not "
        f"`{without_password(str(value))}`",
        hint="another place for SQLite's file is set with FRACTALE_STATE_DIR",
    )


def _texts(table: Any) -> dict[str, str]:
    pairs = cast("dict[Any, Any]", table or {}).items()
    return {str(key): str(value) for key, value in pairs}


def _add_default_server(
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


def _named(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: `{key}` must be a mapping of names")
    return cast("dict[str, Any]", value)


def _price(name: str, entry: Any) -> Price:
    try:
        return Price(input=float(entry["input"]), output=float(entry["output"]))
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"price of `{name}` must be {{input: number, output: number}}, in dollars per "
            "million tokens"
        ) from error


POLICY_LISTS = ("allow", "ask", "deny")


def _policy(entry: Any, origin: str) -> PolicySettings:
    if not isinstance(entry, dict) or not set(cast("dict[str, Any]", entry)) <= {*POLICY_LISTS}:
        raise SettingsError(f"{origin}: policy must be a mapping with `allow`, `ask`, `deny`")
    lists = cast("dict[str, Any]", entry)
    for key, rules in lists.items():
        if not isinstance(rules, list):
            raise SettingsError(f"{origin}: `policy.{key}` must be a list of globs of tool names")
    return PolicySettings(
        **{
            key: tuple(
                _tool_rule(rule, f"{origin}: `policy.{key}[{number}]`", origin)
                for number, rule in enumerate(cast("list[Any]", rules))
            )
            for key, rules in lists.items()
        }
    )


def _tool_rule(rule: Any, where: str, origin: str) -> ToolRule:
    """One entry: a glob, or ``{tool: glob, arguments: {name: glob}}``."""
    if isinstance(rule, str) and rule:
        return ToolRule(rule, origin=origin)
    if isinstance(rule, dict):
        table = cast("dict[str, Any]", rule)
        arguments = table.get("arguments", {})
        known = set(table) <= {"tool", "arguments"} and isinstance(arguments, dict)
        if known and isinstance(table.get("tool"), str):
            texts = cast("dict[Any, Any]", arguments)
            if all(isinstance(each, str) for pair in texts.items() for each in pair):
                return ToolRule(table["tool"], texts, origin)
    raise SettingsError(
        f"{where} must be a glob of tool names, or {{tool: GLOB, arguments: {{NAME: GLOB}}}}",
        hint="put globs in quotes: YAML takes a bare * for something else",
    )


def _added(first: PolicySettings, more: PolicySettings) -> PolicySettings:
    """The lists of both: a later file adds to what an earlier one says."""
    return PolicySettings(
        **{key: (*getattr(first, key), *getattr(more, key)) for key in POLICY_LISTS}
    )


def _models(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if isinstance(names, (list, tuple)):
        texts = tuple(str(name) for name in cast("list[Any]", names))
        if all(":" in text for text in texts):
            return texts
    raise SettingsError(f"fallback_models must be a list of `provider:name`, not `{value}`")


def _positive(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise SettingsError(f"max_attempts must be a whole number above 0, not `{value}`")
    return number
