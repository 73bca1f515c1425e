"""Check a plan against the available servers, tools, prompts and agents that it names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fractale.errors import FractaleError, PlanError, Problem, SettingsError
from fractale.registry import Registry
from fractale.registry.files import registries_with
from fractale.settings import ServerSettings
from fractale.site.checks.tools import Loaded, listed, unusable
from fractale.site.examination import Examination
from fractale.site.model import Check, Verdict
from fractale.site.plan_uses import NamedTargets
from fractale.text import count

if TYPE_CHECKING:
    from fractale.runs.workspace import Workspace
    from fractale.toolbox import ServerStatus, Toolbox

SECTION = "plan"
SERVERS = "servers"
STDIO_PATIENCE = 3.0
"""Factor on the timeout of a stdio server: it imports its modules before it answers."""


async def check_plan_file(exam: Examination, problems: Sequence[Problem]) -> list[Check]:
    """Check the plan without its servers: whether it is valid and its secrets are set."""
    if exam.wanted is None:
        return []
    errors = [p for p in problems if p.severity == "error"]
    checks = [_problem(problem) for problem in problems]
    if exam.plan is None:
        fix = f"fractale validate {exam.wanted}"
        found = f"invalid: {count(len(errors), 'error')}"
        head = Check(section=SECTION, what=exam.wanted, verdict="missing", found=found, fix=fix)
        return [head, *checks]
    steps = sum(1 for _ in exam.plan.walk())
    head = Check(section=SECTION, what=exam.wanted, found=f"valid, {count(steps, 'step')}")
    return [head, *checks, *_secrets(exam)]


def _secrets(exam: Examination) -> list[Check]:
    """Check inputs that come from the environment or from the user and are never shown."""
    plan = exam.plan
    if plan is None:
        return []
    from fractale.plan.inputs import read_secrets, secret_variable

    given = read_secrets(plan, exam.settings.environment)
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
    """Return a problem as a check; `near` is a registry file that lists the missing name."""
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


# Servers and their tools, prompts and agents


async def check_offers(
    exam: Examination, loaded: Sequence[Loaded], named: NamedTargets
) -> list[Check]:
    """Connect to the servers as a run would; compare the plan with what servers and files offer."""
    try:
        servers = _servers(exam)
    except SettingsError as error:
        hint = error.hint or ""
        return [
            Check(section=SERVERS, what="plan", verdict="missing", found=error.message, fix=hint)
        ]
    usable = _usable([*exam.registries, *exam.served], loaded)
    try:
        async with _opened(exam, usable) as workspace:
            return await _examine(exam, servers, workspace, loaded, named)
    except PlanError as error:
        # Entries that import but cannot be served, and agents with the same name.
        return [_problem(problem) for problem in error.problems]


def _servers(exam: Examination) -> list[ServerSettings]:
    from fractale.runs.workspace import servers_of

    return servers_of(exam.settings, exam.plan)


def _usable(registries: Sequence[Registry], loaded: Sequence[Loaded]) -> list[Registry]:
    """The registries without entries that fail to import, and without warnings reported earlier."""
    good = {id(each.entry) for each in loaded if each.usable}
    return [
        replace(r, entries=tuple(e for e in r.entries if id(e) in good), warnings=())
        for r in registries
    ]


def _opened(
    exam: Examination, registries: Sequence[Registry]
) -> AbstractAsyncContextManager[Workspace]:
    """Open a run's tools with shorter timeouts; warnings were reported earlier."""
    from fractale.mcp import Timing
    from fractale.runs.workspace import Extensions, Workspace

    return Workspace.open(
        exam.settings,
        exam.plan,
        Extensions(registries=registries, agents=exam.agents),
        on_warning=lambda _: None,
        timing=Timing(connect=exam.timeout, handshake=exam.timeout * STDIO_PATIENCE, attempts=1),
    )


