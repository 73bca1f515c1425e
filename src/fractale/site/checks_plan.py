"""Does the plan fit what there is: its servers, the tools, prompts and agents that it names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fractale.errors import FractaleError, PlanError, Problem, SettingsError
from fractale.registry import Registry
from fractale.registry.files import registries_with
from fractale.settings import ServerSettings
from fractale.site.case import Case, Named
from fractale.site.checks_tools import Loaded, listed, unusable
from fractale.site.model import Check, Verdict
from fractale.text import count

if TYPE_CHECKING:
    from fractale.agents.catalog import Catalog
    from fractale.mcp import McpToolbox
    from fractale.toolbox import ServerStatus

SECTION = "plan"
SERVERS = "servers"
STDIO_PATIENCE = 3.0
"""A server that is started has to import what it serves first."""


async def check_plan_file(case: Case, problems: Sequence[Problem]) -> list[Check]:
    """Whether the plan is valid by itself, and whether its secrets are set."""
    if case.wanted is None:
        return []
    errors = [p for p in problems if p.severity == "error"]
    checks = [_problem(problem) for problem in problems]
    if case.plan is None:
        fix = f"fractale validate {case.wanted}"
        found = f"invalid: {count(len(errors), 'error')}"
        head = Check(section=SECTION, what=case.wanted, verdict="missing", found=found, fix=fix)
        return [head, *checks]
    steps = sum(1 for _ in case.plan.walk())
    head = Check(section=SECTION, what=case.wanted, found=f"valid, {count(steps, 'step')}")
    return [head, *checks, *_secrets(case)]


def _secrets(case: Case) -> list[Check]:
    """Inputs that come from the environment or from a person, and are never shown."""
    plan = case.plan
    if plan is None:
        return []
    from fractale.plan.inputs import read_secrets, secret_variable

    given = read_secrets(plan, case.settings.environment)
    return [
        Check(
            section=SECTION,
            what=f"input {name}",
            verdict="ok" if name in given else "warning",
            found="set in the environment" if name in given else "a secret that is not set",
            fix=""
            if name in given
            else f"set {secret_variable(name)}, or type it when the run asks",
        )
        for name, spec in plan.inputs.items()
        if spec.secret
    ]


def _problem(problem: Problem, also: str = "", near: str | None = None) -> Check:
    """A problem as a check; `near` is a registry file that lists what is missing."""
    fix = f"add `-r {near}`, which lists it" if near else ""
    if problem.suggestion:
        fix = f"did you mean `{problem.suggestion}`?" + (f" Or {fix}" if fix else "")
    place = f" ({problem.position})" if problem.position and problem.path else ""
    return Check(
        section=SECTION,
        what=problem.path or str(problem.position or "plan"),
        verdict="missing" if problem.severity == "error" else "warning",
        found=f"{problem.message}{also}{place}",
        fix=fix,
    )


# Servers and what they offer


async def check_offers(case: Case, loaded: Sequence[Loaded], named: Named) -> list[Check]:
    """Reach the servers as a run would, and hold the plan against what they and files offer."""
    try:
        servers = _servers(case)
    except SettingsError as error:
        hint = error.hint or ""
        return [
            Check(section=SERVERS, what="plan", verdict="missing", found=error.message, fix=hint)
        ]
    usable = _usable([*case.registries, *case.served], loaded)
    try:
        async with _opened(case, servers, usable) as (toolbox, agents):
            return await _examine(case, servers, toolbox, agents, loaded, named)
    except PlanError as error:
        # What can be imported and still not be served; and agents of one name.
        return [_problem(problem) for problem in error.problems]


def _servers(case: Case) -> list[ServerSettings]:
    from fractale.runs.opening import servers_of

    return servers_of(case.settings, case.plan)


def _usable(registries: Sequence[Registry], loaded: Sequence[Loaded]) -> list[Registry]:
    """The registries without what can't be imported, and without warnings, which were told."""
    good = {id(each.entry) for each in loaded if each.usable}
    return [
        replace(r, entries=tuple(e for e in r.entries if id(e) in good), warnings=())
        for r in registries
    ]


@asynccontextmanager
async def _opened(
    case: Case, servers: Sequence[ServerSettings], registries: Sequence[Registry]
) -> AsyncGenerator[tuple[McpToolbox, Catalog]]:
    """The tools of a run, with less patience than a run has.

    Raises:
        PlanError: A registry can't be served.
    """
    from fractale.agents.catalog import Catalog
    from fractale.agents.own import split_agents, with_named
    from fractale.mcp import EmbeddedServer, McpToolbox, Timing
    from fractale.registry import build_server

    agents, rest = split_agents(with_named(registries, case.agents, case.plan))
    all_servers: list[ServerSettings | EmbeddedServer] = list(servers)
    if rest:
        server = build_server(rest, on_warning=lambda _: None)
        all_servers.append(EmbeddedServer(server=server))
    timing = Timing(connect=case.timeout, handshake=case.timeout * STDIO_PATIENCE, attempts=1)
    async with McpToolbox(all_servers, timing=timing) as toolbox:
        yield toolbox, Catalog(agents)


