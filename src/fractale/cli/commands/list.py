"""``fractale list``: tools, prompts, agents, models and servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.errors import UsageError
from fractale.masking import Masker

if TYPE_CHECKING:
    from fractale.policy import Chooser, Policy
    from fractale.runs.workspace import Extensions
    from fractale.settings import Settings
    from fractale.toolbox import Toolbox, ToolInfo

SECTIONS = ("servers", "tools", "prompts", "resources", "agents", "models", "shipped")

TITLES = {"shipped": "shipped with fractale; a run has them with -r fractale:NAME"}

CHOOSERS: tuple[Chooser, ...] = ("plan", "model")
"""The origin of a call of a tool: a step of the plan, or a model."""

LEGEND = (
    "in a plan: a `tool` step that you wrote; its `approve` can require approval.",
    "by a model: a call that a model chose, or a step that a model drafted. `ask` needs your",
    "approval, or --yes. Rules about arguments, and about what a model has read, apply per call.",
)


@click.command("list")
@click.argument("section", required=False, type=click.Choice(SECTIONS))
@options.tool_options
@options.trust_option
@click.option(
    "--policy", "show_policy", is_flag=True, help="Show which tools may be called, and why."
)
@click.option(
    "--changes",
    metavar="[NAME]",
    is_flag=False,
    flag_value="*",
    help="Show tools that changed since they were pinned: of SERVER, SERVER.TOOL, or by default of "
    "all servers.",
)
@click.option(
    "--accept-changes",
    "accepted",
    metavar="NAME",
    multiple=True,
    help="Show the changes of SERVER or SERVER.TOOL, and pin its present form. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.collected
def command(
    section: str | None,
    *,
    show_policy: bool,
    changes: str | None,
    accepted: tuple[str, ...],
    given: options.CommandLine,
) -> None:
    """List the tools, prompts, resources, agents, models and servers available to a run.

    `shipped` lists fractale's own tools, with their paths and arguments. A run has them if you add
    one of their registries, such as -r fractale:jobs.

    Works without an API key. Servers that cannot be reached are listed with the reason.
    """
    import asyncio

    from fractale.cli.running import own_stdout

    with own_stdout() as stdout:
        if changes or accepted:
            names = accepted or ((changes,) if changes and changes != "*" else ())
            found = asyncio.run(_changes(options.settings_of(), names, accept=bool(accepted)))
            text = _changes_text(found["changes"])
        elif show_policy:
            found = asyncio.run(_verdicts(given.settings(acts=True), given.extensions))
            text = _verdicts_text(found["policy"])
        elif section == "shipped":
            found = {"shipped": _shipped()}
            text = _offers_text(found)
        else:
            found = asyncio.run(_offers(given.settings(acts=True), given.extensions))
            found["shipped"] = _shipped()
            found = {section: found[section]} if section else found
            text = _offers_text(found)
        if given.as_json:
            import json

            text = json.dumps(found, ensure_ascii=False)
        click.echo(text, file=stdout)


# -- the tools, prompts and agents of a run -------------------------------------------------------


async def _offers(settings: Settings, extensions: Extensions) -> dict[str, Any]:
    from fractale.runs.workspace import Workspace

    warn = options.warn_of_server
    async with Workspace.open(settings, extensions=extensions, on_log=warn) as workspace:
        toolbox = workspace.toolbox
        tools = await toolbox.tools()
        own = [_tool(t) for t in tools if t.is_agent]
        found: dict[str, Any] = {
            "servers": [
                {
                    "name": s.name,
                    "connected": s.connected,
                    "transport": s.transport,
                    "address": s.address,
                    "confined": s.confined,
                    "error": s.error,
                }
                for s in await toolbox.servers()
            ],
            "tools": [_tool(t) for t in tools if not t.is_agent],
            "prompts": [
                {
                    "name": p.name,
                    "server": p.server,
                    "description": p.description,
                    "arguments": [dict(a) for a in p.arguments],
                }
                for p in await toolbox.prompts()
            ],
            "resources": [
                {"uri": r.uri, "server": r.server, "name": r.name, "description": r.description}
                for r in await toolbox.resources()
            ],
            "agents": [*(_agent(each) for each in workspace.agents.describe()), *own],
            "models": workspace.models.known(),
        }
        return Masker(settings.secrets)(found)  # servers may reveal secrets, as in an error


def _agent(listed: Any) -> dict[str, Any]:
    """A sub-agent that is not from a server; `server` names the source that offers it."""
    return {"name": listed.name, "server": listed.source, "description": listed.description}


def _tool(tool: Any) -> dict[str, Any]:
    return {
        "name": tool.name,
        "server": tool.server,
        "description": tool.description,
        "input_schema": dict(tool.input_schema),
        "output_schema": dict(tool.output_schema) if tool.output_schema else None,
        "annotations": dict(tool.annotations),
    }


def _shipped() -> list[dict[str, Any]]:
    """Fractale's own tools, whether the run has them or not."""
    from dataclasses import asdict

    from fractale.examples import own_tools

    return [asdict(tool) for tool in own_tools()]


