"""Settings from files and the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from fractale.errors import SettingsError
from fractale.settings.executors import parse_executors
from fractale.settings.files import (
    CONFIG,
    CONFIG_VARIABLE,
    SettingsFile,
    check_state_folder,
    find_project,
    read_user_file,
    trust_store,
    user_folder,
)
from fractale.settings.model import DEFAULT_MAX_ATTEMPTS, DEFAULT_POLL_SECONDS, Price, Settings
from fractale.settings.notify import parse_notify
from fractale.settings.rules import PolicySettings, added, read_policy
from fractale.settings.secrets import (
    STORE_VARIABLE,
    read_store,
    secrets_of_url,
    secrets_of_variable,
    with_password,
)
from fractale.settings.servers import add_default_server, bounded_servers, parse_servers
from fractale.settings.waiting import UntrustedProject, Waiting, changes, description, split
from fractale.text import did_you_mean

DECISION: Final = re.compile(r"(?:no:)?[0-9a-f]{64}")
"""A decision about one content of a project's file, for the processes that this one starts."""

ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "provider": ("FRACTALE_LLM_PROVIDER",),
    "model": ("FRACTALE_LLM_MODEL",),
    "local_model": ("FRACTALE_LOCAL_MODEL",),
    "openai_api_key": ("OPENAI_API_KEY",),
    "openai_base_url": ("OPENAI_BASE_URL",),
    "gemini_api_key": ("GEMINI_API_KEY", "GEMINI_API_TOKEN", "GOOGLE_API_KEY"),
    "gemini_base_url": ("GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"),
    "max_attempts": ("FRACTALE_MAX_ATTEMPTS",),
    "local_cores": ("FRACTALE_LOCAL_CORES",),
    "state_dir": ("FRACTALE_STATE_DIR",),
    "store": (STORE_VARIABLE,),
    "audit": ("FRACTALE_AUDIT",),
    "poll_seconds": ("FRACTALE_POLL_SECONDS",),
}
"""Setting → the environment variables that set it; the first one that is set is used."""

MOST_POLL_SECONDS = 3600


FILE_KEYS = (
    "provider",
    "model",
    "local_model",
    "fallback_models",
    "openai_base_url",
    "gemini_base_url",
    "max_attempts",
    "local_cores",
    "state_dir",
    "store",
    "audit",
    "poll_seconds",
    "servers",
    "prices",
    "policy",
    "notify",
    "executors",
)


def load_settings(
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    *,
    trust_project: bool = False,
    untrusted: Literal["refuse", "narrow"] = "refuse",
    check_state: bool = True,
) -> Settings:
    """Read the settings files and the environment.

    Args:
        environment: Used instead of the process's own environment.
        directory: The working directory to search from; the process's own if None.
        trust_project: Use the project's settings as if the user had trusted them, as
            FRACTALE_TRUST_PROJECT=1 does.
        untrusted: How to treat settings of a project that would act and are not trusted:
            ``refuse`` raises, ``narrow`` leaves them out and lists them in `Settings.waiting`.
            FRACTALE_TRUST_PROJECT=0 always leaves them out.
        check_state: Whether to raise if the state directory is not the user's own.

    Returns:
        The settings with their origins.

    Raises:
        UntrustedProject: The project's settings would act, and are not trusted.
        SettingsError: A file cannot be read, has an unknown key, or a value of the wrong type;
            the user's file or the state directory is another user's, or others may write to it.
    """
    env = dict(os.environ if environment is None else environment)
    here = (directory or Path.cwd()).resolve()
    user = read_user_file(user_folder(env) / CONFIG)
    project = find_project(here, env)
    merged = _Merged({"state_dir": project.directory})
    if user is not None:
        merged.add(str(user.path), user.table)
    waiting: tuple[Waiting, ...] = ()
    declined = False
    if (file := project.config) is not None:
        _check_keys(file.table, file.path)
        taken, waits = split(file.table, merged.limits())
        word = "1" if trust_project else env.get(CONFIG_VARIABLE, "")
        if not waits or is_trusted(file, word, env):
            taken = file.table
        else:
            waiting, declined = waits, is_declined(file, word)
            if untrusted == "refuse" and not declined:
                raise UntrustedProject(file.path, waits, changes_of(file, env))
        merged.add(str(file.path), taken, of_project=True)
    settings = replace(
        merged.settings(env, here, project.directory / CONFIG),
        waiting=waiting,
        declined=declined,
        project=project,
    )
    if check_state:
        origin = settings.origins["state_dir"]
        check_state_folder(settings.state_dir, named=origin != "default")
    return settings


