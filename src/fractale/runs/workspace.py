"""Opens the parts that runs need, for the command line, Python, Studio and the doctor.

    async with Workspace.open(settings, plan, Extensions(registries=["tools.yaml"])) as workspace:
        result = await workspace.runs.start(plan, {"who": "world"})

`Extensions` are the registry files and sub-agents that the user names. `Workspace.open` does this,
in this order:

1. It reads and imports the extensions, once.
2. It serves their tools in this process, beside the servers of the settings.
3. It closes every server at the end of the block.

Models, the policy and `Runs` are made at their first use, so that a command that only lists tools
does not import the engine.

`as_started` returns the settings and the extensions that a recorded run was started with.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale import shipped
from fractale.errors import SettingsError
from fractale.lazy import importing
from fractale.masking import Masker
from fractale.plan.model import Plan
from fractale.settings import ServerSettings, Settings, store_password, without_password
from fractale.settings.environment import passed_on
from fractale.text import did_you_mean

if TYPE_CHECKING:
    from fractale.agents.catalog import Catalog
    from fractale.errors import Problem
    from fractale.mcp import McpToolbox, Timing
    from fractale.models import Models
    from fractale.models.runnables import Chat
    from fractale.policy import Policy
    from fractale.registry import Registry
    from fractale.runs.service import Runs
    from fractale.toolbox import Toolbox

OnLog = Callable[[str, str, str], None]
"""Receives a server's name, a level, and the message that it logged."""


# Not `slots`: the files that were read are cached.
@dataclass(frozen=True, kw_only=True)
class Extensions:
    """The user's additions to the servers of the settings. Only `load` imports them.

    Args:
        registries: Registry or server files, or such files that were read already.
        agents: Sub-agents by dotted path.
        given: Sub-agents as objects, or name → object: a `Subagent`, a LangGraph graph, a function
            that makes one.
    """

    registries: Sequence[Path | str | Registry] = ()
    agents: Sequence[str] = ()
    given: Sequence[Any] | Mapping[str, Any] = ()

    def __bool__(self) -> bool:
        return bool(self.registries or self.agents or self.given)

    @cached_property
    def files(self) -> Sequence[Registry]:
        """The registries. Each file is read once: a run uses the contents that its user saw.

        Raises:
            PlanError: A file cannot be read, or is wrong. The error has every problem.
        """
        from fractale.registry import Registry, load_registry

        return [r if isinstance(r, Registry) else load_registry(r) for r in self.registries]

    @property
    def paths(self) -> list[str]:
        """The registries' files as the user named them."""
        return [str(getattr(each, "file", each)) for each in self.registries]

    def load(self, plan: Plan | None = None) -> tuple[Catalog, list[Registry]]:
        """Import the sub-agents, and the registries that are to be served.

        Args:
            plan: Its `agents` are added. They must be registered.

        Raises:
            PlanError: A registry file is wrong, two sub-agents have the same name, or the plan
                names a sub-agent that is not registered.
        """
        from fractale.agents.catalog import Catalog
        from fractale.agents.own import as_agents, split_agents, with_named

        own, served = split_agents(with_named(self.files, self.agents, plan))
        return Catalog([*own, *as_agents(self.given)]), served


class Workspace:
    """Everything that runs use, opened by `Workspace.open`.

    Args:
        settings: The effective settings of the runs.
        extensions: The source of `agents` and the local tools.
        agents: The sub-agents that a run can ask.
        toolbox: The tools that a run can call; open as long as the workspace is.
        model: Used for every step, instead of the model of the settings.
        yes: Whether the user approves beforehand all calls that the policy would ask about.
    """

    def __init__(
        self,
        settings: Settings,
        extensions: Extensions,
        agents: Catalog,
        toolbox: Toolbox,
        *,
        model: Chat | None = None,
        yes: bool = False,
    ) -> None:
        self.settings = settings
        self.extensions = extensions
        self.agents = agents
        self.toolbox = toolbox
        self._model = model
        self._yes = yes
        self._own_servers: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        plan: Plan | None = None,
        extensions: Extensions | None = None,
        *,
        tools: Toolbox | Sequence[Any] = (),
        model: Chat | None = None,
        yes: bool = False,
        on_log: OnLog | None = None,
        on_warning: Callable[[Problem], None] | None = None,
        masker: Masker | None = None,
        timing: Timing | None = None,
    ) -> AsyncGenerator[Workspace]:
        """Open the parts that runs need, for the duration of the block.

        Args:
            plan: Its `servers` narrow the settings' servers, its `agents` are added.
            tools: Python functions or LangChain tools, served inside this process; or a toolbox
                that replaces all servers, which its owner closes.
            model, yes: See `Workspace`.
            on_log: Receives the logs of servers, with secrets masked.
            on_warning: Receives the parts of a registry that are left out; None: they are logged.
            masker: The run's. It may receive more secrets while the tools are open.
            timing: The time limits of servers.

        Raises:
            PlanError: A registry file is wrong, with every problem, or the plan names a sub-agent
                that is not registered.
            SettingsError: The plan needs a server that the settings do not have.
        """
        extensions = extensions or Extensions()
        agents, served = extensions.load(plan)
        if not isinstance(tools, Sequence):
            workspace = cls(settings, extensions, agents, tools, model=model, yes=yes)
            workspace._own_servers = [status.name for status in await tools.servers(())]
            yield workspace
            return
        masker = masker if masker is not None else Masker()
        masker.add(*settings.secrets)
        toolbox = make_toolbox(
            settings,
            plan,
            served,
            tools,
            on_log=on_log,
            on_warning=on_warning,
            masker=masker,
            timing=timing,
        )
        async with toolbox:
            yield cls(settings, extensions, agents, toolbox, model=model, yes=yes)

    @cached_property
    def models(self) -> Models:
        """The models of the settings, or the given one."""
        from fractale.models import Models

        return Models(self.settings, given=self._model)

    @cached_property
    def policy(self) -> Policy:
        """The calls that a model may make."""
        from fractale.policy import Policy

        return Policy(settings=self.settings.policy, yes=self._yes)

    @cached_property
    def runs(self) -> Runs:
        """Starts, resumes and forks runs with the parts that are open here."""
        from fractale.runs.service import Runs

        return Runs(
            self.settings,
            self.toolbox,
            models=self.models,
            policy=self.policy,
            agents=self.agents,
            head=self._head(),
        )

    def _head(self) -> dict[str, Any]:
        """The data in each run's record from which `as_started` can open the same workspace."""
        model = {} if self._model is not None else {"model": self.settings.model_spec}
        return {
            "registries": [shipped.recorded(path) for path in self.extensions.paths],
            "agents": list(self.extensions.agents),
            **model,
            "store": kept_store(self.settings),
            **({"own_servers": self._own_servers} if self._own_servers else {}),
        }