def _offers_text(found: dict[str, Any]) -> str:
    blocks: list[str] = []
    for section, rows in found.items():
        lines = [TITLES.get(section, section)] + [f"  {_line(section, row)}" for row in rows]
        blocks.append("\n".join(lines if rows else [*lines, "  none"]))
    return "\n\n".join(blocks)


def _line(section: str, row: dict[str, Any]) -> str:
    if section == "servers":
        state = "connected" if row["connected"] else f"not connected: {row['error']}"
        state = f"confined, {state}" if row["confined"] else state
        return _columns((row["name"], 24), (row["transport"], 8), (row["address"], 32), (state, 0))
    if section == "models":
        return _columns((row["spec"], 32), ("ready" if row["ready"] else row["why"], 0))
    if section == "shipped":
        call = f"{row['path']}({', '.join(row['arguments'])})"
        return f"{call}\n      {', '.join(row['registries'])}: {row['description']}"
    name = row.get("name") or row.get("uri", "")
    first = (row.get("description") or "").strip().split("\n")[0]
    if section == "resources":
        words = first or (row["name"] if row["name"] != row["uri"] else "")
        return _columns((row["uri"], 40), (row["server"], 10), (words, 0))
    return _columns((name, 32), (row["server"], 10), (first, 0))


def _columns(*cells: tuple[str, int]) -> str:
    """Cells side by side, each with its least width; control characters in them are escaped."""
    from fractale.render.text import inert

    return " ".join(inert(str(text), 200).ljust(width) for text, width in cells).rstrip()


# -- `--policy`: the decision about each tool, and the reason -------------------------------------


async def _verdicts(settings: Settings, extensions: Extensions) -> dict[str, Any]:
    """The verdict on each tool, without arguments, and the rules that name the tool."""
    from fractale.runs.workspace import Workspace

    warn = options.warn_of_server
    async with Workspace.open(settings, extensions=extensions, on_log=warn) as workspace:
        rows = [_row(tool, workspace.policy) for tool in await workspace.toolbox.tools()]
    return Masker(settings.secrets)({"policy": rows})


def _row(tool: ToolInfo, policy: Policy) -> dict[str, Any]:
    from fractale.policy import rules_about

    rules = [
        {
            "list": kind,
            "tool": rule.tool,
            "arguments": dict(rule.arguments),
            **({"when": rule.when.source} if rule.when else {}),
            "from": rule.origin or "given",
        }
        for kind, rule in rules_about(policy.settings, tool)
    ]
    verdicts = {chooser: _verdict(tool, chooser, policy) for chooser in CHOOSERS}
    return {"name": tool.name, "server": tool.server, **verdicts, "rules": rules}


def _verdict(tool: ToolInfo, chooser: Chooser, policy: Policy) -> dict[str, str]:
    from fractale.policy import PlannedCall

    call = PlannedCall(tool=tool, arguments={}, chosen_by=chooser, is_example=True)
    ruling = policy.rule(call)
    return {"verdict": ruling.verdict, "why": ruling.why}


