"""Starting LangGraph's development server on the graphs of a folder, with the store of its runs."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import keyword
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fractale.errors import DependencyMissing, StoreError, UsageError
from fractale.plan.build import load_plan
from fractale.private import make_folder, write_private
from fractale.runs.workspace import Extensions
from fractale.settings import Settings, load_settings
from fractale.studio.gate import STUDIO, TOKEN, can_tell_users, read_token

CONFIG = "langgraph.json"
OPTIONS = "FRACTALE_STUDIO"
"""The variable by which the server's graphs know the options, as JSON."""
NEEDED = ("langgraph_cli", "langgraph_api", "langgraph_runtime_inmem")
SHOWN_BELOW = "LANGGRAPH_MOUNT_PREFIX"
"""What the server puts after its address where it prints it, and where it opens Studio."""
SERVERS_OWN = ("LANGGRAPH_", "LANGSERVE_")
TOKEN_BYTES = 24
AT_ONCE = 4
"""Runs that the server does at the same time; others wait."""
QUIET = {
    "LANGSMITH_TRACING": "false",
    "LANGSMITH_TRACING_V2": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_API_KEY": "",
    "LANGCHAIN_API_KEY": "",
}
"""Nothing of a run, and nothing of its use, is sent anywhere."""

CORS = {
    "allow_origins": list(STUDIO),
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": ["x-pagination-total", "x-pagination-next", "content-location"],
}
"""Which web pages may read what the server answers."""

OWN_GRAPHS = '''\
"""The graphs of `fractale studio`, which writes this file anew at each start."""

from fractale.studio import any_plan, load_app, make_app, plan_graph, prompt_graph
from fractale.studio import open_saver as saver

__all__ = ["app", "saver"]

plan = any_plan()
prompt = prompt_graph()
'''
TAKEN = (
    "any_plan",
    "app",
    "load_app",
    "make_app",
    "plan",
    "plan_graph",
    "prompt",
    "prompt_graph",
    "saver",
)
"""Names that are something else in that file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How the server is to be started.

    Args:
        plans: Plan files that become graphs, beside those of the folder's ``langgraph.json``.
        extensions: What every run has beside the servers of the settings.
        host: The address to listen on.
        port: The port; another one is taken where it is in use.
        browser: Whether Studio's page is opened in the browser.
    """

    plans: Sequence[Path] = ()
    extensions: Extensions = field(default_factory=Extensions)
    host: str = "127.0.0.1"
    port: int = 2024
    browser: bool = True