async def _examine(
    exam: Examination,
    servers: Sequence[ServerSettings],
    workspace: Workspace,
    loaded: Sequence[Loaded],
    named: NamedTargets,
) -> list[Check]:
    from fractale.runs.preflight import check_online

    toolbox = workspace.toolbox
    states = {status.name: status for status in await toolbox.servers()}
    away = [s.name for s in servers if not states[s.name].connected]
    problems: list[Problem] = []
    if exam.plan is not None:
        reported = unusable(loaded)
        found = await check_online(exam.plan, toolbox, workspace.agents)
        problems = [p for p in found if p.missing not in reported]
    unknown = any(p.code.startswith("unknown-") for p in problems)
    tools = await _tools_by_server(toolbox)
    checks = [
        _server(exam, server, states[server.name], tools.get(server.name, []), unknown=unknown)
        for server in servers
    ]
    also = f"; {_names(away)} can't be asked" if away else ""
    near = _registries(problems)
    checks += [
        _problem(p, also if p.code.startswith("unknown-") else "", near.get(p.missing or ""))
        for p in problems
    ]
    return checks + _unusable_of_plan(exam, loaded, named) + _offered(exam, problems, named)


def _registries(problems: Sequence[Problem]) -> dict[str, str]:
    """Missing name → the registry file near the plan that lists the name."""
    lacks = {p.missing: p.position.file for p in problems if p.missing and p.position}
    return {
        name: path
        for plan in dict.fromkeys(lacks.values())
        for path, names in registries_with(lacks, plan).items()
        for name in names
    }


async def _tools_by_server(toolbox: Toolbox) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for tool in await toolbox.tools():
        found.setdefault(tool.server, []).append(tool.name)
    return found


def _names(servers: Sequence[str]) -> str:
    return "the server " + ", ".join(f"`{name}`" for name in servers)


def _server(
    exam: Examination,
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
    # If the plan finds all its names elsewhere, it does not need this server.
    named = exam.plan is not None and exam.plan.servers is not None
    needed = exam.plan is None or named or unknown
    verdict: Verdict = "missing" if needed else "warning"
    return Check(
        section=SERVERS,
        what=what,
        verdict=verdict,
        found=str(status.error),
        fix=_server_fix(exam, server),
    )


def _server_fix(exam: Examination, server: ServerSettings) -> str:
    where = f"`servers.{server.name}` ({server.origin})"
    command = server.command
    if command is None:
        return f"start it, or correct {where}"
    is_path = "/" in command
    if not is_path and exam.place.which(command) is None:
        top = command.replace("-", "_").removesuffix("_stdio")
        install = exam.needs.install(top)
        tail = f": {install}" if install else f", or correct {where}"
        return f"`{command}` is not on the PATH{tail}"
    if is_path and not Path(command).exists():
        return f"{command} was not found; correct {where}"
    return f"start `{server.address}` by hand to see its output, or correct {where}"


def _unusable_of_plan(
    exam: Examination, loaded: Sequence[Loaded], named: NamedTargets
) -> list[Check]:
    """Report steps whose tool is listed in a file but cannot be loaded."""
    if exam.plan is None:
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


def _offered(exam: Examination, problems: Sequence[Problem], named: NamedTargets) -> list[Check]:
    """Report the names that a plan uses, if all of them were found."""
    errors = [p for p in problems if p.severity == "error"]
    if exam.plan is None or errors or not named.names:
        return []
    return [Check(section=SECTION, what="tools and agents", found=f"found: {listed(named.names)}")]


async def check_served(exam: Examination) -> list[Check]:
    """Check whether ``fractale serve`` would accept the addresses and certificates of files."""
    from fractale.server.options import options_of

    if not exam.served:
        return []
    token = exam.settings.environment.get("FRACTALE_MCP_TOKEN")
    try:
        options = options_of(exam.served, token=token)
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
                fix="stop it, or serve with another `--port`",
            )
        ]
    return [Check(section=SERVERS, what="serving", found=f"at {url}, which is free")]


async def _in_use(host: str, port: int) -> bool:
    """Whether this machine refuses to listen on a port."""
    try:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    except OSError:
        return True
    server.close()
    await server.wait_closed()
    return False