def make_toolbox(
    settings: Settings,
    plan: Plan | None,
    served: Sequence[Registry],
    tools: Sequence[Any] = (),
    *,
    on_log: OnLog | None = None,
    on_warning: Callable[[Problem], None] | None = None,
    masker: Masker,
    timing: Timing | None = None,
) -> McpToolbox:
    """The servers that a plan's runs need, and the tools of this process, before they are opened.

    Args:
        served: The registries whose tools this process serves.
        tools: Python functions or LangChain tools that it serves, too.

    Raises:
        PlanError: A registry file is wrong, with every problem.
        SettingsError: The plan needs a server that the settings do not have.
    """
    with importing():
        from fractale.mcp import EmbeddedServer, McpToolbox
        from fractale.pins import Pins
        from fractale.registry import build_server

    servers: list[ServerSettings | EmbeddedServer] = list(servers_of(settings, plan))
    if served or tools:
        objects: dict[str, Any] = {}
        server = build_server(served, functions=tools, on_warning=on_warning, objects=objects)
        environment = passed_on(settings.environment)
        servers.append(EmbeddedServer(server=server, objects=objects, environment=environment))
    return McpToolbox(
        servers,
        on_log=_masked(on_log, masker),
        timing=timing,
        pins=Pins(settings.lock_file, settings.servers, masker),
    )


def _masked(on_log: OnLog | None, masker: Masker) -> OnLog | None:
    if on_log is None:
        return None
    return lambda server, level, message: on_log(server, level, masker.text(message))


def servers_of(settings: Settings, plan: Plan | None) -> list[ServerSettings]:
    """The settings' servers that the plan needs. If the plan does not say, all of them.

    Raises:
        SettingsError: The plan names a server that the settings do not have.
    """
    if plan is None or plan.servers is None:
        return list(settings.servers.values())
    missing = [name for name in plan.servers if name not in settings.servers]
    if missing:
        there = f"servers in the settings: {', '.join(settings.servers) or 'none'}"
        raise SettingsError(
            f"{plan.file} needs server `{missing[0]}`, which is not in the settings",
            hint=did_you_mean(missing[0], settings.servers, otherwise=there),
        )
    return [settings.servers[name] for name in plan.servers]


# -- as a run was started -------------------------------------------------------------------------


def as_started(
    settings: Settings, head: Mapping[str, Any], given: Extensions | None = None
) -> tuple[Settings, Extensions]:
    """The settings and extensions that a run was started with, from its record's head.

    The command line replaces the recorded model, store, registries and sub-agents.

    Args:
        given: Of the command line, or of the caller. Its objects are not recorded.

    Raises:
        SettingsError: The run's checkpoints are on a server whose password is not known.
    """
    settings = with_recorded_model(_with_recorded_store(settings, head), head)
    given = given or Extensions()
    recorded = [_where_now(Path(path), head) for path in head.get("registries", ())]
    return settings, Extensions(
        registries=given.registries or recorded,
        agents=given.agents or head.get("agents", ()),
        given=given.given,
    )


def with_recorded_model(settings: Settings, head: Mapping[str, Any]) -> Settings:
    """The settings with the model of a run, unless the command line names one."""
    by = (settings.origins.get("model"), settings.origins.get("provider"))
    if head.get("model") and "command line" not in by:
        return settings.with_flags(model=head["model"])
    return settings


def _with_recorded_store(settings: Settings, head: Mapping[str, Any]) -> Settings:
    there = head.get("store")
    if there in (None, kept_store(settings)) or settings.origins.get("store") == "command line":
        return settings
    if store_password(there):
        raise SettingsError(
            f"the run keeps its checkpoints in {there}, and fractale does not store its password",
            hint="set PGPASSWORD, or add the password to the URL with --store",
        )
    return settings.with_flags(store=there)


def kept_store(settings: Settings) -> str:
    """The location of checkpoints, as the record of a run names it: without a password."""
    return without_password(settings.store) or "sqlite"


def _where_now(path: Path, head: Mapping[str, Any]) -> Path:
    """The present path of a run's file. If its directory was moved, relative to the new place."""
    directory = head.get("folder")
    if directory and not path.exists() and not shipped.is_named(path):
        moved = Path.cwd() / os.path.relpath(path, directory)
        return moved if moved.exists() else path
    return path
