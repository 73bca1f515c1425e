"""The tools of a run, opened together: servers of the settings, registries, a person's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.errors import SettingsError
from fractale.masking import Masker
from fractale.plan.model import Plan
from fractale.settings import ServerSettings, Settings
from fractale.text import did_you_mean

if TYPE_CHECKING:
    from fractale.agents.catalog import Catalog
    from fractale.agents.subagent import Subagent
    from fractale.mcp import McpToolbox
    from fractale.registry import Registry

OnLog = Callable[[str, str, str], None]
"""Takes a server's name, a level, and what it logged."""


@asynccontextmanager
async def open_toolbox(
    settings: Settings,
    plan: Plan | None = None,
    *,
    registries: Sequence[Path | str] = (),
    agents: Sequence[str] = (),
    functions: Sequence[Any] = (),
    on_log: OnLog | None = None,
    masker: Masker | None = None,
) -> AsyncGenerator[McpToolbox]:
    """Every tool that a run may use, for as long as the block lasts.

    Args:
        plan: Its `servers` narrow the settings' servers, its `agents` are added.
        registries: Registry or server files, served inside this process.
        agents: Sub-agents by dotted path.
        functions: Python functions or LangChain tools, served inside this process.
        on_log: Takes what servers log, without secrets.
        masker: The run's, if there is one: it may learn more secrets while the tools are open.

    Raises:
        PlanError: A registry file is wrong, with every problem, or the plan names a sub-agent
            that is not registered.
        SettingsError: The plan needs a server that the settings do not have.
    """
    from fractale.mcp import EmbeddedServer, McpToolbox
    from fractale.pins import Pins
    from fractale.registry import build_server

    _, found = _local(plan, registries, agents)
    servers: list[ServerSettings | EmbeddedServer] = list(servers_of(settings, plan))
    if found or functions:
        servers.append(EmbeddedServer(server=build_server(found, functions=functions)))
    masker = masker if masker is not None else Masker()
    masker.add(*settings.secrets)
    pins = Pins(settings.lock_file, settings.servers, masker)
    async with McpToolbox(servers, on_log=_masked(on_log, masker), pins=pins) as toolbox:
        yield toolbox


def _masked(on_log: OnLog | None, masker: Masker) -> OnLog | None:
    if on_log is None:
        return None
    return lambda server, level, message: on_log(server, level, masker.text(message))


def own_agents(
    plan: Plan | None = None, *, registries: Sequence[Path | str] = (), agents: Sequence[str] = ()
) -> Catalog:
    """The sub-agents of a run: those that its person wrote, beside fractale's own.

    Args:
        plan: Its `agents` are added; they must be registered.
        registries: Registry files; the sub-agents among what they list.
        agents: Sub-agents by dotted path.

    Raises:
        PlanError: A registry file is wrong, two sub-agents have one name, or the plan names one
            that is not registered.
    """
    from fractale.agents.catalog import Catalog

    return Catalog(_local(plan, registries, agents)[0])


def _local(
    plan: Plan | None, registries: Sequence[Path | str], agents: Sequence[str]
) -> tuple[list[Subagent], list[Registry]]:
    """What is named by dotted path: sub-agents of the run, and what is to be served."""
    from fractale.agents.own import split_agents, with_named
    from fractale.registry import load_registry

    found = [load_registry(path) for path in registries]
    return split_agents(with_named(found, agents, plan))


def servers_of(settings: Settings, plan: Plan | None) -> list[ServerSettings]:
    """The settings' servers that the plan needs; all of them where it does not say.

    Raises:
        SettingsError: The plan names a server that the settings do not have.
    """
    if plan is None or plan.servers is None:
        return list(settings.servers.values())
    missing = [name for name in plan.servers if name not in settings.servers]
    if missing:
        there = f"servers in the settings: {', '.join(settings.servers) or 'none'}"
        raise SettingsError(
            f"{plan.file} needs the server `{missing[0]}`, which the settings do not have",
            hint=did_you_mean(missing[0], settings.servers, otherwise=there),
        )
    return [settings.servers[name] for name in plan.servers]
