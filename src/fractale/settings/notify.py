"""Notifications in the settings: what is sent when a run ends, fails, or asks a question."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, cast, get_args
from urllib.parse import urlsplit

from fractale.durations import parse_duration
from fractale.errors import SettingsError
from fractale.settings.environment import named_by
from fractale.settings.secrets import looks_random, secrets_of_variable, shown_arguments
from fractale.settings.servers import VARIABLE
from fractale.text import did_you_mean, listing

Occasion: TypeAlias = Literal["end", "failure", "question"]
"""When a notification is sent: at any end of a run, only at a failure, at a question."""

OCCASIONS: Final[tuple[Occasion, ...]] = get_args(Occasion)
KEYS: Final = ("on", "command", "webhook", "headers", "token_env", "env_from", "ca_file", "timeout")
OF_COMMANDS: Final = ("env_from",)
OF_WEBHOOKS: Final = ("headers", "token_env", "ca_file")
DEFAULT_SECONDS: Final = 10.0
MOST_SECONDS: Final = 60.0
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """One entry of `notify`: either a command or a webhook.

    Args:
        on: When it is sent.
        command: The program and its arguments.
        webhook: The URL that gets a POST; as it is written if a variable of it is not set.
        env: Further variables of the command, which may be secrets.
        timeout: Seconds that one attempt may take.
        secrets: Texts of this entry that must not be shown or stored.
        unset: Environment variables that it names and that are not set: it cannot be sent.
    """

    on: tuple[Occasion, ...] = ()
    command: tuple[str, ...] = ()
    webhook: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    ca_file: str | None = None
    timeout: float = DEFAULT_SECONDS
    secrets: tuple[str, ...] = field(default=(), repr=False)
    unset: tuple[str, ...] = ()
    origin: str = ""

    @property
    def address(self) -> str:
        """The command, or the host of the webhook, to display: without secrets."""
        if self.webhook is None:
            return " ".join(map(shlex.quote, shown_arguments(self.command)))
        return _host_of(self.webhook)


def shown_webhook(url: str) -> str:
    """A webhook to display, of a file. Its path and query, often its password, are left out."""
    return url if VARIABLE.search(url) else _host_of(url)


def _host_of(url: str) -> str:
    if "://" not in url:  # `${NAME}`, which is not set
        host, slash, _ = url.partition("/")
        return f"{host}/…" if slash else host
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def parse_notify(value: Any, environment: Mapping[str, str], origin: str) -> tuple[Notify, ...]:
    """The entries of `notify` in one file.

    Raises:
        SettingsError: An entry does not have the right form.
    """
    if not isinstance(value, list):
        raise SettingsError(
            f"{origin}: `notify` must be a list of entries",
            hint="such as `notify: [{on: [failure, question], command: [mail-me]}]`",
        )
    return tuple(
        _entry(each, environment, f"{origin}: `notify[{number}]`", origin)
        for number, each in enumerate(cast("list[Any]", value))
    )


def _entry(entry: Any, environment: Mapping[str, str], where: str, origin: str) -> Notify:
    data = _checked(entry, where)
    made = _of_command if "command" in data else _of_webhook
    on, timeout = _occasions(data.get("on"), where), _timeout(data.get("timeout"), where)
    return replace(made(data, environment, where), on=on, timeout=timeout, origin=origin)


def _checked(entry: Any, where: str) -> Mapping[str, Any]:
    """An entry whose keys are known and fit each other.

    Raises:
        SettingsError: They do not.
    """
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} must be a mapping with `command` or `webhook`")
    data = {str(key): value for key, value in cast("dict[Any, Any]", entry).items()}
    if unknown := next((key for key in data if key not in KEYS), None):
        hint = did_you_mean(unknown, KEYS, otherwise=f"one of: {', '.join(KEYS)}")
        raise SettingsError(f"{where}: unknown key `{unknown}`", hint=hint)
    if ("command" in data) == ("webhook" in data):
        raise SettingsError(f"{where} needs either `command` or `webhook`")
    kind, others = ("command", OF_WEBHOOKS) if "command" in data else ("webhook", OF_COMMANDS)
    if odd := next((key for key in others if key in data), None):
        raise SettingsError(f"{where}: a {kind} has no `{odd}`")
    return data


def _of_command(data: Mapping[str, Any], environment: Mapping[str, str], where: str) -> Notify:
    env = named_by(environment, _names(data.get("env_from"), where))
    return Notify(command=_command(data["command"], where), env=env, secrets=_secrets(env))


def _of_webhook(data: Mapping[str, Any], environment: Mapping[str, str], where: str) -> Notify:
    headers = _headers(data, where)
    address = str(data["webhook"])
    named = [name for text in (address, *headers.values()) for name in VARIABLE.findall(text)]
    used = {name: environment.get(name, "") for name in named}
    unset = tuple(name for name, value in used.items() if not value)
    url, filled = _filled(address, used), {k: _filled(v, used) for k, v in headers.items()}
    if unset:
        url = address
    else:
        _check_url(url, where)
    parts = url.split("/", 3)  # the path of a webhook is often its password
    secrets = (*_secrets({**used, **filled}), *((url,) if len(parts) > 3 and parts[3] else ()))
    ca_file = str(data["ca_file"]) if data.get("ca_file") else None
    return Notify(webhook=url, headers=filled, ca_file=ca_file, secrets=secrets, unset=unset)


def _headers(data: Mapping[str, Any], where: str) -> dict[str, str]:
    given: Any = data.get("headers") or {}
    if not isinstance(given, dict):
        raise SettingsError(f"{where}: `headers` must be a mapping of names")
    headers = {str(k): str(v) for k, v in cast("dict[Any, Any]", given).items()}
    token = data.get("token_env")
    return {**headers, **({"Authorization": f"Bearer ${{{token}}}"} if token else {})}


def _occasions(value: Any, where: str) -> tuple[Occasion, ...]:
    given = [value] if isinstance(value, str) else value
    if given is None:
        return ("end", "question")
    if isinstance(given, list) and given:
        texts = [str(each) for each in cast("list[Any]", given)]
        if wrong := next((text for text in texts if text not in OCCASIONS), None):
            known = f"use {listing(OCCASIONS)}"
            hint = did_you_mean(wrong, OCCASIONS, otherwise=known)
            raise SettingsError(f"{where}: `on` has the unknown occasion `{wrong}`", hint=hint)
        return tuple(each for each in OCCASIONS if each in texts)
    raise SettingsError(f"{where}: `on` must be a list of {listing(OCCASIONS)}")


def _command(value: Any, where: str) -> tuple[str, ...]:
    words = cast("list[Any]", value) if isinstance(value, list) else []
    if words and all(isinstance(word, str | int | float) for word in words) and words[0]:
        return tuple(str(word) for word in words)
    raise SettingsError(
        f"{where}: `command` must be a list of words; it runs without a shell",
        hint="such as `command: [mail, -s, my run, me@site.example]`",
    )


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value or []
    if isinstance(names, list):
        texts = [str(name) for name in cast("list[Any]", names)]
        if all(re.fullmatch(r"[A-Za-z_*?][A-Za-z0-9_*?]*", text) for text in texts):
            return tuple(texts)
    raise SettingsError(f"{where}: `env_from` must be a list of names of variables")


def _timeout(value: Any, where: str) -> float:
    if value is None:
        return DEFAULT_SECONDS
    try:
        seconds = parse_duration(str(value))
    except ValueError:
        seconds = 0.0
    if 0 < seconds <= MOST_SECONDS:
        return seconds
    raise SettingsError(
        f"{where}: `timeout` must be a time up to {MOST_SECONDS:.0f}s, not `{value}`"
    )


def _check_url(url: str, where: str) -> None:
    """Check that a message is sent encrypted, or stays on this machine.

    Raises:
        SettingsError: It is not an address of HTTPS, nor of this machine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in ("http", "https"):
        raise SettingsError(f"{where}: `webhook` must be an address such as https://HOST/PATH")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise SettingsError(
            f"{where}: `webhook` must begin with https://; http:// is only for this machine"
        )


def _filled(text: str, values: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda found: values[found[1]], text)


def _secrets(table: Mapping[str, str]) -> tuple[str, ...]:
    found: set[str] = set()
    for name, value in table.items():
        found |= secrets_of_variable(name, value)
        if looks_random(value):
            found.add(value)
    return tuple(sorted(found))