async def _examine(
    case: Case,
    servers: Sequence[ServerSettings],
    toolbox: McpToolbox,
    agents: Catalog,
    loaded: Sequence[Loaded],
    named: Named,
) -> list[Check]:
    from fractale.runs.preflight import check_online

    states = {status.name: status for status in await toolbox.servers()}
    away = [s.name for s in servers if not states[s.name].connected]
    problems: list[Problem] = []
    if case.plan is not None:
        told = unusable(loaded)
        found = await check_online(case.plan, toolbox, agents)
        problems = [p for p in found if p.missing not in told]
    unknown = any(p.code.startswith("unknown-") for p in problems)
    tools = await _tools_by_server(toolbox)
    checks = [
        _server(case, server, states[server.name], tools.get(server.name, []), unknown=unknown)
        for server in servers
    ]
    also = f"; {_names(away)} can't be asked" if away else ""
    near = _registries(problems)
    checks += [
        _problem(p, also if p.code.startswith("unknown-") else "", near.get(p.missing or ""))
        for p in problems
    ]
    return checks + _unusable_of_plan(case, loaded, named) + _offered(case, problems, named)


def _registries(problems: Sequence[Problem]) -> dict[str, str]:
    """The registry file near the plan that lists each name that is missing."""
    lacks = {p.missing: p.position.file for p in problems if p.missing and p.position}
    return {
        name: path
        for plan in dict.fromkeys(lacks.values())
        for path, names in registries_with(lacks, plan).items()
        for name in names
    }


async def _tools_by_server(toolbox: McpToolbox) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for tool in await toolbox.tools():
        found.setdefault(tool.server, []).append(tool.name)
    return found


def _names(servers: Sequence[str]) -> str:
    return "the server " + ", ".join(f"`{name}`" for name in servers)


def _server(
    case: Case,
    server: ServerSettings,
    status: ServerStatus,
    tools: Sequence[str],
    *,
    unknown: bool,
) -> Check:
    what = f"server {server.name}"
    if status.connected:
        found = f"{server.address} answered: {len(tools)} tools"
        return Check(section=SERVERS, what=what, found=found)
    # Where the plan finds all it names elsewhere, it does not need this one.
    named = case.plan is not None and case.plan.servers is not None
    needed = case.plan is None or named or unknown
    verdict: Verdict = "missing" if needed else "warning"
    return Check(
        section=SERVERS,
        what=what,
        verdict=verdict,
        found=str(status.error),
        fix=_server_fix(case, server),
    )


def _server_fix(case: Case, server: ServerSettings) -> str:
    where = f"`servers.{server.name}` ({server.origin})"
    command = server.command
    if command is None:
        return f"start it, or correct {where}"
    is_path = "/" in command
    if not is_path and case.place.which(command) is None:
        top = command.replace("-", "_").removesuffix("_stdio")
        install = case.needs.install(top)
        tail = f": {install}" if install else f", or correct {where}"
        return f"`{command}` is not on the PATH{tail}"
    if is_path and not Path(command).exists():
        return f"there is no {command}; correct {where}"
    return f"start `{server.address}` by hand to see what it says, or correct {where}"


def _unusable_of_plan(case: Case, loaded: Sequence[Loaded], named: Named) -> list[Check]:
    """Steps whose tool a file should give, and can't."""
    if case.plan is None:
        return []
    return [
        Check(
            section=SECTION,
            what=name,
            verdict="missing",
            found=f"{each.file} lists it as `{each.entry.path}`, which is not there (see tools)",
            needed_by=tuple(f"step {step}" for step in named.names[name]),
        )
        for name, each in unusable(loaded).items()
        if name in named.names
    ]


def _offered(case: Case, problems: Sequence[Problem], named: Named) -> list[Check]:
    """What the plan names, where all of it was found."""
    errors = [p for p in problems if p.severity == "error"]
    if case.plan is None or errors or not named.names:
        return []
    return [Check(section=SECTION, what="tools and agents", found=f"found: {listed(named.names)}")]


async def check_served(case: Case) -> list[Check]:
    """Whether ``fractale serve`` would take what server files say of addresses and certificates."""
    from fractale.server.options import options_of

    if not case.served:
        return []
    token = case.settings.environment.get("FRACTALE_MCP_TOKEN")
    try:
        options = options_of(case.served, token=token)
    except FractaleError as error:
        hint = error.hint or ""
        return [
            Check(section=SERVERS, what="serving", verdict="missing", found=error.message, fix=hint)
        ]
    if options.transport == "stdio":
        return [Check(section=SERVERS, what="serving", found="over stdio")]
    url = options.url(options.port)
    if options.port and await _in_use(options.host, options.port):
        return [
            Check(
                section=SERVERS,
                what="serving",
                verdict="warning",
                found=f"something already listens at {url}",
                fix="end it, or serve with another `--port`",
            )
        ]
    return [Check(section=SERVERS, what="serving", found=f"at {url}, which is free")]


async def _in_use(host: str, port: int) -> bool:
    """Whether a port of this machine can't be listened on."""
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError:
        return True
    server.close()
    await server.wait_closed()
    return False
