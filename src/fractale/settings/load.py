"""Settings from files and the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from fractale.errors import SettingsError
from fractale.settings.model import (
    DEFAULT_MAX_ATTEMPTS,
    PROJECT_FOLDER,
    Price,
    Settings,
)
from fractale.settings.rules import PolicySettings, added, read_policy
from fractale.settings.secrets import (
    STORE_VARIABLE,
    read_store,
    secrets_of_url,
    secrets_of_variable,
    with_password,
)
from fractale.settings.servers import add_default_server, parse_server

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
    "local_cores",
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
                values[key] = added(
                    values.get(key, PolicySettings()), read_policy(value, str(path))
                )
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
    add_default_server(values, origins, env)
    values["max_attempts"] = _positive(
        "max_attempts", values.get("max_attempts", DEFAULT_MAX_ATTEMPTS)
    )
    if values.get("local_cores") is not None:
        values["local_cores"] = _positive("local_cores", values["local_cores"])
    values["fallback_models"] = _models(values.get("fallback_models", ()))
    values["state_dir"] = here / Path(str(values["state_dir"])).expanduser()
    values["store"] = read_store(values.get("store"))
    found: set[str] = set()
    found.update(*(secrets_of_variable(name, value) for name, value in env.items()))
    found.update(*(server.secrets for server in values["servers"].values()))
    for key in ("openai_base_url", "gemini_base_url"):
        found |= secrets_of_url(str(values.get(key) or ""))
    secrets = with_password(tuple(sorted(found)), values["store"])
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

    try:
        if not path.is_file():
            return {}
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


def _models(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if isinstance(names, (list, tuple)):
        texts = tuple(str(name) for name in cast("list[Any]", names))
        if all(":" in text for text in texts):
            return texts
    raise SettingsError(f"fallback_models must be a list of `provider:name`, not `{value}`")


def _positive(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise SettingsError(f"{name} must be a whole number above 0, not `{value}`")
    return number