def prepare(
    start: Start,
    settings: Settings,
    *,
    needed: Sequence[str] = NEEDED,
    tells_users: bool | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The command that starts the server, and its environment.

    The environment has a token where the server needs one: where it listens on more than this
    machine, or where this machine does not tell which user connects.

    Args:
        settings: With the options of the command line over them.
        needed: The packages without which there is no server.
        tells_users: Whether this machine says which user connects; None: it is looked up.

    Raises:
        DependencyMissing: The server isn't installed.
        PlanError: A plan is invalid.
        SettingsError: The token that is set can't be one.
        UsageError: Two plans have one name, or ``langgraph.json`` is damaged.
        StoreError: The state folder can't be written.
    """
    if not all(map(importlib.util.find_spec, needed)):
        raise DependencyMissing(
            "LangGraph's development server is not installed",
            hint="pip install 'fractale[studio]' (it is under the Elastic licence)",
        )
    config = _write_config(start, settings)
    words = ["dev", "--config", str(config), "--host", start.host, "--port", str(start.port)]
    words += ["--no-reload", "--n-jobs-per-worker", str(AT_ONCE)]
    if not start.browser:
        words.append("--no-browser")
    command = [sys.executable, "-m", "langgraph_cli", *words]
    own = {**settings.environment, **QUIET, **_passed_on(start, settings)}
    return command, {**own, **_token(start, settings, tells_users=tells_users)}


def is_own(host: str) -> bool:
    """Whether only this machine can reach a server that listens on a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(start: Start, settings: Settings, *, tells_users: bool | None) -> dict[str, str]:
    token = read_token(settings.environment)
    tells_users = can_tell_users() if tells_users is None else tells_users
    if token is None and not (is_own(start.host) and tells_users):
        token = secrets.token_urlsafe(TOKEN_BYTES)
    return {TOKEN: token, SHOWN_BELOW: f"/{token}"} if token else {}


def _passed_on(start: Start, settings: Settings) -> dict[str, str]:
    """The options as the server's graphs read them: as settings, from the environment."""
    flags = {
        "provider": ("FRACTALE_LLM_PROVIDER", settings.provider),
        "model": ("FRACTALE_LLM_MODEL", settings.model or ""),
        "store": ("FRACTALE_STORE", settings.store or ""),
        "max_attempts": ("FRACTALE_MAX_ATTEMPTS", str(settings.max_attempts)),
    }
    given = {
        variable: value
        for name, (variable, value) in flags.items()
        if settings.origins.get(name) == "command line"
    }
    tools = {
        "registries": [str(Path(path).absolute()) for path in start.extensions.paths],
        "agents": list(start.extensions.agents),
    }
    return {**given, OPTIONS: json.dumps(tools)}


def server_settings() -> Settings:
    """The settings inside the server, without the variables that the server sets for itself.

    The processes that runs start get the rest: the server's own variables may have its token.
    """
    environment = load_settings().environment
    return load_settings({n: v for n, v in environment.items() if not n.startswith(SERVERS_OWN)})


def _write_config(start: Start, settings: Settings) -> Path:
    """The server's configuration: the folder's ``langgraph.json``, with our gate before its app."""
    config = read_config(Path(CONFIG)) if Path(CONFIG).is_file() else {}
    folder = settings.state_dir.absolute() / "studio"
    module, place = folder / "graphs.py", folder / CONFIG
    named = _named(start.plans)
    paths = {name: repr(str(path)) for name, path in named.items()}
    lines = [f"{name} = plan_graph({path})\n" for name, path in paths.items()]
    http = {"cors": CORS, **_table(config, "http")}
    around = [f"around=load_app({http['app']!r})"] if http.get("app") else []
    lines.append(f"app = make_app({', '.join([*paths.values(), *around])})\n")
    written = {"dependencies": ["."], **config, "http": {**http, "app": f"{module}:app"}}
    if start.plans or not config:
        own = {name: f"{module}:{name}" for name in ("plan", "prompt")}
        given = {name: f"{module}:{name}" for name in named}
        written["graphs"] = {**own, **_table(config, "graphs"), **given}
        written.setdefault("checkpointer", {"path": f"{module}:saver"})
    try:
        make_folder(folder)
        write_private(module, OWN_GRAPHS + "".join(lines), sync="none")
        write_private(place, json.dumps(written, indent=2), sync="none")
    except OSError as error:
        raise StoreError(f"cannot write the server's configuration: {error}") from error
    return place


def _table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: Any = config.get(name) or {}
    if not isinstance(found, dict):
        raise UsageError(f"{CONFIG}: `{name}` must be a mapping")
    return cast("dict[str, Any]", found)


def read_config(path: Path) -> dict[str, Any]:
    """What a ``langgraph.json`` says.

    Raises:
        UsageError: It cannot be read, or is not a mapping.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} must be a mapping")
    return cast("dict[str, Any]", config)


def _named(plans: Sequence[Path]) -> Mapping[str, Path]:
    """The plans by the names of their graphs, each looked at once."""
    named: dict[str, Path] = {}
    for path in plans:
        load_plan(path)
        name = graph_name(path)
        if name in named or not name.isidentifier() or keyword.iskeyword(name) or name in TAKEN:
            why, hint = "is no name of a graph", "rename the file: a name begins with a letter"
            if name in named:
                why, hint = "is that of two plans", "rename the file"
            elif name in TAKEN:
                why = "is a name that the server needs itself"
                hint = f"rename the file; taken are {', '.join(TAKEN)}"
            elif keyword.iskeyword(name):
                why, hint = "is no name of a graph: Python has this word itself", "rename the file"
            raise UsageError(f"{path}: `{name}` {why}", hint=hint)
        named[name] = path.absolute()
    return named


def graph_name(path: Path) -> str:
    """A plan's file as a name in Python: ``my-plan.yaml`` is ``my_plan``."""
    return re.sub(r"\W", "_", path.stem)


def run_server(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Become the server: it has this process's id, and ends it."""
    sys.stdout.flush()
    os.execve(command[0], list(command), dict(environment))  # noqa: S606 - no shell is wanted