def _verdicts_text(rows: Sequence[dict[str, Any]]) -> str:
    """A line per tool, and below it each rule of the settings that names it."""
    from fractale.render.text import cells, inert, pad

    if not rows:
        return "no tools"
    width = max(cells(inert(row["name"], 60)) for row in rows)
    lines = [f"{pad('tool', width)}  {'in a plan':9}  by a model"]
    for row in rows:
        plan, model = row["plan"], row["model"]
        name = pad(inert(row["name"], 60), width)
        lines.append(
            f"{name}  {plan['verdict']:9}  {model['verdict']:5}  {inert(model['why'], 200)}"
        )
        lines += [f"{pad('', width)}  {_rule(rule)}" for rule in row["rules"]]
    lines += ["", *LEGEND]
    return "\n".join(lines)


def _rule(rule: dict[str, Any]) -> str:
    from fractale.render.text import inert

    given = [f"{name} is {glob}" for name, glob in rule["arguments"].items()]
    where = f" where {', '.join(given)}" if given else ""
    when = f" when {rule['when']}" if "when" in rule else ""
    return inert(f"- {rule['list']} {rule['tool']}{where}{when} ({rule['from']})", 300)


# -- `--changes`, `--accept-changes`: tools that changed since they were pinned --------------------


async def _changes(settings: Settings, names: Sequence[str], *, accept: bool) -> dict[str, Any]:
    """The tools that changed.

    Args:
        names: Servers, or ``server.tool``; if empty, all servers.
        accept: Whether to pin the tools in their present form.

    Raises:
        UsageError: A server or tool was not found, or its server does not answer.
    """
    from fractale.audit import AuditLog
    from fractale.pins import pins_of
    from fractale.runs.workspace import Workspace

    async with Workspace.open(settings, on_log=options.warn_of_server) as workspace:
        pins = pins_of(workspace.toolbox)
        tools = await _meant(workspace.toolbox, names)
        changes = pins.changes(tools)
        changed = {(change.server, change.tool) for change in changes}
        if accept:
            for change in changes:
                AuditLog.of(settings).record(
                    "trust",
                    kind="tool",
                    server=change.server,
                    tool=change.tool,
                    changed=change.parts,
                    by="command",
                )
            pins.accept(tool for tool in tools if (tool.server, tool.own_name) in changed)
            pins.save()
    rows = [
        {
            "server": change.server,
            "tool": change.tool,
            "changed": change.parts,
            "diff": change.diff(),
            "accepted": accept,
        }
        for change in changes
    ]
    return {"changes": rows}


async def _meant(toolbox: Toolbox, names: Sequence[str]) -> list[ToolInfo]:
    """The tools of the named servers, and the named tools."""
    if not names:
        return await toolbox.tools()
    servers = {server.name for server in await toolbox.servers(())}
    wanted = [f"{name}.*" if name in servers else name for name in names]
    found: list[ToolInfo] = []
    tools = await toolbox.tools(wanted)
    for name in names:
        of_name = [tool for tool in tools if name in (tool.server, tool.qualified_name)]
        if not of_name:
            statuses = await toolbox.servers(wanted)
            silent = [s for s in statuses if name.startswith(s.name) and not s.connected]
            why = f": {silent[0].error}" if silent else ""
            raise UsageError(
                f"server or tool `{name}` not found{why}",
                hint="write SERVER or SERVER.TOOL; see: fractale list tools",
            )
        found += of_name
    return found


def _changes_text(rows: Sequence[dict[str, Any]]) -> str:
    """Each changed tool with its diff."""
    from fractale.render.questions import exact

    if not rows:
        return "no tool changed since it was pinned"
    blocks: list[str] = []
    for row in rows:
        name = exact(f"{row['server']}.{row['tool']}")
        diff = [f"  {line}" for line in exact(row["diff"]).split("\n")]
        blocks.append("\n".join([f"{name} changed: {exact(', '.join(row['changed']))}", *diff]))
        if row["accepted"]:
            blocks.append(f"pinned the present form of {name}")
    if not rows[0]["accepted"]:
        blocks.append("accept with: fractale list --accept-changes SERVER.TOOL (or SERVER)")
    return "\n\n".join(blocks)
