"""``fractale schema``: the JSON Schema of the plan language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.runs.workspace import Extensions


@click.command("schema")
@click.option(
    "--with-tools",
    is_flag=True,
    help="Add the tools of the registries and of the settings' servers, with their inputs.",
)
@click.option("--path", "print_path", is_flag=True, help="Print the path of the installed schema.")
@options.tool_options
@options.trust_option
@options.collected
def command(*, with_tools: bool, print_path: bool, given: options.CommandLine) -> int:
    """Print the JSON Schema of the plan language, for completion and checks in editors.

    With --with-tools, an editor also completes the names of tools, and the inputs of each.

    \b
    fractale schema --with-tools -r registries/tools.yaml > plan.schema.json
    """
    import json

    from fractale.plan.schema import plan_schema, schema_path

    if print_path and (with_tools or given.extensions):
        raise UsageError("--path is for the schema without tools", hint="leave out --path")
    if given.extensions and not with_tools:
        raise UsageError("-r and -a need --with-tools", hint="add --with-tools")
    if print_path:
        click.echo(str(schema_path()))
        return 0
    schema = _with_tools(given.extensions) if with_tools else plan_schema()
    click.echo(json.dumps(schema, indent=2, ensure_ascii=False))
    return 0


def _with_tools(extensions: Extensions) -> dict[str, Any]:
    import asyncio

    from fractale.cli.running import own_stdout

    settings = options.settings_of(acts=True, check_state=False)
    with own_stdout():  # local tools may print during their import
        return asyncio.run(_schema_of(settings, extensions))


async def _schema_of(settings: Any, extensions: Extensions) -> dict[str, Any]:
    from fractale.plan.schema import plan_schema
    from fractale.runs.preflight import tool_inputs
    from fractale.runs.workspace import Workspace

    warn = options.warn_of_server
    async with Workspace.open(settings, extensions=extensions, on_log=warn) as workspace:
        tools = await tool_inputs(workspace.toolbox)
        lost = [each for each in await workspace.toolbox.servers() if not each.connected]
        for server in lost:
            warn(server.name, "warning", f"{server.error}; its tools are not in the schema")
        return plan_schema(tools, complete=not lost)
