"""Start LangGraph's development server on the graphs of a directory, with the store of its runs."""

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
"""The variable that passes the options to the server's graphs, as JSON."""
NEEDED = ("langgraph_cli", "langgraph_api", "langgraph_runtime_inmem")
SHOWN_BELOW = "LANGGRAPH_MOUNT_PREFIX"
"""The path that the server adds to its address when it prints it and opens Studio."""
SERVERS_OWN = ("LANGGRAPH_", "LANGSERVE_")
TOKEN_BYTES = 24
AT_ONCE = 4
"""The number of runs that the server does at the same time; others wait."""
QUIET = {
    "LANGSMITH_TRACING": "false",
    "LANGSMITH_TRACING_V2": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_API_KEY": "",
    "LANGCHAIN_API_KEY": "",
}
"""Variables that turn off tracing, analytics and version checks: no data leaves the machine."""

CORS = {
    "allow_origins": list(STUDIO),
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": ["x-pagination-total", "x-pagination-next", "content-location"],
}
"""The web pages that may read the server's answers."""

OWN_GRAPHS = '''\
"""The graphs of `fractale studio`, which writes this file anew at each start."""

from fractale.studio import any_plan, load_app, make_app, recorded_graph, prompt_graph
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
    "recorded_graph",
    "prompt",
    "prompt_graph",
    "saver",
)
"""Names that this file already uses for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The options for starting the server.

    Args:
        plans: Plan files that become graphs, in addition to those of the directory's
            ``langgraph.json``.
        extensions: Registries and agents of every run, in addition to the servers of the settings.
        host: The address to listen on.
        port: The port; if it is in use, another port is chosen.
        browser: Whether to open Studio's page in the browser.
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
    """Return the command that starts the server, and its environment.

    The environment has a token if the server needs one: if it listens on more than this machine, or
    if this machine does not show which user connects.

    Args:
        settings: Settings, including the options of the command line.
        needed: The packages that the server requires.
        tells_users: Whether this machine shows which user connects; None to detect it.

    Raises:
        DependencyMissing: The server is not installed.
        PlanError: A plan is invalid.
        SettingsError: The configured token is not a valid token.
        UsageError: Two plans have the same name, or ``langgraph.json`` is damaged.
        StoreError: The state directory can't be written.
    """
    if not all(map(importlib.util.find_spec, needed)):
        raise DependencyMissing(
            "LangGraph's development server is not installed",
            hint="pip install 'fractale[studio]' (it has the Elastic license)",
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
    """Whether a server that listens on a host is reachable from this machine only."""
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
    """The options for the server's graphs, as settings in environment variables."""
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
    """Load the settings inside the server, without the variables that the server sets for itself.

    The processes of runs inherit the rest. The server's own variables may contain its token.
    """
    environment = load_settings().environment
    return load_settings({n: v for n, v in environment.items() if not n.startswith(SERVERS_OWN)})


def _write_config(start: Start, settings: Settings) -> Path:
    """Write the server's configuration: ``langgraph.json`` with our gate before its app."""
    config = read_config(Path(CONFIG)) if Path(CONFIG).is_file() else {}
    directory = settings.state_dir.absolute() / "studio"
    module, place = directory / "graphs.py", directory / CONFIG
    named = _named(start.plans)
    paths = {name: repr(str(path)) for name, path in named.items()}
    lines = [f"{name} = recorded_graph({path})\n" for name, path in paths.items()]
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
        make_folder(directory)
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
    """Read a ``langgraph.json``.

    Raises:
        UsageError: The file cannot be read, or is not a mapping.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} must be a mapping")
    return cast("dict[str, Any]", config)


def _named(plans: Sequence[Path]) -> Mapping[str, Path]:
    """The plans by the names of their graphs, each read once."""
    named: dict[str, Path] = {}
    for path in plans:
        load_plan(path)
        name = graph_name(path)
        if name in named or not name.isidentifier() or keyword.iskeyword(name) or name in TAKEN:
            why, hint = (
                "is not a valid name of a graph",
                "rename the file: a name begins with a letter",
            )
            if name in named:
                why, hint = "is the name of two plans", "rename the file"
            elif name in TAKEN:
                why = "is a name that the server uses"
                hint = f"rename the file; reserved names: {', '.join(TAKEN)}"
            elif keyword.iskeyword(name):
                why, hint = (
                    "is not a valid name of a graph: it is a Python keyword",
                    "rename the file",
                )
            raise UsageError(f"{path}: `{name}` {why}", hint=hint)
        named[name] = path.absolute()
    return named


def graph_name(path: Path) -> str:
    """Convert a plan's file name to a name in Python: ``my-plan.yaml`` is ``my_plan``."""
    return re.sub(r"\W", "_", path.stem)


def run_server(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Replace this process with the server, which keeps the process id."""
    sys.stdout.flush()
    os.execve(command[0], list(command), dict(environment))  # noqa: S606 - no shell is wanted