def is_trusted(file: SettingsFile, word: str, environment: Mapping[str, str]) -> bool:
    """Whether a project's settings may act.

    Args:
        word: The value of FRACTALE_TRUST_PROJECT: ``1``, ``0``, the file's digest, ``no:`` and the
            digest, or empty.

    Raises:
        SettingsError: The value is not one of these, or the user's trust store cannot be used.
    """
    if word and word not in ("0", "1") and not DECISION.fullmatch(word):
        raise SettingsError(f"{CONFIG_VARIABLE} must be 1 or 0, not `{word}`")
    if word in ("1", file.digest):
        return True
    if is_declined(file, word):
        return False
    return trust_store(environment).holds("project", file.path, file.digest)


def waiting_of(file: SettingsFile, environment: Mapping[str, str]) -> tuple[Waiting, ...]:
    """The settings of a project's file that need trust, whether it has it or not.

    Raises:
        SettingsError: The user's own file cannot be read, or has a wrong value.
    """
    merged = _Merged({})
    if (user := read_user_file(user_folder(environment) / CONFIG)) is not None:
        merged.add(str(user.path), user.table)
    return split(file.table, merged.limits())[1]


def changes_of(file: SettingsFile, environment: Mapping[str, str]) -> list[str] | None:
    """The changes in a project's file since the user trusted it; None if the user never did.

    Raises:
        SettingsError: The user's trust store cannot be used.
    """
    before = trust_store(environment).find("project", file.path)
    return None if before is None else changes(before.shown, description(file.table))


def trust_file(file: SettingsFile, environment: Mapping[str, str]) -> None:
    """Record that the user trusts a project's file with this content.

    Raises:
        SettingsError: The user's trust store cannot be used.
    """
    shown = description(file.table)
    trust_store(environment).add("project", file.path, file.digest, shown=shown)


def decide_for_children(file: SettingsFile, *, trusted: bool) -> None:
    """Apply the user's decision to later reads by this process and its children.

    It is for this content of the file only.
    """
    os.environ[CONFIG_VARIABLE] = file.digest if trusted else f"no:{file.digest}"


def is_declined(file: SettingsFile, word: str) -> bool:
    """Whether the user chose to continue without the project's settings."""
    return word in ("0", f"no:{file.digest}")


