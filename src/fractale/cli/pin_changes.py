"""``fractale list --changes`` and ``--accept-changes``: tools that are not as they were pinned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fractale.audit import AuditLog
from fractale.cli import options
from fractale.cli.render.questions import exact
from fractale.errors import UsageError
from fractale.settings import Settings
from fractale.toolbox import Toolbox, ToolInfo


async def collect(settings: Settings, names: Sequence[str], *, accept: bool) -> dict[str, Any]:
    """The tools that changed.

    Args:
        names: Servers, or ``server.tool``; of all servers where there are none.
        accept: Whether to pin them as they are now.

    Raises:
        UsageError: There is no such server or tool, or the server does not answer.
    """
    from fractale.pins import pins_of
    from fractale.runs.opening import open_toolbox

    async with open_toolbox(settings, on_log=options.warn_of_server) as toolbox:
        pins = pins_of(toolbox)
        tools = await _meant(toolbox, names)
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
    """The tools that names of servers and tools mean."""
    if not names:
        return await toolbox.tools()
    servers = {server.name for server in await toolbox.servers(())}
    wanted = [f"{name}.*" if name in servers else name for name in names]
    tools, found = await toolbox.tools(wanted), list[ToolInfo]()
    for name in names:
        of_name = [tool for tool in tools if name in (tool.server, tool.qualified_name)]
        if not of_name:
            statuses = await toolbox.servers(wanted)
            silent = [s for s in statuses if name.startswith(s.name) and not s.connected]
            why = f": {silent[0].error}" if silent else ""
            raise UsageError(
                f"no server `{name}` and no tool `{name}` of a server is there{why}",
                hint="write SERVER or SERVER.TOOL; to see what there is: fractale list tools",
            )
        found += of_name
    return found


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Each changed tool with its diff."""
    if not rows:
        return "no tool changed since it was pinned"
    blocks: list[str] = []
    for row in rows:
        name = exact(f"{row['server']}.{row['tool']}")
        diff = [f"  {line}" for line in exact(row["diff"]).split("\n")]
        blocks.append("\n".join([f"{name} changed: {exact(', '.join(row['changed']))}", *diff]))
        if row["accepted"]:
            blocks.append(f"pinned {name} as it is now")
    if not rows[0]["accepted"]:
        blocks.append("accept with: fractale list --accept-changes SERVER.TOOL (or SERVER)")
    return "\n\n".join(blocks)
