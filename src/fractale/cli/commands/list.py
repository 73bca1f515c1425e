"""``fractale list``: tools, prompts, agents, models and servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fractale.cli import options
from fractale.masking import Masker

SECTIONS = ("servers", "tools", "prompts", "resources", "agents", "models")


@click.command("list")
@click.argument("section", required=False, type=click.Choice(SECTIONS))
@options.tool_options
@options.trust_option
@click.option("--policy", "show_policy", is_flag=True, help="Show what may be called, and why.")
@click.option(
    "--changes",
    metavar="[NAME]",
    is_flag=False,
    flag_value="*",
    help="Show which tools of SERVER or SERVER.TOOL changed since they were pinned; of all servers "
    "without NAME.",
)
@click.option(
    "--accept-changes",
    "accepted",
    metavar="NAME",
    multiple=True,
    help="Show the changes of SERVER or SERVER.TOOL and pin it as it is now; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    section: str | None,
    registries: tuple[Path, ...],
    agents: tuple[str, ...],
    *,
    show_policy: bool,
    changes: str | None,
    accepted: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the tools, prompts, resources, agents, models and servers that a run would have.

    Works without a key and without a server: what cannot be reached is listed with the reason.
    """
    import asyncio

    from fractale.cli.running import own_stdout

    with own_stdout() as stdout:
        if changes or accepted:
            from fractale.cli import pin_changes

            settings = options.settings_of()
            names = accepted or ((changes,) if changes and changes != "*" else ())
            found = asyncio.run(pin_changes.collect(settings, names, accept=bool(accepted)))
            text = pin_changes.as_text(found["changes"])
        elif show_policy:
            found, text = asyncio.run(_collect_policy(registries, agents))
        else:
            found = asyncio.run(_collect(registries, agents))
            found = {section: found[section]} if section else found
            text = _as_text(found)
        if as_json:
            import json

            text = json.dumps(found, ensure_ascii=False)
        click.echo(text, file=stdout)


async def _collect_policy(
    registries: tuple[Path, ...], agents: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    from fractale.cli import policy_list
    from fractale.runs.opening import open_toolbox

    settings = options.settings_of(acts=True)
    named: dict[str, Any] = {"registries": registries, "agents": agents}
    async with open_toolbox(settings, **named, on_log=options.warn_of_server) as toolbox:
        mask = Masker(settings.secrets)
        rows = mask(policy_list.collect(await toolbox.tools(), settings.policy))
        return {"policy": rows}, policy_list.as_text(rows)


async def _collect(registries: tuple[Path, ...], agents: tuple[str, ...]) -> dict[str, Any]:
    from fractale.models import Models
    from fractale.runs.opening import open_toolbox, own_agents

    settings = options.settings_of(acts=True)
    catalog = own_agents(registries=registries, agents=agents)
    named: dict[str, Any] = {"registries": registries, "agents": agents}
    async with open_toolbox(settings, **named, on_log=options.warn_of_server) as toolbox:
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
            "agents": [*(_agent(each) for each in catalog.describe()), *own],
            "models": Models(settings).known(),
        }
        return Masker(settings.secrets)(found)  # servers may say secrets, as of an error


def _agent(listed: Any) -> dict[str, Any]:
    """A sub-agent that no server has; `server` says who offers it."""
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


def _as_text(found: dict[str, Any]) -> str:
    blocks: list[str] = []
    for section, rows in found.items():
        lines = [section] + [f"  {_line(section, row)}" for row in rows]
        blocks.append("\n".join(lines if rows else [*lines, "  none"]))
    return "\n\n".join(blocks)


def _line(section: str, row: dict[str, Any]) -> str:
    if section == "servers":
        state = "connected" if row["connected"] else f"not there: {row['error']}"
        state = f"confined, {state}" if row["confined"] else state
        return _columns((row["name"], 24), (row["transport"], 8), (row["address"], 32), (state, 0))
    if section == "models":
        return _columns((row["spec"], 32), ("ready" if row["ready"] else row["why"], 0))
    name = row.get("name") or row.get("uri", "")
    first = (row.get("description") or "").strip().split("\n")[0]
    if section == "resources":
        words = first or (row["name"] if row["name"] != row["uri"] else "")
        return _columns((row["uri"], 40), (row["server"], 10), (words, 0))
    return _columns((name, 32), (row["server"], 10), (first, 0))


def _columns(*cells: tuple[str, int]) -> str:
    """Cells side by side, each at least as wide as it says; nothing in them is interpreted."""
    from fractale.cli.render.text import inert

    return " ".join(inert(str(text), 200).ljust(width) for text, width in cells).rstrip()