class _Merged:
    """The merged values of several files; a later file overrides an earlier one."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.origins = {f.name: "default" for f in fields(Settings)}

    def add(self, path: str, table: Mapping[str, Any], *, of_project: bool = False) -> None:
        """Merge a file's settings over those of earlier files.

        Args:
            of_project: Whether it is the project's file.

        Raises:
            SettingsError: A setting does not have its form.
        """
        _check_keys(table, Path(path))
        for key, value in table.items():
            if key in ("servers", "prices", "executors"):
                entries = _named(path, key, value)
                if key == "servers":
                    own = {name: entry for name, (entry, _) in self.values.get(key, {}).items()}
                    entries = bounded_servers(own, entries, of_project=of_project)
                named = {name: (each, path) for name, each in entries.items()}
                self.values[key] = {**self.values.get(key, {}), **named}
            elif key == "notify":
                self.values[key] = [*self.values.get(key, []), (value, path)]
            elif key == "policy":
                earlier = self.values.get(key, PolicySettings())
                self.values[key] = added(earlier, read_policy(value, path))
            else:
                self.values[key] = value
            self.origins[key] = path

    def limits(self) -> dict[str, int]:
        """The effective limits."""
        return {
            "max_attempts": _positive(
                "max_attempts", self.values.get("max_attempts", DEFAULT_MAX_ATTEMPTS)
            ),
            "local_cores": _positive(
                "local_cores", self.values.get("local_cores") or len(os.sched_getaffinity(0))
            ),
        }

    def settings(self, env: dict[str, str], here: Path, project_file: Path) -> Settings:
        """The settings, with the environment over the files.

        Args:
            project_file: The project's settings: its servers are confined.

        Raises:
            SettingsError: A value is of the wrong type.
        """
        values, origins = self.values, self.origins
        servers = values.get("servers", {})
        values["servers"] = parse_servers(
            {name: entry for name, (entry, _) in servers.items()},
            env,
            {name: Path(origin) for name, (_, origin) in servers.items()},
            project_file.absolute(),
        )
        values["project_folder"] = project_file.absolute().parent.parent
        values["prices"] = {
            name: _price(name, entry) for name, (entry, _) in values.get("prices", {}).items()
        }
        values["executors"] = parse_executors(values.get("executors", {}))
        for key, variables in ENVIRONMENT.items():
            for variable in variables:
                if env.get(variable):
                    values[key] = env[variable]
                    origins[key] = f"environment {variable}"
                    break
        add_default_server(values, origins, env)
        values["max_attempts"] = _positive(
            "max_attempts", values.get("max_attempts", DEFAULT_MAX_ATTEMPTS)
        )
        if values.get("local_cores") is not None:
            values["local_cores"] = _positive("local_cores", values["local_cores"])
        values["fallback_models"] = _models(values.get("fallback_models", ()))
        values["state_dir"] = here / Path(str(values["state_dir"])).expanduser()
        values["store"] = read_store(values.get("store"))
        if values.get("audit"):
            values["audit"] = here / Path(str(values["audit"])).expanduser()
        given = values.get("poll_seconds")
        values["poll_seconds"] = _seconds(
            "poll_seconds", DEFAULT_POLL_SECONDS if given in (None, "") else given
        )
        values["notify"] = tuple(
            each
            for entries, path in values.get("notify", ())
            for each in parse_notify(entries, env, path)
        )
        found: set[str] = set()
        found.update(*(secrets_of_variable(name, value) for name, value in env.items()))
        found.update(*(server.secrets for server in values["servers"].values()))
        found.update(*(each.secrets for each in values["notify"]))
        for key in ("openai_base_url", "gemini_base_url"):
            found |= secrets_of_url(str(values.get(key) or ""))
        secrets = with_password(tuple(sorted(found)), values["store"])
        return Settings(**values, origins=origins, secrets=secrets, environment=env)


def allows_color(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the environment allows color on a terminal: no NO_COLOR, and not a dumb terminal."""
    env = os.environ if environment is None else environment
    return not env.get("NO_COLOR") and env.get("TERM", "") != "dumb"


def _check_keys(table: Mapping[str, Any], path: Path) -> None:
    """Check that all keys of a file are settings.

    Raises:
        SettingsError: One is not.
    """
    for key in table:
        if key not in FILE_KEYS:
            known = f"one of: {', '.join(FILE_KEYS)}"
            hint = did_you_mean(str(key), FILE_KEYS, otherwise=known)
            raise SettingsError(f"{path}: unknown setting `{key}`", hint=hint)


def _named(path: str, key: str, value: Any) -> dict[str, Any]:
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


def _models(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if isinstance(names, (list, tuple)):
        texts = tuple(str(name) for name in cast("list[Any]", names))
        if all(":" in text for text in texts):
            return texts
    raise SettingsError(f"fallback_models must be a list of `provider:name`, not `{value}`")


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= MOST_POLL_SECONDS:
        raise SettingsError(
            f"{name} must be a number of seconds from 0 to {MOST_POLL_SECONDS}, not `{value}`"
        )
    return seconds


def _positive(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise SettingsError(f"{name} must be a whole number above 0, not `{value}`")
    return number
